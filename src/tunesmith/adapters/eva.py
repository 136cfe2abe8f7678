from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor

from ..models.anatomy import Site
from ..settings import Count, Positive
from . import _budget
from ._low_rank import LowRank


class EVA(LowRank):
    """LoRA whose ``A`` starts from the main directions of the inputs; sites that explain more get more rank.

    The second moments of the inputs are summed over the first micro-batches; the paper's incremental decomposition
    approximates the same directions. Source: Paischer et al. 2024, arXiv:2410.07170, sec. 3.2 and 3.3.

    Settings:
        rank: rank that a site gets on average.
        most: highest rank of a site as a multiple of ``rank``; 1 gives every site the same.
        directions: ``data`` takes the directions of the inputs; ``random`` only their ranks, for comparison.
    """

    rate = 1e-3
    observes = 16

    def __init__(
        self,
        site: Site,
        *,
        rank: Count = 8,
        most: Positive = 2.0,
        directions: Literal["data", "random"] = "data",
        **low_rank: Any,
    ):
        super().__init__(site, rank=rank, **low_rank)
        self.most = min(site.inputs, max(rank, round(most * rank)))
        self.directions = directions
        self.moments: Tensor | None = None

    def observe(self, x: Tensor, y: Tensor, gradient: Tensor | None) -> None:
        seen = x.float().T @ x.float()
        self.moments = seen if self.moments is None else self.moments + seen

    @classmethod
    def settle(cls, adapters: Sequence[Self]) -> None:
        shares, directions = [], []
        for adapter in adapters:
            assert adapter.moments is not None
            values, vectors = torch.linalg.eigh(adapter.moments.double())
            shares.append((values / values.sum()).flip(0)[: adapter.most])
            directions.append(vectors.T.flip(0))
            adapter.moments = None
        ranks = _budget.best(shares, sum(len(a.A) for a in adapters))
        for adapter, rank, vectors in zip(adapters, ranks, directions, strict=True):
            random = torch.randn(rank, adapter.site.inputs, device=adapter.A.device) * adapter.site.inputs**-0.5
            adapter.A.data = (vectors[:rank] if adapter.directions == "data" else random).to(adapter.A).contiguous()
            adapter.B.data = adapter.B.new_zeros(adapter.site.outputs, rank)
