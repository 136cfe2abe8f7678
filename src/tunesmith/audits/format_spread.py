from __future__ import annotations

import random
from itertools import product
from typing import Any, ClassVar

import numpy as np

from ..evaluation.metrics import Figure
from ..settings import Count
from . import Audit, Finding, Pair, Row
from ._compare import by_figure
from ._texts import changed

NAMES = (("", ""), ("Question", "Answer"), ("Input", "Output"), ("Instruction", "Response"), ("Task", "Solution"))
SEPARATORS = (": ", ":\n", " - ", "\n", " :: ")
SPACES = ("\n", "\n\n", " ")
CASES = (str, str.upper, str.lower)


class FormatSpread(Audit):
    """How far the loss of the reference answer moves when a prompt is only laid out in another way.

    Layouts are drawn from a small grammar (names of the parts, separators, spaces, casing); each is measured on the
    same rows. The figure is the highest mean loss of a token less the lowest.

    Source: Sclar et al. 2023, arXiv:2310.11324, with every drawn layout measured on all rows in place of its bandit.

    Settings:
        rows: held-out rows that are measured.
        formats: layouts, the plain one among them.
    """

    tasks: ClassVar[tuple[str, ...]] = ("generate", "chat")

    def __init__(self, *, rows: Count = 16, formats: Count = 5):
        self.rows, self.formats = rows, formats

    def __call__(self, pair: Pair) -> list[Finding]:
        rows = pair.held_out(self.rows)
        frames = _layouts(self.formats, pair.seed)
        spreads = []
        for tuned in (False, True):
            said = [pair.answers([_laid_out(pair, row, frame) for row in rows], tuned=tuned) for frame in frames]
            spreads.append(_spread(np.array([a.loss for a in said]), np.array([a.units for a in said])))
        return [by_figure(pair, "format_spread", spreads[0], spreads[1], len(rows))]


def _laid_out(pair: Pair, row: Row, frame: str) -> dict[str, Any]:
    """The row with its prompt, or all that the user says, in this layout; a separate input stays as it is."""
    if pair.task.name == "chat":
        return changed(pair.task, row, frame.__mod__)
    column = pair.task.columns["prompt"]
    return {**row, column: frame % row[column]}


def _layouts(count: int, seed: int) -> list[str]:
    """The plain layout, then others in an order drawn by the seed; ``%s`` is where the prompt goes.

    >>> _layouts(2, 0)[0]
    '%s'
    """
    every = [
        f"{case(one)}{separator}%s{space}{case(two)}{separator.rstrip()}"
        for (one, two), separator, space, case in product(NAMES[1:], SEPARATORS, SPACES, CASES)
    ]
    random.Random(seed).shuffle(every)
    return ["%s", *every][:count]


def _spread(loss: np.ndarray, units: np.ndarray) -> Figure:
    """Highest less lowest mean loss over layouts, of (layouts, rows), as a function of the rows' weights."""

    def figure(weights: np.ndarray) -> np.ndarray:
        means = (weights @ loss.T) / np.maximum(weights @ units.T, 1e-9)
        return np.asarray(means.max(1) - means.min(1))

    return figure
