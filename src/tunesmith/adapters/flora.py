from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..models.anatomy import Site
from ..settings import Count
from ._low_rank import LowRank


class FLoRA(LowRank):
    """Tucker form of the update: ``y + s U G V x`` with a small core ``G`` between two thin factors.

    Source: Si et al. 2024, arXiv:2405.14739, sec. 3, for a weight with two modes.

    Settings:
        rank: number of columns of ``V``'s side of the core.
        rank_out: number of rows of ``U``'s side of the core; None takes ``rank``.
    """

    rate = 2e-3
    peft_names = {}  # noqa: RUF012

    def __init__(self, site: Site, *, rank: Count = 8, rank_out: Count | None = None, **low_rank: Any):
        super().__init__(site, rank=rank, **low_rank)
        del self.B
        self.U = nn.Parameter(torch.randn(site.outputs, rank_out or rank) * (rank_out or rank) ** -0.5)
        self.G = nn.Parameter(torch.zeros(rank_out or rank, rank))

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.A, self.U @ self.G
