from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from . import Gradient


class Backprop(Gradient):
    """Reverse-mode differentiation, one micro-batch at a time.

    Source: Rumelhart, Hinton and Williams 1986, doi:10.1038/323533a0.
    """

    adds = True

    def __call__(self, losses: Sequence[Callable[[], Tensor]], parameters: Sequence[nn.Parameter]) -> Tensor:
        total = torch.zeros((), device=parameters[0].device)
        for loss in losses:
            value = loss()
            value.backward()
            total += value.detach()
        return total
