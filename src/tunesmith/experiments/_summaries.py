from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import Figure


def mean_of(figures: Sequence[Figure], about: str = "") -> Figure:
    """Mean of independent figures, such as one of each task; the half-widths of their intervals add as squares."""
    value = float(np.mean([f.value for f in figures]))
    below, above = (
        float(np.sqrt(np.sum(np.square(side)))) / len(figures)
        for side in ([f.value - f.low for f in figures], [f.high - f.value for f in figures])
    )
    return Figure(value, value - below, value + above, [f.value for f in figures], figures[0].unit, about)


def share(count: int, of: int, about: str = "") -> Figure:
    """A share with its exact binomial interval (Clopper-Pearson)."""
    from scipy import stats

    ends = stats.binomtest(count, of).proportion_ci(0.95, method="exact")
    return Figure(count / of, float(ends.low), float(ends.high), [], "points", about)


def pooled_freedom(each: float, count: int) -> float:
    """Degrees of freedom of the geometric mean of so many standard deviations with ``each`` of their own.

    Those whose log variance has the same variance, ``trigamma(f / 2)``; a little fewer than their sum.
    """
    from scipy.optimize import brentq
    from scipy.special import polygamma

    wanted = float(polygamma(1, each / 2)) / count
    return float(brentq(lambda f: float(polygamma(1, f / 2)) - wanted, each / 2, 4 * each * count))


def steps_to(budgets: Sequence[float], scores: Sequence[float], wanted: float) -> float:
    """The budget at which a curve first reaches a score, linear in log budget between two points.

    The first budget where that is enough already, the last where none is.

    >>> steps_to([1, 4, 16], [0.2, 0.6, 1.0], 0.4)
    2.0
    >>> steps_to([1, 4], [0.2, 0.6], 0.9)
    4.0
    """
    reached = [i for i, score in enumerate(scores) if score >= wanted]
    if not reached:
        return float(budgets[-1])
    place = reached[0]
    if place == 0:
        return float(budgets[0])
    (a, b), (low, high) = budgets[place - 1 : place + 1], scores[place - 1 : place + 1]
    return float(round(np.exp(np.log(a) + (wanted - low) / (high - low) * np.log(b / a)), 9))
