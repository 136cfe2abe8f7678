from __future__ import annotations

from typing import Any

import numpy as np

from ..comparing.statistics import combine
from ..errors import InputError
from . import Figure, Lab, Outcome
from ._sides import Classified, Drawn, Prompted


def kernel_view(
    lab: Lab,
    *,
    task: str = "sentiment",
    written_as: str = "spam",
    cue: str = " It was",
    words: list[str] = [" great", " terrible"],  # noqa: B006
    shots: int = 16,
    held_out: int = 100,
    sketch: int = 32,
    options: dict[str, Any] = {"budget.epochs": 6},  # noqa: B006
) -> Outcome:
    """Whether a kernel of the base's gradients predicts what fine-tuning on a few rows will say, with and without a prompt.

    With a prompt the text is followed by a cue, and the language model's own odds of two words answer; without one, a
    classifier on top that was drawn at random. In both, logistic regression with the kernel ``<grad f(x), grad f(x')>`` at
    the base's weights, on top of what the base says, stands against full fine-tuning on the same rows.

    Figures, for ``prompt`` and ``random``: ``NAME.tuned`` and ``NAME.kernel``, accuracy on the held-out rows; ``NAME.gap``,
    the first less the second; ``gap``, that without a prompt less that with it, seed by seed and row by row.

    Source: Malladi et al. 2022, arXiv:2210.05643, sec. 3 (the kernel of SGD; the sign kernel of Adam is not here).

    Settings:
        task: an arena task of two classes.
        written_as: an arena task of the language model, whose recipe is taken.
        cue: what follows the text.
        words: what is written for each class, in the order of their names.
        shots: training rows of each class; each seed draws its own.
        held_out: held-out rows, half of each class.
        sketch: size of the random projection of each matrix's gradient, a side.
        options: of all recipes.
    """
    from ..comparing import arena

    rows = _ByClass(lab.prepared(lab.recipe(task, arena.TECHNIQUES["full"], **{"rows.limit": None})))
    same = {**options, "checks.rows": None, "rows.columns": {}}
    asked: dict[str, Any] = {"prompt": {"generate": {"chat": False, "separator": ""}}, "random": "classify"}
    full = arena.TECHNIQUES["full"]
    recipes = {name: lab.recipe(written_as, {**full, "task": value}, **same) for name, value in asked.items()}
    sides = {
        "prompt": Prompted(lab, recipes["prompt"], sketch, cue, words),
        "random": Classified(lab, recipes["random"], sketch),
    }
    of = _answers(lab, rows, sides, shots, held_out)
    gaps = {name: of[f"{name}.tuned"] - of[f"{name}.kernel"] for name in sides}
    figures = {name: _figure(found, "accuracy") for name, found in of.items()}
    figures |= {f"{name}.gap": _figure(gap, "fine-tuning less kernel") for name, gap in gaps.items()}
    figures["gap"] = _figure(gaps["random"] - gaps["prompt"], "gap with a random head less that with a prompt")
    series = {
        name: [[seed, float(v)] for seed, v in zip(lab.seeds, found.mean(1), strict=True)] for name, found in of.items()
    }
    return Outcome(figures, series, ("seed", f"accuracy, {task}"))


def _answers(lab: Lab, rows: _ByClass, sides: dict[str, Any], shots: int, held_out: int) -> dict[str, np.ndarray]:
    """Of each side's fine-tuning and kernel whether they are right, shape (seeds, held-out rows)."""
    test = rows.drawn("test", held_out // 2, 0)
    right: dict[str, list[np.ndarray]] = {f"{n}.{how}": [] for n in sides for how in ("tuned", "kernel")}
    for seed in lab.seeds:
        train = rows.drawn("train", shots, seed)
        for name, side in sides.items():
            lab.say(f"kernel and fine-tuning, {name}, seed {seed}")
            right[f"{name}.tuned"].append(side.tuned(train, test, seed))
            right[f"{name}.kernel"].append(side.kernel(train, test, seed))
    return {name: np.array(found, dtype=float) for name, found in right.items()}


def _figure(right: np.ndarray, about: str) -> Figure:
    """Mean of what each seed says of each row, shape (seeds, rows), with its interval over both."""
    rows = right.shape[1]
    found = combine(right.mean(1), float(right.mean(0).var(ddof=1)) / rows, rows)
    return Figure(found.value, found.low, found.high, [float(v) for v in right.mean(1)], "points", about)


class _ByClass:
    """Texts of two classes, each drawn in equal parts."""

    def __init__(self, prepared: Any):
        self.prepared = prepared
        self.labels = prepared.task.labels
        if len(self.labels) != 2:
            raise InputError(f"the task has {len(self.labels)} classes", expected="two", fix="choose another task")

    def drawn(self, name: str, each: int, seed: int) -> Drawn:
        """Texts and classes of a split, class by class in turn."""
        table, columns = self.prepared.parted.tables[name], self.prepared.task.columns
        order = np.random.default_rng(seed).permutation(self.prepared.parted.indices[name])
        found: list[Drawn] = [[], []]
        for index in order:
            row = table[int(index)]
            side = self.labels.index(row[columns["label"]])
            if len(found[side]) < each:
                found[side].append((str(row[columns["text"]]), side))
        return [pair for both in zip(*found, strict=True) for pair in both]
