from __future__ import annotations

from collections.abc import Sequence

from . import Bench, Judge, Question, Verdict


class Likelihood(Judge):
    """The mean log-probability of an answer's tokens, in nats: how much the writing model, or its base, believes it.

    Source: Kadavath et al. 2022, arXiv:2207.05221 (models' own probabilities as a measure of what they know).

    Settings:
        base: ask the base model in place of the one that wrote.
    """

    measures = False

    def __init__(self, *, base: bool = False):
        self.base = base

    def __call__(self, questions: Sequence[Question], bench: Bench) -> list[list[Verdict]]:
        found = bench.log_probabilities(questions, base=self.base)
        return [[Verdict(float(value)) for value in values] for values in found]
