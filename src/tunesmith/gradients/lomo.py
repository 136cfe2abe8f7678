from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..settings import Positive
from . import Gradient, Loss, Take


class LOMO(Gradient):
    """Backpropagation that moves each tensor as soon as its gradient is there, so that one gradient is held at a time.

    With ``[sgd]`` without momentum the optimizer keeps nothing either; with ``[adalomo]`` its state is two vectors a
    matrix. A step has to be one micro-batch, since the weights move within the backward pass.

    Source: Lv et al. 2023, arXiv:2306.09782, algorithm 1.

    Settings:
        limit: highest joint L2 norm of all gradients, for which a first backward pass measures the norm; None for no
            limit and one pass.
    """

    streams = True

    def __init__(self, *, limit: Positive | None = None):
        self.limit = limit

    def stream(self, losses: Sequence[Loss], parameters: Sequence[nn.Parameter], take: Take) -> Tensor:
        if len(losses) > 1:
            raise InputError(
                f"gradient lomo cannot add up micro-batches, and a step has {len(losses)}",
                fix="raise batch.tokens, lower batch.rows, or take gradient backprop",
            )
        factor = 1.0 if self.limit is None else self._factor(losses[0], parameters, self.limit)
        torch.manual_seed(torch.initial_seed())
        loss = losses[0]()
        if loss.isfinite():
            _backward(loss * factor if factor != 1.0 else loss, parameters, take)
        return loss.detach()

    def _factor(self, loss: Loss, parameters: Sequence[nn.Parameter], limit: float) -> float:
        """What brings the joint norm down to the limit."""
        squares: list[Tensor] = []

        def measure(p: nn.Parameter) -> None:
            assert p.grad is not None
            squares.append(torch.linalg.vector_norm(p.grad, dtype=torch.float32).square())
            p.grad = None

        torch.manual_seed(torch.initial_seed())
        value = loss()
        if not value.isfinite():
            return 1.0
        _backward(value, parameters, measure)
        return min(1.0, limit / (float(torch.stack(squares).sum().sqrt()) + 1e-6))


def _backward(loss: Tensor, parameters: Sequence[nn.Parameter], take: Take) -> None:
    """A backward pass that hands over each gradient when it is complete; those of entries come last."""
    hooks = [p.register_post_accumulate_grad_hook(take) for p in parameters if p.requires_grad]
    try:
        loss.backward()
    finally:
        for hook in hooks:
            hook.remove()
    for p in parameters:
        if p.grad is not None:
            take(p)
