from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

from torch import Tensor, nn

from ..models.anatomy import Site
from ..settings import Decay, Share
from . import _sensitivity
from ._low_rank import LowRank


class RoseLoRA(LowRank):
    """LoRA whose ``A`` becomes sparse in every row and ``B`` in every column, so that few weights are touched.

    Source: Wang, H. et al. 2024, arXiv:2406.10777, sec. 3.

    Settings:
        density: share of each row of ``A`` and each column of ``B`` that stays.
        warm: share of the run before pruning begins.
        hold: share of the run at its end with the final density.
        beta: decay of the mean of the sensitivity ``|w * dL/dw|``.
    """

    rate = 2.2e-3
    scratch = tuple(f"{n}_{k}" for n in "AB" for k in ("mean", "spread"))

    def __init__(
        self,
        site: Site,
        *,
        density: Share = 0.1,
        warm: Share = 0.1,
        hold: Share = 0.3,
        beta: Decay = 0.8,
        **low_rank: Any,
    ):
        super().__init__(site, **low_rank)
        self.density, self.warm, self.end, self.beta = density, warm, max(warm, 1 - hold), beta
        _sensitivity.track(self, "A", "B")

    @classmethod
    def after_step(cls, adapters: Sequence[Self], progress: float) -> Iterable[nn.Parameter]:
        for a in adapters:
            _sensitivity.update(a, "A", "B", beta1=a.beta, beta2=a.beta)
            share = a.density + (1 - a.density) * _sensitivity.cubic(progress, a.warm, a.end)
            if share < 1:
                a.A.mul_(_largest(a.get_buffer("A_mean"), share))
                a.B.mul_(_largest(a.get_buffer("B_mean").T, share).T)
        return ()


def _largest(scores: Tensor, share: float) -> Tensor:
    """1 at the largest ``share`` of each row, else 0."""
    kept = scores.topk(max(1, round(share * scores.shape[1])), dim=1).indices
    return scores.new_zeros(scores.shape).scatter_(1, kept, 1.0)
