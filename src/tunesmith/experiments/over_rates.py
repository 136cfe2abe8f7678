from __future__ import annotations

from typing import Any

import numpy as np

from . import Lab, Outcome
from ._figures import over_seeds


def over_rates(
    lab: Lab,
    *,
    technique: dict[str, Any] = {},  # noqa: B006
    baseline: dict[str, Any] = {},  # noqa: B006
    rates: list[float] = [3e-4, 2e-3, 1e-2],  # noqa: B006
    task: str = "intent",
    options: dict[str, Any] = {},  # noqa: B006
) -> Outcome:
    """Whether a technique asks less of its learning rate than a baseline does.

    Figures, technique less baseline in a metric of which more is better: ``mean``, over all rates; ``worst``, each at its
    worst rate; ``best``, each at its best rate by the mean over seeds; ``loss``, of the last training losses over all rates
    (below 0 the technique is ahead).

    Source: Bouthillier et al. 2021, arXiv:2103.03098 (the choice of hyper-parameters as a source of variance).

    Settings:
        technique: options of a recipe, without an optimizer.
        baseline: the same.
        rates: learning rates, each tried with both.
        task: name of an arena task where a higher score is better.
        options: of all recipes.
    """
    recipes = [
        lab.recipe(task, {**side, "optimizer": ["clip_norm", {"adamw": {"lr": rate}}]}, **options)
        for side in (technique, baseline)
        for rate in rates
    ]
    found = lab.results(*recipes)
    scores = np.array([[r.score for r in results] for results in found]).reshape(2, len(rates), -1)
    losses = np.array([[r.health["last_loss"] for r in results] for results in found]).reshape(2, len(rates), -1)
    at_best = [side[int(side.mean(1).argmax())] for side in scores]
    figures = {
        "mean": over_seeds(scores[0].mean(0) - scores[1].mean(0), "points", "mean over the rates"),
        "worst": over_seeds(scores[0].min(0) - scores[1].min(0), "points", "each at its worst rate"),
        "best": over_seeds(at_best[0] - at_best[1], "points", "each at its best rate"),
        "loss": over_seeds(losses[0].mean(0) - losses[1].mean(0), "nats", "last training losses, over the rates"),
    }
    series = {
        name: [[rate, float(v)] for rate, v in zip(rates, side.mean(1), strict=True)]
        for name, side in zip(("technique", "baseline"), scores, strict=True)
    }
    return Outcome(figures, series, ("learning rate", f"score, {task}"))
