from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..models.anatomy import Weight
from ..settings import Decay
from . import Mask
from ._scores import kth_smallest


class GMT(Mask):
    """Of each step's gradient only the largest entries of each tensor are kept; which they are changes with every step.

    Source: Li et al. 2024, arXiv:2406.15330, eq. 4 and 5. As there, the gradient is masked and not the step: an
    optimizer with momentum goes on moving an entry for a while.

    Settings:
        dropped: share of each tensor's gradient that is set to zero.
    """

    rate: ClassVar[float] = 2.5e-4
    filters: ClassVar[bool] = True

    def __init__(self, *, dropped: Decay = 0.3):
        self.dropped = dropped

    def trains(self, weight: Weight) -> bool:
        return True

    def filter(self, weight: Weight, grad: Tensor) -> Tensor:
        count = round(self.dropped * grad.numel())
        if count <= grad.numel() - int(grad.count_nonzero()):
            return grad
        size = grad.abs()
        limit = kth_smallest(size.reshape(-1), count)
        return torch.where(size > limit, grad, 0)
