from __future__ import annotations

from typing import Any

from ..models.anatomy import Site
from ..settings import Positive
from ._low_rank import LowRank


class LoRAPlus(LowRank):
    """LoRA whose ``B`` learns faster than its ``A``, as wide layers need.

    Source: Hayou, Ghosh and Yu 2024, arXiv:2402.12354, sec. 4.

    Settings:
        ratio: learning rate of ``B`` over that of ``A``; the paper advises 16.
    """

    rate = 2e-4

    def __init__(self, site: Site, *, ratio: Positive = 16.0, **low_rank: Any):
        super().__init__(site, **low_rank)
        self.ratio = ratio

    def rates(self) -> dict[str, float]:
        return {"B": self.ratio}
