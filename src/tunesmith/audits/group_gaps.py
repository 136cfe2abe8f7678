from __future__ import annotations

from collections import Counter
from typing import ClassVar

import numpy as np

from ..evaluation.metrics import Figure
from ..settings import Count
from . import ROWS, TEXT, Audit, Finding, Pair
from ._compare import by_figure, errors


class GroupGaps(Audit):
    """Who pays? The error of the worst group, and its distance from that of the best.

    Groups with too few held-out rows are left out, since chance alone would set them apart.

    Source: Sagawa et al. 2020, arXiv:1911.08731 (worst-group error).

    Settings:
        column: column of the groups; None takes the recipe's ``rows.group``.
        least: fewest held-out rows of a group.
    """

    tasks: ClassVar[tuple[str, ...]] = (*ROWS, *TEXT)

    def __init__(self, *, column: str | None = None, least: Count = 20):
        self.column, self.least = column, least

    def lacks(self, pair: Pair) -> str:
        column = self.column or pair.group
        if reason := super().lacks(pair):
            return reason
        if not column:
            return "no column of groups is named (group_gaps.column, or rows.group)"
        rows = pair.held_out()
        if column not in rows[0]:
            return f"the rows have no column {column!r}"
        enough = [value for value, count in Counter(str(r[column]) for r in rows).items() if count >= self.least]
        return "" if len(enough) > 1 else f"column {column!r} has no two groups of {self.least} held-out rows"

    def __call__(self, pair: Pair) -> list[Finding]:
        column = self.column or pair.group
        assert column
        every = pair.held_out()
        counts = Counter(str(row[column]) for row in every)
        rows = [row for row in every if counts[str(row[column])] >= self.least]
        names = sorted({str(row[column]) for row in rows})
        member = np.array([[str(row[column]) == name for row in rows] for name in names], dtype=float)
        wrong = [errors(pair.task, pair.answers(rows, tuned=t)) for t in (False, True)]
        kind = "error" if pair.task.name in ("regress", *TEXT) else "error_rate"
        findings = []
        for name, gap in (("worst_group", False), ("group_gap", True)):
            base, tuned = (_over(member, w, gap) for w in wrong)
            findings.append(by_figure(pair, f"{name}_{kind}", base, tuned, len(rows)))
        return findings


def _over(member: np.ndarray, wrong: np.ndarray, gap: bool) -> Figure:
    """The worst group's mean error, less the best one's for the gap; a resample without a group leaves it out."""

    def figure(weights: np.ndarray) -> np.ndarray:
        rows = weights @ member.T
        means = (weights @ (member * wrong).T) / np.maximum(rows, 1e-9)
        worst = np.where(rows > 0, means, -np.inf).max(1)
        return np.asarray(worst - np.where(rows > 0, means, np.inf).min(1) if gap else worst)

    return figure
