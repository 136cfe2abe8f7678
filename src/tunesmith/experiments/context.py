from __future__ import annotations

from typing import Any

import numpy as np

from . import Lab, Outcome
from ._figures import difference

STILL = 1e-6
"""A radius in which nothing moves that matters: learning from the context alone."""


def examples_in_context(
    lab: Lab,
    *,
    task: str = "spam",
    shots: int = 4,
    radius: float = 0.1,
    options: dict[str, Any] = {},  # noqa: B006
) -> Outcome:
    """Examples in the context whose tokens learn, against the same examples as they are and against a plain soft prompt.

    Each seed draws its own examples from the training rows; their answers stay fixed. The soft prompt is as long.

    Figures, in the task's chief metric and turned so that more is better: ``over_examples``, learning less in-context
    learning alone; ``over_prompt``, learning less prompt tuning from noise; ``length``, virtual tokens.

    Source: Blau et al. 2024, arXiv:2410.17222.

    Settings:
        task: name of an arena task of a language model.
        shots: examples in the context.
        radius: most that a token moves, at a width of 2048.
        options: of all recipes.
    """
    sides: dict[str, list[Any]] = {"learned": [], "as they are": [], "prompt": []}
    lengths = []
    for seed in lab.seeds:
        context, fixed = _drawn(lab, lab.recipe(task, {"adapter": "prompt_tuning"}, **options), shots, seed)
        given = {"context": context, "fixed": fixed}
        lengths.append(len(context))
        recipes = {
            "learned": lab.recipe(task, {"adapter": {"cpt": {**given, "radius": radius}}}, **options),
            "as they are": lab.recipe(
                task, {"adapter": {"cpt": {**given, "radius": STILL}}}, **{**options, "budget": {"steps": 1}}
            ),
            "prompt": lab.recipe(
                task, {"adapter": {"prompt_tuning": {"length": len(context), "start": "random"}}}, **options
            ),
        }
        for name, (result,) in zip(recipes, lab.results(*recipes.values(), seeds=[seed]), strict=True):
            sides[name].append(result)
    figures = {
        "over_examples": difference(sides["learned"], sides["as they are"], "less in-context learning"),
        "over_prompt": difference(sides["learned"], sides["prompt"], "less prompt tuning from noise"),
    }
    series = {n: [[s, r.score] for s, r in zip(lab.seeds, results, strict=True)] for n, results in sides.items()}
    note = f"{shots} examples are {min(lengths)} to {max(lengths)} tokens."
    return Outcome(figures, series, ("seed", f"score, {task}"), [note])


def _drawn(lab: Lab, recipe: Any, shots: int, seed: int) -> tuple[list[int], list[int]]:
    """Token ids of some training rows, one after the other, and the places of their answers."""
    encoded = lab.prepared(recipe).encoded["train"]
    rows = encoded.take(np.random.default_rng(seed).permutation(len(encoded))[:shots])
    ids = [int(i) for row in rows for i in row["input_ids"]]
    answers = [label >= 0 for row in rows for label in row["labels"]]
    return ids, [place for place, answer in enumerate(answers) if answer]
