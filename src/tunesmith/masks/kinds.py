from __future__ import annotations

from typing import ClassVar

from ..models.anatomy import Weight
from . import Mask


class Biases(Mask):
    """Only the biases move, those of the norms among them (BitFit).

    Source: Ben Zaken et al. 2021, arXiv:2106.10199.
    """

    rate: ClassVar[float] = 2e-3

    def trains(self, weight: Weight) -> bool:
        return weight.is_bias


class Norms(Mask):
    """Only the normalisation layers move: their gains and biases.

    Source: Qi et al. 2022, arXiv:2211.08682 (LN-tuning).
    """

    rate: ClassVar[float] = 2e-3

    def trains(self, weight: Weight) -> bool:
        return weight.role == "norm"
