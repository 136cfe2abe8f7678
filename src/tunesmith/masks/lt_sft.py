from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from ..models.anatomy import Weight
from ..settings import NonNegative, Positive, Share
from . import EntryMask, Patch


class LT_SFT(EntryMask):  # noqa: N801
    """The entries that a full tuning changed most move, from the base again: a lottery ticket. The norms stay.

    The sparse differences of two runs add up (`tunesmith.SparseDelta`): one for a task and one for a language or a
    domain give a model of both.

    Source: Ansell et al. 2022, arXiv:2110.07560, sec. 3.1 and eq. 1.

    Settings:
        density: share of the model's entries that move.
        scout: length of the full tuning as a multiple of the budget.
        found: folder of a stored difference of a full tuning from the same base, in place of a tuning now: one serves
            several densities.
        l1: weight of the mean absolute difference from the base, over all entries, that is added to the loss.
    """

    rate: ClassVar[float] = 5e-4

    def __init__(self, *, density: Share = 0.05, scout: Positive = 1.0, found: str = "", l1: NonNegative = 0.1):
        super().__init__(score="change", density=density, scope="model")
        self.scout, self.found, self.l1 = 0.0 if found else scout, found, l1

    def trains(self, weight: Weight) -> bool:
        return weight.role != "norm"

    def begin(self, weights: Sequence[Weight], seed: int) -> None:
        super().begin(weights, seed)
        self.entries = sum(w.parameter.numel() for w in weights)

    def pull(self, patch: Patch, step: int) -> Tensor:
        return patch.values.sign() * (self.l1 / self.entries)
