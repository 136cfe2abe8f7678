from __future__ import annotations

import math
from typing import Any

from ..errors import InputError
from . import Figure, Lab, Outcome
from ._figures import difference, over_seeds, times_over_seeds
from ._summaries import mean_of


def aside(
    lab: Lab,
    *,
    technique: dict[str, Any] = {},  # noqa: B006
    baseline: dict[str, Any] = {},  # noqa: B006
    figure: str = "cost.peak_bytes",
    tasks: list[str] = ["intent", "sentiment"],  # noqa: B006
    options: dict[str, Any] = {},  # noqa: B006
) -> Outcome:
    """A technique against a baseline in a figure beside the score: a cost, another metric, what an audit found.

    Figures: ``score``, the technique's advantage in the tasks' chief metrics; ``technique`` and ``baseline``, the means of
    the figure; ``change``, technique less baseline over seeds and tasks; ``times``, the ratio, where all are above 0.

    Source: Bouthillier et al. 2021, arXiv:2103.03098 (paired comparison over seeds).

    Settings:
        technique: options of a recipe.
        baseline: options of a recipe.
        figure: ``cost.NAME``, ``scores.NAME``, ``health.NAME``, or ``audit.AUDIT.FIGURE``: how much an audit that
            ``options`` asks for found changed.
        tasks: names of arena tasks.
        options: of both recipes, e.g. ``{audit: [forgetting]}``.
    """
    recipes = [lab.recipe(task, side, **options) for side in (technique, baseline) for task in tasks]
    found = lab.results(*recipes)
    ours, theirs = found[: len(tasks)], found[len(tasks) :]
    sides = [[[_read(result, figure) for result in results] for results in side] for side in (ours, theirs)]
    pairs = [(a, b) for one, other in zip(*sides, strict=True) for a, b in zip(one, other, strict=True)]
    figures: dict[str, Figure] = {
        "score": mean_of([difference(a, b, task) for a, b, task in zip(ours, theirs, tasks, strict=True)], "score"),
        "technique": over_seeds([a for a, _ in pairs], "", figure),
        "baseline": over_seeds([b for _, b in pairs], "", figure),
        "change": over_seeds([a - b for a, b in pairs], "", f"{figure}, technique less baseline"),
    }
    if min(min(pair) for pair in pairs) > 0:
        figures["times"] = times_over_seeds([math.log(a / b) for a, b in pairs], f"{figure}, technique over baseline")
    series = {
        name: [[number, value] for number, values in enumerate(side) for value in values]
        for name, side in zip(("technique", "baseline"), sides, strict=True)
    }
    return Outcome(figures, series, (f"task: {', '.join(tasks)}", figure))


def _read(result: Any, figure: str) -> float:
    """A figure of a result by its dotted name.

    Raises:
        InputError: the result has no such figure.
    """
    kind, _, name = figure.partition(".")
    if kind == "audit":
        findings = (result.audit or {}).get("findings", [])
        values = {f"{f['audit']}.{f['figure']}": f["change"]["value"] for f in findings}
    else:
        values = dict(getattr(result, kind)) if kind in ("cost", "scores", "health") else {}
    value = values.get(name)
    if not isinstance(value, int | float):
        known = ", ".join(f"{kind}.{k}" for k, v in values.items() if isinstance(v, int | float))
        raise InputError(f"a result has no figure {figure!r}", expected=known or "cost., scores., health. or audit.")
    return float(value)
