"""All metrics of a task at once, from plain lists."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from .answers import Answers, Measured
from .intervals import measure
from .metrics import lacks, names_for


class Scores(dict[str, Measured]):
    """Metric -> figure. ``notes`` says of every metric of the task that is absent why it is."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []


def score(
    task: str, references: Sequence[Any], predictions: Sequence[Any] = (), *, probabilities: Any = None,
    labels: Sequence[str] | None = None, loss: Any = None, units: Any = None, multi: bool = False,
    level: float = 0.95, seed: int = 0,
) -> Scores:  # fmt: skip
    """The metrics of a task with bootstrap intervals.

    Args:
        task: ``classify``, ``pair``, ``regress``, ``tag``, ``generate``, ``chat`` or ``lm``.
        references: what is right, a row each: class names or indices, 0/1 vectors, numbers, tags, or texts.
        predictions: what the model said, in the same form; may be left out where only ``loss`` is scored.
        probabilities: (rows, classes), in the order of ``labels``.
        labels: names of the classes; the sorted names that occur, if classes are given by name.
        loss: summed loss of each row in nats.
        units: supervised tokens of each row, to go with ``loss``.
        multi: whether a row can have several labels.
        level: coverage of the intervals.
        seed: of the resamples.

    Raises:
        InputError: no rows, or lists that do not fit each other.

    >>> score("classify", ["yes", "no", "no", "yes"], ["yes", "no", "yes", "yes"])["accuracy"].value
    0.75
    """
    answers = _answers(task, references, predictions, probabilities, labels, loss, units, multi)
    names = names_for(task, multi=multi, labels=_tags(answers) if task == "tag" else answers.labels)
    if task in ("generate", "chat"):
        names = (*(names if loss is not None else ()), *(names_for("text") if len(predictions) else ()))
    if task in ("classify", "pair") and not multi:
        names = (*names, "ece")
    return scores(answers, names, level=level, seed=seed)


def scores(answers: Answers, names: Sequence[str], *, level: float = 0.95, seed: int = 0) -> Scores:
    """These metrics of some answers; those that cannot be had are named in ``notes``."""
    found = Scores()
    for name in names:
        if reason := lacks(name, answers):
            found.notes.append(f"{name} was not measured: {reason}")
        else:
            found[name] = measure(name, answers, level=level, seed=seed)
    return found


def _tags(answers: Answers) -> list[str]:
    return sorted({tag for row in answers.references for tag in row})


def _answers(
    task: str, references: Sequence[Any], predictions: Sequence[Any], probabilities: Any,
    labels: Sequence[str] | None, loss: Any, units: Any, multi: bool,
) -> Answers:  # fmt: skip
    """Checked, with classes as indices."""
    columns = {"predictions": predictions, "probabilities": probabilities, "loss": loss, "units": units}
    _check_lengths(len(references), columns)
    if (loss is None) != (units is None):
        raise InputError("loss and units go together", expected="both, or neither")
    if not len(predictions) and loss is None and probabilities is None:
        raise InputError("nothing to score", expected="predictions, or loss and units")
    names = list(labels or ())
    if task in ("classify", "pair") and not multi:
        names = names or _names(references, predictions, probabilities)
        references, predictions = _indices(references, names), _indices(predictions, names)
    chance = _probabilities(probabilities, len(names) if not multi else 0)
    if chance is not None and not multi and not len(predictions):
        predictions = chance.argmax(1).tolist()
    if task == "regress":
        _check_numbers(references, "reference")
        _check_numbers(predictions, "prediction")
    if task == "tag":
        _check_tags(references, predictions)
    floats = [None if v is None else np.asarray(v, dtype=float) for v in (loss, units)]
    return Answers(references, predictions, chance, names, floats[0], floats[1], multi)


def _check_lengths(rows: int, columns: dict[str, Any]) -> None:
    if not rows:
        raise InputError("there are no rows to score", expected="at least one")
    for name, values in columns.items():
        if values is not None and len(values) not in ((0, rows) if name == "predictions" else (rows,)):
            raise InputError(f"{len(values)} {name} for {rows} rows", expected=f"{rows}")


def _names(references: Sequence[Any], predictions: Sequence[Any], probabilities: Any) -> list[str]:
    every = {v for values in (references, predictions) for v in values}
    if all(isinstance(v, str) for v in every):
        if probabilities is not None:
            raise InputError("classes by name, with probabilities", expected="labels, in the order of the columns")
        return sorted(every)
    width = 1 + max(int(v) for v in every)
    return [str(i) for i in range(width if probabilities is None else max(width, np.shape(probabilities)[1]))]


def _indices(values: Sequence[Any], names: Sequence[str]) -> list[int]:
    place = {name: i for i, name in enumerate(names)}
    found = [place.get(v, -1) if isinstance(v, str) else int(v) for v in values]
    for row, (value, index) in enumerate(zip(values, found, strict=True)):
        if not 0 <= index < len(names):
            raise InputError(f"class {value!r}", where=f"row {row}", expected=f"one of {', '.join(names)}")
    return found


def _probabilities(values: Any, width: int) -> np.ndarray | None:
    if values is None:
        return None
    chance = np.asarray(values, dtype=float)
    if chance.ndim != 2 or (width and chance.shape[1] != width):
        raise InputError(f"probabilities of shape {chance.shape}", expected=f"(rows, {width or 'classes'})")
    bad = np.flatnonzero(~((chance >= 0) & (chance <= 1)).all(1))
    if len(bad):
        raise InputError(f"probabilities {chance[bad[0]].tolist()}", where=f"row {bad[0]}", expected="between 0 and 1")
    return chance


def _check_numbers(values: Sequence[Any], what: str) -> None:
    for row, value in enumerate(values):
        if not math.isfinite(value):
            raise InputError(f"{what} {value}", where=f"row {row}", expected="a finite number")


def _check_tags(references: Sequence[Any], predictions: Sequence[Any]) -> None:
    for row, (reference, prediction) in enumerate(zip(references, predictions, strict=False)):
        if len(reference) != len(prediction):
            raise InputError(f"{len(prediction)} tags", where=f"row {row}", expected=f"{len(reference)}, one a word")
