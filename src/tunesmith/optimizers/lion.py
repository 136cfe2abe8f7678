from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn, optim

from ..settings import Decay, NonNegative, Positive
from . import Stepper
from ._rule import Rule, decay


class Lion(Stepper):
    """The sign of a momentum: every entry moves by the rate. Half of Adam's state.

    Source: Chen et al. 2023, arXiv:2302.06675, algorithm 2.

    Settings:
        lr: highest learning rate, three to ten times below AdamW's; None takes the tested rate of the chosen adapter or
            mask, which is meant for AdamW.
        beta1: share of the momentum in what the sign is taken of.
        beta2: decay of the momentum.
        weight_decay: share of each matrix that is taken away each step, times the rate; biases and norms are spared.
    """

    def __init__(
        self, *, lr: Positive | None = None, beta1: Decay = 0.9, beta2: Decay = 0.99, weight_decay: NonNegative = 0.0
    ):
        self.lr = lr or 0.0
        self.betas = (beta1, beta2)
        self.weight_decay = weight_decay

    def build(self, groups: list[dict[str, Any]]) -> optim.Optimizer:
        return _Lion(groups, self.lr, self.weight_decay, self.betas)


class _Lion(Rule):
    def __init__(self, groups: list[dict[str, Any]], lr: float, weight_decay: float, betas: tuple[float, float]):
        super().__init__(groups, lr, weight_decay)
        self.betas = betas

    def update(self, p: nn.Parameter, g: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        mean = state.setdefault("mean", g.new_zeros(g.shape))
        decay(p, group)
        p.sub_(mean.lerp(g, 1 - self.betas[0]).sign_(), alpha=group["lr"])
        mean.lerp_(g, 1 - self.betas[1])
