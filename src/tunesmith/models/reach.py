"""How a site of each kind is reached: hooks that give an adapter its input and output, and take its new output."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from . import attention
from .anatomy import Site

Act = Callable[[Any, Tensor], Tensor]
"""From a site's input and output to its new output."""

Handles = list[Any]


def reach(model: Any, site: Site, act: Act, on: Callable[[], bool]) -> Handles:
    """Let ``act`` stand at a site whenever the model runs and ``on`` says so.

    Args:
        model: the Hugging Face model that the site belongs to.
        site: the site.
        act: gets the site's input and output, as `tunesmith.models.places` describes them; gives its new output.
        on: whether anything attached acts at the moment.

    Returns:
        Handles whose ``remove`` takes the hooks away.

    Raises:
        InputError: the model has no such place.
    """
    if site.kind == "input":
        return _Input(model, site, act, on).handles
    if site.kind == "attention":
        return [attention.extend(model, site.module, act, on, site.outputs), *_later(model, site, act, on)]
    if site.kind == "heads":

        def before(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
            return (_kept(act, inputs[0], inputs[0]), *inputs[1:]) if on() else None

        return [site.module.register_forward_pre_hook(before, prepend=True)]
    if site.kind == "sublayer":
        return _sublayer(site, act, on)
    if site.kind == "layer":
        return [site.module.register_forward_hook(_layer(act, on), with_kwargs=True)]
    return [site.module.register_forward_hook(lambda m, a, y: act(a[0], y) if on() else None)]


def enter(site: Site, change: Callable[[Tensor], Tensor]) -> Any:
    """Let ``change`` stand before a linear site: from what it would read to what it reads; gives a handle.

    It comes last of all that stands before the module, so that every other adapter sees what the model would give it.
    """
    return site.module.register_forward_pre_hook(lambda m, a: (change(a[0]), *a[1:]))


class Instead:
    """Another computation in the place of a sub-layer's matrices; `remove` takes it away.

    The first matrices give nothing, so that what stands between them and the last one costs nothing, and the last one gives
    the other computation's output.

    Args:
        site: a sub-layer.
        compute: from its input to its output.
        on: whether it stands there at the moment.
    """

    def __init__(self, site: Site, compute: Callable[[Tensor], Tensor], on: Callable[[], bool]):
        self._held: list[Tensor] = []
        self._modules = [site.module]
        runs = site.module.forward

        def leave(hidden: Tensor) -> Tensor:
            return compute(self._held.pop()) if self._held else runs(hidden)

        for part in site.parts.values():
            if part.module not in self._modules:
                self._modules.append(part.module)
                part.module.forward = self._entering(part.module.forward, on)
        site.module.forward = leave

    def _entering(self, run: Callable[[Tensor], Tensor], on: Callable[[], bool]) -> Callable[[Tensor], Tensor]:
        def enter(x: Tensor) -> Tensor:
            self._held[:] = [x] if on() else []
            return x.new_zeros(*x.shape[:-1], 2) if on() else run(x)

        return enter

    def remove(self) -> None:
        for module in self._modules:
            vars(module).pop("forward", None)


def listen(site: Site, see: Callable[[Tensor], None]) -> Any:
    """Tell ``see``, before each pass, which places hold text: bool (rows, length); gives a handle.

    It comes first of all that stands before the trunk, so that it sees no virtual tokens. Where a cache holds what came before,
    the new places are the model's own writing and no text.

    Args:
        site: the site of kind ``input``.
        see: gets the places.
    """
    signature = inspect.signature(site.module.forward)

    def before(module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = signature.bind_partial(*inputs, **named).arguments
        given |= given.pop("kwargs", {})
        read = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
        cache, mask = given.get("past_key_values"), given.get("attention_mask")
        places = read.new_ones(read.shape[:2], dtype=torch.bool)
        if cache is not None and cache.get_seq_length():
            places = ~places
        elif mask is not None and mask.ndim == 2:
            places = mask[:, -read.shape[1] :].bool()
        see(places)

    return site.module.register_forward_pre_hook(before, with_kwargs=True, prepend=True)


def _kept(act: Act, x: Tensor, y: Tensor) -> Tensor:
    """The new output in the type of the old one: the next module is frozen in it."""
    return act(x, y).to(y.dtype)


def _sublayer(site: Site, act: Act, on: Callable[[], bool]) -> Handles:
    """Hold what goes in at the first module until the last one has its output."""
    held: list[Tensor] = []

    def enter(module: Any, inputs: tuple[Tensor, ...]) -> None:
        held[:] = [inputs[0]]

    def leave(module: Any, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor | None:
        x = held.pop()
        return _kept(act, x, y.reshape(*x.shape[:-1], -1)).reshape(y.shape) if on() else None

    return [site.partner.register_forward_pre_hook(enter, prepend=True), site.module.register_forward_hook(leave)]


def _layer(act: Act, on: Callable[[], bool]) -> Callable[..., Any]:
    def leave(module: Any, inputs: tuple[Any, ...], named: Mapping[str, Any], output: Any) -> Any:
        if not on():
            return None
        x = inputs[0] if inputs else named["hidden_states"]
        return (_kept(act, x, output[0]), *output[1:]) if isinstance(output, tuple) else _kept(act, x, output)

    return leave


class _Input:
    """Virtual tokens in front of what the trunk reads; nothing outside the trunk ever sees them.

    The trunk gets embeddings, a mask and positions that are longer by as many places, and its outputs are cut again:
    labels, pooling and the places where the head acts stay right. The key-value cache holds the virtual tokens, so
    that none are added when a text is continued, and only mask and positions are changed. An encoder's outputs stay
    long where a decoder looks at them; the decoder's view of the encoder's mask is lengthened instead.
    """

    def __init__(self, model: Any, site: Site, act: Act, on: Callable[[], bool]):
        self.trunk, self.act, self.on = site.module, act, on
        self.table = site.parts["embedding"].module
        self.signature = inspect.signature(self.trunk.forward)
        self.limit = _limit(model, self.trunk)
        self.extra = 0
        self.began = False
        self.handles = [self.trunk.register_forward_pre_hook(self._enter, with_kwargs=True)]
        if site.partner is not None:
            self.handles.append(site.partner.register_forward_pre_hook(self._look, with_kwargs=True))
            return
        self.handles.append(self.trunk.register_forward_hook(self._leave))
        if (pooler := getattr(self.trunk, "pooler", None)) is not None:
            self.handles.append(pooler.register_forward_pre_hook(lambda m, a: (self._cut(a[0]), *a[1:])))

    def _enter(self, module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if not self.on():
            return None
        given = self.signature.bind_partial(*inputs, **named).arguments
        given |= given.pop("kwargs", {})
        ids, cache = given.pop("input_ids", None), given.get("past_key_values")
        y = given["inputs_embeds"] if ids is None else self.table(ids)
        written = cache.get_seq_length() if cache is not None else 0
        whole = y.shape[1] + (written - self.extra if written else 0)
        mask = given.get("attention_mask")
        if mask is None:
            mask = torch.ones(len(y), whole, dtype=torch.long, device=y.device)
        elif mask.ndim != 2:
            raise InputError(f"the attention mask has {mask.ndim} dimensions", expected="(rows, length)")
        new = self.act(mask, y).to(y.dtype)
        if not written:
            self.extra = new.shape[1] - y.shape[1]
        self.began = not written
        _fits(self.limit, whole, self.extra)
        return (), given | self._longer(given) | {"inputs_embeds": new}

    def _longer(self, given: Mapping[str, Any]) -> dict[str, Tensor]:
        """Mask, positions and kinds of token with the virtual ones in front, or behind them where more is written."""
        changed = {}
        if (old := given.get("attention_mask")) is not None:
            changed["attention_mask"] = torch.cat([old.new_ones(len(old), self.extra), old], dim=1)
        if (old := given.get("token_type_ids")) is not None and self.began:
            changed["token_type_ids"] = torch.cat([old.new_zeros(len(old), self.extra), old], dim=1)
        if (old := given.get("position_ids")) is not None:
            front = torch.arange(self.extra if self.began else 0, device=old.device, dtype=old.dtype)
            changed["position_ids"] = torch.cat([front.expand(len(old), -1), old + self.extra], dim=1)
        return changed

    def _cut(self, hidden: Tensor) -> Tensor:
        """Without the virtual tokens; a continued text has none of them."""
        return hidden[:, self.extra :] if self.on() and self.began else hidden

    def _leave(self, module: Any, inputs: Any, output: Any) -> Any:
        if not self.on() or not self.extra or not self.began:
            return None
        if isinstance(output, tuple):
            return (self._cut(output[0]), *output[1:])
        output["last_hidden_state"] = self._cut(output["last_hidden_state"])
        if output.get("hidden_states") is not None:
            output["hidden_states"] = tuple(self._cut(h) for h in output["hidden_states"])
        return output

    def _look(self, module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """A decoder's view of the encoder: its mask as long as what the encoder gave."""
        mask, states = named.get("encoder_attention_mask"), named.get("encoder_hidden_states")
        if not self.on() or mask is None or states is None or mask.shape[1] == states.shape[1]:
            return None
        front = mask.new_ones(len(mask), states.shape[1] - mask.shape[1])
        return inputs, named | {"encoder_attention_mask": torch.cat([front, mask], dim=1)}


_MOVED: weakref.WeakSet[Any] = weakref.WeakSet()


def _later(model: Any, site: Site, act: Act, on: Callable[[], bool]) -> Handles:
    """Let the positions of a language model's text begin after its prefix, as they do where a cache holds the prefix."""
    reader, limit = site.partner, _limit(model, site.partner)
    signature = inspect.signature(reader.forward)
    if not getattr(site.module, "is_causal", False) or "position_ids" not in signature.parameters or reader in _MOVED:
        return []

    def move(module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if not on():
            return None
        given = signature.bind_partial(*inputs, **named).arguments
        given |= given.pop("kwargs", {})
        text = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
        with torch.no_grad():
            nothing = torch.zeros(2, 0, site.outputs, device=text.device)
            extra = act(torch.zeros(1, site.heads, 1, site.inputs // site.heads, device=text.device), nothing).shape[-2]
        cache = given.get("past_key_values")
        before = cache.get_seq_length() if cache is not None else 0
        _fits(limit, before + text.shape[1], extra)
        old = given.get("position_ids")
        if old is None:
            old = torch.arange(before, before + text.shape[1], device=text.device)[None]
        return (), given | {"position_ids": old + extra}

    _MOVED.add(reader)
    return [reader.register_forward_pre_hook(move, with_kwargs=True)]


def _fits(limit: int | None, tokens: int, extra: int) -> None:
    if limit is not None and tokens + extra > limit:
        raise InputError(
            f"{tokens} tokens and {extra} virtual ones", expected=f"at most {limit} together",
            fix=f"set length.max to {limit - extra}",
        )  # fmt: skip


def _limit(model: Any, trunk: Any) -> int | None:
    """The most positions that a model has, where they are rows of a table."""
    tables = [n.lower() for n, m in trunk.named_modules() if isinstance(m, torch.nn.Embedding)]
    learned = any(n.endswith(("position_embeddings", "wpe", "embed_positions")) for n in tables)
    return getattr(model.config, "max_position_embeddings", None) if learned else None
