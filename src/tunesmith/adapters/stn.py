from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.anatomy import Site
from ..settings import Count, Decay, Positive
from . import Adapter, Tuned

PACE = 10.0
"""How much faster the tuned values move than the weights: they have to come a long way in one run."""


class STN(Adapter):
    """A low-rank update that also learns how it should answer to drop-out and weight decay, which are tuned in the run.

    With ``l`` the distance of the two values from where they began, ``y + s (B A x + (V l) * B' A' x)``: the second update is
    gated by the values, output by output. Training steps draw values nearby, once a step, so that the update learns the
    best answer to each; after each gradient the loss of as many validation rows, without drop-out and decay, moves the
    values alone, through their gates. The values are the logit of the drop-out of ``x`` and the logarithm of the L2
    penalty. How far the draws lie from them is tuned as well; the entropy of the draw, which is added to what is sought,
    keeps the spread from vanishing.

    Source: MacKay et al. 2019, arXiv:1903.03088, eq. 8 to 12 (the gates), algorithm 1 (both steps at once here).

    Settings:
        rank: rank of each of the two updates.
        alpha: they are multiplied by ``alpha / rank``.
        dropout: share of the inputs that is dropped as training begins.
        decay: factor of half the sum of squares of the update's matrices as training begins.
        spread: standard deviation of what is drawn around the values as training begins.
        entropy: factor of the draw's entropy. It is small, so that it only counts where the rows are indifferent.
    """

    rate = 1e-3
    tunes = True

    def __init__(
        self,
        site: Site,
        *,
        rank: Count = 8,
        alpha: Positive = 16.0,
        dropout: Positive = 0.1,
        decay: Positive = 1e-5,
        spread: Positive = 0.5,
        entropy: Decay = 1e-3,
    ):
        super().__init__(site)
        self.A, self.A_gated = (nn.Parameter(torch.randn(rank, site.inputs) * site.inputs**-0.5) for _ in range(2))
        self.B, self.B_gated = (nn.Parameter(torch.zeros(site.outputs, rank)) for _ in range(2))
        self.V = nn.Parameter(torch.randn(site.outputs, 2))
        self.scale = alpha / rank

    @classmethod
    def share(cls, sites: Sequence[Site], **settings: Any) -> nn.Module:
        return _Values(*(settings[name] for name in ("dropout", "decay", "spread", "entropy")))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        values: _Values = self.site.shared
        moved, drops = values.moved(), values.drops()
        if drops is not None:
            x = x * (torch.rand_like(x) >= drops) / (1 - drops)
        gate = F.linear(moved.to(self.V.dtype), self.V)
        return y + self.scale * (x @ self.A.T @ self.B.T + gate * (x @ self.A_gated.T @ self.B_gated.T))

    def penalty(self) -> Tensor | None:
        matrices = (self.A, self.B, self.A_gated, self.B_gated)
        return self.site.shared.decays() / 2 * torch.stack([m.square().sum() for m in matrices]).sum()

    @classmethod
    @contextlib.contextmanager
    def tuning(cls, adapters: Sequence[Self]) -> Iterator[Tuned]:
        values: _Values = adapters[0].site.shared
        values.tuned = True
        try:
            yield Tuned([values.h], lambda: -values.entropy * values.log_spread().sum())
        finally:
            values.tuned = False


class _Values(nn.Module):
    """The two values that all sites share: the logit of the drop-out and the logarithm of the penalty's factor.

    Attributes:
        h: how far the values have come, and how far the logarithms of their spreads have, (2, 2).
    """

    start: Tensor

    def __init__(self, dropout: float, decay: float, spread: float, entropy: float):
        super().__init__()
        self.h = nn.Parameter(torch.zeros(2, 2))
        self.register_buffer("start", torch.tensor([math.log(dropout / (1 - dropout)), math.log(decay)]))
        self.spread, self.entropy, self.tuned = spread, entropy, False

    def log_spread(self) -> Tensor:
        """The logarithm of the draw's standard deviation, (2,): its entropy but for a constant."""
        return math.log(self.spread) + PACE * self.h[1]

    def moved(self) -> Tensor:
        """How far the values lie from their start, (2,): in training steps those that are drawn nearby, without gradient."""
        moved = PACE * self.h[0]
        if self.training or self.tuned:
            draw = torch.Generator().manual_seed(torch.initial_seed() % 2**63)
            moved = moved + self.log_spread().exp() * torch.randn(2, generator=draw).to(moved)
        return moved if self.tuned or not self.training else moved.detach()

    def drops(self) -> Tensor | None:
        """The share of the inputs that is dropped, or None where nothing is."""
        return None if self.tuned or not self.training else (self.start + self.moved())[0].sigmoid()

    def decays(self) -> Tensor:
        """The factor of the penalty, without gradient."""
        return (self.start + self.moved().detach())[1].exp()
