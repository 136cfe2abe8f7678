from __future__ import annotations

from torch import Tensor

from ..settings import Positive
from . import Loss, Step
from ._common import divergence


class RDrop(Loss):
    """Two passes with different drop-out are to say the same: half the KL both ways.

    It goes beside ``cross_entropy``; 0 for a model without drop-out. Source: Liang et al. 2021, arXiv:2106.14448,
    eq. 2.
    """

    weight: Positive = 1.0

    def __call__(self, step: Step) -> Tensor:
        return divergence(step.logits, step.run().logits, step).sum() / 2 / step.units
