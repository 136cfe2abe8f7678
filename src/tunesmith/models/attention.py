"""An attention function of our own: extra keys and values in front of a model's, and quicker training on a CPU.

Through transformers' own extension point: an attention function and its mask function registered under a name. It is
scaled-dot-product attention unchanged, to the bit, where there are no extra keys and nothing is trained. The cache never
holds the extra keys, so generation needs nothing more.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from . import quick

NAME = "tunesmith_sdpa"
_EXTRA: weakref.WeakKeyDictionary[Any, Callable[[Tensor], Tensor | None]] = weakref.WeakKeyDictionary()


class Extension:
    """The extra keys of one attention; `remove` takes them away."""

    def __init__(self, module: Any):
        self.module = module

    def remove(self) -> None:
        _EXTRA.pop(self.module, None)


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
    if model.config._attn_implementation != NAME:
        raise InputError(
            f"{type(model).__name__} computes attention by {model.config._attn_implementation!r} and takes no extra keys",
            expected="scaled-dot-product attention (sdpa)", fix="prepend prompts to its input instead",
        )  # fmt: skip

    def extra(query: Tensor) -> Tensor | None:
        return act(query, query.new_zeros(2, 0, width)) if on() else None

    _EXTRA[module] = extra
    return Extension(module)


def use(model: Any) -> None:
    """Let a model compute its attention by this function, if it is one that does so by PyTorch's."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, _attend)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


def _attend(
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
    if quick.attends(query, key, attention_mask, named):
        scale, dropout = named.get("scaling"), named.get("dropout", 0.0)
        return quick.attention(query, key, value, attention_mask, causal=causal, scale=scale, dropout=dropout), None
    attended: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, is_causal=causal, **named
    )
    return attended


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
