"""Two things that PyTorch does slowly on a CPU, done otherwise: dropout, and the gradient of attention.

PyTorch draws dropout's random numbers one by one, which is a tenth of an encoder's step. Its fused attention takes longer
backwards than the few products that it stands for, in bf16 several times as long, as long as sequences are short; and with
dropout it has none.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LONGEST = 192
"""Keys up to which the plain products are the faster ones; longer sequences take PyTorch's fused attention where it has one."""


def quicken(model: nn.Module) -> None:
    """Let a model's dropout be the quick one. Its tensors and their names stay what they are."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))


class Dropout(nn.Dropout):
    """Dropout whose random numbers are drawn 64 bits at a time; on other devices it is PyTorch's.

    The share that is dropped is rounded to 1/65536, and what stays is scaled by just that share.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not 0 < self.p < 1 or x.device.type != "cpu":
            return super().forward(x)
        return x * noise(x.shape, self.p, x.dtype)


def noise(shape: tuple[int, ...], p: float, dtype: torch.dtype) -> Tensor:
    """Factors that are 0 with probability ``p`` and otherwise such that their mean is 1, by PyTorch's generator."""
    count, dropped = math.prod(shape), round(p * 65536)
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    kept = bits.view(torch.int16)[:count].view(shape) >= dropped - 32768
    return kept.to(dtype).mul_(65536 / (65536 - dropped))


# ---------------------------------------------------------------------- attention


def attends(query: Tensor, key: Tensor, mask: Tensor | None, named: dict[str, Any]) -> bool:
    """Whether `attention` is the faster one here, and does what is asked for."""
    return (
        query.device.type == "cpu"
        and _precision(query) in (torch.float32, torch.bfloat16)
        and torch.is_grad_enabled()
        and (query.requires_grad or key.requires_grad)
        and not plainly()
        and (key.shape[2] <= LONGEST or bool(named.get("dropout")))
        and query.shape[1] % key.shape[1] == 0
        and not (mask is not None and mask.requires_grad)
        and all(named.get(name) is None for name in ("position_bias", "softcap", "cache"))
    )


def plainly() -> bool:
    """Whether only PyTorch's plain kernel of attention is allowed: a gradient's gradient or a forward derivative is wanted."""
    return not torch.backends.cuda.flash_sdp_enabled()


def _precision(query: Tensor) -> torch.dtype:
    """In which PyTorch's attention would be computed: positions that are turned into ``query`` may have widened it."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, causal: bool, scale: float | None, dropout: float
) -> Tensor:
    """Scaled-dot-product attention.

    Args:
        query: (rows, heads, length, size).
        key, value: (rows, groups, keys, size); each serves ``heads / groups`` heads.
        mask: what is added to the scores, or bool, True where a query sees a key; (rows or 1, heads or 1, length, keys).
        causal: without a mask, no query sees a later key.
        scale: of the scores; one over the root of the size if not given.
        dropout: share of the attention's weights that is dropped.

    Returns:
        (rows, length, heads, size).
    """
    bias = None
    if mask is None and causal:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    if mask is not None:
        lowest = torch.finfo(torch.float32).min
        bias = torch.zeros(mask.shape).masked_fill_(~mask, lowest) if mask.dtype == torch.bool else mask.float()
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    precision = _precision(query)
    query, key, value = (t.to(precision) for t in (query, key, value))
    attended: Tensor = _Attention.apply(query, key, value, bias, scale, dropout)
    return attended


class _Attention(torch.autograd.Function):
    """Scores and softmax in single precision, other products as the tensors are; the weights are kept for the way back."""

    @staticmethod
    def forward(
        context: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float, dropout: float
    ) -> Tensor:
        rows, heads, length, size = query.shape
        groups = rows * key.shape[1]
        q, k, v = (t.reshape(groups, -1, t.shape[-1]) for t in (query, key, value))
        with torch.autocast("cpu", enabled=False):
            scores = torch.bmm(q.float(), k.float().mT).mul_(scale)
            if bias is not None:
                scores.view(rows, heads, length, -1).add_(bias)
            weights = scores.softmax(-1).to(v.dtype)
            factors = noise(weights.shape, dropout, v.dtype) if dropout else None
            attended = torch.bmm(weights if factors is None else weights * factors, v)
        context.save_for_backward(q, k, v, weights, factors)
        context.scale, context.shapes = scale, (query.shape, key.shape, value.shape)
        return attended.view(rows, heads, length, -1).transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> Any:
        q, k, v, weights, factors = context.saved_tensors
        g = gradient.transpose(1, 2).reshape(len(q), -1, v.shape[-1])
        with torch.autocast("cpu", enabled=False):
            dropped = weights if factors is None else weights * factors
            dv = torch.bmm(dropped.mT, g)
            dw = torch.bmm(g, v.mT)
            dw = (dw if factors is None else dw.mul_(factors)).float()
            w = weights.float()
            ds = (dw - (dw * w).sum(-1, keepdim=True)).mul_(w).mul_(context.scale).to(q.dtype)
            dq, dk = torch.bmm(ds, k), torch.bmm(ds.mT, q)
        return *(t.view(s) for t, s in zip((dq, dk, dv), context.shapes, strict=True)), None, None, None
