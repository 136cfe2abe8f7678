from __future__ import annotations

from typing import Literal

import torch

from ..models.anatomy import Site
from ..settings import Count, Decay, Positive, Whole
from ._low_rank import Anchored, dense


class PiSSA(Anchored):
    """Train the principal singular directions of the weight: LoRA that starts from ``U_r S_r V_r``.

    Source: Meng, Wang and Zhang 2024, arXiv:2404.02948, eq. 2 to 4.

    Settings:
        iterations: rounds of the randomised decomposition, which is fast on large layers; 0 for the exact one.
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
        iterations: Whole = 0,
    ):
        super().__init__(site, rank=rank, alpha=alpha, scaling=scaling, dropout=dropout)
        if iterations:
            U, s, V = torch.svd_lowrank(dense(site), rank, iterations)
            V = V.T
        else:
            U, s, V = torch.linalg.svd(dense(site), full_matrices=False)
        self.start_from_product(U[:, :rank], s[:rank], V[:rank])
