from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from ..models.anatomy import Weight
from ..settings import Count
from . import Mask, Moment
from ._weights import is_embedding, module_of


class HFT(Mask):
    """Half of each layer's modules move, drawn by the seed: half of its attention, of its feed-forward, of its norms.

    Source: Hui et al. 2024, arXiv:2404.18466, sec. 3.2. Of an odd number, layers keep the larger and the smaller half
    in turn. The embeddings rest; the head and what else lies above the layers moves.

    Settings:
        stages: how often the half is drawn, at even distances; the optimizer begins anew for what comes to rest.
    """

    rate: ClassVar[float] = 2.5e-4
    forgets: ClassVar[bool] = True

    def __init__(self, *, stages: Count = 1):
        self.stages = stages
        self.halves: list[set[str]] = []

    def trains(self, weight: Weight) -> bool:
        if weight.layer is None:
            return not is_embedding(weight)
        return not self.halves or any(module_of(weight) in half for half in self.halves)

    def begin(self, weights: Sequence[Weight], seed: int) -> None:
        groups: dict[tuple[str, int, str], list[str]] = {}
        for weight in weights:
            if weight.layer is not None:
                group = groups.setdefault((weight.stack, weight.layer, weight.role.partition(".")[0]), [])
                group.extend({module_of(weight)} - set(group))
        self.halves = [self._half(groups, random.Random(f"{seed} {stage}")) for stage in range(self.stages)]

    def _half(self, groups: dict[tuple[str, int, str], list[str]], draw: random.Random) -> set[str]:
        first = draw.randrange(2)
        taken: set[str] = set()
        for (_, layer, _), modules in groups.items():
            taken |= set(draw.sample(modules, (len(modules) + (layer + first) % 2) // 2))
        return taken

    def now(self, weight: Weight, moment: Moment) -> bool:
        stage = min(self.stages - 1, int(moment.progress * self.stages))
        return weight.layer is None or module_of(weight) in self.halves[stage]
