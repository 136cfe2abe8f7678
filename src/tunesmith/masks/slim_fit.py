from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..models.anatomy import Weight
from ..settings import Count, Decay
from . import Mask, Moment
from ._weights import module_of


class SlimFit(Mask):
    """The modules that changed least when they last moved rest: their activations need not be kept.

    The change is ``|W_t - W_(t-1)| / |W_(t-1)|``. What rests keeps its last measure, and moves again when those that
    move have come to change less.

    Source: Ardakani et al. 2023, arXiv:2305.18513, sec. 3.2. Without the quantisation of what activations are left, and
    counting modules, not the bytes of their activations.

    Settings:
        frozen: share of the modules that rest.
        every: steps between choices.
        warmup: steps in which all move before the first choice.
    """

    rate: ClassVar[float] = 2.5e-4
    follows: ClassVar[bool] = True

    def __init__(self, *, frozen: Decay = 0.75, every: Count = 1, warmup: Count = 2):
        self.frozen, self.every, self.warmup = frozen, every, warmup

    def trains(self, weight: Weight) -> bool:
        return True

    def begin(self, weights: Sequence[Weight], seed: int) -> None:
        self.place = {name: i for i, name in enumerate(dict.fromkeys(module_of(w) for w in weights))}
        self.change, self.size = torch.zeros(2, len(self.place), dtype=torch.float64)
        self.ratio = torch.zeros(len(self.place), dtype=torch.float64)
        self.awake = torch.ones(len(self.place), dtype=torch.bool)
        self.chosen_at = -1

    def follow(self, weight: Weight, before: Tensor, grad: Tensor) -> None:
        i = self.place[module_of(weight)]
        self.change[i] += (weight.parameter - before).double().square().sum().cpu()
        self.size[i] += before.double().square().sum().cpu()

    def now(self, weight: Weight, moment: Moment) -> bool:
        due = moment.step >= self.warmup and (moment.step - self.warmup) % self.every == 0
        if due and moment.step != self.chosen_at:
            self._measure()
            kept = self.ratio.topk(max(1, round((1 - self.frozen) * len(self.ratio)))).indices
            self.awake = torch.zeros_like(self.awake).index_fill(0, kept, True)
            self.chosen_at = moment.step
        return bool(self.awake[self.place[module_of(weight)]])

    def _measure(self) -> None:
        """Ratios of what has moved since the last time."""
        moved = self.size > 0
        self.ratio[moved] = (self.change[moved] / self.size[moved]).sqrt()
        self.change.zero_()
        self.size.zero_()

    def state(self) -> dict[str, Tensor]:
        return {"ratio": self.ratio, "awake": self.awake, "change": self.change, "size": self.size}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.ratio, self.awake, self.change, self.size = (state[n] for n in ("ratio", "awake", "change", "size"))
