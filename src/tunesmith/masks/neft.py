from __future__ import annotations

from typing import ClassVar

from ..settings import Positive, Share
from . import EntryMask


class NeFT(EntryMask):
    """The neurons that a full tuning turned most move, from the base again: rows whose cosine with the base is lowest.

    Source: Xu et al. 2024, arXiv:2403.11621, sec. 3.2.

    Settings:
        density: share of the neurons (rows of the layers' matrices) that move.
        scout: length of the full tuning as a multiple of the budget.
    """

    rate: ClassVar[float] = 1e-3

    def __init__(self, *, density: Share = 0.06, scout: Positive = 1.0):
        super().__init__(score="cosine", density=density, roles=["linear"], scope="model", unit="row")
        self.scout = scout
