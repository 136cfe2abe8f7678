"""Which modules to train within a budget of backward FLOPs."""

from __future__ import annotations

import numpy as np


def plan(gain: np.ndarray, flops: np.ndarray, allowed: float, bins: int = 1000) -> np.ndarray:
    """The set of largest gain whose gradients can be computed within the budget, at least the best single module.

    To reach a module, the gradient is passed on through every one above it; each chosen one takes its own besides.

    Args:
        gain: what each module is worth, from the top of the network down, shape (n,).
        flops: what passing through it takes, and what its own gradient takes, shape (n,).
        allowed: the budget, in the same unit.
        bins: parts into which the budget is cut; costs are rounded up.

    Returns:
        Whether each is chosen: bool, shape (n,).

    >>> plan(np.array([1.0, 5.0, 9.0]), np.array([1.0, 1.0, 1.0]), 2.0)
    array([False,  True, False])
    >>> plan(np.array([1.0, 5.0, 9.0]), np.array([1.0, 1.0, 1.0]), 4.0)
    array([False,  True,  True])
    """
    unit = allowed / bins
    cost = np.ceil(flops / unit - 1e-9).astype(int)
    above = np.ceil(np.concatenate([[0], np.cumsum(flops)[:-1]]) / unit - 1e-9).astype(int)
    best = np.zeros(bins + 1)
    taken = np.zeros((len(gain), bins + 1), dtype=bool)
    found, deepest, left = -np.inf, 0, 0
    for i in range(len(gain)):
        room = bins - above[i] - cost[i]
        if room >= 0 and best[room] + gain[i] > found:
            found, deepest, left = best[room] + gain[i], i, room
        if cost[i] <= bins:
            with_it = np.concatenate([np.full(cost[i], -np.inf), best[: bins + 1 - cost[i]] + gain[i]])
            taken[i] = with_it > best
            best = np.maximum(best, with_it)
    chosen = np.zeros(len(gain), dtype=bool)
    chosen[deepest] = True
    for i in reversed(range(deepest)):
        if taken[i, left]:
            chosen[i] = True
            left -= cost[i]
    return chosen
