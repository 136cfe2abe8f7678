from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..models.anatomy import Site
from ..settings import Count, Decay, Positive
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
        alpha: Positive = 16.0,
        scaling: Literal["alpha/rank", "alpha/sqrt(rank)"] = "alpha/rank",
        dropout: Decay = 0.0,
        entries: Count = 64,
        support: Literal["decomposed", "random"] = "decomposed",
    ):
        super().__init__(site, rank=rank, alpha=alpha, scaling=scaling, dropout=dropout)
        size = site.inputs * site.outputs
        if support == "random":
            places = torch.randperm(size)[:entries]
        else:
            places = _sparse_part(dense(site), rank, min(entries, size)).flatten().nonzero().squeeze(1)
        self.register_buffer("rows", places // site.inputs)
        self.register_buffer("columns", places % site.inputs)
        self.S = nn.Parameter(torch.zeros(len(places)))

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
