from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..models.anatomy import Site
from ..settings import Count, Decay, NonNegative, Positive, Share
from . import _sensitivity
from ._low_rank import LowRank, Together


class AdaLoRA(LowRank):
    """Share out a budget of rank: ``y + s P diag(E) Q x``, where only the most important triplets stay.

    Source: Zhang et al. 2023, arXiv:2303.10512, sec. 3; the penalty is squared as there.

    Settings:
        rank: rank that a site keeps on average at the end.
        start: rank of every site at birth as a multiple of ``rank``.
        orthogonality: weight of the penalty that keeps ``P`` and ``Q`` orthogonal, a mean over sites.
        warm: share of the run before the budget falls.
        hold: share of the run at its end with the final budget.
        every: steps between two choices of what stays.
        beta1: decay of the mean of the sensitivity.
        beta2: decay of the mean of its spread.
    """

    rate = 1e-2
    peft = "ADALORA"
    peft_names = {"A": "lora_A", "B": "lora_B", "E": "lora_E"}  # noqa: RUF012
    scratch = ("kept", "steps", *(f"{n}_{k}" for n in "ABE" for k in ("mean", "spread")))
    kept: Tensor
    steps: Tensor

    def __init__(
        self,
        site: Site,
        *,
        rank: Count = 8,
        start: Positive = 1.5,
        orthogonality: NonNegative = 0.1,
        warm: Share = 0.1,
        hold: Share = 0.3,
        every: Count = 10,
        beta1: Decay = 0.85,
        beta2: Decay = 0.85,
        **low_rank: Any,
    ):
        first = max(rank, round(start * rank))
        super().__init__(site, rank=first, **low_rank)
        self.E = nn.Parameter(torch.zeros(first))
        nn.init.normal_(self.A, std=0.02)
        nn.init.normal_(self.B, std=0.02)
        self.rank, self.orthogonality, self.betas = rank, orthogonality, (beta1, beta2)
        self.warm, self.end, self.every = warm, max(warm, 1 - hold), every
        _sensitivity.track(self, "A", "B", "E")
        self.register_buffer("kept", torch.ones(first))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.E[:, None] * self.A, self.B

    @classmethod
    def share(cls, sites: Sequence[Site], **settings: Any) -> nn.Module:
        return Together(len(sites))

    def penalty(self) -> Tensor:
        eye = torch.eye(len(self.E), device=self.A.device, dtype=self.A.dtype)
        apart = (self.A @ self.A.T - eye).square().sum() + (self.B.T @ self.B - eye).square().sum()
        return self.orthogonality / self.site.shared.count * apart

    def importance(self) -> Tensor:
        """The importance of each triplet (rank at birth,)."""
        A, B, E = (_sensitivity.score(self, n) for n in "ABE")
        return E + A.mean(1) + B.mean(0)

    @classmethod
    def after_step(cls, adapters: Sequence[Self], progress: float) -> Iterable[nn.Parameter]:
        one = adapters[0]
        for adapter in adapters:
            if progress < one.end:
                _sensitivity.update(adapter, "A", "B", "E", beta1=one.betas[0], beta2=one.betas[1])
            adapter.steps += 1
        falling = one.warm <= progress < one.end and int(one.steps) % one.every == 0
        if falling:
            _choose(adapters, _sensitivity.cubic(progress, one.warm, one.end))
        elif progress >= one.end and sum(int(a.kept.sum()) for a in adapters) != one.rank * len(adapters):
            _choose(adapters, 0.0)
        for adapter in adapters if falling or progress >= one.end else ():
            adapter.E.mul_(adapter.kept)
        return ()

    def to_peft(self) -> dict[str, Any]:
        # PEFT refuses a configuration without a schedule; these numbers only matter if training goes on there
        return {
            "init_r": len(self.E), "r": len(self.E), "target_r": self.rank, "lora_alpha": self.scale * len(self.E),
            "total_step": 100, "tinit": 10, "tfinal": 10,
        }  # fmt: skip

    def peft_tensors(self) -> dict[str, Tensor]:
        return {"lora_A": self.A, "lora_B": self.B, "lora_E": self.E[:, None]}

    @classmethod
    def from_peft(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
        # PEFT divides alpha by the rank at birth, whatever was pruned since
        rank = len(tensors["lora_E"])
        return {"rank": rank, "start": 1.0, "alpha": config["lora_alpha"] / config["init_r"] * rank}


def _choose(adapters: Sequence[AdaLoRA], excess: float) -> None:
    """Keep the most important triplets of all sites; ``excess`` is the share of the budget's fall that is still ahead."""
    first, last = sum(len(a.E) for a in adapters), adapters[0].rank * len(adapters)
    scores = [a.importance() for a in adapters]
    chosen = torch.zeros(first, device=scores[0].device)
    chosen[torch.cat(scores).topk(last + int((first - last) * excess)).indices] = 1
    for adapter, kept in zip(adapters, chosen.split([len(s) for s in scores]), strict=True):
        adapter.kept.copy_(kept)
