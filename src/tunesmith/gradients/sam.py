from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..settings import Positive
from . import Gradient, Loss
from .backprop import Backprop


class SAM(Gradient):
    """The gradient at the worst point nearby, so that training ends in flat places: two backward passes a step.

    The point is ``w + rho * g / |g|`` with the step's whole gradient ``g``; the adaptive form measures the distance
    relative to each weight, ``w + rho * w^2 g / |w g|``. The weights come back bit for bit.

    Source: Foret et al. 2020, arXiv:2010.01412, eq. 2 and 3; Kwon et al. 2021, arXiv:2102.11600 (adaptive).

    Settings:
        rho: the distance.
        adaptive: whether it is measured relative to each weight; ``rho`` is about ten times larger then.
    """

    adds = False

    def __init__(self, *, rho: Positive = 0.05, adaptive: bool = False):
        self.rho, self.adaptive = rho, adaptive

    def __call__(self, losses: Sequence[Loss], parameters: Sequence[nn.Parameter]) -> Tensor:
        backprop = Backprop()
        loss = backprop(losses, parameters)
        home = self._ascend([p for p in parameters if p.grad is not None])
        torch.manual_seed(torch.initial_seed())
        try:
            backprop(losses, parameters)
        finally:
            with torch.no_grad():
                for p, values in home:
                    p.copy_(values)
        return loss

    @torch.no_grad()
    def _ascend(self, parameters: Sequence[nn.Parameter]) -> list[tuple[nn.Parameter, Tensor]]:
        """Go to the worst point; each parameter with its former values, which take the place of its gradient."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        sizes = [p.abs() if self.adaptive else None for p in parameters]
        scaled = [g if s is None else g * s for g, s in zip(gradients, sizes, strict=True)]
        norm = torch.stack([s.norm() for s in scaled]).norm() + 1e-12
        home = []
        for p, g, s in zip(parameters, gradients, sizes, strict=True):
            worst = p + self.rho / norm * (g if s is None else g * s.square())
            home.append((p, g.copy_(p)))
            p.copy_(worst)
            p.grad = None
        return home
