"""Intervals by the bootstrap: of a figure, and of the difference of two models on the same rows.

Source: Efron 1979, doi:10.1214/aos/1176344552; the paired form as in Koehn 2004, aclanthology.org/W04-3250.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from .metrics import Answers, Figure, Measured, Metric, find

RESAMPLES = 1000

FEWEST = 6
"""Rows below which no difference is called: even if all agree, a sign test of 5 rows has p = 2/32, above 0.05."""


def row_weights(rows: int, seed: int) -> Iterator[np.ndarray]:
    """How often each resample holds each row, shape (resamples, rows), a block of resamples at a time.

    A block has at most a million weights, so that memory does not grow with the rows.
    """
    random = np.random.default_rng(seed)
    done = 0
    while done < RESAMPLES:
        size = min(RESAMPLES - done, max(1, 1_000_000 // rows))
        drawn = random.integers(0, rows, (size, rows)) + rows * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows).astype(float)
        done += size


def bootstrap(
    figure: Figure, rows: int, *, greater: bool | None = True, no_interval: str = "", level: float = 0.95, seed: int = 0
) -> Measured:
    """Any function of the rows' weights with its percentile interval.

    Args:
        figure: from weights, shape (resamples, rows), to the figure of each resample.
        rows: number of rows.
        greater: whether more is better; None where neither is.
        no_interval: why there is none; nan stands at both ends then.
        level: coverage of the interval.
        seed: of the resamples.
    """
    value = float(figure(np.ones((1, rows)))[0])
    if no_interval:
        return Measured(value, math.nan, math.nan, rows, greater, level, no_interval)
    found = np.concatenate([figure(weights) for weights in row_weights(rows, seed)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no resample had a figure: both ends are nan
        low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
    note = "every resample gave the same figure: the interval says nothing" if low == high else ""
    return Measured(value, float(low), float(high), rows, greater, level, note)


def _bootstrap(metric: Metric, figure: Figure, rows: int, level: float, seed: int) -> Measured:
    facts: dict[str, Any] = {"greater": metric.greater, "no_interval": metric.no_interval}
    return bootstrap(figure, rows, level=level, seed=seed, **facts)


def measure(name: str, answers: Answers, *, level: float = 0.95, seed: int = 0) -> Measured:
    """A metric of some answers with its percentile bootstrap interval over rows; nan at both ends where it has none.

    Raises:
        InputError: unknown metric, or its library is missing.
    """
    metric = find(name)
    return _bootstrap(metric, metric.weighted(answers), len(answers), level, seed)


def difference(name: str, tuned: Answers, base: Answers, *, level: float = 0.95, seed: int = 0) -> Measured:
    """Tuned minus base, with an interval from resamples in which both meet the same rows.

    Raises:
        InputError: unknown metric, or its library is missing.
        ValueError: the two did not answer the same number of rows.
    """
    if len(tuned) != len(base):
        raise ValueError(f"{len(tuned)} and {len(base)} rows are not paired")
    metric = find(name)
    ours, theirs = metric.weighted(tuned), metric.weighted(base)
    return _bootstrap(metric, lambda weights: ours(weights) - theirs(weights), len(tuned), level, seed)


def verdict(change: Measured) -> str:
    """``better`` or ``worse`` only where the interval leaves no doubt; else ``no difference seen``.

    A figure of which neither more nor less is better is ``higher`` or ``lower``.
    """
    if change.rows < FEWEST or not (change.low > 0 or change.high < 0):
        return "no difference seen"
    if change.greater is None:
        return "higher" if change.low > 0 else "lower"
    return "better" if (change.low > 0) == change.greater else "worse"
