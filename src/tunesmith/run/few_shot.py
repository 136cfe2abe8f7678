"""Few labels: a new head or a prompt? Both are tried on the few rows, held out in turn, and the figures decide."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..data.rows import Rows
from ..data.tasks import Task
from ..data.tasks.classify import label_name
from ..errors import InputError
from ..evaluation.answers import Answers, Measured, row_losses
from ..evaluation.intervals import difference, measure, verdict
from ..recipe import Recipe
from .carry_out import score, untrained
from .events import Listener
from .measure import IN_CONTEXT
from .prepare import open_rows, part, pick_base

FOLDS = 4
"""Parts that are held out in turn; fewer where a label has fewer rows."""

HEAD, PROMPT, CONTEXT = "head", "prompt", "in context"
"""A new head; the base's own words at a blank; the same untuned, with one example of each label shown."""


@dataclasses.dataclass
class Choice:
    """What was measured, and what follows.

    Attributes:
        recipe: the recipe to carry out.
        chosen: ``head`` or ``prompt``.
        accuracy: of each way, over the rows that were held out in turn.
        left_out: why a way could not be tried, by its name.
        lines: all of it, to print.
    """

    recipe: Recipe
    chosen: str
    accuracy: dict[str, Measured]
    left_out: dict[str, str]
    lines: list[str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        figures = {name: dataclasses.asdict(m) for name, m in self.accuracy.items()}
        return {"chosen": self.chosen, "accuracy": figures, "left_out": self.left_out, "lines": self.lines}


def choose(recipe: Recipe, *, listen: Listener) -> Choice:
    """Prompt or head, by cross-validation on the recipe's few training rows.

    The better accuracy is taken, the lower loss where two are equal. No row outside the few is looked at.

    Args:
        recipe: with ``rows.shots``; its parts and budget are those of every trial.
        listen: hears each trial's figure.

    Raises:
        InputError: the recipe's task has no classes, its rows are too few, or no way fits its base.
    """
    rows, task = open_rows(recipe)
    few = rows.take(part(recipe, rows, task).indices["train"])
    folds = stratified([label_name(v) for v in few.column(task.columns["label"]).to_pylist()], recipe.rows.seed)
    said: dict[str, Answers] = {}
    left_out: dict[str, str] = {}
    trials = ways(recipe.updated({"base": recipe.base or pick_base(rows, task)}), task)
    for name, trial in trials.items():
        try:
            said[name] = _joined([_held_out(trial, few, task, fold, tuned=name != CONTEXT) for fold in folds])
        except InputError as error:
            if name == HEAD:
                raise
            left_out[name] = str(error)
            continue
        listen({"event": "note", "text": f"{name}: accuracy {_figure(said[name])}, {len(folds)} folds"})
    chosen = max((n for n in (HEAD, PROMPT) if n in said), key=lambda n: rank(said[n]))
    lines = _lines(said, left_out, chosen, len(folds))
    listen({"event": "note", "text": lines[-1]})
    figures = {name: measure("accuracy", answers) for name, answers in said.items()}
    kept = recipe.updated({"task": trials[chosen].task})
    return Choice(kept, chosen, figures, left_out, lines)


def ways(recipe: Recipe, task: Task) -> dict[str, Recipe]:
    """The recipe with a new head, with a prompt, and with a prompt whose context shows examples.

    Raises:
        InputError: the task has no classes.
    """
    if task.name not in ("classify", "pair"):
        raise InputError(f"task {task.name} has no classes", where="--shots", expected="task classify or pair")
    own = {k: v for k, v in task.settings.items() if k != "cloze" and v is not None}
    form = next(iter(recipe.task.values())).get("cloze") if isinstance(recipe.task, Mapping) else None
    form = {"template": form} if isinstance(form, str) else form if isinstance(form, Mapping) else {}
    shown = {"demonstrations": 1, "calibrate": True, **form}
    changes = {HEAD: own, PROMPT: {**own, "cloze": form or True}, CONTEXT: {**own, "cloze": shown}}
    return {name: recipe.updated({"task": {task.name: settings}}) for name, settings in changes.items()}


def stratified(labels: Sequence[str], seed: int) -> list[np.ndarray]:
    """Parts of rows, each with its share of every label.

    Raises:
        InputError: a label has one row only.
    """
    counts = {label: labels.count(label) for label in labels}
    scarce = min(counts, key=lambda label: counts[label])
    if counts[scarce] < 2:
        raise InputError(
            f"label {scarce!r} has one row only", where="--shots", expected="two rows of every label to try on",
            fix="take more rows, or choose yourself: --set task.classify.cloze=true or false",
        )  # fmt: skip
    folds = min(FOLDS, counts[scarce])
    seen = dict.fromkeys(counts, 0)
    place = np.zeros(len(labels), dtype=int)
    for i in np.random.default_rng(seed).permutation(len(labels)):
        place[i], seen[labels[i]] = seen[labels[i]] % folds, seen[labels[i]] + 1
    return [np.flatnonzero(place == fold) for fold in range(folds)]


def _held_out(recipe: Recipe, few: Rows, task: Task, fold: np.ndarray, *, tuned: bool) -> Answers:
    """What a recipe says of some of the few rows, having seen the others."""
    kept = np.setdiff1d(np.arange(len(few)), fold)
    rows = {"train": _table(few, kept), "test": _table(few, fold), "validation_share": 0.0, "test_share": 0.0,
            "columns": dict(task.columns), "seed": recipe.rows.seed}  # fmt: skip
    trial = recipe.updated({"rows": rows, "audit": [], "checks": {"generate": 0}})
    with tempfile.TemporaryDirectory() as folder:
        if tuned:
            return score(trial, Path(folder), listen=lambda event: None).answers
        return untrained(trial, Path(folder))[1][IN_CONTEXT]


def _table(few: Rows, indices: np.ndarray) -> pa.Table:
    return few.take(indices).table


def _joined(parts: Sequence[Answers]) -> Answers:
    """The answers of all folds as one."""
    shares = np.concatenate([p.probabilities for p in parts if p.probabilities is not None])
    return Answers(
        [r for p in parts for r in p.references], [s for p in parts for s in p.predictions], shares, parts[0].labels
    )


def rank(answers: Answers) -> tuple[float, float]:
    """Accuracy, and between equals the lower loss: the larger the better."""
    return measure("accuracy", answers).value, -float(row_losses(answers).mean())


def _figure(answers: Answers) -> str:
    found = measure("accuracy", answers)
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f}, {found.rows} rows)"


def _lines(said: Mapping[str, Answers], left_out: Mapping[str, str], chosen: str, folds: int) -> list[str]:
    lines = [f"{name}: accuracy {_figure(answers)}, {folds} folds" for name, answers in said.items()]
    lines += [f"{name}: left out ({why})" for name, why in left_out.items()]
    if PROMPT not in said:
        return [*lines, f"{chosen}: the base fills no blanks ({left_out[PROMPT]})"]
    gap = difference("accuracy", said[PROMPT], said[HEAD])
    told = f"prompt - head = {gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}): {verdict(gap)}"
    return [*lines, f"{chosen} is taken; {told}"]
