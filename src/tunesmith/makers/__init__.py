"""Makers: from judged answers to rows that a model is tuned on. One way to choose or write them a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from ..judges import Question, Verdict


@dataclass(frozen=True)
class Judged:
    """A question with a verdict for each of its samples."""

    question: Question
    verdicts: tuple[Verdict, ...]

    def ranked(self) -> Iterator[tuple[str, Verdict]]:
        """Samples with their verdicts, the best first; of the same score the earlier one first."""
        order = sorted(range(len(self.verdicts)), key=lambda i: -self.verdicts[i].score)
        return ((self.question.samples[i], self.verdicts[i]) for i in order)


@dataclass(frozen=True)
class Answer:
    """A row for supervised tuning: the question's prompt, or another one in its place, and what is to be written.

    ``good`` says of a rated answer whether it is a good one.
    """

    question: Question
    completion: str
    prompt: str | None = None
    good: bool | None = None


@dataclass(frozen=True)
class Pair:
    """A row for a preference loss."""

    question: Question
    chosen: str
    rejected: str


class Desk(Protocol):
    """What a maker may ask for."""

    def write(self, prompts: Sequence[str]) -> list[str]:
        """What the writing model says to each prompt, always the likeliest token."""

    def judge(self, questions: Sequence[Question]) -> list[list[Verdict]]:
        """What the judge says of these samples."""


class Maker:
    """Makes rows of judged answers.

    Attributes:
        pairs: whether it makes pairs for a preference loss rather than answers.
        rates: whether it says of each answer if it is good, for a loss over good and bad answers.
        needs_reference: whether the rows must hold answers of their own.
    """

    pairs: ClassVar[bool] = False
    rates: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = False

    def __call__(self, judged: Sequence[Judged], desk: Desk) -> Sequence[Answer | Pair]:
        """The rows of one round."""
        raise NotImplementedError

    def ask(self, prompt: str) -> str:
        """A prompt as it is put to the tuned model, where it was trained to be asked in a form of its own."""
        return prompt

    def said(self, text: str) -> str:
        """The answer in what the tuned model writes, where it was trained to add something."""
        return text
