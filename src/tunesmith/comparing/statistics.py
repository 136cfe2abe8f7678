"""How sure a difference of two recipes is, over seeds and over rows; and what it would take to be sure.

A figure has two sources of chance: the seed of the training and the draw of the held-out rows. Both recipes meet the
same rows, split alike, with the same seeds, so differences are taken within pairs. The variance of a mean difference is
``s^2/n`` (spread of the n seeds' differences on these rows) plus the variance over rows of the seeds' mean difference
(bootstrap over rows, all seeds resampled alike); its degrees of freedom are Satterthwaite's. What rows and seeds
share is counted in both terms, so an interval is rather too wide than too narrow.

Sources: two-way layout of seeds and cases: Gallas et al. 2009, doi:10.1364/JOSAA.26.000B70 and Bouthillier et al. 2021,
arXiv:2103.03098; degrees of freedom: Satterthwaite 1946, doi:10.2307/3002019; many comparisons: Holm 1979 and
Benjamini and Hochberg 1995.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..evaluation.answers import Answers
from ..evaluation.intervals import row_weights
from ..evaluation.metrics import find

POWER = 0.8


@dataclass(frozen=True)
class Effect:
    """A mean over seeds, or a mean difference, and how sure it is.

    Attributes:
        value: the mean over the seeds.
        low, high: ends of the interval at ``level``.
        p: two-sided p-value of no difference.
        seeds: number of pairs.
        rows: number of held-out rows.
        spread: standard deviation over the seeds; nan for one seed.
        seed_variance, row_variance: the two terms of the variance of ``value``.
        freedom: degrees of freedom.
        level: coverage.
        greater: whether more is better.
    """

    value: float
    low: float
    high: float
    p: float
    seeds: int
    rows: int
    spread: float
    seed_variance: float
    row_variance: float
    freedom: float
    level: float = 0.95
    greater: bool | None = True

    @property
    def error(self) -> float:
        """Standard error of the value."""
        return math.sqrt(self.seed_variance + self.row_variance)


def effect(
    metric: str, ours: Sequence[Answers], theirs: Sequence[Answers] | None = None, level: float = 0.95
) -> Effect:
    """The mean of a metric over seeds, or with ``theirs`` the mean difference, paired by seed and by row.

    Raises:
        ValueError: the two have other numbers of seeds or rows.
    """
    if theirs is not None and (len(ours) != len(theirs) or len({len(a) for a in (*ours, *theirs)}) != 1):
        raise ValueError("two recipes are compared on the same seeds and the same rows")
    rows = len(ours[0])
    kind = find(metric)
    figures = [kind.weighted(a) for a in ours]
    others = [kind.weighted(a) for a in theirs] if theirs is not None else []
    ones = np.ones((1, rows))
    values = np.array([float(f(ones)[0]) for f in figures])
    if others:
        values = values - np.array([float(f(ones)[0]) for f in others])
    resampled = []
    for weights in row_weights(rows, seed=0):
        mean = np.mean([f(weights) for f in figures], axis=0)
        resampled.append(mean - np.mean([f(weights) for f in others], axis=0) if others else mean)
    row_variance = float(np.nanvar(np.concatenate(resampled), ddof=1))
    return combine(values, row_variance, rows, level=level, greater=kind.greater)


def combine(
    values: np.ndarray, row_variance: float, rows: int, *, level: float = 0.95, greater: bool | None = True
) -> Effect:
    """The effect of per-seed values, with a variance over rows beside the one over seeds."""
    from scipy import stats

    seeds = len(values)
    spread = float(values.std(ddof=1)) if seeds > 1 else math.nan
    seed_variance = spread**2 / seeds if seeds > 1 else 0.0
    freedom = _freedom(seed_variance, row_variance, seeds, rows)
    value, error = float(values.mean()), math.sqrt(seed_variance + row_variance)
    if seeds == 1 or not error:
        reach, p = (0.0 if seeds > 1 else math.nan), (1.0 if value == 0 else math.nan if seeds == 1 else 0.0)
    else:
        reach = float(stats.t.ppf((1 + level) / 2, freedom)) * error
        p = float(2 * stats.t.sf(abs(value) / error, freedom))
    return Effect(value, value - reach, value + reach, p, seeds, rows, spread, seed_variance, row_variance, freedom, level,
                  greater)  # fmt: skip


def _freedom(seed_variance: float, row_variance: float, seeds: int, rows: int) -> float:
    parts = [(seed_variance, max(seeds - 1, 1)), (row_variance, max(rows - 1, 1))]
    below = sum(v**2 / n for v, n in parts)
    return (seed_variance + row_variance) ** 2 / below if below else float(max(seeds - 1, 1))


def adjusted(values: Sequence[float], method: str = "holm") -> list[float]:
    """p-values corrected for how many there are.

    Args:
        values: the p-values; nan stays nan and does not count.
        method: ``holm`` bounds the chance of a single false call; ``bh`` the share of false ones among the calls.

    >>> adjusted([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    >>> adjusted([0.01, 0.04, 0.03], "bh")
    [0.03, 0.04, 0.04]
    """
    from scipy import stats

    known = [i for i, p in enumerate(values) if not math.isnan(p)]
    result = list(values)
    if method == "bh":
        for i, p in zip(known, stats.false_discovery_control([values[i] for i in known]) if known else [], strict=True):
            result[i] = round(float(p), 12)
        return result
    highest = 0.0
    for rank, i in enumerate(sorted(known, key=lambda i: values[i])):
        highest = max(highest, min(1.0, values[i] * (len(known) - rank)))
        result[i] = round(highest, 12)
    return result


def verdict(change: Effect, p: float | None = None) -> str:
    """``better`` or ``worse`` only where the interval excludes zero and the corrected p-value is below its level.

    Args:
        change: ours minus theirs.
        p: corrected for many comparisons; None takes the effect's own.
    """
    p = change.p if p is None else p
    if math.isnan(p) or math.isnan(change.low) or not (change.low > 0 or change.high < 0) or p >= 1 - change.level:
        return "no difference seen"
    if change.greater is None:
        return "higher" if change.value > 0 else "lower"
    return "better" if (change.value > 0) == change.greater else "worse"


# ---------------------------------------------------------------------- power


def visible(change: Effect, seeds: int | None = None, power: float = POWER) -> float:
    """The smallest true difference that so many seeds on these rows see with this power.

    Args:
        change: measured; its spreads are taken as the true ones.
        seeds: number of pairs; None takes the measured number.
        power: chance that the difference is seen.
    """
    from scipy import stats

    n = seeds or change.seeds
    seed_variance = change.seed_variance * change.seeds / n
    freedom = _freedom(seed_variance, change.row_variance, n, change.rows)
    error = math.sqrt(seed_variance + change.row_variance)
    return float(stats.t.ppf((1 + change.level) / 2, freedom) + stats.t.ppf(power, freedom)) * error


def power_of(change: Effect, difference: float) -> float:
    """The chance that these seeds and rows see a true difference of this size.

    Args:
        change: measured; its spreads are taken as the true ones.
        difference: the true difference, in the metric's own unit.
    """
    from scipy import stats

    if not change.error:
        return 1.0 if difference else 0.0
    edge = float(stats.t.ppf((1 + change.level) / 2, change.freedom))
    reach = abs(difference) / change.error
    return float(stats.nct.sf(edge, change.freedom, reach) + stats.nct.cdf(-edge, change.freedom, reach))


def seeds_for(change: Effect, wanted: float, most: int = 1000) -> int | None:
    """How many seeds see a true difference of this size; None where even ``most`` do not, for want of rows."""
    if math.isnan(change.spread) or visible(change, most) > wanted:
        return None
    low, high = 2, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if visible(change, middle) <= wanted else (middle + 1, high)
    return low


def power_statement(change: Effect, unit: Any) -> str:
    """One sentence: what these seeds can see, and how many it takes to see half of that.

    Args:
        change: measured.
        unit: writes a difference, e.g. ``1.2 points``.
    """
    if math.isnan(change.spread):
        return "One seed says nothing of the spread over seeds: take at least 3."
    sees = visible(change)
    half = sees / 2
    more = seeds_for(change, half)
    needs = f"{unit(half)} needs {more}" if more else f"{unit(half)} needs more held-out rows, however many seeds"
    return f"{change.seeds} seeds on {change.rows:,} rows see {unit(sees)} with {POWER:.0%} power; {needs}."
