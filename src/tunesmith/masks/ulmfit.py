from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..models.anatomy import Weight
from ..settings import Positive, Share
from . import Mask, Moment
from ._weights import depth_of


class ULMFiT(Mask):
    """Layers wake one after the other from the top, and each learns more slowly than the one above it.

    Source: Howard and Ruder 2018, arXiv:1801.06146, sec. 3.2 (discriminative rates) and 3.3 (gradual unfreezing). The
    paper wakes a layer an epoch; here a share of the run is divided evenly, whatever its budget. Its slanted triangle
    is the schedule ``linear`` with ``warmup: 0.1, floor: 0.03125``.

    Settings:
        decay: factor between the rates of neighbouring layers, the lower one's being smaller; 1 for one rate. The
            paper's 2.6 is for three layers: twelve need about 1.1 to 1.3.
        unfreeze: share of the run by which everything has woken; 0 wakes all at once.
    """

    rate: ClassVar[float] = 5e-4

    def __init__(self, *, decay: Positive = 2.6, unfreeze: Share = 0.5):
        self.decay, self.unfreeze = decay, unfreeze
        self.decoder = 0
        self.deepest = 1

    def trains(self, weight: Weight) -> bool:
        return True

    def begin(self, weights: Sequence[Weight], seed: int) -> None:
        self.decoder = max((w.layers for w in weights if w.stack == "decoder"), default=0)
        self.deepest = max((depth_of(w, self.decoder) for w in weights), default=1)

    def now(self, weight: Weight, moment: Moment) -> bool:
        return moment.progress * max(1, self.deepest) >= self.unfreeze * depth_of(weight, self.decoder)

    def rate_of(self, weight: Weight) -> float:
        return float(self.decay ** -depth_of(weight, self.decoder))
