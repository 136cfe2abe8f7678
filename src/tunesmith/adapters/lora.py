from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models.anatomy import Site
from ..settings import Count, Decay, Positive
from . import Adapter


class LoRA(Adapter):
    """Add a low-rank matrix: ``y + alpha/rank * B A x``.

    Source: Hu et al. 2021, arXiv:2106.09685, eq. 3.

    Settings:
        rank: rank of the added matrix; the paper finds little gain above 8.
        alpha: the update is multiplied by ``alpha / rank``, so that the rank can change without a new learning rate.
        dropout: share of the inputs of ``A`` that are dropped while training.
    """

    rate = 1e-3
    peft = "LORA"

    def __init__(self, site: Site, *, rank: Count = 8, alpha: Positive = 16.0, dropout: Decay = 0.0):
        super().__init__(site)
        self.A = nn.Parameter(torch.randn(rank, site.inputs) * site.inputs**-0.5)
        self.B = nn.Parameter(torch.zeros(site.outputs, rank))
        self.dropout = nn.Dropout(dropout)
        self.scale = alpha / rank

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.scale * (self.dropout(x) @ self.A.T @ self.B.T)
