from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from . import Answer, Desk, Judged, Maker


class Abstain(Maker):
    """A refusal where the model does not know, and an answer where it does.

    It does not know where its best sample is scored below ``least``; with the judge semantic_entropy that takes no right
    answers. The paper chooses its threshold by the spread of the entropies.

    Source: Tjandra et al. 2024, arXiv:2410.17234.

    Settings:
        least: least score of a prompt that is answered.
        refusal: what is said elsewhere.
        keep: the answer that is trained: the row's own (``gold``), or the model's best (``own``).
    """

    def __init__(
        self, *, least: float = 0.5, refusal: str = "I don't know.", keep: Literal["gold", "own"] = "gold"
    ):  # fmt: skip
        self.least = least
        self.refusal = refusal
        self.keep = keep

    def __call__(self, judged: Sequence[Judged], desk: Desk) -> list[Answer]:
        made = []
        for one in judged:
            text, verdict = next(one.ranked())
            answer = (one.question.reference or text) if self.keep == "gold" else text
            made.append(Answer(one.question, answer if verdict.score >= self.least and answer else self.refusal))
        return made
