from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor

from ..models.anatomy import Site
from ..settings import Count, Positive
from . import _budget
from ._low_rank import LowRank


class CoLoRA(LowRank):
    """LoRA whose ranks follow how much each layer contributes to the new task.

    The contribution is the norm of the gradient of the site's weight over the first micro-batches: the integrated gradient
    of the first step from the base to the task, where the paper integrates all the way to a fully tuned model.
    Source: Park, Kim and Chun 2024, arXiv:2408.01099, sec. 3.2.

    Settings:
        rank: rank that a site gets on average.
        most: highest rank of a site as a multiple of ``rank``.
        order: ``proportional`` gives most to the largest contribution, ``inverse`` to the smallest, for comparison.
    """

    rate = 1e-3
    observes = 16
    gradients = True

    def __init__(
        self,
        site: Site,
        *,
        rank: Count = 8,
        most: Positive = 4.0,
        order: Literal["proportional", "inverse"] = "proportional",
        **low_rank: Any,
    ):
        super().__init__(site, rank=rank, **low_rank)
        self.most, self.order = max(rank, round(most * rank)), order
        self.gradient: Tensor | None = None

    def observe(self, x: Tensor, y: Tensor, gradient: Tensor | None) -> None:
        assert gradient is not None
        seen = gradient.float().T @ x.float()
        self.gradient = seen if self.gradient is None else self.gradient + seen

    @classmethod
    def settle(cls, adapters: Sequence[Self]) -> None:
        norms = [0.0 if a.gradient is None else float(a.gradient.norm()) for a in adapters]
        if adapters[0].order == "inverse":
            norms = [1 / max(n, 1e-12) for n in norms]
        ranks = _budget.in_proportion(norms, sum(len(a.A) for a in adapters), [a.most for a in adapters])
        for adapter, rank in zip(adapters, ranks, strict=True):
            adapter.A.data = torch.randn(rank, adapter.site.inputs).to(adapter.A) * adapter.site.inputs**-0.5
            adapter.B.data = adapter.B.new_zeros(adapter.site.outputs, rank)
            adapter.gradient = None
