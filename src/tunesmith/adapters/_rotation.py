"""Orthogonal matrices out of skew-symmetric ones, and what they do to vectors that are cut into blocks."""

from __future__ import annotations

import torch
from torch import Tensor


def cayley(skew: Tensor) -> Tensor:
    """``R - I`` of Cayley's map ``R = (I - Q) (I + Q)^-1``, exactly 0 where ``Q`` is.

    Args:
        skew: skew-symmetric matrices ``Q``, (..., n, n).
    """
    unit = torch.eye(skew.shape[-1], device=skew.device, dtype=skew.dtype)
    return torch.linalg.solve(unit + skew, -2 * skew, left=False)


def blockwise(x: Tensor, matrices: Tensor) -> Tensor:
    """Each block of a vector times its own matrix: (..., blocks * n) and (blocks, n, n) -> (..., blocks * n)."""
    size = matrices.shape[-1]
    return torch.einsum("...bi,bij->...bj", x.unflatten(-1, (-1, size)), matrices).flatten(-2)
