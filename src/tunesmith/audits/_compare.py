"""Findings from figures of base and tuned model, with the interval of their difference over the same rows."""

from __future__ import annotations

import numpy as np

from ..data.tasks import Task
from ..evaluation.answers import Answers
from ..evaluation.intervals import bootstrap
from ..evaluation.metrics import Figure, find
from . import TEXT, Finding, Pair

DIGITS = 6
"""Decimals of a difference: what lies below is arithmetic in 32 bits, and no change of the model."""


def by_figure(
    pair: Pair, name: str, base: Figure, tuned: Figure, rows: int, *, greater: bool | None = False,
    who: str | None = None, no_interval: str = "",
) -> Finding:  # fmt: skip
    """A finding from two functions of the rows' weights; see `evaluation.metrics.Figure`."""
    change = bootstrap(
        lambda weights: np.round(tuned(weights) - base(weights), DIGITS), rows, greater=greater,
        no_interval=no_interval, seed=pair.seed,
    )  # fmt: skip
    whole = np.ones((1, rows))
    return Finding(name, float(base(whole)[0]), float(tuned(whole)[0]), change, who or pair.base_name)


def by_rows(
    pair: Pair, name: str, base: np.ndarray, tuned: np.ndarray, *, greater: bool | None = False, who: str | None = None
) -> Finding:
    """A finding from one number a row: its mean."""
    return by_figure(pair, name, mean(base), mean(tuned), len(base), greater=greater, who=who)


def by_metric(pair: Pair, metric: str, base: Answers, tuned: Answers, *, who: str | None = None) -> Finding:
    """A finding from a metric of `evaluation.metrics`, under its name."""
    found = find(metric)
    ours, theirs = found.weighted(tuned), found.weighted(base)
    return by_figure(
        pair, metric, theirs, ours, len(base), greater=found.greater, who=who, no_interval=found.no_interval
    )


def mean(values: np.ndarray) -> Figure:
    """The weighted mean of one number a row, as a function of the weights."""
    values = np.asarray(values, dtype=float)
    return lambda weights: (weights @ values) / weights.sum(-1)


def errors(task: Task, answers: Answers) -> np.ndarray:
    """How wrong each row is: 0 or 1, the share of its words, the distance of its number, or the loss of a token."""
    pairs = list(zip(answers.references, answers.predictions, strict=False))
    if task.name in TEXT:
        assert answers.loss is not None and answers.units is not None
        return np.asarray(answers.loss / np.maximum(answers.units, 1))
    if task.name == "regress":
        return np.array([abs(float(r) - float(p)) for r, p in pairs])
    if task.name == "tag":
        return np.array([np.mean([a != b for a, b in zip(r, p, strict=True)]) for r, p in pairs])
    return np.array([not np.array_equal(r, p) for r, p in pairs], dtype=float)


def lost(task: Task, to: str) -> str:
    """The name of what a row loses when `errors` grows."""
    kind = "loss_added" if task.name in TEXT else "error_added" if task.name == "regress" else "accuracy_lost"
    return f"{kind}_by_{to}"
