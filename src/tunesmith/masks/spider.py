from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..settings import Count, Roles
from . import EntryMask, Patch
from ._weights import oriented


class SPIDER(EntryMask):
    """Entries move that matter more to the rows than to the base, each by the share of the two that the rows have.

    What matters to the base is ``|w|``, to the rows ``|sum g|``, each divided by its mean over the tensor; an entry
    with ``G > I`` takes ``G / (G + I)`` of each step.

    Source: Huang et al. 2024, arXiv:2411.10928, sec. 3.2. Chosen once before training, where the paper goes on measuring.

    Settings:
        roles: roles of the modules whose weights are looked at.
        samples: training rows whose gradients are added up.
    """

    rate: ClassVar[float] = 5e-4
    soft: ClassVar[bool] = True

    def __init__(self, *, roles: Roles = ["linear"], samples: Count = 256):  # noqa: B006
        super().__init__(score="gradient", density=0.4, roles=roles, samples=samples)
        self.shares: dict[str, Tensor] = {}

    def choose(self) -> dict[str, Tensor | None]:
        chosen: dict[str, Tensor | None] = {}
        for name, total in self.scores.items():
            weight = self.weights[name]
            rows = oriented(weight, total).abs().reshape(-1)
            base = weight.parameter.detach().abs().float().reshape(-1)
            rows, base = rows / rows.mean().clamp(min=1e-30), base / base.mean().clamp(min=1e-30)
            if (rows > base).any():
                chosen[name] = indices = torch.nonzero(rows > base)[:, 0]
                self.shares[name] = (rows / (rows + base))[indices]
        self.scores = {}
        return chosen

    def prepare(self, patch: Patch) -> Tensor:
        return self.shares.pop(patch.weight.name)
