from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from ..settings import Count
from . import Answer, Desk, Judged, Maker

_EQUATION = re.compile(r"[-+*/().\d\s]*\d[-+*/().\d\s]*=\s*-?[\d.,]*\d")


class Select(Maker):
    """Keep a model's own good answers: rejection sampling.

    ``cap`` answers at most of each prompt, the best first, none twice. With ``distinct: equations`` only one answer is kept of
    all that calculate the same, for different ways to the same result.

    Source: Singh et al. 2023, arXiv:2312.06585, sec. 3 (ReST-EM, with its cap); Yuan et al. 2023, arXiv:2308.01825
    (equations, and the rows' own answers besides).

    Settings:
        least: least score of an answer that is kept.
        cap: most answers of one prompt.
        distinct: what two kept answers may not share: their ``text``, or the list of their ``equations``.
        gold: keep the rows' own answers besides.
    """

    def __init__(
        self, *, least: float = 1.0, cap: Count = 4, distinct: Literal["text", "equations"] = "text", gold: bool = False
    ):
        self.least = least
        self.cap = cap
        self.distinct = distinct
        self.gold = gold

    def __call__(self, judged: Sequence[Judged], desk: Desk) -> list[Answer]:
        return [Answer(one.question, text) for one in judged for text in self._kept(one)]

    def _kept(self, one: Judged) -> Iterator[str]:
        seen = set()
        if self.gold and one.question.reference is not None:
            seen.add(self._key(one.question.reference))
            yield one.question.reference
        kept = 0
        for text, verdict in one.ranked():
            key = self._key(text)
            if verdict.score >= self.least and text.strip() and key not in seen and kept < self.cap:
                seen.add(key)
                kept += 1
                yield text

    def _key(self, text: str) -> str:
        """What makes two answers the same; one without equations is its text."""
        found = _EQUATION.findall(text) if self.distinct == "equations" else []
        return "|".join("".join(e.split()) for e in found) or text.strip()
