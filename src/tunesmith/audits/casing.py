from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..settings import Count
from . import ROWS, Audit, Finding, Pair
from ._compare import by_rows, errors, lost
from ._texts import changed


class Casing(Audit):
    """What capital letters cost: held-out rows once all in capitals and once all in small letters.

    A base whose tokenizer reads small letters only loses nothing, and neither does a script without capitals.

    Source: Ribeiro et al. 2020, arXiv:2005.04118 (invariance tests).

    Settings:
        rows: held-out rows that are measured.
    """

    tasks: ClassVar[tuple[str, ...]] = (*ROWS, "generate", "chat")

    def __init__(self, *, rows: Count = 200):
        self.rows = rows

    def __call__(self, pair: Pair) -> list[Finding]:
        rows = pair.held_out(self.rows if pair.task.name in ROWS else max(6, self.rows // 8))
        variants = [[changed(pair.task, row, change) for row in rows] for change in (str.upper, str.lower)]
        added = []
        for tuned in (False, True):
            plain = errors(pair.task, pair.answers(rows, tuned=tuned))
            turned = [errors(pair.task, pair.answers(v, tuned=tuned)) for v in variants]
            added.append(np.mean(turned, axis=0) - plain)
        return [by_rows(pair, lost(pair.task, "casing"), added[0], added[1])]
