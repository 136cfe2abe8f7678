from __future__ import annotations

from typing import Any

import numpy as np

from . import Figure, Lab, Outcome
from ._figures import difference

SEARCH_SEED = 1000
"""Of the cheap trials; no comparison uses it."""

SIZES, LENGTHS = (0, 4, 16, 48), (0, 4, 16)
"""Widths of the bottlenecks and lengths of the prefix; 0 leaves the part out."""


def searched_configuration(
    lab: Lab,
    *,
    task: str = "intent",
    others: list[str] = ["sentiment"],  # noqa: B006
    trials: int = 10,
    layers: int = 6,
    cheap: dict[str, Any] = {"rows.limit": 300, "budget.epochs": 2},  # noqa: B006
    options: dict[str, Any] = {},  # noqa: B006
) -> Outcome:
    """A configuration of adapters that cheap trials found, against LoRA at its defaults, on its own task and on others.

    The space: for each layer whether it has any; the widths of a serial and a parallel bottleneck and the length of a
    prefix, the same in all of these. Configurations are drawn at random, and of those with no more weights than LoRA the
    one with the lowest loss of validation rows is taken.

    Figures: ``TASK.difference``, found less LoRA; ``trainable``, trained weights over LoRA's; ``front``, configurations
    that no other one beats in both loss and weights.

    Source: Zhou et al. 2024, arXiv:2301.12132; random search in place of its Bayesian optimisation.

    Settings:
        task: arena task on which is searched.
        others: arena tasks to which the configuration goes as it is.
        trials: configurations that are tried.
        layers: number of layers of the base.
        cheap: options of the trials.
        options: of the comparison's recipes.
    """
    draws = np.random.default_rng(0)
    space = [_draw(draws, layers) for _ in range(trials)]
    tried = lab.results(*(lab.recipe(task, {"adapter": c}, **cheap) for c in space), seeds=[SEARCH_SEED])
    tasks = [task, *others]
    lora = lab.results(*(lab.recipe(t, {"adapter": "lora"}, **options) for t in tasks))
    points = [(float(r.health["validation_loss"]), int(r.cost["trainable"])) for (r,) in tried]
    most = lora[0][0].cost["trainable"]
    fits = [i for i, (_, weights) in enumerate(points) if weights <= most] or list(range(trials))
    best = min(fits, key=lambda i: points[i][0])
    found = lab.results(*(lab.recipe(t, {"adapter": space[best]}, **options) for t in tasks))
    pairs = zip(tasks, found, lora, strict=True)
    figures = {f"{t}.difference": difference(ours, theirs, f"{t}, found less LoRA") for t, ours, theirs in pairs}
    ratio = found[0][0].cost["trainable"] / most
    front = sum(not any(a < loss and b < weights for a, b in points) for loss, weights in points)
    figures["trainable"] = Figure(ratio, ratio, ratio, (), "times", "trained weights over LoRA's")
    figures["front"] = Figure(front, front, front, (), "", "configurations that none beats in both")
    series = {"trials": [[weights, loss] for loss, weights in points]}
    return Outcome(figures, series, ("trained weights", f"validation loss, {task}"), [f"found: {space[best]}"])


def _draw(draws: np.random.Generator, layers: int) -> list[dict[str, Any]]:
    """One configuration, never an empty one."""
    while True:
        where = [n for n in range(layers) if draws.random() < 0.5]
        serial, parallel = (int(draws.choice(SIZES)) for _ in range(2))
        length = int(draws.choice(LENGTHS))
        chosen: list[dict[str, Any]] = []
        if serial:
            chosen.append({"bottleneck": {"size": serial, "layers": where}})
        if parallel:
            chosen.append({"bottleneck": {"size": parallel, "parallel": True, "layers": where}})
        if length:
            chosen.append({"prefix_tuning": {"length": length, "layers": where}})
        if where and chosen:
            return chosen
