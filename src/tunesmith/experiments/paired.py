from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..comparing.statistics import combine, effect
from . import Figure, Lab, Outcome
from ._figures import improvement, machine, unit_of


def paired(
    lab: Lab,
    *,
    technique: dict[str, Any] = {},  # noqa: B006
    baseline: dict[str, Any] = {},  # noqa: B006
    tasks: list[str] = ["intent", "sentiment"],  # noqa: B006
    options: dict[str, Any] = {},  # noqa: B006
) -> Outcome:
    """A technique against a baseline on arena tasks, paired by seed and by row.

    Figures: ``TASK.difference`` in the task's chief metric, turned so that more is better; ``difference``, their mean;
    ``spread``, the technique's standard deviation over seeds as a share of the baseline's (geometric mean over tasks);
    and ratios of costs, technique over baseline: ``trainable``, ``stored``, ``memory``, ``time``, ``flops``; memory and time
    are left out where a stored result of one side is of another machine or precision than the other's (``step_costs``
    measures them side by side).

    Source: Bouthillier et al. 2021, arXiv:2103.03098 (paired comparison over seeds).

    Settings:
        technique: options of a recipe.
        baseline: options of a recipe.
        tasks: names of arena tasks.
        options: of both recipes, e.g. ``{rows.limit: 128}``.
    """
    pairs = [(lab.recipe(t, technique, **options), lab.recipe(t, baseline, **options)) for t in tasks]
    found = lab.results(*(recipe for pair in pairs for recipe in pair))
    figures: dict[str, Figure] = {}
    series: dict[str, list[list[float]]] = {"technique": [], "baseline": []}
    effects = []
    for number, task in enumerate(tasks):
        ours, theirs = found[2 * number], found[2 * number + 1]
        change = effect(ours[0].metric, [r.answers for r in ours], [r.answers for r in theirs])
        effects.append(change)
        values = [a.score - b.score for a, b in zip(ours, theirs, strict=True)]
        metric = ours[0].metric
        figures[f"{task}.difference"] = improvement(change, values, unit_of(metric), f"{metric}, {task}")
        series["technique"] += [[number, r.score] for r in ours]
        series["baseline"] += [[number, r.score] for r in theirs]
    units = {figure.unit for figure in figures.values()}
    figures["difference"] = _mean(effects, units.pop() if len(units) == 1 else "")
    figures["spread"] = _spread(
        [found[2 * n] for n in range(len(tasks))], [found[2 * n + 1] for n in range(len(tasks))]
    )
    for name, cost in COSTS.items():
        if (ratio := _ratio(found, cost)) is not None:
            figures[name] = ratio
    return Outcome(figures, series, (f"task: {', '.join(tasks)}", "score"))


COSTS = {
    "trainable": "trainable", "stored": "stored_bytes", "memory": "peak_bytes", "time": "training_seconds",
    "flops": "flops",
}  # fmt: skip


def _mean(effects: list[Any], unit: str) -> Figure:
    """The mean over tasks.

    The tasks' errors are independent; how far the tasks lie apart is not counted (they are fixed).
    """
    signs = [-1.0 if e.greater is False else 1.0 for e in effects]
    value = float(np.mean([s * e.value for s, e in zip(signs, effects, strict=True)]))
    error = math.sqrt(sum(e.error**2 for e in effects)) / len(effects)
    freedom = min(e.freedom for e in effects)
    from scipy import stats

    reach = float(stats.t.ppf(0.975, freedom)) * error
    return Figure(value, value - reach, value + reach, [s * e.value for s, e in zip(signs, effects, strict=True)],
                  unit, "mean over the tasks")  # fmt: skip


def _spread(ours: list[Any], theirs: list[Any]) -> Figure:
    """Ratio of standard deviations over seeds, with an F interval pooled over tasks."""
    from scipy import stats

    deviations = [[np.std([r.score for r in found], ddof=1) for found in side] for side in (ours, theirs)]
    logs = [math.log(max(a, 1e-9) / max(b, 1e-9)) for a, b in zip(*deviations, strict=True)]
    value = math.exp(float(np.mean(logs)))
    freedom = sum(len(found) - 1 for found in ours)
    reach = math.sqrt(float(stats.f.ppf(0.975, freedom, freedom)))
    return Figure(value, value / reach, value * reach, [math.exp(x) for x in logs], "times", "spread over seeds")


def _ratio(found: list[list[Any]], cost: str) -> Figure | None:
    """Ratio of a cost, the geometric mean over tasks and seeds; exact for counts, with a t interval for the rest."""
    logs = []
    for ours, theirs in zip(found[::2], found[1::2], strict=True):
        for a, b in zip(ours, theirs, strict=True):
            apart = cost in ("peak_bytes", "training_seconds") and machine(a) != machine(b)
            if apart or not a.cost.get(cost) or not b.cost.get(cost):
                return None
            logs.append(math.log(a.cost[cost] / b.cost[cost]))
    change = combine(np.array(logs), 0.0, 1)
    exact = cost in ("trainable", "stored_bytes") or len(logs) == 1
    low, high = (change.value, change.value) if exact else (change.low, change.high)
    values = [math.exp(x) for x in logs]
    return Figure(math.exp(change.value), math.exp(low), math.exp(high), values, "times", cost.replace("_", " "))
