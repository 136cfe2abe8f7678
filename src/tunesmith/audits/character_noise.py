from __future__ import annotations

import random
from typing import ClassVar

from ..settings import Count, Share
from . import ROWS, Audit, Finding, Pair
from ._compare import by_rows, errors, lost
from ._texts import changed


class CharacterNoise(Audit):
    """What typing mistakes cost: letters swapped, dropped, doubled or replaced in some words of held-out rows.

    A model that is seldom right has little to lose: read the figure beside the scores.

    Source: Belinkov and Bisk 2018, arXiv:1711.02173.

    Settings:
        rows: held-out rows that are measured.
        share: share of the words that get a mistake.
    """

    tasks: ClassVar[tuple[str, ...]] = (*ROWS, "generate", "chat")

    def __init__(self, *, rows: Count = 200, share: Share = 0.3):
        self.rows, self.share = rows, share

    def __call__(self, pair: Pair) -> list[Finding]:
        rows = pair.held_out(self.rows if pair.task.name in ROWS else max(6, self.rows // 8))
        draw = random.Random(pair.seed)
        noisy = [changed(pair.task, row, lambda text: self.mistyped(text, draw)) for row in rows]
        added = [
            errors(pair.task, pair.answers(noisy, tuned=t)) - errors(pair.task, pair.answers(rows, tuned=t))
            for t in (False, True)
        ]
        return [by_rows(pair, lost(pair.task, "noise"), added[0], added[1])]

    def mistyped(self, text: str, draw: random.Random) -> str:
        """The text with a mistake in some of its words; white space stays."""
        pieces = text.split(" ")
        return " ".join(_slip(p, draw) if len(p) > 2 and draw.random() < self.share else p for p in pieces)


def _slip(word: str, draw: random.Random) -> str:
    """One mistake behind the first letter."""
    i = draw.randrange(1, len(word) - 1)
    kind = draw.choice(("swap", "drop", "double", "replace"))
    if kind == "swap":
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    if kind == "drop":
        return word[:i] + word[i + 1 :]
    return word[:i] + (word[i] * 2 if kind == "double" else draw.choice("abcdefghijklmnopqrstuvwxyz")) + word[i + 1 :]
