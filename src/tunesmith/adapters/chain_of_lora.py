from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..models.anatomy import Site
from ..settings import Count, Positive
from ._low_rank import LowRank


class ChainOfLoRA(LowRank):
    """Several LoRAs one after the other: each learns what those before it, now frozen, have left.

    The sum of the links is of higher rank than any of them; the optimizer begins anew with each.
    Source: Xia, Qin and Hazan 2024, arXiv:2401.04151, sec. 3.

    Settings:
        rank: rank of each link.
        links: number of links; each gets an equal share of the run.
    """

    rate = 2.2e-3
    peft_names = {}  # noqa: RUF012
    past_A: Tensor
    past_B: Tensor
    done: Tensor

    def __init__(self, site: Site, *, rank: Count = 4, alpha: Positive = 8.0, links: Count = 3, **low_rank: Any):
        super().__init__(site, rank=rank, alpha=alpha, **low_rank)
        self.links = links
        self.register_buffer("past_A", self.A.new_zeros((links - 1) * rank, site.inputs))
        self.register_buffer("past_B", self.B.new_zeros(site.outputs, (links - 1) * rank))
        self.register_buffer("done", torch.zeros((), dtype=torch.long))

    def factors(self) -> tuple[Tensor, Tensor]:
        # the links to come count as zeros: sizes that change from link to link would leave holes in memory
        return torch.cat([self.A, self.past_A]), torch.cat([self.B, self.past_B], dim=1)

    @classmethod
    def after_step(cls, adapters: Sequence[Self], progress: float) -> Iterable[nn.Parameter]:
        one = adapters[0]
        if int(one.done) >= min(one.links - 1, int(progress * one.links)):
            return
        for adapter in adapters:
            rank = len(adapter.A)
            place = slice(int(adapter.done) * rank, (int(adapter.done) + 1) * rank)
            adapter.past_A[place], adapter.past_B[:, place] = adapter.A, adapter.B
            adapter.done += 1
            nn.init.normal_(adapter.A, std=adapter.site.inputs**-0.5)
            nn.init.zeros_(adapter.B)
            yield from (adapter.A, adapter.B)
