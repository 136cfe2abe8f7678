from __future__ import annotations

from typing import Literal

import torch

from ..models.anatomy import Site
from ..settings import Count, Decay, Positive
from ._low_rank import Anchored, dense


class OLoRA(Anchored):
    """LoRA that starts from the first columns of the weight's QR decomposition: an orthonormal ``B``.

    Source: Büyükakyüz 2024, arXiv:2406.01775, algorithm 1.
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
    ):
        super().__init__(site, rank=rank, alpha=alpha, scaling=scaling, dropout=dropout)
        Q, R = torch.linalg.qr(dense(site))
        self.start_from(R[:rank], Q[:, :rank])
