"""What a language model computes entry by entry, in fewer passes over memory: normalisation by the root mean square, and gates.

PyTorch keeps for the gradient of a gate what it could compute again (a tenth of what a process holds that tunes SmolLM2), and
goes over a norm's tensors a dozen times. Both are taken by subclasses of the model's own modules, which share their tensors and
names and give the same values to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .quick import plainly

NORMS = {
    **dict.fromkeys(
        ("LlamaRMSNorm", "MistralRMSNorm", "Phi3RMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "SmolLM3RMSNorm"),
        ("variance_epsilon", 0.0),
    ),
    "T5LayerNorm": ("variance_epsilon", 0.0),
    **dict.fromkeys(("GemmaRMSNorm", "Gemma2RMSNorm", "Gemma3RMSNorm"), ("eps", 1.0)),
}
"""Classes that compute ``x / sqrt(mean(x^2) + eps) * (weight + offset)``: where they keep eps, and the offset."""

GATED = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP", "SmolLM3MLP", "GemmaMLP", "Gemma2MLP", "Gemma3MLP")
"""Classes that compute ``down_proj(act_fn(gate_proj(x)) * up_proj(x))``."""

_GELU = {"approximate": "tanh"}
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    **dict.fromkeys(("SiLU", "SiLUActivation"), (F.silu, torch.ops.aten.silu_backward)),
    **dict.fromkeys(
        ("GELUTanh", "PytorchGELUTanh"),
        (lambda x: F.gelu(x, **_GELU), lambda g, x: torch.ops.aten.gelu_backward(g, x, **_GELU)),
    ),
}
"""Class of an activation -> what it computes, and its gradient from the output's."""


def quicken(model: nn.Module) -> None:
    """Let a model's norms and gates be the quick ones."""
    for module in model.modules():
        kind: Any = type(module)
        if (quicker := _quicker(module)) is not None:
            module.__class__ = _subclass(kind, quicker)


def _quicker(module: nn.Module) -> type | None:
    """What stands for a module; None where nothing does."""
    kind = type(module)
    if not kind.__module__.startswith("transformers."):
        return None
    if kind.__name__ in NORMS:
        return _RMSNorm
    act = getattr(module, "act_fn", None)
    return _Gated if kind.__name__ in GATED and type(act).__name__ in ACTIVATIONS else None


@cache
def _subclass(kind: type, quicker: type) -> type:
    """A class of the same name, whose forward is the quicker one's where that applies."""
    return type(kind.__name__, (quicker, kind), {"__module__": __name__})


class _RMSNorm(nn.Module):
    def forward(self, x: Tensor) -> Any:
        weight: Tensor = self.weight  # type: ignore[assignment]
        if plainly() or x.device.type != "cpu" or not x.dtype == weight.dtype == torch.float32:
            return super().forward(x)
        where, offset = NORMS[type(self).__name__]
        return _Normed.apply(x, weight + offset if offset else weight, getattr(self, where))


class _Gated(nn.Module):
    def forward(self, x: Tensor) -> Any:
        if plainly() or x.device.type != "cpu":
            return super().forward(x)
        parts: Any = self
        kind = type(parts.act_fn).__name__
        return parts.down_proj(_Gate.apply(parts.gate_proj(x), parts.up_proj(x), kind))


class _Normed(torch.autograd.Function):
    """``y = r w x`` with ``r = 1 / sqrt(mean(x^2) + eps)``; ``dx = r (w g) - x r^3 mean(x w g)``, ``dw = sum(r x g)``."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = x.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        context.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> Any:
        x, weight, scale = context.saved_tensors
        product = gradient * x
        dx = dw = None
        if context.needs_input_grad[1]:
            dw = scale.reshape(1, -1).matmul(product.reshape(-1, product.shape[-1])).view_as(weight)
        if context.needs_input_grad[0]:
            mean = product.matmul(weight).unsqueeze(-1).div_(x.shape[-1])
            dx = torch.mul(gradient, weight, out=product).mul_(scale).addcmul_(x, mean.mul_(scale**3), value=-1)
        return dx, dw, None


class _Gate(torch.autograd.Function):
    """``act(gate) * up``, of which ``act(gate)`` is computed again on the way back."""

    @staticmethod
    def forward(context: Any, gate: Tensor, up: Tensor, kind: str) -> Tensor:
        context.save_for_backward(gate, up)
        context.kind = kind
        return ACTIVATIONS[kind][0](gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> Any:
        gate, up = context.saved_tensors
        act, act_backward = ACTIVATIONS[context.kind]
        dgate = act_backward(gradient * up, gate) if context.needs_input_grad[0] else None
        dup = act(gate).mul_(gradient) if context.needs_input_grad[1] else None
        return dgate, dup, None
