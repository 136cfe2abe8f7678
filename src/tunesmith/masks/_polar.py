"""The direction of a matrix: all its singular values made one."""

from __future__ import annotations

from torch import Tensor


def polar(matrix: Tensor, rounds: int = 15) -> Tensor:
    """``U V^T`` of a matrix ``U S V^T``: the gradient of its nuclear norm; same shape.

    By the cubic Newton-Schulz iteration, which needs products only. Singular values below about 1/400 of the Frobenius
    norm come out below one, so that directions that hardly exist are hardly pulled.

    Args:
        matrix: two dimensions; zero gives zero.
        rounds: iterations.
    """
    x = matrix / matrix.norm().clamp(min=1e-30)
    x = x.T if x.shape[0] > x.shape[1] else x
    for _ in range(rounds):
        x = 1.5 * x - 0.5 * (x @ x.T) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x
