from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError
from . import Bench, Judge, Question, Verdict


class Scorer(Judge):
    """What another run says of an answer: a number, or the probability of a class.

    A run of task ``regress`` gives its number, one of task ``classify`` or ``pair`` the probability of ``label``. A run
    that reads two texts is given prompt and answer, one that reads one text the answer.

    Source: Stiennon et al. 2020, arXiv:2009.01325 (a model of rewards, apart from the one that writes).

    Settings:
        run: folder of the run.
        label: the class whose probability is the score.
    """

    def __init__(self, *, run: str = "", label: str = ""):
        self.run = run
        self.label = label

    def check(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if not self.run:
            raise InputError("judge scorer names no run", expected="judge.scorer.run", fix="give the folder of a run")

    def __call__(self, questions: Sequence[Question], bench: Bench) -> list[list[Verdict]]:
        self.check([])
        said = iter(bench.predictions(self.run, [(q.prompt, text) for q in questions for text in q.samples]))
        return [[Verdict(self._score(next(said))) for _ in q.samples] for q in questions]

    def _score(self, said: Any) -> float:
        if isinstance(said, float):
            return said
        shares = said.get("probabilities", {}) if isinstance(said, dict) else {}
        if self.label not in shares:
            raise InputError(
                f"judge.scorer.label is {self.label!r}", where=self.run,
                expected=f"one of {', '.join(shares)}" if shares else "a run of task classify, pair or regress",
            )  # fmt: skip
        return float(shares[self.label])
