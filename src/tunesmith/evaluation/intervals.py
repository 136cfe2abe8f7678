"""Intervals by the bootstrap: of a figure, and of the difference of two models on the same rows.

Source: Efron 1979, doi:10.1214/aos/1176344552; the paired form as in Koehn 2004, aclanthology.org/W04-3250.
"""

from __future__ import annotations

import numpy as np

from .metrics import Answers, Measured, Metric, find

RESAMPLES = 1000


def _resampled(counts: np.ndarray, seed: int) -> np.ndarray:
    """Sums of the rows' counts over each resample: (resamples, k). Rows are drawn with replacement."""
    random = np.random.default_rng(seed)
    rows = len(counts)
    sums = np.empty((RESAMPLES, counts.shape[1]))
    for start in range(0, RESAMPLES, 50):
        weights = random.multinomial(rows, np.full(rows, 1 / rows), size=50)
        sums[start : start + 50] = weights @ counts
    return sums


def _interval(figures: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(figures, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def measure(name: str, answers: Answers, *, level: float = 0.95, seed: int = 0) -> Measured:
    """A metric of some answers with its percentile bootstrap interval over rows.

    Raises:
        InputError: unknown metric, or its library is missing.
    """
    metric: Metric = find(name)
    counts = metric.counts(answers)
    value = float(metric.figure(counts.sum(0)))
    return Measured(
        value, *_interval(metric.figure(_resampled(counts, seed)), level), len(counts), metric.greater, level
    )


def difference(name: str, tuned: Answers, base: Answers, *, level: float = 0.95, seed: int = 0) -> Measured:
    """Tuned minus base, with an interval from resamples in which both meet the same rows."""
    metric = find(name)
    ours, theirs = metric.counts(tuned), metric.counts(base)
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} and {len(theirs)} rows are not paired")
    width = ours.shape[1]
    sums = _resampled(np.concatenate([ours, theirs], axis=1), seed)
    change = metric.figure(sums[:, :width]) - metric.figure(sums[:, width:])
    value = float(metric.figure(ours.sum(0)) - metric.figure(theirs.sum(0)))
    return Measured(value, *_interval(change, level), len(ours), metric.greater, level)


def verdict(change: Measured) -> str:
    """``better`` or ``worse`` only where the interval leaves no doubt; else ``no difference seen``."""
    if change.low > 0 or change.high < 0:
        return "better" if (change.low > 0) == change.greater else "worse"
    return "no difference seen"
