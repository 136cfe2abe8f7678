from __future__ import annotations

from typing import Any, Literal

from ..models.anatomy import Site
from ..settings import Count
from ._low_rank import LowRank


class RSLoRA(LowRank):
    """Low-rank update scaled by ``alpha / sqrt(rank)``, so that high ranks learn as fast as low ones.

    Source: Kalajdzievski 2023, arXiv:2312.03732, theorem 3.2.

    Settings:
        rank: higher than plain LoRA's, since more rank helps here.
    """

    rate = 5e-4

    def __init__(
        self,
        site: Site,
        *,
        rank: Count = 32,
        scaling: Literal["alpha/rank", "alpha/sqrt(rank)"] = "alpha/sqrt(rank)",
        **low_rank: Any,
    ):
        super().__init__(site, rank=rank, scaling=scaling, **low_rank)
