from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ..settings import Count, NonNegative, Share, Whole
from . import EntryMask, Moment, Patch
from ._polar import polar


class SaRA(EntryMask):
    """The weights of smallest magnitude move, which the base hardly uses; a nuclear norm keeps their change low in rank.

    Half-way, those that have grown beyond the threshold stop, so that the rest of the run goes to those still small.
    The norm's gradient is looked at every few steps and kept in between, where the paper has it in each.

    Source: Hu et al. 2024, arXiv:2409.06633, eq. 3 (mask), 5 (nuclear norm) and sec. 3.4 (progressive adjustment).

    Settings:
        density: share of the layers' matrices' entries, by magnitude from the smallest, that moves.
        nuclear: weight of the nuclear norm of each matrix's change in the loss; 0 saves its matrix products.
        every: steps from one look at the norm's gradient to the next: it turns slowly, and costs far more than a step.
        refreshes: how often those that have grown are stopped, at even distances.
    """

    rate: ClassVar[float] = 1e-3
    soft: ClassVar[bool] = True

    def __init__(self, *, density: Share = 0.1, nuclear: NonNegative = 5e-4, every: Count = 10, refreshes: Whole = 1):
        super().__init__(score="smallest", density=density, roles=["linear"], scope="model")
        self.nuclear, self.every, self.refreshes = nuclear, every, refreshes
        self.pulls: dict[str, Tensor] = {}

    def prepare(self, patch: Patch) -> Tensor:
        return torch.ones_like(patch.values)

    def renew(self, patch: Patch, moment: Moment) -> None:
        assert patch.given is not None
        limit = patch.base.abs().max()
        patch.given.mul_((patch.base + patch.values.detach()).abs() <= limit)

    def pull(self, patch: Patch, step: int) -> Tensor | None:
        if not self.nuclear:
            return None
        name = patch.weight.name
        if step % self.every == 0:
            change = torch.zeros(patch.weight.parameter.shape, dtype=patch.values.dtype, device=patch.values.device)
            change.view(-1)[patch.indices] = patch.values.detach()
            self.pulls[name] = self.nuclear * polar(change).reshape(-1)[patch.indices]
        return self.pulls[name].to(patch.values.device)

    def state(self) -> dict[str, Tensor]:
        return dict(self.pulls)

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.pulls = dict(state)
