from __future__ import annotations

from typing import Literal

from ..models.anatomy import Site
from ..settings import Count, Decay, Positive
from ._low_rank import LowRank


class LoRAPlus(LowRank):
    """LoRA whose ``B`` learns faster than its ``A``, as wide layers need.

    Source: Hayou, Ghosh and Yu 2024, arXiv:2402.12354, sec. 4.

    Settings:
        ratio: learning rate of ``B`` over that of ``A``; the paper advises 16.
    """

    rate = 2e-4

    def __init__(
        self,
        site: Site,
        *,
        rank: Count = 8,
        alpha: Positive = 16.0,
        scaling: Literal["alpha/rank", "alpha/sqrt(rank)"] = "alpha/rank",
        dropout: Decay = 0.0,
        ratio: Positive = 16.0,
    ):
        super().__init__(site, rank=rank, alpha=alpha, scaling=scaling, dropout=dropout)
        self.ratio = ratio

    def rates(self) -> dict[str, float]:
        return {"B": self.ratio}
