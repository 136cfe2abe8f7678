from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal

from ..settings import Count, NonNegative
from . import Desk, Judged, Maker, Pair


class Pairs(Maker):
    """Pairs of a better and a worse answer to the same prompt: the one way in which judged samples become preferences.

    Every two answers whose scores differ by more than ``margin`` are a pair, those with the widest gap first. Of equal texts
    only the first counts.

    Source: Tian et al. 2023, arXiv:2311.08401, sec. 3 (all pairs of different scores); Rafailov et al. 2023,
    arXiv:2305.18290 (the loss that they are for).

    Settings:
        margin: by how much the scores must differ at least; a difference of this size is not enough.
        take: ``all`` pairs, or of each prompt only that of the best and the worst, the ``extremes``.
        cap: most pairs of one prompt.
        gold: let the row's own answer be the better one of a pair with each sample below ``right``.
        right: the score from which on a sample is as good as the row's own answer.
    """

    pairs = True

    def __init__(
        self, *, margin: NonNegative = 0.0, take: Literal["all", "extremes"] = "all", cap: Count = 8, gold: bool = False,
        right: float = 1.0,
    ):  # fmt: skip
        self.margin = margin
        self.take = take
        self.cap = cap
        self.gold = gold
        self.right = right

    def __call__(self, judged: Sequence[Judged], desk: Desk) -> list[Pair]:
        cap = 1 if self.take == "extremes" else self.cap
        return [pair for one in judged for pair in islice(self._of(one), cap)]

    def _of(self, one: Judged) -> Iterator[Pair]:
        scores: dict[str, float] = {}
        for text, verdict in one.ranked():
            if text.strip():
                scores.setdefault(text.strip(), verdict.score)
        own = one.question.reference
        if self.gold and own is not None:
            for text in (t for t, score in reversed(scores.items()) if score < self.right and t != own.strip()):
                yield Pair(one.question, own, text)
        texts = list(scores)
        places = [(i, j) for i in range(len(texts)) for j in range(i + 1, len(texts))]
        gaps = {(i, j): scores[texts[i]] - scores[texts[j]] for i, j in places}
        for i, j in sorted(places, key=lambda place: -gaps[place]):
            if gaps[i, j] > self.margin:
                yield Pair(one.question, texts[i], texts[j])
