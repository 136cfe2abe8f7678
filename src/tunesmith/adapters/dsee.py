from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..models.anatomy import Site
from ..settings import Count
from ._low_rank import LowRank, dense


class DSEE(LowRank):
    """LoRA and a few single weights: ``y + s B A x + S x``, ``S`` on the places where the weight is least low-rank.

    The places are the largest entries of the sparse part when the weight itself is split into a low-rank and a sparse one.
    Source: Chen, X. et al. 2021, arXiv:2111.00160, sec. 3.2; the pruning of the whole model is no part of it.

    Settings:
        entries: weights of each site that train on top.
        support: ``decomposed`` takes them from the split, ``random`` anywhere, for comparison.
    """

    rate = 1e-3
    peft = ""
    rows: Tensor
    columns: Tensor

    def __init__(
        self,
        site: Site,
        *,
        rank: Count = 8,
        entries: Count = 64,
        support: Literal["decomposed", "random"] = "decomposed",
        **low_rank: Any,
    ):
        super().__init__(site, rank=rank, **low_rank)
        count = min(entries, site.inputs * site.outputs)
        self.support = support
        self.register_buffer("rows", torch.zeros(count, dtype=torch.long))
        self.register_buffer("columns", torch.zeros(count, dtype=torch.long))
        self.S = nn.Parameter(torch.zeros(count))

    def begin(self) -> None:
        if self.support == "random":
            places = torch.randperm(self.site.inputs * self.site.outputs)[: len(self.S)]
        else:
            places = _sparse_part(dense(self.site), len(self.A), len(self.S)).flatten().nonzero().squeeze(1)
        self.rows.copy_(places // self.site.inputs)
        self.columns.copy_(places % self.site.inputs)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        added = super().forward(x, y)
        single = (x[..., self.columns] * self.S).to(added.dtype)
        return added.index_add(-1, self.rows, single)


def _sparse_part(weight: Tensor, rank: int, entries: int, rounds: int = 4) -> Tensor:
    """The sparse part of a weight when it is split in turns into one of low rank and one of few entries: their mask."""
    sparse = torch.zeros_like(weight)
    for _ in range(rounds):
        U, s, V = torch.svd_lowrank(weight - sparse, min(rank, *weight.shape))
        rest = weight - U * s @ V.T
        mask = torch.zeros_like(weight).flatten()
        mask[rest.abs().flatten().topk(entries).indices] = 1
        sparse = rest * mask.view_as(weight)
    return mask.view_as(weight)
