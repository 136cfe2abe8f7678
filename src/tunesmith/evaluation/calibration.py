"""Calibration: does a model that says 80 % hold true in 80 of 100 rows? And which rows are worst?"""

from __future__ import annotations

from typing import Any

import numpy as np

from .metrics import BINS, METRICS, Answers, row_losses


def reliability(answers: Answers, bins: int = BINS) -> list[dict[str, float]]:
    """Rows grouped by the model's confidence in its answer: number, mean confidence and accuracy of each group.

    Source: Guo et al. 2017, arXiv:1706.04599, sec. 2, with bins of equal width.
    """
    assert answers.probabilities is not None
    sure = answers.probabilities.max(1)
    right = np.array([r == p for r, p in zip(answers.references, answers.predictions, strict=True)], dtype=float)
    place = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    return [
        {"rows": int(mine.sum()), "confidence": float(sure[mine].mean()), "accuracy": float(right[mine].mean())}
        for mine in (place == b for b in range(bins))
        if mine.any()
    ]


def expected_calibration_error(answers: Answers) -> float:
    """Mean distance of confidence and accuracy over the groups of `reliability`, weighted by their size.

    Source: Guo et al. 2017, arXiv:1706.04599, eq. 3.
    """
    metric = METRICS["ece"]
    return float(metric.figure(metric.counts(answers).sum(0)))


def confusion(answers: Answers) -> list[list[int]]:
    """Rows of each true class (down) by the class that was said (across)."""
    table = np.zeros((len(answers.labels), len(answers.labels)), dtype=int)
    np.add.at(table, (np.asarray(answers.references, dtype=int), np.asarray(answers.predictions, dtype=int)), 1)
    return [[int(v) for v in row] for row in table]


def worst(answers: Answers, texts: list[str], count: int = 10) -> list[dict[str, Any]]:
    """The rows that the model finds hardest: highest loss, or largest error of a number; none where neither is known.

    Each has ``text``, ``loss`` and ``reference``, and where they are known ``prediction`` and its ``probability``.
    """
    losses = _losses(answers)
    if losses is None:
        return []
    found = []
    for i in np.argsort(-losses, kind="stable")[:count]:
        entry: dict[str, Any] = {"text": texts[i][:400], "loss": float(losses[i])}
        entry["reference"] = _named(answers, answers.references[i])
        if len(answers.predictions):
            entry["prediction"] = _named(answers, answers.predictions[i])
        if answers.probabilities is not None and not answers.multi:
            entry["probability"] = float(answers.probabilities[i, int(answers.predictions[i])])
        found.append(entry)
    return found


def _losses(answers: Answers) -> np.ndarray | None:
    if answers.probabilities is not None or answers.loss is not None:
        return row_losses(answers)
    if not len(answers.predictions) or not isinstance(answers.references[0], int | float | np.number):
        return None
    return np.abs(np.asarray(answers.references, dtype=float) - np.asarray(answers.predictions, dtype=float))


def _named(answers: Answers, value: Any) -> str:
    if answers.labels and answers.multi:
        return ", ".join(name for name, on in zip(answers.labels, value, strict=True) if on) or "none"
    if answers.labels and isinstance(value, int | np.integer):
        return answers.labels[int(value)]
    if isinstance(value, float | np.floating):
        return f"{float(value):.4g}"
    return (" ".join(value) if isinstance(value, list) else str(value))[:400]
