from __future__ import annotations

from typing import Any

import numpy as np

from . import Lab, Outcome
from ._figures import difference, over_seeds, times_over_seeds


def rates_and_schedules(
    lab: Lab,
    *,
    task: str = "intent",
    technique: dict[str, Any] = {"mask": "everything"},  # noqa: B006
    peaks: list[float] = [3e-5, 1e-4, 3e-4, 1e-3],  # noqa: B006
    schedules: list[str] = ["linear", "constant", "cosine"],  # noqa: B006
    near: float = 0.02,
    options: dict[str, Any] = {"rows.limit": 300},  # noqa: B006
) -> Outcome:
    """What the learning rate's peak and its schedule each decide, and whether a plain default is good enough.

    A schedule's peak is chosen by the loss of the validation rows, mean over the seeds; the held-out rows only score it.

    Figures: ``peaks``, the standard deviation over peaks, mean over schedules; ``schedules``, that over schedules, mean
    over peaks; ``peaks_over_schedules``, the first less the second, seed by seed; ``NAME.behind_default``, the first
    schedule less schedule NAME, both at their chosen peak; ``NAME.best``, the peak that scores best with NAME, and
    ``NAME.width``, the ratio of the highest to the lowest peak that comes within ``near`` of it.

    Source: Jin et al. 2023, arXiv:2309.08859 (LRBench++).

    Settings:
        task: name of an arena task where a higher score is better.
        technique: options of a recipe whose optimizer is AdamW.
        peaks: learning rates, ascending.
        schedules: names of schedules, the default first.
        near: what counts as as good as the best, in the score's unit.
        options: of all recipes.
    """
    grid = [(s, p) for s in schedules for p in peaks]
    recipes = [lab.recipe(task, technique, **{**options, "schedule": s, "optimizer.adamw.lr": p}) for s, p in grid]
    found = lab.results(*recipes)
    scores = np.array([[r.score for r in results] for results in found]).reshape(len(schedules), len(peaks), -1)
    by_peak, by_schedule = scores.std(1, ddof=1).mean(0), scores.std(0, ddof=1).mean(0)
    figures = {
        "peaks": over_seeds(by_peak, "points", "standard deviation over peaks"),
        "schedules": over_seeds(by_schedule, "points", "standard deviation over schedules"),
        "peaks_over_schedules": over_seeds(by_peak - by_schedule, "points", "deviation over peaks less over schedules"),
    }
    chosen = [_chosen(found[i * len(peaks) : (i + 1) * len(peaks)]) for i in range(len(schedules))]
    for number, name in enumerate(schedules):
        mine = scores[number]
        best = [float(np.log(peaks[int(i)])) for i in mine.argmax(0)]
        figures[f"{name}.best"] = times_over_seeds(best, f"best learning rate, {name}")
        widths = [_width(column, peaks, near) for column in mine.T]
        figures[f"{name}.width"] = times_over_seeds(widths, f"highest over lowest rate within {near:g} of the best")
        if number:
            gap = difference(chosen[0], chosen[number], f"{schedules[0]} less {name}")
            figures[f"{name}.behind_default"] = gap
    series = {
        name: [[float(np.log10(p)), float(scores[i, j].mean())] for j, p in enumerate(peaks)]
        for i, name in enumerate(schedules)
    }
    return Outcome(figures, series, ("log10 of the highest learning rate", f"score, {task}"))


def _chosen(results: list[list[Any]]) -> list[Any]:
    """Of the results at each peak, those of the peak with the lowest validation loss."""
    losses = [np.mean([_validation(r) for r in at]) for at in results]
    return results[int(np.argmin(losses))]


def _validation(result: Any) -> float:
    loss = result.health["validation_loss"]
    return float("inf") if loss is None or not np.isfinite(loss) else float(loss)


def _width(scores: np.ndarray, peaks: list[float], near: float) -> float:
    """Logarithm of the ratio of the ends of the run of good peaks around the best."""
    good = scores >= scores.max() - near
    low = high = int(scores.argmax())
    while low > 0 and good[low - 1]:
        low -= 1
    while high < len(peaks) - 1 and good[high + 1]:
        high += 1
    return float(np.log(peaks[high] / peaks[low]))
