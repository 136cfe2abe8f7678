"""Audits: what did tuning break? One question a file, asked of base and tuned model on the same rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from ..data.tasks import Task
from ..evaluation.answers import Answers, Measured
from ..evaluation.intervals import verdict
from ..evaluation.wording import sentence

Row = Mapping[str, Any]

ROWS = ("classify", "pair", "regress", "tag")
"""Tasks with an answer a row, or a word, that a linear probe on the base can give too."""

TEXT = ("generate", "chat", "lm")
"""Tasks of language models, whose base answers by itself."""


class Pair(Protocol):
    """Base and tuned model of a run, and its rows. Whatever is asked is computed once, when it is first asked for."""

    @property
    def task(self) -> Task:
        """What the rows ask for."""

    @property
    def architecture(self) -> str:
        """``encoder``, ``decoder`` or ``encoder-decoder``."""

    @property
    def source(self) -> str:
        """Where the run's rows come from."""

    @property
    def group(self) -> str | None:
        """The column of groups that the recipe names."""

    @property
    def seed(self) -> int:
        """Every random choice of an audit comes from it."""

    @property
    def base_name(self) -> str:
        """Who answers for the base: a probe on its frozen features, or the base itself."""

    def held_out(self, count: int | None = None) -> list[Row]:
        """At most so many held-out rows, in an order drawn by the seed; None gives all."""

    def training(self, count: int) -> list[Row]:
        """At most so many training rows, drawn by the seed; a probe on the base has been fitted on them."""

    def answers(self, rows: Sequence[Row], *, tuned: bool) -> Answers:
        """What the model says of rows of the run's task; of a plain text (``lm``) its first piece only."""

    def features(self, texts: Sequence[str], *, tuned: bool) -> np.ndarray:
        """The mean last hidden state of each text, shape (texts, hidden)."""

    def losses(self, texts: Sequence[str], *, tuned: bool, tokens: int) -> Answers:
        """A language model's summed loss and number of tokens of each text's first ``tokens`` tokens."""

    def write(self, prompts: Sequence[str], *, tuned: bool, tokens: int) -> list[tuple[str, bool]]:
        """What a language model writes after each prompt, and whether it stopped by itself."""

    def neighbours(self, words: Sequence[str], count: int) -> dict[str, list[str]]:
        """The words nearest to each in the base's own embedding table, nearest first; none for unknown words."""


@dataclass(frozen=True)
class Finding:
    """One figure of an audit.

    Attributes:
        figure: its name; ``evaluation.wording`` knows its unit.
        base, tuned: its value for each.
        change: tuned minus base with its paired interval.
        who: who answered for the base.
    """

    figure: str
    base: float
    tuned: float
    change: Measured
    who: str = "the base"

    @property
    def rows(self) -> int:
        """Number of rows, texts or prompts that it stands on."""
        return self.change.rows

    @property
    def verdict(self) -> str:
        """What may be said; see `evaluation.intervals.verdict`."""
        return verdict(self.change)

    def to_dict(self) -> dict[str, Any]:
        """As ``report.json`` has it; an end that an interval does not have is None."""
        change = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self.change).items()}
        change["verdict"] = self.verdict
        words = sentence(self.figure, self.who, change)
        return {"figure": self.figure, "base": self.base, "tuned": self.tuned, "change": change, "words": words}


class Audit:
    """A question of base and tuned model.

    Attributes:
        tasks: names of the tasks that it can be asked of.
    """

    tasks: ClassVar[tuple[str, ...]] = ()

    def applies(self, task: Task) -> bool:
        """Whether it has an answer for this task."""
        return task.name in self.tasks

    def lacks(self, pair: Pair) -> str:
        """Why it has no answer for this run, or an empty string; computes nothing."""
        return "" if self.applies(pair.task) else f"it has no answer for the task {pair.task.name}"

    def reads(self, source: str) -> list[str]:
        """Rows that it reads beside the run's own, which come from ``source``; opened before anything is trained."""
        return []

    def __call__(self, pair: Pair) -> list[Finding]:
        """What was found."""
        raise NotImplementedError
