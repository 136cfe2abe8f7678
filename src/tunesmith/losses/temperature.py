from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..settings import NonNegative, Positive
from . import Loss, Step
from ._common import full, must_classify


class TemperatureNetwork(Loss, nn.Module):
    """A small network gives each unit a temperature of its own, learned by distributionally robust optimization.

    ``t log mean_j exp((s_j - s_y) / t) + rho t`` over all classes j, with ``t`` between two bounds by a sigmoid
    of a linear map of the hidden state. When the model is used, its logits are divided by ``t``. Train it alone
    on a frozen model, or beside ``cross_entropy``. Source: Qiu et al. 2024, "To Cool or not to Cool?",
    arXiv:2404.04575.

    Settings:
        least: the lowest temperature.
        most: the highest temperature.
        rho: how far from the uniform distribution the worst case may lie; more asks for less temperature.
    """

    layer: nn.Linear

    def __init__(self, *, least: Positive = 0.1, most: Positive = 4.0, rho: NonNegative = 1.0):
        nn.Module.__init__(self)
        self.least, self.most, self.rho = least, most, rho

    def start(self, step: Step) -> None:
        must_classify(step, self)
        self.layer = nn.Linear(step.main.features.shape[-1], 1, dtype=full(step.main.features).dtype)
        nn.init.zeros_(self.layer.weight)
        share = (1 - self.least) / (self.most - self.least)
        nn.init.constant_(self.layer.bias, math.log(share / (1 - share)) if 0 < share < 1 else 0.0)

    def temperatures(self, features: Tensor) -> Tensor:
        """Temperature of each unit, (units, 1); 1 at birth where the bounds allow it."""
        x = full(features.detach())
        return self.least + (self.most - self.least) * self.layer(x.to(self.layer.weight.dtype)).sigmoid()

    def __call__(self, step: Step) -> Tensor:
        must_classify(step, self)
        s, t = full(step.logits), self.temperatures(step.main.features)
        gaps = (s - s.gather(-1, step.targets[:, None])) / t
        robust = t[:, 0] * (torch.logsumexp(gaps, -1) - math.log(s.shape[-1]) + self.rho)
        return robust.sum() / step.units

    @torch.no_grad()
    def read(self, logits: Tensor, step: Step) -> Tensor:
        """Logits divided by their temperature."""
        return logits / self.temperatures(step.main.features).to(logits.dtype)
