from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from ..settings import Positive
from . import Loss, Step
from ._common import full, must, must_classify


class Wasserstein(Loss):
    """Cost of moving the predicted probabilities to the right class, for classes in an order: near misses cost less.

    ``sum_j p_j |c_j - c_y|^power``; for a one-hot target this is the Wasserstein distance. Source: Chernov et al. 2024,
    "Fine-Tuning a Time Series Foundation Model with Wasserstein Loss", arXiv:2409.15367.

    Settings:
        power: power of the distance; 1 is the area between the two cumulative distributions.
        centres: where each class lies, in the order of the labels; None puts them one apart.
    """

    def __init__(self, *, power: Positive = 1.0, centres: list[float] | None = None):
        self.power = power
        self.centres = centres

    def __call__(self, step: Step) -> Tensor:
        must_classify(step, self)
        must(step.head.endswith("classification"), self, "classes in an order, not the tokens of a vocabulary")
        p = full(step.logits).softmax(-1)
        given = self.centres
        centres = torch.arange(p.shape[-1], device=p.device, dtype=p.dtype) if given is None else p.new_tensor(given)
        if len(centres) != p.shape[-1]:
            raise InputError(
                f"loss.wasserstein.centres has {len(centres)} places", expected=f"{p.shape[-1]}, one a class"
            )
        distances = (centres[None, :] - centres[step.targets][:, None]).abs() ** self.power
        return (p * distances).sum() / step.units
