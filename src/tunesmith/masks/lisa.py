from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from ..models.anatomy import Weight
from ..settings import Count
from . import Mask, Moment


class LISA(Mask):
    """A few layers drawn anew every some steps move, and always what lies outside the layers: embeddings and head.

    Source: Pan et al. 2024, arXiv:2403.17919, algorithm 1. The optimizer lets go of the state of a layer that comes to
    rest, so that it has state for the drawn layers only.

    Settings:
        count: layers that move at a time.
        period: steps between draws.
    """

    rate: ClassVar[float] = 2.5e-4
    forgets: ClassVar[bool] = True

    def __init__(self, *, count: Count = 2, period: Count = 10):
        self.count, self.period = count, period
        self.layers: list[tuple[str, int]] = []

    def trains(self, weight: Weight) -> bool:
        return True

    def begin(self, weights: Sequence[Weight], seed: int) -> None:
        self.seed = seed
        self.layers = sorted({(w.stack, w.layer) for w in weights if w.layer is not None})

    def drawn(self, step: int) -> set[tuple[str, int]]:
        """Stack and index of the layers that move in a step; it depends on the seed and the step alone."""
        draw = random.Random(f"{self.seed} {step // self.period}")
        return set(draw.sample(self.layers, min(self.count, len(self.layers))))

    def now(self, weight: Weight, moment: Moment) -> bool:
        return weight.layer is None or (weight.stack, weight.layer) in self.drawn(moment.step)
