"""An attention function of our own: quicker training on a CPU, extra keys and values, other ways to compute it, packed rows.

Through transformers' own extension point: an attention function and its mask function registered under a name. It is
scaled-dot-product attention unchanged, to the bit, where nothing is asked for and nothing is trained. The cache never holds
the extra keys, so generation needs nothing more. Packed rows (`tunesmith.models.packing`) go through the same function.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from . import packing as packed
from . import quick

NAME = "tunesmith_sdpa"
_EXTRA: weakref.WeakKeyDictionary[Any, Callable[[Tensor], Tensor | None]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Asked:
    """What an attention is asked to compute.

    Attributes:
        query: (rows, heads, length, size).
        key, value: (rows, heads of keys, places, size).
        mask: bool, or numbers that are added to the scores, (rows or 1, heads or 1, length, places); None where every query
            sees all places, or where it is causal.
        causal: whether each query sees the places up to its own alone.
        scale: factor of the scores.
        dropout: share of the weights that is dropped.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    causal: bool
    scale: float
    dropout: float

    def sees(self) -> Tensor:
        """Which places each query sees, bool of shape (rows, length, places); the same for all heads."""
        rows, length, places = len(self.query), self.query.shape[2], self.key.shape[2]
        if self.mask is None:
            seen = torch.ones(length, places, dtype=torch.bool, device=self.query.device)
            return (seen.tril(places - length) if self.causal else seen).expand(rows, -1, -1)
        bare = self.mask if self.mask.dtype == torch.bool else self.mask > torch.finfo(self.mask.dtype).min / 2
        return bare[:, 0, :, :places].expand(rows, -1, -1)


Way = Callable[[Asked], Tensor]
"""From what is asked to the heads' outputs (rows, heads, length, size)."""

_WAYS: weakref.WeakKeyDictionary[Any, tuple[Way, Callable[[], bool]]] = weakref.WeakKeyDictionary()


class Extension:
    """What was added to one attention; `remove` takes it away."""

    def __init__(self, module: Any, kept: weakref.WeakKeyDictionary[Any, Any] = _EXTRA):
        self.module, self._kept = module, kept

    def remove(self) -> None:
        self._kept.pop(self.module, None)


def compute(model: Any, module: Any, way: Way, on: Callable[[], bool]) -> Extension:
    """Let ``way`` compute an attention whenever ``on`` says so.

    Raises:
        InputError: this model computes its attention in a way of its own, or another way is there already.
    """
    switch(model, "computes it in no other way", "leave forward out")
    if module in _WAYS:
        raise InputError("two ways compute the same attention", where="forward", fix="leave one out")
    _WAYS[module] = (way, on)
    return Extension(module, _WAYS)


@contextlib.contextmanager
def listening(model: Any, module: Any, hear: Way) -> Iterator[None]:
    """Inside this block ``hear`` stands in the place of an attention; it may end the pass by an exception.

    Raises:
        InputError: this model computes its attention in a way of its own.
    """
    switch(model, "computes it in no other way", "leave forward out")
    before = _WAYS.get(module)
    _WAYS[module] = (hear, lambda: True)
    try:
        yield
    finally:
        del _WAYS[module]
        if before is not None:
            _WAYS[module] = before


def extend(
    model: Any, module: Any, act: Callable[[Any, Tensor], Tensor], on: Callable[[], bool], width: int
) -> Extension:
    """Let ``act`` give extra keys and values to an attention.

    Args:
        model: the Hugging Face model.
        module: its attention module.
        act: from queries (rows, heads, length, size) and no keys and values (2, 0, width) to the extra ones.
        on: whether they are there at the moment.
        width: heads of the keys times their size.

    Raises:
        InputError: this model computes its attention in a way of its own.
    """
    switch(model, "takes no extra keys", "prepend prompts to its input instead")

    def extra(query: Tensor) -> Tensor | None:
        return act(query, query.new_zeros(2, 0, width)) if on() else None

    _EXTRA[module] = extra
    return Extension(module)


def use(model: Any) -> None:
    """Let a model that computes its attention by PyTorch's function do so by the one that is registered here."""
    if model.config._attn_implementation == "sdpa":
        switch(model, "", "")


def switch(model: Any, lacks: str, fix: str) -> None:
    """Let a model compute its attention by the function that is registered here.

    Args:
        model: the Hugging Face model.
        lacks: what a model cannot do that computes its attention in a way of its own.
        fix: what to do about it.

    Raises:
        InputError: this model is such a one.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    if model.config._attn_implementation == NAME:
        return
    if model.config._attn_implementation != "sdpa":
        raise InputError(
            f"{type(model).__name__} computes attention by {model.config._attn_implementation!r} and {lacks}",
            expected="scaled-dot-product attention (sdpa)", fix=fix,
        )  # fmt: skip
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, _mask)
    model.set_attn_implementation(NAME)


def _mask(*sizes: Any, mask_function: Callable[..., Any] | None = None, **named: Any) -> Tensor | None:
    """The mask of scaled-dot-product attention; for packed rows what carries one for each of their blocks."""
    from transformers.masking_utils import causal_mask_function, sdpa_mask

    function, packing = mask_function or causal_mask_function, packed.current()
    if packing is None:
        made: Tensor | None = sdpa_mask(*sizes, mask_function=function, **named)
        return made
    return packing.carrier(sdpa_mask, function, named)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **named: Any
) -> tuple[Tensor, None]:
    """Attention with extra keys where there are some, row by row where rows are packed."""
    carried = packed.blocks_of(attention_mask)
    if carried is None:
        if packed.current() is not None:
            raise RuntimeError("the model makes a mask of its own, which does not keep packed rows apart")
        return _attend_rows(module, query, key, value, attention_mask, **named)

    def inner(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return _attend_rows(module, q, k, v, mask, **named)[0]

    return packed.attend(*carried, query, key, value, inner), None


def _attend_rows(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **named: Any
) -> tuple[Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    causal = named.pop("is_causal", None)
    causal = getattr(module, "is_causal", True) if causal is None else causal
    given = _EXTRA[module](query) if module in _EXTRA else None
    if given is not None and given.shape[-2]:
        key, value, attention_mask = _joined(query, key, value, attention_mask, given, causal)
        if (bias := named.get("position_bias")) is not None:
            named["position_bias"] = F.pad(bias, (given.shape[-2], 0))
        causal = False
    way, on = _WAYS.get(module, (None, None))
    if way is not None and on is not None and on():
        asked = _asked(module, query, key, value, attention_mask, {**named, "is_causal": causal})
        return way(asked).transpose(1, 2).contiguous(), None
    if quick.attends(query, key, attention_mask, named):
        scale, dropout = named.get("scaling"), named.get("dropout", 0.0)
        return quick.attention(query, key, value, attention_mask, causal=causal, scale=scale, dropout=dropout), None
    said: Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, is_causal=causal, **named)[0]
    return said, None


def _asked(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, named: Mapping[str, Any]
) -> Asked:
    if named.get("position_bias") is not None:
        raise InputError(f"{type(module).__name__} adds a bias of its own to the scores", where="forward",
                         expected="an attention without one")  # fmt: skip
    causal, scale = named.get("is_causal"), named.get("scaling")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    return Asked(
        query, key, value, mask, bool(causal) and mask is None and query.shape[2] > 1,
        query.shape[-1] ** -0.5 if scale is None else scale, named.get("dropout", 0.0),
    )  # fmt: skip


def _joined(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, extra: Tensor, causal: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys, values and mask with the extra ones in front, which every query sees."""
    rows, heads, length, _ = key.shape
    if mask is None and causal and query.shape[2] > 1:
        mask = torch.ones(query.shape[2], length, dtype=torch.bool, device=key.device).tril(length - query.shape[2])
        mask = mask[None, None]
    if mask is not None:
        seen = mask.new_ones if mask.dtype == torch.bool else mask.new_zeros
        mask = torch.cat([seen(*mask.shape[:-1], extra.shape[-2]), mask[..., :length]], dim=-1)
    split = extra.to(key.dtype).unflatten(-1, (heads, -1)).transpose(-2, -3)
    split = (split if split.ndim == 5 else split[:, None]).expand(2, rows, *split.shape[-3:])
    return torch.cat([split[0], key], 2), torch.cat([split[1], value], 2), mask
