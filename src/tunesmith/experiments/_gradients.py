"""Gradients of single rows, projected, and what a kernel of them predicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engine.predict import Reading


def row_gradients(
    reading: Reading, rows: Any, value: Callable[[dict[str, Tensor]], Tensor], *, sketch: int = 32, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Of each row a value of the model, and its gradient by every trained weight, projected at random.

    A matrix's gradient G becomes ``A G B`` with Gaussian A and B, the same for all rows, so that inner products are kept
    on average; a tensor that is no larger than its projection is kept whole.

    Args:
        reading: the model and how rows are read.
        rows: encoded rows.
        value: batch of one row -> scalar.
        sketch: rows and columns of a projected matrix; ``sketch**2`` for a vector.
        seed: of the projections.

    Returns:
        values of shape (rows,) and gradients of shape (rows, all projections).
    """
    parameters = list(reading.host.trainable().values())
    draw = torch.Generator().manual_seed(seed)
    sides = [_sides(p, sketch, draw) for p in parameters]
    values, features = [], []
    for index in range(len(rows)):
        batch = {k: v.to(reading.device) for k, v in reading.collate(rows.take(np.array([index]))).items()}
        said = value(batch)
        grads = torch.autograd.grad(said, parameters, allow_unused=True)
        values.append(float(said.detach()))
        flat = [_project(g, p, s) for g, p, s in zip(grads, parameters, sides, strict=True)]
        features.append(torch.cat(flat).cpu().numpy())
    return np.array(values), np.stack(features)


def _sides(parameter: Tensor, sketch: int, draw: torch.Generator) -> tuple[Tensor | None, Tensor | None]:
    """The two projections of a tensor, taken as a matrix; None leaves that side as it is."""
    rows, columns = _as_matrix(parameter).shape
    limits = (sketch, sketch) if parameter.ndim > 1 else (1, sketch**2)
    made = [torch.randn(most, n, generator=draw) * most**-0.5 if n > most else None
            for most, n in zip(limits, (rows, columns), strict=True)]  # fmt: skip
    left, right = (m if m is None else m.to(parameter.device) for m in made)
    return left, right


def _project(grad: Tensor | None, parameter: Tensor, sides: tuple[Tensor | None, Tensor | None]) -> Tensor:
    matrix = _as_matrix(torch.zeros_like(parameter) if grad is None else grad).float()
    left, right = sides
    matrix = matrix if left is None else left @ matrix
    return (matrix if right is None else matrix @ right.T).flatten()


def _as_matrix(tensor: Tensor) -> Tensor:
    return tensor.reshape(tensor.shape[0], -1) if tensor.ndim > 1 else tensor.reshape(1, -1)


def kernel_logits(
    known: tuple[np.ndarray, np.ndarray], truth: np.ndarray, asked: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Kernel logistic regression on top of what the model says already: ``f0(x) + sum_i a_i K(x, x_i)``.

    The ridge is the one with the least log loss in leave-one-out-like folds of the known rows.

    Args:
        known: values f0 and gradients of the labelled rows (`row_gradients`).
        truth: their classes, 0 or 1.
        asked: values and gradients of the rows to be told.

    Returns:
        log odds of class 1, shape (asked rows,).
    """
    start, features = known
    scale = float(np.mean((features**2).sum(1))) or 1.0
    kernel, across = features @ features.T / scale, asked[1] @ features.T / scale
    signs = 2.0 * truth - 1
    folds = np.arange(len(signs)) % min(8, len(signs))
    losses = {}
    for ridge in np.logspace(-4, 2, 7):
        left_out = np.empty(len(signs))
        for fold in np.unique(folds):
            rest, out = folds != fold, folds == fold
            weights = _logistic(kernel[np.ix_(rest, rest)], start[rest], signs[rest], ridge)
            left_out[out] = start[out] + kernel[np.ix_(out, rest)] @ weights
        losses[ridge] = float(np.logaddexp(0, -signs * left_out).mean())
    best = min(losses, key=lambda r: losses[r])
    return np.asarray(asked[0] + across @ _logistic(kernel, start, signs, best))


def _logistic(kernel: np.ndarray, start: np.ndarray, signs: np.ndarray, ridge: float) -> np.ndarray:
    """Weights a that minimise ``sum log(1 + exp(-y (f0 + K a))) + ridge/2 a' K a``."""
    from scipy.optimize import minimize
    from scipy.special import expit

    def loss(a: np.ndarray) -> tuple[float, np.ndarray]:
        moved = kernel @ a
        margin = signs * (start + moved)
        value = np.logaddexp(0, -margin).sum() + ridge / 2 * a @ moved
        return float(value), kernel @ (-signs * expit(-margin) + ridge * a)

    return np.asarray(minimize(loss, np.zeros(len(signs)), jac=True, method="L-BFGS-B").x)
