from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn, optim

from ..settings import Count, Decay, NonNegative, Positive
from . import Components, Stepper
from ._rule import Rule, adam, decay

_QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(Stepper):
    """Momentum whose singular values are all set to about one, for matrices; Adam for all else.

    Embeddings, heads and vectors get Adam, as the author advises. The step of a matrix is scaled by
    ``0.2 sqrt(larger side)``, so that its entries move about as far as AdamW's and AdamW's rates fit.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the scale from Liu et al.
    2025, arXiv:2502.16982.

    Settings:
        lr: highest learning rate; None takes the tested rate of the chosen adapter or mask.
        momentum: decay of the running mean of the gradients.
        nesterov: look ahead by one step of momentum.
        iterations: Newton-Schulz steps that bring the singular values to one.
        beta1: decay of Adam's mean of the gradients.
        beta2: decay of Adam's mean of their squares.
        eps: added to the root of Adam's second moment.
        weight_decay: share of each matrix that is taken away each step, times the rate; biases and norms are spared.
    """

    def __init__(
        self,
        *,
        lr: Positive | None = None,
        momentum: Decay = 0.95,
        nesterov: bool = True,
        iterations: Count = 5,
        beta1: Decay = 0.9,
        beta2: Decay = 0.95,
        eps: Positive = 1e-8,
        weight_decay: NonNegative = 0.01,
    ):
        self.lr = lr or 0.0
        self.momentum, self.nesterov, self.iterations = momentum, nesterov, iterations
        self.betas, self.eps, self.weight_decay = (beta1, beta2), eps, weight_decay
        self.plain: set[nn.Parameter] = set()

    def begin(self, components: Components) -> None:
        self.plain = {p for p, role in components.items() if role.split(".")[0] in ("embedding", "head")}

    def build(self, groups: list[dict[str, Any]]) -> optim.Optimizer:
        return _Muon(groups, self)


class _Muon(Rule):
    def __init__(self, groups: list[dict[str, Any]], settings: Muon):
        super().__init__(groups, settings.lr, settings.weight_decay)
        self.settings = settings

    def update(self, p: nn.Parameter, g: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        s = self.settings
        decay(p, group)
        if p.ndim != 2 or p in s.plain:
            p.sub_(adam(g, state, s.betas, s.eps), alpha=group["lr"])
            return
        mean = state.setdefault("mean", g.new_zeros(g.shape))
        mean.lerp_(g, 1 - s.momentum)
        ahead = g.lerp(mean, s.momentum) if s.nesterov else mean
        p.sub_(_orthogonal(ahead, s.iterations), alpha=group["lr"] * 0.2 * math.sqrt(max(p.shape)))


def _orthogonal(matrix: Tensor, iterations: int) -> Tensor:
    """The matrix with its singular values near one, by a quintic iteration that needs products only."""
    a, b, c = _QUINTIC
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / wide.norm().clamp(min=1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide is matrix else x.T
