from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..settings import Positive
from . import Transform


class ClipAdaptive(Transform):
    """Scale each row of a gradient down where it is large beside the same row of the weights.

    Source: Brock et al. 2021, arXiv:2102.06171, eq. 3.

    Settings:
        limit: highest ratio of the two L2 norms.
        eps: smallest norm of a row of weights that counts, so that rows of zeros can move.
    """

    each = True

    def __init__(self, *, limit: Positive = 0.01, eps: Positive = 1e-3):
        self.limit, self.eps = limit, eps

    @torch.no_grad()
    def __call__(self, parameters: Sequence[nn.Parameter]) -> dict[str, Tensor | float]:
        for p in parameters:
            if p.grad is not None:
                highest = self.limit * _row_norms(p).clamp(min=self.eps)
                p.grad.mul_((highest / _row_norms(p.grad).clamp(min=1e-12)).clamp(max=1.0))
        return {}


def _row_norms(values: Tensor) -> Tensor:
    """The L2 norm of each row of a matrix, or of a vector as a whole; broadcasts over it."""
    return values.norm() if values.ndim < 2 else values.norm(dim=tuple(range(1, values.ndim)), keepdim=True)
