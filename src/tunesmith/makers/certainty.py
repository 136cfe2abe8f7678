from __future__ import annotations

from collections.abc import Sequence

from . import Answer, Desk, Judged, Maker


class Certainty(Maker):
    """The row's answer, and behind it whether the model knew it: sure where its best sample was right, else unsure.

    What the tuned model says of its certainty tells which of its answers to trust.

    Source: Zhang et al. 2023, arXiv:2311.09677, sec. 3 (R-Tuning). With a judge that asks the samples for agreement in place of
    the right answer it is the paper's R-Tuning-U, which says the model's own answer where no row has one.

    Settings:
        least: least score of an answer that the model knew.
        question: what stands between the answer and the certainty.
        sure: how the model says that it is sure.
        unsure: how it says that it is not.
    """

    def __init__(
        self, *, least: float = 1.0,
        question: str = "Are you sure you accurately answered the question based on your internal knowledge?",
        sure: str = "I am sure.", unsure: str = "I am unsure.",
    ):  # fmt: skip
        self.least = least
        self.question = question
        self.sure, self.unsure = sure, unsure

    def __call__(self, judged: Sequence[Judged], desk: Desk) -> list[Answer]:
        made = []
        for one in judged:
            text, verdict = next(one.ranked())
            known = self.sure if verdict.score >= self.least else self.unsure
            said = one.question.reference or text
            made.append(Answer(one.question, f"{said.strip()}\n{self.question} {known}"))
        return made

    def said(self, text: str) -> str:
        return text.partition(self.question)[0].strip()
