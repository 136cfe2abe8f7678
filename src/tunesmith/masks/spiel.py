from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..models.anatomy import Weight
from ..settings import Count, Decay, Share
from . import EntryMask, Moment, Patch

_KINDS = ("rows", "columns")


class SpIEL(EntryMask):
    """A sparse difference that drops and regrows: entries that changed least make room for those of largest gradient.

    Dropped entries go back to the base, grown ones begin there. The share that is exchanged falls to zero by a cosine.
    By ``momentum`` no gradient is looked at beside those of the steps: for each row and each column of a matrix the
    largest sum of squares of what moves is kept as SM3 keeps it, and the product of the two stands for an entry's.

    Source: Ansell et al. 2024, arXiv:2401.16405, sec. 3 (accumulated gradients: SFT-AG; momentum: SFT-MA, where SM3 also
    is the optimizer; here any is); SM3: Anil et al. 2019, arXiv:1901.11150; the cosine: Evci et al. 2020,
    arXiv:1911.11134, sec. 3.

    Settings:
        density: share of each of the layers' matrices that moves.
        refreshes: how often entries are exchanged in a run, at even distances.
        drop: share of the entries that is exchanged at first.
        looks: training rows whose gradients are added up before each exchange; ``momentum`` looks at none.
        growth: what grows: the largest ``gradient``, or the largest ``momentum`` by row and column.
    """

    rate: ClassVar[float] = 2.2e-3
    together = 32

    def __init__(
        self,
        *,
        density: Share = 0.01,
        refreshes: Count = 10,
        drop: Decay = 0.2,
        looks: Count = 128,
        growth: Literal["gradient", "momentum"] = "gradient",
    ):
        super().__init__(score="random", density=density, roles=["linear"])
        self.refreshes, self.drop, self.together = refreshes, drop, SpIEL.together
        self.looks = looks if growth == "gradient" else 0
        self.candidates: dict[str, tuple[Tensor, Tensor]] = {}
        self.moments: dict[str, tuple[Tensor, Tensor]] = {}

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

    @torch.no_grad()
    def watch(self, patch: Patch, grad: Tensor) -> None:
        """Fold the squares of a step's gradient into those of its rows and columns (SM3-II)."""
        if self.looks:
            return
        assert patch.indices is not None
        outputs, inputs = patch.weight.parameter.shape
        if patch.weight.name not in self.moments:
            self.moments[patch.weight.name] = grad.new_zeros(outputs), grad.new_zeros(inputs)
        rows, columns = self.moments[patch.weight.name]
        i, j = patch.indices // inputs, patch.indices % inputs
        total = torch.minimum(rows[i], columns[j]) + grad**2
        rows.scatter_reduce_(0, i, total, "amax")
        columns.scatter_reduce_(0, j, total, "amax")

    def renew(self, patch: Patch, moment: Moment) -> Tensor:
        assert patch.indices is not None and patch.given is not None
        share = self.drop * (1 + math.cos(math.pi * moment.progress)) / 2
        best = self._candidates(patch)
        count = min(round(share * len(patch.indices)), len(best))
        kept = (patch.values.detach() - patch.given).abs().topk(len(patch.indices) - count).indices
        return torch.cat([patch.indices[kept], best[:count]]).sort().values

    def _candidates(self, patch: Patch) -> Tensor:
        """Flat indices of entries that do not move, the best first; at least as many as move, where there are."""
        assert patch.indices is not None
        if self.looks:
            places, total = self.candidates.pop(patch.weight.name)
            new = ~torch.isin(places, patch.indices)
            places, scores = places[new], total[new].abs()
            return places[scores.topk(len(scores)).indices]
        if patch.weight.name not in self.moments:
            return patch.indices[:0]
        scores = torch.outer(*self.moments[patch.weight.name]).reshape(-1)
        scores[patch.indices] = -1
        return scores.topk(min(len(patch.indices), len(scores) - len(patch.indices))).indices

    def state(self) -> dict[str, Tensor]:
        return {
            f"{kind}.{name}": t for name, both in self.moments.items() for kind, t in zip(_KINDS, both, strict=True)
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        names = [n.removeprefix("rows.") for n in state if n.startswith("rows.")]
        self.moments = {n: (state[f"rows.{n}"].clone(), state[f"columns.{n}"].clone()) for n in names}
