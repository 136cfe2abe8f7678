from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from . import Figure, Lab, Outcome
from ._figures import drawn_difference, over_seeds


def asked_untuned(
    lab: Lab,
    *,
    variants: dict[str, Any] = {  # noqa: B006
        "none": {"task.classify.cloze.demonstrations": 0},
        "four": {"task.classify.cloze.demonstrations": 4},
    },  # fmt: skip
    tuned: dict[str, Any] = {},  # noqa: B006
    task: str = "topic",
    options: dict[str, Any] = {},  # noqa: B006
) -> Outcome:
    """What an untuned base says where classes are told by filling a blank, asked in several ways, and what tuning adds.

    Every seed draws split, training rows and the examples that are shown anew; all ways of a seed answer the same rows.

    Figures: ``NAME.score``, the mean over seeds; ``NAME.spread``, its standard deviation over seeds; ``NAME.over.OTHER``,
    the difference of two ways, paired by seed, tuned ones among them.

    Source: Brown et al. 2020, arXiv:2005.14165 (examples in the context, no update).

    Settings:
        variants: name -> options of a recipe whose base is asked as it is.
        tuned: name -> options of a recipe that is trained; they hold their own base and task.
        task: name of an arena task with classes.
        options: of all recipes, e.g. ``{checks.rows: 100}``.
    """
    found: dict[str, list[Any]] = {name: [] for name in (*variants, *tuned)}
    for seed in lab.seeds:
        drawn = {**options, "rows.seed": seed}
        for name, own in variants.items():
            lab.say(f"{name}, seed {seed}")
            found[name].append(lab.before(lab.recipe(task, {"mask": "everything", **own}, **drawn)))
        for name, own in tuned.items():
            found[name] += lab.results(lab.recipe(task, own, **drawn), seeds=[seed])[0]
    figures: dict[str, Figure] = {}
    for name, results in found.items():
        scores = [r.score for r in results]
        figures[f"{name}.score"] = over_seeds(scores, "points", f"{results[0].metric}, {name}")
        spread = float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0
        figures[f"{name}.spread"] = Figure(spread, spread, spread, [], "points", f"spread over draws, {name}")
    for one, other in itertools.permutations(found, 2):
        figures[f"{one}.over.{other}"] = drawn_difference(found[one], found[other], f"{one} less {other}")
    series = {name: [[s, r.score] for s, r in zip(lab.seeds, rs, strict=True)] for name, rs in found.items()}
    return Outcome(figures, series, ("seed", f"score, {task}"))
