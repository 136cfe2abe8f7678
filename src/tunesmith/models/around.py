"""Layers of which a part alone is computed: some of the tokens go through, the others around."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from . import attention
from .anatomy import Site
from .attention import Asked


@dataclass(frozen=True)
class Kept:
    """The tokens that go through a layer.

    Attributes:
        places: of each row, (rows, most): those that are kept in ascending order, then others to fill up.
        real: which of them are kept, bool (rows, most).
    """

    places: Tensor
    real: Tensor


class LayerCall:
    """One call of a layer, before anything of it is computed.

    Attributes:
        hidden: what goes in, (rows, length, size).
    """

    def __init__(self, model: Any, owner: Any, run: Callable[..., Any], given: Mapping[str, Any]):
        self.hidden: Tensor = given["hidden_states"]
        self._model, self._owner, self._run, self._given = model, owner, run, given
        mask = given.get("attention_mask")
        if mask is not None and mask.ndim != 4:
            raise InputError(f"the attention mask has {mask.ndim} dimensions", where="forward", expected="4")

    @property
    def there(self) -> Tensor:
        """Which places hold a token rather than padding, bool (rows, length)."""
        mask = self._given.get("attention_mask")
        if mask is None:
            return torch.ones(self.hidden.shape[:2], dtype=torch.bool, device=self.hidden.device)
        seen = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] > torch.finfo(mask.dtype).min / 2
        return seen.any(1).expand(len(self.hidden), -1)

    @torch.no_grad()
    def attention(self) -> Asked:
        """What the layer's attention is asked: the layer runs up to there, without a gradient."""
        with attention.listening(self._model, self._owner, _end):
            try:
                self._run(**self._whole())
            except _Heard as heard:
                return heard.asked
        raise InputError(f"{type(self._owner).__name__} computes its attention in a way of its own", where="forward")

    def _whole(self) -> dict[str, Any]:
        return {**self._given, **({"past_key_values": None} if "past_key_values" in self._given else {})}

    def through(self, kept: Kept) -> Tensor:
        """What comes out when these tokens alone go through; the others stay what they were."""
        given = {name: self._cut(name, value, kept) for name, value in self._whole().items()}
        said = self._run(**given)
        if not isinstance(said, Tensor):
            raise InputError(f"a layer of {type(self._model).__name__} gives more than hidden states", where="forward",
                             expected="an encoder or a decoder by itself")  # fmt: skip
        index = kept.places[..., None].expand_as(said)
        new = torch.where(kept.real[..., None], said.to(self.hidden.dtype), given["hidden_states"])
        return self.hidden.scatter(1, index, new)

    def _cut(self, name: str, value: Any, kept: Kept) -> Any:
        """An argument of the layer for the kept tokens alone.

        Raises:
            InputError: one that goes by places in a way that is not known.
        """
        if name == "attention_mask" and value is not None:
            return _cut_mask(value, kept)
        if name == "position_embeddings" and value is not None:
            return tuple(_taken(t, kept.places) for t in value)
        if name in ("hidden_states", "position_ids") and value is not None:
            return _taken(value, kept.places)
        if name == "cache_position":
            return None
        if isinstance(value, Tensor | tuple | list) and name not in ("input_ids", "labels"):
            raise InputError(f"a layer of {type(self._model).__name__} takes {name}, which cannot be cut to some tokens",
                             where="forward", expected="an encoder or a decoder by itself")  # fmt: skip
        return value


class _Heard(Exception):
    """Ends a pass when an attention was asked."""

    def __init__(self, asked: Asked):
        super().__init__()
        self.asked = asked


def _end(asked: Asked) -> Tensor:
    raise _Heard(asked)


def _taken(values: Tensor, places: Tensor) -> Tensor:
    """(rows or 1, length, ...) at some places of each row."""
    whole = values.expand(len(places), *values.shape[1:])
    index = places.view(*places.shape, *[1] * (values.ndim - 2)).expand(*places.shape, *values.shape[2:])
    return whole.gather(1, index)


def _cut_mask(mask: Tensor, kept: Kept) -> Tensor:
    """Rows and columns of the kept tokens; nobody sees what fills up, which sees all, so that no score is undefined."""
    rows, most = kept.places.shape
    wide = mask.expand(rows, *mask.shape[1:])
    wide = wide.gather(2, kept.places[:, None, :, None].expand(-1, wide.shape[1], -1, wide.shape[3]))
    cut = wide.gather(3, kept.places[:, None, None, :].expand(-1, wide.shape[1], most, -1))
    fills = ~kept.real
    if mask.dtype == torch.bool:
        return (cut & kept.real[:, None, None, :]) | fills[:, None, :, None]
    least = torch.finfo(mask.dtype).min
    return cut.masked_fill(fills[:, None, None, :], least).masked_fill(fills[:, None, :, None], 0.0)


def layer(model: Any, site: Site, owner: Any, choose: Callable[[LayerCall], Kept], on: Callable[[], bool]) -> None:
    """Let ``choose`` say which tokens go through a layer whenever ``on`` says so.

    Args:
        model: the Hugging Face model.
        site: a site of kind ``layer``.
        owner: the attention module of that layer.
        choose: from a call of the layer to the tokens that are computed.
        on: whether anything is left out at the moment.

    Raises:
        InputError: another way chooses this layer's tokens already.
    """
    if "forward" in vars(site.module):
        raise InputError(f"two ways choose the tokens of {site.path}", where="forward", fix="leave one out")
    run = site.module.forward
    signature = inspect.signature(run)

    def some(*inputs: Any, **named: Any) -> Any:
        if not on():
            return run(*inputs, **named)
        given = signature.bind_partial(*inputs, **named).arguments
        given |= given.pop("kwargs", {})
        call = LayerCall(model, owner, run, given)
        return call.through(choose(call))

    site.module.forward = some
