from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..settings import Count, Share
from . import Loss, Step
from ._common import likelihoods, must


class CoTuning(Loss):
    """The likelihood of rows in which some words were swapped, on the fly, for near ones that hurt the most.

    At the places where it hurts most to first order, a token is swapped for one of its nearest in the embedding table.
    The first and the last token of a row stay. It goes beside ``cross_entropy``. Source: Mein, Hartman and Morris 2020,
    "FireBERT", arXiv:2008.04203 (co-tuning); the search: Ebrahimi et al. 2018, "HotFlip", arXiv:1712.06751, eq. 2.

    Settings:
        swapped: share of a row's tokens that are swapped, rounded up.
        near: nearest tokens, by direction of their embeddings, among which the swap is chosen.
    """

    def __init__(self, *, swapped: Share = 0.15, near: Count = 8):
        self.swapped, self.near = swapped, near

    def __call__(self, step: Step) -> Tensor:
        must(step.head.endswith("classification"), self, "a task with labels, whose texts may change")
        return likelihoods(step.run(input_ids=self.attack(step)).logits, step).sum() / step.units

    def attack(self, step: Step) -> Tensor:
        """The rows with their worst swaps, (rows, length)."""
        with torch.enable_grad():
            shift = torch.zeros_like(step.embeddings).requires_grad_(True)
            (slope,) = torch.autograd.grad(likelihoods(step.run(shift=shift).logits, step).sum(), shift)
        ids, attended = step.batch["input_ids"], step.attended
        inside = attended.clone()
        inside[:, 0] = False
        inside.scatter_(1, attended.sum(1, keepdim=True) - 1, False)
        near = self._nearest(ids[inside], step)
        gain = ((step.table[near] - step.table[ids[inside]][:, None]) * slope[inside][:, None]).sum(-1)
        best, which = gain.max(-1)
        hurt = torch.full(ids.shape, -torch.inf, device=ids.device, dtype=best.dtype)
        hurt[inside] = best
        other = ids.clone()
        other[inside] = near.gather(1, which[:, None])[:, 0]
        rank = hurt.argsort(dim=1, descending=True, stable=True).argsort(1)
        quota = (self.swapped * inside.sum(1, keepdim=True)).ceil()
        return torch.where(inside & (rank < quota), other, ids)

    def _nearest(self, ids: Tensor, step: Step) -> Tensor:
        """The nearest other tokens of each, special ones left out, (tokens, near)."""
        unit = F.normalize(step.table, dim=-1)
        different, back = ids.unique(return_inverse=True)
        likeness = unit[different] @ unit.T
        likeness.scatter_(1, different[:, None], -torch.inf)
        likeness[:, step.special] = -torch.inf
        return likeness.topk(min(self.near, len(unit) - 1), dim=1).indices[back]
