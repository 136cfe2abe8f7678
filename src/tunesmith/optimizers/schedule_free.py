from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn, optim

from ..errors import InputError
from ..settings import Decay, NonNegative, Positive
from . import Stepper
from ._rule import Rule


class ScheduleFree(Stepper):
    """AdamW without a schedule: gradients are taken between the moving weights and their average, the average is used.

    Take schedule ``constant``; its warm-up counts, and the average weighs each step by its squared rate. Validation, the
    report and what is saved see the average.

    Source: Defazio et al. 2024, arXiv:2405.15682, algorithm 1.

    Settings:
        lr: learning rate, one to ten times AdamW's; None takes the tested rate of the chosen adapter or mask.
        beta1: share of the average in where gradients are taken, above 0.
        beta2: decay of the mean of the squared gradients.
        eps: added to the root of the second moment.
        weight_decay: share of each matrix that is taken away each step, times the rate; biases and norms are spared.
    """

    def __init__(
        self,
        *,
        lr: Positive | None = None,
        beta1: Decay = 0.9,
        beta2: Decay = 0.999,
        eps: Positive = 1e-8,
        weight_decay: NonNegative = 0.0,
    ):
        if not beta1:
            raise InputError("beta1 is 0", where="optimizer.schedule_free", expected="a share above 0 and below 1")
        self.lr = lr or 0.0
        self.betas, self.eps, self.weight_decay = (beta1, beta2), eps, weight_decay

    def build(self, groups: list[dict[str, Any]]) -> optim.Optimizer:
        return _ScheduleFree(groups, self)


class _ScheduleFree(Rule):
    """While it trains, the weights are ``y = (1 - beta1) z + beta1 x``; ``z`` moves and ``x`` is its average."""

    def __init__(self, groups: list[dict[str, Any]], settings: ScheduleFree):
        super().__init__(groups, settings.lr, settings.weight_decay)
        self.settings = settings

    def update(self, p: nn.Parameter, g: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        (beta1, beta2), rate = self.settings.betas, group["lr"]
        if not state:
            state |= {"step": 0, "weights": 0.0, "z": p.detach().clone(), "square": torch.zeros_like(p)}
        z, average = state["z"], self._average(p, state)
        state["step"] += 1
        state["weights"] += rate**2
        state["square"].lerp_(g * g, 1 - beta2)
        size = (state["square"] / (1 - beta2 ** state["step"])).sqrt() + self.settings.eps
        z.sub_(g / size + group["weight_decay"] * p, alpha=rate)
        average.lerp_(z, rate**2 / state["weights"] if state["weights"] else 0.0)
        p.copy_(average.lerp_(z, 1 - beta1))

    def _average(self, p: Tensor, state: Mapping[str, Any]) -> Tensor:
        return p.lerp(state["z"], 1 - 1 / self.settings.betas[0])

    @torch.no_grad()
    def eval(self) -> None:
        """Put the average into the weights."""
        for p, state in self.state.items():
            p.copy_(self._average(p, state))

    @torch.no_grad()
    def train(self) -> None:
        """Put back what is trained."""
        for p, state in self.state.items():
            p.lerp_(state["z"], 1 - self.settings.betas[0])
