"""What is scored, and what a score is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Answers:
    """What a model said of some rows, beside what is right. Lists run over the rows.

    Attributes:
        references: what is right: a class index, a 0/1 vector, a number, tags, or a text.
        predictions: what the model said, in the same form; empty where nothing was predicted.
        probabilities: (rows, classes) where the model gives them.
        labels: names of the classes.
        loss: summed loss of each row in nats, for language models and taggers.
        units: supervised units of each row, to go with ``loss``.
        multi: whether a row can have several labels.
    """

    references: Sequence[Any]
    predictions: Sequence[Any] = ()
    probabilities: np.ndarray | None = None
    labels: Sequence[str] = ()
    loss: np.ndarray | None = None
    units: np.ndarray | None = None
    multi: bool = False

    def __len__(self) -> int:
        return len(self.references)


@dataclass(frozen=True)
class Measured:
    """A figure and how sure it is.

    Attributes:
        value: the figure over all rows.
        low, high: ends of the bootstrap interval.
        rows: number of rows.
        greater: whether more is better; None where neither is, as for a length.
        level: coverage of the interval.
        note: what a reader has to know of the figure; empty where there is nothing.
    """

    value: float
    low: float
    high: float
    rows: int
    greater: bool | None = True
    level: float = 0.95
    note: str = field(default="", compare=False)


def row_losses(answers: Answers) -> np.ndarray:
    """The loss of each row in nats: of its class, the mean over its labels, or over its tokens."""
    if answers.loss is not None and answers.units is not None:
        return np.asarray(answers.loss / np.maximum(answers.units, 1))
    assert answers.probabilities is not None
    p = np.clip(answers.probabilities, 1e-12, 1.0)
    if answers.multi:
        y = np.asarray(answers.references)
        return np.asarray(-(y * np.log(p) + (1 - y) * np.log(np.clip(1 - p, 1e-12, 1))).mean(1))
    return np.asarray(-np.log(p[np.arange(len(p)), np.asarray(answers.references, dtype=int)]))
