from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..models.anatomy import Site
from ..settings import Count, Decay, NonNegative, Positive, Share
from . import _sensitivity
from ._low_rank import LowRank, Together

AHEAD = 1e-3
"""Weight of a component that is trained ahead of its use: next to nothing in the output, a direction for Adam."""


class IncreLoRA(LowRank):
    """Grow the rank where it matters: every site starts with one component, and the most important get the next ones.

    The next component of a site is trained ahead with a tiny fixed weight; its use begins from that weight, so that
    insertion changes nothing. Importance is taken over the entries of the factors; the paper's is over those of their
    product, whose gradient a step never forms. Source: Zhang, F. et al. 2023, arXiv:2308.12043, sec. 3.

    Settings:
        rank: rank that a site has on average at the end.
        most: highest rank of a site as a multiple of ``rank``.
        together: components that are handed out at a time.
        warm: share of the run before the first one.
        until: share of the run by which the budget is handed out.
        orthogonality: weight of the penalty that keeps components apart, a mean over sites.
        beta1: decay of the mean of the sensitivity.
        beta2: decay of the mean of its spread.
    """

    rate = 2e-3
    scratch = tuple(f"{n}_{k}" for n in "AB" for k in ("mean", "spread"))
    used: Tensor

    def __init__(
        self,
        site: Site,
        *,
        rank: Count = 8,
        most: Positive = 2.0,
        together: Count = 4,
        warm: Share = 0.05,
        until: Share = 0.5,
        orthogonality: NonNegative = 0.1,
        beta1: Decay = 0.85,
        beta2: Decay = 0.85,
        **low_rank: Any,
    ):
        super().__init__(site, rank=rank, **low_rank)
        room = max(rank, round(most * rank))
        self.A = nn.Parameter(torch.randn(room, site.inputs) * site.inputs**-0.5)
        self.B = nn.Parameter(torch.zeros(site.outputs, room))
        self.E = nn.Parameter(torch.full((room,), AHEAD))
        nn.init.ones_(self.E.data[:1])
        self.register_buffer("used", torch.ones((), dtype=torch.long))
        self.rank, self.together, self.orthogonality, self.betas = rank, together, orthogonality, (beta1, beta2)
        self.warm, self.until = warm, until
        _sensitivity.track(self, "A", "B")

    def factors(self) -> tuple[Tensor, Tensor]:
        place = torch.arange(len(self.E), device=self.E.device)
        weights = torch.where(place < self.used, self.E, AHEAD * (place == self.used))
        return weights[:, None] * self.A, self.B

    def low_rank(self) -> tuple[Tensor, Tensor]:
        A, B = self.factors()
        stop = int(self.used) + 1
        return A[:stop], B[:, :stop]

    @classmethod
    def share(cls, sites: Sequence[Site], **settings: Any) -> nn.Module:
        return Together(len(sites))

    def penalty(self) -> Tensor:
        gram = torch.stack([self.A @ self.A.T, self.B.T @ self.B])
        apart = gram - torch.diag_embed(gram.diagonal(dim1=1, dim2=2))
        return self.orthogonality / self.site.shared.count * apart.square().sum()

    def importance(self) -> float:
        """Mean importance of an entry of the components in use; below every other where there is no room for more."""
        if self.used >= len(self.E):
            return float("-inf")
        A, B = _sensitivity.score(self, "A")[: self.used], _sensitivity.score(self, "B")[:, : self.used]
        return float(A.mean() + B.mean())

    @classmethod
    def after_step(cls, adapters: Sequence[Self], progress: float) -> Iterable[nn.Parameter]:
        one = adapters[0]
        for adapter in adapters:
            _sensitivity.update(adapter, "A", "B", beta1=one.betas[0], beta2=one.betas[1])
        budget, start = one.rank * len(adapters), len(adapters)
        share = min(1.0, max(0.0, (progress - one.warm) / max(one.until - one.warm, 1e-9)))
        due = start + int(share * (budget - start)) - sum(int(a.used) for a in adapters)
        while due >= one.together or (share == 1 and due > 0):
            for adapter in sorted(adapters, key=lambda a: -a.importance())[: min(due, one.together)]:
                adapter.used += 1
            due -= min(due, one.together, len(adapters))
        return ()
