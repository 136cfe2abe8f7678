"""Judges: what is a written answer worth? One way to say so a file; the higher the score, the better the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from ..errors import InputError


@dataclass(frozen=True)
class Question:
    """A prompt with the answers that are to be judged.

    Attributes:
        prompt: what was asked, as text.
        row: the row that it came from.
        reference: the row's own answer; None where it has none.
        samples: the answers.
    """

    prompt: str
    row: Mapping[str, Any]
    reference: str | None
    samples: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What a judge says of one answer.

    Attributes:
        score: the more, the better; most judges give 0 to 1.
        feedback: why, in words; empty where there is nothing to say.
    """

    score: float
    feedback: str = ""


class Bench(Protocol):
    """What a judge may ask for. Whatever takes a model is loaded when it is first asked."""

    def log_probabilities(self, questions: Sequence[Question], *, base: bool, total: bool = False) -> list[np.ndarray]:
        """Mean log-probability of a token of each sample in nats, by the writing model or by its base: (samples,).

        With ``total`` it is the sum over the sample's tokens.
        """

    def predictions(self, run: str, texts: Sequence[tuple[str, str]]) -> list[Any]:
        """What another run says of pairs of texts: of both where its task has two columns, else of the second text."""

    def embeddings(self, base: str, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of texts, the mean last hidden state of an encoder: (texts, hidden)."""

    def context_attention(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """How much each answer attends to what the user said, for the head that does so most: 0 to 1, (samples,)."""


class Judge:
    """Scores answers. A judge that looks at one answer at a time has only `verdict` to define.

    Attributes:
        needs_reference: whether the rows must hold a right answer.
        measures: whether its mean over one answer a prompt says how good a model is; not where answers are judged by one
            another, or by the model that wrote them.
        compares: whether it judges the samples of a prompt by one another, and so needs several.
    """

    needs_reference: ClassVar[bool] = False
    measures = True
    compares: ClassVar[bool] = False

    def __call__(self, questions: Sequence[Question], bench: Bench) -> list[list[Verdict]]:
        """A verdict for each sample of each question.

        Raises:
            InputError: the rows lack what it reads, or a run that it asks does not fit.
        """
        return [[self.verdict(question, text) for text in question.samples] for question in questions]

    def verdict(self, question: Question, text: str) -> Verdict:
        """What it says of one answer."""
        raise NotImplementedError

    def check(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Whether these rows can be judged, before anything is written.

        Raises:
            InputError: a column is missing, or the user has not allowed what the judge does.
        """


def reference_of(question: Question, judge: Judge) -> str:
    """The right answer.

    Raises:
        InputError: the row has none.
    """
    if question.reference is None:
        raise InputError(
            f"judge {type(judge).__name__} needs a right answer", expected="a column with the completion",
            fix="name it with --column completion=NAME, or take a judge that needs none (self_consistency)",
        )  # fmt: skip
    return question.reference
