from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..models.anatomy import Weight
from ..settings import Positive, Share
from . import EntryMask, Patch

_GAIN = 100.0
"""What the values are multiplied by in the sigmoid, so that they learn at a rate that suits the head too."""

_START = 0.02
"""Where the values begin, above or below zero: a sigmoid of 0.88 or 0.12."""


class Graft(EntryMask):
    """Of a full tuning's change only a tiny part is kept, in the entries where it matters: skills are localised.

    The model is tuned, then every entry is ``base + sigmoid(value) x change``, and the values are learned with all
    weights fixed. The highest ones are kept, each with its whole change.

    Source: Panigrahi et al. 2023, arXiv:2302.06600, eq. 2 to 4. Values exist for a pool of the entries that changed most
    and not for all, and the head goes on learning.

    Settings:
        density: share of the entries that is kept.
        pool: entries among which they are found, as a multiple of those kept.
        scout: length of the full tuning as a multiple of the budget.
    """

    rate: ClassVar[float] = 6.25e-3
    keeps_head: ClassVar[bool] = True

    def __init__(self, *, density: Share = 0.001, pool: Positive = 10.0, scout: Positive = 1.0):
        super().__init__(score="change", density=min(1.0, density * max(1.0, pool)), scope="model")
        self.kept, self.scout = density, scout
        self.changes: dict[str, Tensor] = {}
        self.limit = 0.0

    def compare(self, weight: Weight, before: Tensor) -> None:
        super().compare(weight, before)
        self.changes[weight.name] = (weight.parameter.detach() - before).reshape(-1)

    def choose(self) -> dict[str, Tensor | None]:
        sizes = torch.cat([change.abs() for change in self.changes.values()])
        self.limit = float(sizes.topk(self._count(len(sizes))).values[-1])
        return super().choose()

    def _count(self, entries: int) -> int:
        return max(1, round(self.kept * entries))

    def prepare(self, patch: Patch) -> Tensor:
        change = self.changes.pop(patch.weight.name)[patch.indices]
        patch.values.data.copy_(torch.where(change.abs() >= self.limit, _START, -_START))
        return change

    def difference(self, patch: Patch) -> Tensor:
        assert patch.given is not None
        return torch.sigmoid(_GAIN * patch.values) * patch.given

    def chain(self, patch: Patch, grad: Tensor) -> Tensor:
        assert patch.given is not None
        share = torch.sigmoid(_GAIN * patch.values)
        return grad * patch.given * _GAIN * share * (1 - share)

    def conclude(self, patches: Sequence[Patch]) -> None:
        values = torch.cat([patch.values.detach() for patch in patches])
        entries = sum(w.parameter.numel() for w in self.weights.values())
        self.limit = float(values.topk(min(len(values), self._count(entries))).values[-1])

    def harden(self, patch: Patch) -> Tensor:
        assert patch.given is not None
        return torch.where(patch.values.detach() >= self.limit, patch.given, 0.0)
