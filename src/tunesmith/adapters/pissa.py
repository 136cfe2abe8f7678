from __future__ import annotations

from typing import Any

import torch

from ..models.anatomy import Site
from ..settings import Whole
from ._low_rank import Anchored, dense


class PiSSA(Anchored):
    """Train the principal singular directions of the weight: LoRA that starts from ``U_r S_r V_r``.

    Source: Meng, Wang and Zhang 2024, arXiv:2404.02948, eq. 2 to 4.

    Settings:
        iterations: rounds of the randomised decomposition, which is fast on large layers; 0 for the exact one.
    """

    rate = 1e-3

    def __init__(self, site: Site, *, iterations: Whole = 0, **low_rank: Any):
        super().__init__(site, **low_rank)
        self.iterations = iterations

    def begin(self) -> None:
        rank, weight = len(self.A), dense(self.site)
        if self.iterations:
            U, s, V = torch.svd_lowrank(weight, rank, self.iterations)
            V = V.T
        else:
            U, s, V = torch.linalg.svd(weight, full_matrices=False)
        self.start_from_product(U[:, :rank], s[:rank], V[:rank])
