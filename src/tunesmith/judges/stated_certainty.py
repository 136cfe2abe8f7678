from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from . import Bench, Judge, Question, Verdict


class StatedCertainty(Judge):
    """How sure a model says that it is of an answer: the probability that it goes on with sure rather than with unsure.

    The question stands behind the answer. A model that the maker certainty tuned has learnt to be right in this; asked of
    another model it is a question without training.

    Source: Zhang et al. 2023, arXiv:2311.09677, sec. 3 (R-Tuning, how its certainty is read).

    Settings:
        question: what stands between the answer and the certainty, as the maker has it.
        sure: how the model says that it is sure.
        unsure: how it says that it is not.
    """

    measures = False

    def __init__(
        self, *,
        question: str = "Are you sure you accurately answered the question based on your internal knowledge?",
        sure: str = "I am sure.", unsure: str = "I am unsure.",
    ):  # fmt: skip
        self.question = question
        self.ends = (sure, unsure)

    def __call__(self, questions: Sequence[Question], bench: Bench) -> list[list[Verdict]]:
        asked = [replace(q, samples=tuple(self._asked(q.samples))) for q in questions]
        found = bench.log_probabilities(asked, base=False, total=True)
        return [
            [Verdict(_share(sure, unsure)) for sure, unsure in zip(totals[::2], totals[1::2], strict=True)]
            for totals in found
        ]

    def _asked(self, samples: Sequence[str]) -> Iterator[str]:
        """Each sample with either end behind it; all that stands before the end is the same."""
        return (f"{text.strip()}\n{self.question} {end}" for text in samples for end in self.ends)


def _share(one: float, two: float) -> float:
    """``exp(one) / (exp(one) + exp(two))``.

    >>> _share(-1.0, -1.0), _share(-1000.0, 0.0)
    (0.5, 0.0)
    """
    return 1 / (1 + math.exp(two - one)) if two - one < 700 else 0.0
