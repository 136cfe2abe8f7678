from __future__ import annotations

from collections.abc import Sequence

from . import Answer, Desk, Judged, Maker


class Rated(Maker):
    """Every answer with whether it is good, for losses that learn from bad answers too and need no pairs.

    Those are kto and unlikelihood. Of equal answers to one prompt only the first counts.

    Source: Ethayarajh et al. 2024, arXiv:2402.01306, sec. 3 (KTO's data); Korbak et al. 2023, arXiv:2302.08582 (rated
    text for unlikelihood).

    Settings:
        least: least score of a good answer.
    """

    rates = True

    def __init__(self, *, least: float = 1.0):
        self.least = least

    def __call__(self, judged: Sequence[Judged], desk: Desk) -> list[Answer]:
        made = []
        for one in judged:
            scores: dict[str, float] = {}
            for text, verdict in one.ranked():
                scores.setdefault(text.strip(), verdict.score)
            made += [Answer(one.question, t, good=score >= self.least) for t, score in scores.items() if t]
        return made
