from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..comparing.statistics import Effect, combine
from . import Figure


def over_seeds(values: Sequence[float] | np.ndarray, unit: str = "", about: str = "") -> Figure:
    """Mean of a figure's values, one a seed (or a task), with the t interval of the mean; nan where there is none."""
    if not len(values):
        return Figure(math.nan, math.nan, math.nan, (), unit, about)
    found = combine(np.array(values, dtype=float), 0.0, 1)
    return Figure(found.value, found.low, found.high, [float(v) for v in values], unit, about)


def times_over_seeds(logs: Sequence[float], about: str = "") -> Figure:
    """Geometric mean of ratios, given as logarithms, with the t interval of the mean logarithm."""
    found = over_seeds(logs)
    low, high = math.exp(found.low), math.exp(found.high)
    return Figure(math.exp(found.value), low, high, [math.exp(v) for v in logs], "times", about)


def unit_of(metric: str) -> str:
    """The unit of a difference in a metric.

    >>> unit_of("accuracy"), unit_of("loss"), unit_of("pearson")
    ('points', 'nats', '')
    """
    from ..evaluation.wording import PERCENT

    return "points" if metric in PERCENT else "nats" if metric == "loss" else ""


def improvement(change: Effect, values: Sequence[float], unit: str = "", about: str = "") -> Figure:
    """A difference of two recipes, turned so that more is better."""
    sign = -1.0 if change.greater is False else 1.0
    low, high = sorted((sign * change.low, sign * change.high))
    return Figure(sign * change.value, low, high, [sign * v for v in values], unit, about)


def difference(ours: Sequence[Any], theirs: Sequence[Any], about: str = "") -> Figure:
    """How much better ours is than theirs in their chief metric, results paired by seed and by row."""
    from ..comparing.statistics import effect

    metric = ours[0].metric
    change = effect(metric, [r.answers for r in ours], [r.answers for r in theirs])
    values = [a.score - b.score for a, b in zip(ours, theirs, strict=True)]
    return improvement(change, values, unit_of(metric), f"{metric}, {about}")


def drawn_difference(ours: Sequence[Any], theirs: Sequence[Any], about: str = "") -> Figure:
    """How much better ours is than theirs where every seed has held-out rows of its own: the seeds' t interval holds both."""
    from ..evaluation.metrics import find

    metric = ours[0].metric
    sign = 1.0 if find(metric).greater else -1.0
    values = [sign * (a.score - b.score) for a, b in zip(ours, theirs, strict=True)]
    return over_seeds(values, unit_of(metric), f"{metric}, {about}")


def spread_ratio(ours: float, theirs: float, freedom: tuple[float, float], about: str = "") -> Figure:
    """Ratio of two standard deviations with its F interval.

    Args:
        ours, theirs: standard deviations.
        freedom: their degrees of freedom; ``math.inf`` for one that is known.
        about: what it is.
    """
    from scipy import stats

    many = 10_000_000.0
    own, other = (min(f, many) for f in freedom)
    value = ours / theirs if theirs else math.nan
    low, high = (value / math.sqrt(float(stats.f.ppf(share, own, other))) for share in (0.975, 0.025))
    return Figure(value, low, high, [], "times", about)


def machine(result: Any) -> tuple[Any, ...]:
    """What time and memory of a result depend on besides its recipe: those of two machines are no ratio."""
    return tuple(result.environment.get(k) for k in ("platform", "processor", "device", "threads", "precision"))
