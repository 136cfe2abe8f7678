from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import Literal

from ..judges._texts import sentences
from ..settings import Whole
from . import Answer, Desk, Judged, Maker, Pair

_NAMES = re.compile(r"\b(?:[A-Z][a-z]+(?: [A-Z][a-z]+)*|\d[\d,.]*\d|\d)\b")


class Corrupt(Maker):
    """Pairs of the row's own answer and of one that was made worse: with a fact left out, altered, or out of order.

    A fact is a sentence, where the paper has a large model extract triples. An altered answer has one name or number of
    another row's answer in the place of one of its own.

    Source: Lyu et al. 2024, arXiv:2402.11176 (KnowTuning, its implicit stage).

    Settings:
        ways: how answers are made worse: ``delete``, ``alter``, ``shuffle``; each gives a pair where it can.
        seed: seed of what is left out, put in and put elsewhere.
    """

    pairs = True
    needs_reference = True

    def __init__(
        self, *, ways: list[Literal["delete", "alter", "shuffle"]] = ["delete", "alter", "shuffle"],  # noqa: B006
        seed: Whole = 0,
    ):  # fmt: skip
        self.ways = ways
        self.seed = seed

    def __call__(self, judged: Sequence[Judged], desk: Desk) -> Sequence[Answer | Pair]:
        owns = [one.question.reference or "" for one in judged]
        names = sorted({name for own in owns for name in _names(own)})
        made = []
        for one, own in zip(judged, owns, strict=True):
            draw = random.Random(f"{self.seed}|{one.question.prompt}")
            made += [Pair(one.question, own, worse) for worse in self._worse(own, names, draw) if worse != own]
        return made

    def _worse(self, own: str, names: Sequence[str], draw: random.Random) -> Iterator[str]:
        facts = sentences(own)
        if "delete" in self.ways and len(facts) > 1:
            left_out = draw.randrange(len(facts))
            yield " ".join(f for i, f in enumerate(facts) if i != left_out)
        mine = _names(own)
        others = [n for n in names if n not in mine]
        swaps = [(old, new) for old in mine for new in others if old[0].isdigit() == new[0].isdigit()]
        if "alter" in self.ways and swaps:
            old, new = draw.choice(swaps)
            yield re.sub(rf"\b{re.escape(old)}\b", new, own)
        if "shuffle" in self.ways and len(set(facts)) > 1:
            order = list(range(len(facts)))
            while [facts[i] for i in order] == facts:
                draw.shuffle(order)
            yield " ".join(facts[i] for i in order)


def _names(text: str) -> list[str]:
    """Numbers, and words in capitals that do not begin a sentence.

    >>> _names("The tower stands in Paris. It has 330 metres.")
    ['Paris', '330']
    """
    starts = {0} | {m.end() for m in re.finditer(r"[.!?]\s+|\n+", text)}
    return [m[0] for m in _NAMES.finditer(text) if m.start() not in starts or m[0][0].isdigit()]
