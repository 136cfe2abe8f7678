from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from ..models.anatomy import Weight
from ..settings import Count, Decay, Share
from . import EntryMask, Moment, Patch


class SpIEL(EntryMask):
    """A sparse difference that drops and regrows: entries that changed least make room for those of largest gradient.

    Dropped entries go back to the base, grown ones begin there. The share that is exchanged falls to zero by a cosine.

    Source: Ansell et al. 2024, arXiv:2401.16405, sec. 3 (SFT-AG, accumulated gradients); the cosine: Evci et al. 2020,
    arXiv:1911.11134, sec. 3.

    Settings:
        density: share of each of the layers' matrices that moves.
        refreshes: how often entries are exchanged in a run, at even distances.
        drop: share of the entries that is exchanged at first.
        looks: training rows whose gradients are added up before each exchange.
    """

    rate: ClassVar[float] = 1e-3
    together = 32

    def __init__(self, *, density: Share = 0.01, refreshes: Count = 10, drop: Decay = 0.2, looks: Count = 128):
        super().__init__(score="random", density=density, roles=["linear"])
        self.refreshes, self.drop, self.looks, self.together = refreshes, drop, looks, SpIEL.together
        self.candidates: dict[str, tuple[Tensor, Tensor]] = {}

    def prepare(self, patch: Patch) -> Tensor:
        """The values at this look, from which the change until the next one is counted."""
        return patch.values.detach().clone()

    def observe(self, weight: Weight, grad: Tensor) -> None:
        """Add up the gradient of candidates only: twice as many as move, the largest at first sight."""
        flat = grad.reshape(-1)
        if weight.name not in self.candidates:
            count = min(len(flat), 2 * max(1, round(self.density * len(flat))))
            places = flat.abs().topk(count).indices
            self.candidates[weight.name] = places, flat[places].float().clone()
        else:
            places, total = self.candidates[weight.name]
            total += flat[places]

    def renew(self, patch: Patch, moment: Moment) -> Tensor:
        assert patch.indices is not None and patch.given is not None
        share = self.drop * (1 + math.cos(math.pi * moment.progress)) / 2
        places, total = self.candidates.pop(patch.weight.name)
        new = ~torch.isin(places, patch.indices)
        count = min(round(share * len(patch.indices)), int(new.sum()))
        kept = (patch.values.detach() - patch.given).abs().topk(len(patch.indices) - count).indices
        grown = places[new][total[new].abs().topk(count).indices]
        return torch.cat([patch.indices[kept], grown]).sort().values
