from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError
from ..settings import Share
from . import Bench, Judge, Question, Verdict
from ._texts import sentences, words


class Claims(Judge):
    """The share of an answer's claims that hold: those that a reference supports or, without one, the other samples.

    A claim is a sentence. It holds where one sentence of the reference (or of another sample) has at least ``overlap`` of its
    words. Without a reference a claim's score is the share of the other samples in which it holds. The paper has a large
    model split and check claims, and asks for each of them anew; words are compared here, which sees no paraphrase.

    Source: Tian et al. 2023, arXiv:2311.08401, sec. 3.

    Settings:
        facts: the rows' column with the reference, one text or a list of sentences; empty to ask the other samples.
        overlap: share of a claim's words that must stand in the supporting sentence.
    """

    def __init__(self, *, facts: str = "", overlap: Share = 0.8):
        self.facts = facts
        self.overlap = overlap
        self.measures = bool(facts)

    def check(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if self.facts and any(not row.get(self.facts) for row in rows):
            raise InputError(f"a row has nothing in column {self.facts!r}", expected="facts in every row")

    def __call__(self, questions: Sequence[Question], bench: Bench) -> list[list[Verdict]]:
        self.check([question.row for question in questions])
        return [[self._of(question, i) for i in range(len(question.samples))] for question in questions]

    def _of(self, question: Question, place: int) -> Verdict:
        claims = [words(s) for s in sentences(question.samples[place])]
        claims = [claim for claim in claims if claim]
        if not claims:
            return Verdict(0.0, "0 of 0 claims")
        if self.facts:
            facts = question.row[self.facts]
            sources = [sentences(facts) if isinstance(facts, str) else list(facts)]
        else:
            sources = [sentences(s) for i, s in enumerate(question.samples) if i != place]
        held = [[self._holds(claim, [words(s) for s in source]) for source in sources] for claim in claims]
        scores = [sum(one) / max(1, len(one)) for one in held]
        return Verdict(sum(scores) / len(scores), f"{sum(s >= 0.5 for s in scores)} of {len(scores)} claims")

    def _holds(self, claim: set[str], source: Sequence[set[str]]) -> bool:
        return any(len(claim & sentence) >= self.overlap * len(claim) for sentence in source)
