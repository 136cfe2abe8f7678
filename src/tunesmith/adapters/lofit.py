from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from ..models.anatomy import Site
from ..settings import NonNegative, Share
from . import Adapter


class LOFIT(Adapter):
    """Find the attention heads that matter for the task, then move the outputs of these alone: ``z + v``.

    First each head learns a scale ``(1 + a) * z`` under an L1 penalty; then heads are ranked by the norm of ``a``, the
    scales are dropped, and the best heads learn their ``v``.

    Source: Yin, Ye and Durrett 2024, arXiv:2406.01563, sec. 3.

    Settings:
        share: share of all heads that are moved.
        first: share of the run in which heads are chosen.
        l1: weight of the penalty on the scales.
    """

    targets = ["attention.heads"]  # noqa: RUF012
    folds = False
    accepts = ("heads",)
    rate = 6.25e-2
    chosen: Tensor
    second: Tensor

    def __init__(self, site: Site, *, share: Share = 0.1, first: Share = 0.3, l1: NonNegative = 5e-4):
        super().__init__(site)
        size = site.outputs // site.heads
        self.a = nn.Parameter(torch.zeros(site.heads, size))
        self.v = nn.Parameter(torch.zeros(site.heads, size))
        self.register_buffer("chosen", torch.zeros(site.heads, 1))
        self.register_buffer("second", torch.zeros(()))
        self.share_of_heads, self.first, self.l1 = share, first, l1

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        heads = y.unflatten(-1, self.a.shape)
        return ((1 + (1 - self.second) * self.a) * heads + self.chosen * self.v).flatten(-2)

    def penalty(self) -> Tensor:
        return self.l1 * (1 - self.second) * self.a.abs().sum()

    @classmethod
    def after_step(cls, adapters: Sequence[Self], progress: float) -> Iterable[nn.Parameter]:
        one = adapters[0]
        if progress < one.first or one.second:
            return ()
        norms = torch.cat([a.a.norm(dim=1) for a in adapters])
        best = torch.zeros_like(norms)
        best[norms.topk(max(1, round(one.share_of_heads * len(norms)))).indices] = 1
        for adapter, kept in zip(adapters, best.split([len(a.a) for a in adapters]), strict=True):
            adapter.chosen.copy_(kept[:, None])
            adapter.second.fill_(1)
            adapter.a.zero_()
        return [p for a in adapters for p in (a.a, a.v)]
