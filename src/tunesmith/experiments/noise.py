from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import Lab, Outcome
from ._figures import spread_ratio, times_over_seeds


def evaluation_noise(
    lab: Lab,
    *,
    tasks: list[str] = ["sentiment", "topic", "intent", "relevance", "chinese"],  # noqa: B006
    techniques: list[str] = ["full", "head", "lora"],  # noqa: B006
    redrawn: list[str] = ["intent", "sentiment"],  # noqa: B006
    options: dict[str, Any] = {},  # noqa: B006
) -> Outcome:
    """How much chance moves a score, by its source, and whether the loss is a less noisy figure than the accuracy.

    Signal to noise is a figure's mean over seeds as a multiple of its standard deviation over seeds.

    Figures: ``loss_over_accuracy``, signal to noise of the mean loss over that of the accuracy (geometric mean over
    techniques, interval over tasks); ``separation``, the same where the signal is the standard deviation between the
    techniques' means; ``rows_over_seeds``, the standard deviation that the draw of held-out rows gives (bootstrap) over
    the one that seeds give; ``whole_over_seeds``, the standard deviation where split and training rows are drawn anew
    with each seed over the one where the seed alone changes; ``whole_over_told``, the same over what seeds and bootstrap
    together foretell.

    Source: Madaan et al. 2024, arXiv:2406.10229; drawing everything anew: Bouthillier et al. 2021, arXiv:2103.03098.

    Settings:
        tasks: arena tasks that choose one class.
        techniques: baselines of the arena; their stored results are used.
        redrawn: tasks on which the last technique is also trained with another split for each seed.
        options: of all recipes, e.g. ``{budget.steps: 100}``.
    """
    from ..comparing import arena

    recipes = {(t, n): lab.recipe(t, arena.TECHNIQUES[n], **options) for t in tasks for n in techniques}
    found = dict(zip(recipes, lab.results(*recipes.values()), strict=True))
    seeds, last = list(lab.seeds), techniques[-1]
    whole: dict[str, list[Any]] = {}
    for task in redrawn:
        each = [lab.recipe(task, arena.TECHNIQUES[last], **{**options, "rows.seed": s}) for s in seeds]
        whole[task] = lab.each(each)
    fixed = {t: found[t, last] if (t, last) in found else lab.results(
        lab.recipe(t, arena.TECHNIQUES[last], **options))[0] for t in redrawn}  # fmt: skip

    ratios = {t: _ratio([found[t, n] for n in techniques]) for t in tasks}
    apart = {t: _separation([found[t, n] for n in techniques]) for t in tasks}
    usable = [t for t in tasks if not math.isnan(ratios[t] + apart[t])]
    by_seed, by_rows = _pooled(list(found.values())), _rows(list(found.values()))
    many, few = len(found) * (len(seeds) - 1), len(redrawn) * (len(seeds) - 1)
    alone, together = _pooled(list(fixed.values())), _pooled(list(whole.values()))
    told = math.hypot(alone, _rows(list(fixed.values())))
    figures = {
        "loss_over_accuracy": times_over_seeds([ratios[t] for t in usable], "signal to noise, loss over accuracy"),
        "separation": times_over_seeds([apart[t] for t in usable], "separation of techniques, loss over accuracy"),
        "rows_over_seeds": spread_ratio(by_rows, by_seed, (math.inf, many), "spread over rows by that over seeds"),
        "whole_over_seeds": spread_ratio(together, alone, (few, few), "spread if all is drawn anew by that over seeds"),
        "whole_over_told": spread_ratio(together, told, (few, few), "the same by what seeds and bootstrap foretell"),
    }
    notes = [f"{t}: a figure that no seed moves has no signal to noise" for t in tasks if t not in usable]
    series = {
        "signal to noise": [[n, math.exp(ratios[t])] for n, t in enumerate(usable)],
        "separation": [[n, math.exp(apart[t])] for n, t in enumerate(usable)],
    }
    return Outcome(figures, series, (f"task: {', '.join(usable)}", "loss over accuracy"), notes)


def _values(results: list[Any]) -> dict[str, np.ndarray]:
    return {n: np.array([r.scores[n] for r in results]) for n in ("log_loss", "accuracy")}


def _ratio(cells: list[list[Any]]) -> float:
    """Logarithm of the loss's signal to noise over the accuracy's, the mean over techniques that seeds move."""
    logs = []
    for results in cells:
        signal = {n: (v.mean(), v.std(ddof=1)) for n, v in _values(results).items()}
        if all(mean > 0 and spread > 0 for mean, spread in signal.values()):
            log = {n: math.log(mean / spread) for n, (mean, spread) in signal.items()}
            logs.append(log["log_loss"] - log["accuracy"])
    return float(np.mean(logs)) if logs else math.nan


def _separation(cells: list[list[Any]]) -> float:
    """As `_ratio`, with the spread between techniques as the signal and their pooled spread over seeds as the noise."""
    log = {}
    for name in ("log_loss", "accuracy"):
        values = [_values(results)[name] for results in cells]
        between = float(np.std([v.mean() for v in values], ddof=1)) if len(values) > 1 else 0.0
        within = math.sqrt(float(np.mean([v.var(ddof=1) for v in values])))
        log[name] = math.log(between / within) if between and within else math.nan
    return log["log_loss"] - log["accuracy"]


def _pooled(cells: list[list[Any]]) -> float:
    """Standard deviation of the score over the results of a cell, pooled over cells."""
    return math.sqrt(float(np.mean([np.var([r.score for r in results], ddof=1) for results in cells])))


def _rows(cells: list[list[Any]]) -> float:
    """Standard deviation of one training's score over draws of its held-out rows, pooled over cells."""
    from ..comparing.statistics import effect

    firsts = [results[0] for results in cells]
    return math.sqrt(float(np.mean([effect(r.metric, [r.answers]).row_variance for r in firsts])))
