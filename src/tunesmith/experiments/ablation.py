from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import Figure, Lab, Outcome
from ._figures import difference, machine, over_seeds, times_over_seeds
from ._rows import with_rows
from ._summaries import mean_of

TEACHER = "{teacher}"
"""What stands in a variant's options for the folder of the teacher's model."""


def ablation(
    lab: Lab,
    *,
    variants: dict[str, Any] = {"smoothed": {"loss": {"cross_entropy": {"smoothing": 0.1}}}},  # noqa: B006
    baseline: dict[str, Any] = {"mask": "everything"},  # noqa: B006
    tasks: list[str] = ["intent", "sentiment"],  # noqa: B006
    options: dict[str, Any] = {},  # noqa: B006
    rows: str = "own",
    share: float = 0.3,
    words: list[str] = [],  # noqa: B006
    teacher: dict[str, Any] = {},  # noqa: B006
    scores: list[str] = [],  # noqa: B006
) -> Outcome:
    """Several variants of one recipe against it and against each other, on rows as they are or changed on purpose.

    Figures, all turned so that more is better: ``NAME.difference``, a variant less the baseline in the chief metric,
    paired by seed and by row, mean over tasks; ``NAME.over.OTHER``, the same for two variants; ``NAME.SCORE`` for other
    scores of the results (``distance`` is the mean distance of classes by their place) and for the tuned figures of
    the audits that the options ask for (``NAME.accuracy_lost_by_noise``), mean over seeds and tasks; ``NAME.time``, the
    ratio of training times where all results are of one machine and precision.

    Source: Bouthillier et al. 2021, arXiv:2103.03098 (paired comparison over seeds).

    Settings:
        variants: name -> options on top of the baseline's; ``{teacher}`` in them is the teacher's folder.
        baseline: options of a recipe.
        tasks: names of arena tasks.
        options: of all recipes, e.g. ``{rows.limit: 128}``.
        rows: ``own``, or what is done to them: ``flipped``, ``ordinal``, ``shortcut``, ``shifted``, ``reasons``,
            ``sums``, ``tasks``, ``exchanged``.
        share: of the rows that ``flipped``, ``shortcut`` and ``exchanged`` change.
        words: what is a reason, for ``reasons``.
        teacher: options of a recipe, tuned once for each task on the same rows; it moves all weights.
        scores: scores beside the chief metric, and ``distance``.
    """
    every: dict[str, Any] = {"plain": {}, **variants}
    recipes = {
        (name, task): with_rows(
            lab, lab.recipe(task, {**baseline, **_filled(own, folder)}, **options), rows, share, words
        )
        for task in tasks
        for folder in [_teacher(lab, task, teacher, options, rows, share)]
        for name, own in every.items()
    }
    found = dict(zip(recipes, lab.results(*recipes.values()), strict=True))
    figures: dict[str, Figure] = {}
    for name in variants:
        figures[f"{name}.difference"] = _difference(found, name, "plain", tasks)
        figures |= {f"{name}.{score}": f for score, f in _others(found, name, tasks, scores).items()}
        figures |= {f"{name}.time": time for time in _time(found, name, tasks)}
    for one, other in itertools.permutations(variants, 2):
        figures[f"{one}.over.{other}"] = _difference(found, one, other, tasks)
    series = {n: [[i, r.score] for i, t in enumerate(tasks) for r in found[n, t]] for n in every}
    return Outcome(figures, series, (f"task: {', '.join(tasks)}", "score"))


Found = Mapping[tuple[str, str], Sequence[Any]]


def _teacher(
    lab: Lab, task: str, teacher: Mapping[str, Any], options: Mapping[str, Any], rows: str, share: float
) -> str:
    if not teacher:
        return ""
    own = lab.recipe(task, {"mask": "everything", **teacher}, **options)
    return str(lab.tuned(with_rows(lab, own, rows, share)) / "model")


def _filled(value: Any, folder: str) -> Any:
    """Options with the teacher's folder in its place."""
    if isinstance(value, Mapping):
        return {k: _filled(v, folder) for k, v in value.items()}
    if isinstance(value, list):
        return [_filled(v, folder) for v in value]
    return folder if value == TEACHER else value


def _difference(found: Found, one: str, other: str, tasks: Sequence[str]) -> Figure:
    each = [difference(found[one, t], found[other, t], t) for t in tasks]
    return each[0] if len(each) == 1 else mean_of(each, f"{one} less {other}, mean over the tasks")


def _others(found: Found, name: str, tasks: Sequence[str], scores: Sequence[str]) -> dict[str, Figure]:
    """Every further score and every audit's figure: the variant less the baseline, seed by seed."""
    made: dict[str, Figure] = {}
    pairs = [(a, b) for t in tasks for a, b in zip(found[name, t], found["plain", t], strict=True)]
    told = [(_told(a, scores), _told(b, scores)) for a, b in pairs]
    for score in told[0][0]:
        gains = [sign * (a[score][0] - b[score][0]) for a, b in told if score in a for sign in [a[score][1]]]
        made[score] = over_seeds(gains, about=f"{score}, {name} less the baseline, more is better")
    return made


def _told(result: Any, scores: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Score or audit's figure -> its value, and 1 where more is better, -1 where less is."""
    from ..evaluation.metrics import find

    made: dict[str, tuple[float, float]] = {}
    for name in scores:
        if name == "distance":
            apart = np.abs(np.array(result.answers.references) - np.array(result.answers.predictions))
            made[name] = (float(apart.mean()), -1.0)
        else:
            made[name] = (result.scores[name], 1.0 if find(name).greater else -1.0)
    for finding in (getattr(result, "audit", None) or {}).get("findings", ()):
        made[finding["figure"]] = (finding["tuned"], 1.0 if finding["change"]["greater"] else -1.0)
    return made


def _time(found: Found, name: str, tasks: Sequence[str]) -> list[Figure]:
    """The ratio of training times, or nothing where not all results are of one machine and precision."""
    pairs = [(a, b) for t in tasks for a, b in zip(found[name, t], found["plain", t], strict=True)]
    if any(machine(a) != machine(b) for a, b in pairs):
        return []
    logs = [float(np.log(a.cost["training_seconds"] / b.cost["training_seconds"])) for a, b in pairs]
    return [times_over_seeds(logs, f"training time, {name} over the baseline")]
