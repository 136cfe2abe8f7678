from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..models.anatomy import Site
from ..settings import Count, Positive
from . import Adapter


class LoKR(Adapter):
    """Add a Kronecker product: ``y + alpha/rank * (C ⊗ B A) x``, ``C`` small and full, ``B A`` of low rank.

    Source: Yeh et al. 2023 (LyCORIS), arXiv:2309.14859, sec. 3.2; Edalati et al. 2022 (KronA), arXiv:2212.10650.

    Settings:
        rank: rank of the larger factor; from half of its larger side on it is a full matrix.
        alpha: the update is multiplied by ``alpha / rank``.
    """

    rate = 2e-3
    peft = "LOKR"
    peft_names: ClassVar[dict[str, str]] = {"C": "lokr_w1", "W": "lokr_w2", "B": "lokr_w2_a", "A": "lokr_w2_b"}

    def __init__(self, site: Site, *, rank: Count = 8, alpha: Positive = 16.0):
        super().__init__(site)
        (self.few_in, inputs), (few_out, outputs) = _nearest_factors(site.inputs), _nearest_factors(site.outputs)
        self.C = nn.Parameter(torch.zeros(few_out, self.few_in))
        if rank < max(inputs, outputs) / 2:
            self.B = nn.Parameter(torch.randn(outputs, rank) * rank**-0.5)
            self.A = nn.Parameter(torch.randn(rank, inputs) * inputs**-0.5)
        else:
            self.W = nn.Parameter(torch.randn(outputs, inputs) * inputs**-0.5)
        self.rank, self.scale = rank, alpha / rank

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        blocks = x.unflatten(-1, (self.few_in, -1))
        inner = blocks @ self.W.T if hasattr(self, "W") else blocks @ self.A.T @ self.B.T
        return y + self.scale * (self.C @ inner).flatten(-2)

    def to_peft(self) -> dict[str, Any]:
        return {"r": self.rank, "alpha": self.scale * self.rank}

    @classmethod
    def from_peft(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
        return {"rank": config["r"], "alpha": config["alpha"]}


def _nearest_factors(size: int) -> tuple[int, int]:
    """The two factors of a size that are nearest to each other, the smaller one first.

    >>> _nearest_factors(384), _nearest_factors(127)
    ((16, 24), (1, 127))
    """
    small = next(n for n in range(math.isqrt(size), 0, -1) if size % n == 0)
    return small, size // small
