from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import Figure, Lab, Outcome
from ._figures import difference, spread_ratio
from ._summaries import mean_of, pooled_freedom, share


def few_sample_stability(
    lab: Lab,
    *,
    tasks: list[str] = ["intent", "sentiment"],  # noqa: B006
    plain: dict[str, Any] = {"mask": "everything"},  # noqa: B006
    remedies: dict[str, Any] = {  # noqa: B006
        "frozen": {"mask": {"top_layers": {"count": 3}}},
        "longer": {"budget.epochs": 18},
    },
    options: dict[str, Any] = {"rows.limit": 100, "budget.epochs": 6},  # noqa: B006
) -> Outcome:
    """How far runs on few rows differ by their seed alone, and what remedies do to that spread.

    Every run has the same rows and is scored on the same held-out rows; the seed sets the head and the order. A run has
    failed where it is no better than saying the commonest class of the held-out rows.

    Figures, for each remedy NAME: ``NAME.spread``, its standard deviation over seeds as a share of the plain one's
    (geometric mean over tasks, F interval); ``NAME.gain``, its score less the plain one's, mean over tasks;
    ``NAME.failed`` and ``plain.failed``, shares of failed runs (exact binomial interval); ``plain.deviation``, the plain
    runs' standard deviation (chi-square interval).

    Source: Tinn et al. 2021, arXiv:2112.07869; longer training: Mosbach et al. 2020, arXiv:2006.04884.

    Settings:
        tasks: names of arena tasks that are scored by accuracy.
        plain: options of a recipe without a remedy.
        remedies: name -> options on top of the plain recipe, dotted or nested. The learning rate stays the plain one.
        options: of all recipes.
    """
    variants = {"plain": {}, **remedies}
    recipes = [lab.recipe(t, plain, **{**options, **own}) for own in variants.values() for t in tasks]
    found = lab.results(*recipes)
    runs = {name: found[i * len(tasks) : (i + 1) * len(tasks)] for i, name in enumerate(variants)}
    freedom = pooled_freedom(len(lab.seeds) - 1, len(tasks))
    own = {name: _deviation(several) for name, several in runs.items()}
    figures = {"plain.deviation": _with_interval(own["plain"], freedom)}
    for name, several in runs.items():
        failed = [_failed(r) for results in several for r in results]
        figures[f"{name}.failed"] = share(sum(failed), len(failed), f"failed runs, {name}")
        if name != "plain":
            ratio = spread_ratio(own[name], own["plain"], (freedom, freedom), f"spread over seeds, {name} over plain")
            gains = [difference(a, b, t) for a, b, t in zip(several, runs["plain"], tasks, strict=True)]
            figures |= {f"{name}.spread": ratio, f"{name}.gain": mean_of(gains, f"{name} less plain")}
    series = {n: [[i, r.score] for i, results in enumerate(several) for r in results] for n, several in runs.items()}
    return Outcome(figures, series, (f"task: {', '.join(tasks)}", "score"))


def _deviation(several: Sequence[Sequence[Any]]) -> float:
    """Geometric mean over tasks of the standard deviation over seeds."""
    deviations = [float(np.std([r.score for r in results], ddof=1)) for results in several]
    return math.exp(float(np.mean([math.log(max(d, 1e-9)) for d in deviations])))


def _with_interval(deviation: float, freedom: float) -> Figure:
    from scipy import stats

    low, high = (deviation * math.sqrt(freedom / float(stats.chi2.ppf(s, freedom))) for s in (0.975, 0.025))
    return Figure(deviation, low, high, [], "points", "standard deviation over seeds, plain")


def _failed(result: Any) -> bool:
    truth = list(result.answers.references)
    commonest = max(truth.count(label) for label in set(truth)) / len(truth)
    return bool(result.score <= commonest)
