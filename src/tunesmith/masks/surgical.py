from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..models.anatomy import Weight
from ..settings import Count
from . import Mask


class Surgical(Mask):
    """The layers with the most Fisher information move, as some labelled rows show it before training.

    ``F_l`` is the sum, over the layer's weights, of the mean square of the gradient of one row's loss.

    Source: Lodha et al. 2023, arXiv:2310.17041, eq. 2 (FIM score).

    Settings:
        count: layers that move.
        samples: training rows that the information is estimated from; the paper finds 100 enough.
    """

    rate: ClassVar[float] = 5e-4

    def __init__(self, *, count: Count = 2, samples: Count = 100):
        self.count, self.samples = count, samples
        self.chosen: set[tuple[str, int]] | None = None

    def trains(self, weight: Weight) -> bool:
        inside = weight.layer is not None
        return inside and (self.chosen is None or (weight.stack, weight.layer) in self.chosen)

    def begin(self, weights: Sequence[Weight], seed: int) -> None:
        layers = sorted({(w.stack, w.layer) for w in weights if w.layer is not None})
        self.fisher = dict.fromkeys(layers, 0.0)

    def observe(self, weight: Weight, grad: Tensor) -> None:
        assert weight.layer is not None
        self.fisher[weight.stack, weight.layer] += float(grad.double().square().sum())

    def settle(self) -> None:
        ranked = sorted(self.fisher, key=lambda layer: -self.fisher[layer])
        self.chosen = set(ranked[: self.count])

    def state(self) -> dict[str, Tensor]:
        return {"fisher": torch.tensor(list(self.fisher.values()), dtype=torch.float64)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.fisher = dict(zip(self.fisher, state["fisher"].tolist(), strict=True))
        self.settle()
