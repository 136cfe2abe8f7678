from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.anatomy import Site
from ..settings import Count, Positive
from . import Adapter


class LoHA(Adapter):
    """Add the entrywise product of two low-rank matrices, whose rank can reach ``rank`` squared.

    Source: Hyeon-Woo, Ye-Bin and Oh 2021, arXiv:2108.06098, proposition 1, as an update (LyCORIS, Yeh et al. 2023).

    Settings:
        rank: rank of each of the two matrices.
        alpha: the update is multiplied by ``alpha / rank``.
    """

    rate = 5e-3
    peft = "LOHA"
    peft_names: ClassVar[dict[str, str]] = {"B1": "hada_w1_a", "A1": "hada_w1_b", "B2": "hada_w2_a", "A2": "hada_w2_b"}

    def __init__(self, site: Site, *, rank: Count = 8, alpha: Positive = 16.0):
        super().__init__(site)
        self.B1, self.B2 = (nn.Parameter(torch.randn(site.outputs, rank) * rank**-0.5) for _ in range(2))
        self.A1 = nn.Parameter(torch.randn(rank, site.inputs) * site.inputs**-0.5)
        self.A2 = nn.Parameter(torch.zeros(rank, site.inputs))
        self.scale = alpha / rank

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.scale * F.linear(x, (self.B1 @ self.A1) * (self.B2 @ self.A2))

    def to_peft(self) -> dict[str, Any]:
        return {"r": len(self.A1), "alpha": self.scale * len(self.A1)}

    @classmethod
    def from_peft(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
        return {"rank": len(tensors["hada_w1_b"]), "alpha": config["alpha"]}
