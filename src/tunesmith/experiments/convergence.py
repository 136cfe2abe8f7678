from __future__ import annotations

from typing import Any

import numpy as np

from . import Figure, Lab, Outcome
from ._figures import difference, times_over_seeds
from ._summaries import steps_to


def peft_convergence(
    lab: Lab,
    *,
    task: str = "intent",
    rows: int = 100,
    epochs: list[int] = [3, 6, 12, 24],  # noqa: B006
    share: float = 0.95,
    layers: list[int] = [-3, -2, -1],  # noqa: B006
    options: dict[str, Any] = {},  # noqa: B006
) -> Outcome:
    """Whether LoRA needs more steps than full fine-tuning where rows are few, and whether half its layers would do.

    Each budget is a training of its own, with its own decay of the learning rate: what is counted is how long a run has
    to be, not how far a long one is at some step. Where the shortest run is good enough already, its length counts.

    Figures: ``slower``, steps that LoRA needs to come to ``share`` of its own score at the longest budget, over the steps
    that full fine-tuning needs for the same of its own; ``low_data``, LoRA's score less that of full fine-tuning at the
    longest budget; ``upper_half``, the score of LoRA in the named layers less that of LoRA everywhere, on all the arena's
    rows; ``upper_half.trainable``, the ratio of their trained weights without the head's.

    Source: Pu et al. 2023, arXiv:2304.14999.

    Settings:
        task: name of an arena task where a higher score is better.
        rows: number of training rows where convergence is measured.
        epochs: budgets, ascending.
        share: of its own final score that a technique has to reach.
        layers: layers that keep their LoRA; negative ones count from the top.
        options: of all recipes.
    """
    from ..comparing import arena

    few = [{**options, "rows.limit": rows, "budget.epochs": e} for e in epochs]
    sides = {n: [lab.recipe(task, arena.TECHNIQUES[n], **f) for f in few] for n in ("full", "lora")}
    lora, head = (lab.recipe(task, arena.TECHNIQUES[n], **options) for n in ("lora", "head"))
    half = lab.recipe(task, arena.TECHNIQUES["lora"], **{**options, "adapter.lora.layers": layers})
    found = lab.results(*sides["full"], *sides["lora"], lora, half, head)
    count = len(epochs)
    runs = {"full": found[:count], "lora": found[count : 2 * count]}
    everywhere, upper, alone = found[2 * count :]
    curves = {n: np.array([[r.score for r in results] for results in several]) for n, several in runs.items()}
    steps = {n: [steps_to(epochs, column, share * column[-1]) for column in c.T] for n, c in curves.items()}
    logs = [float(np.log(a / b)) for a, b in zip(steps["lora"], steps["full"], strict=True)]
    base = alone[0].cost["trainable"]
    weights = (upper[0].cost["trainable"] - base) / (everywhere[0].cost["trainable"] - base)
    figures = {
        "slower": times_over_seeds(logs, f"steps to {share:.0%} of the final score, LoRA over full"),
        "low_data": difference(runs["lora"][-1], runs["full"][-1], f"LoRA less full, {rows} rows"),
        "upper_half": difference(upper, everywhere, "LoRA in the upper layers less LoRA everywhere"),
        "upper_half.trainable": Figure(weights, weights, weights, [], "times", "trained weights"),
    }
    series = {n: [[e, float(v)] for e, v in zip(epochs, c.mean(1), strict=True)] for n, c in curves.items()}
    return Outcome(figures, series, (f"passes over {rows} rows", f"score, {task}"))
