from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..settings import Share
from . import Answer, Desk, Judged, Maker


class MarkContext(Maker):
    """The rows' own answers, with a mark behind the prompts whose answers read the context most.

    The tuned model is asked with the mark where the context must be used. For the judge context_dependency, on the rows'
    own answers (``samples: 0``).

    Source: Wang et al. 2024, arXiv:2411.02688.

    Settings:
        share: share of the prompts that are marked, those with the highest scores.
        mark: what stands behind them.
    """

    needs_reference = True

    def __init__(self, *, share: Share = 0.5, mark: str = " [CONTEXT]"):
        self.share = share
        self.mark = mark

    def __call__(self, judged: Sequence[Judged], desk: Desk) -> list[Answer]:
        scores = np.array([max(v.score for v in one.verdicts) for one in judged])
        marked = set(np.argsort(-scores, kind="stable")[: round(self.share * len(judged))].tolist())
        return [
            Answer(one.question, one.question.reference or "", self.ask(one.question.prompt) if i in marked else None)
            for i, one in enumerate(judged)
        ]

    def ask(self, prompt: str) -> str:
        return prompt + self.mark
