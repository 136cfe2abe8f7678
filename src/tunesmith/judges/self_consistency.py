from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from . import Bench, Judge, Question, Verdict
from ._texts import normal, number


class SelfConsistency(Judge):
    """How many of the samples give the same answer. It needs no right one.

    Source: Wang et al. 2022, arXiv:2203.11171.

    Settings:
        by: what must be the same: the normalised ``text``, or the ``number`` that an answer ends on.
        form: the ``share`` of the samples that agree with an answer; or the ``majority``: 1 for those of the largest
            group and 0 for all others. Of groups of the same size the first counts.
    """

    measures = False
    compares = True

    def __init__(self, *, by: Literal["text", "number"] = "text", form: Literal["share", "majority"] = "majority"):
        self.by = by
        self.form = form

    def __call__(self, questions: Sequence[Question], bench: Bench) -> list[list[Verdict]]:
        return [self._of(question.samples) for question in questions]

    def _of(self, samples: Sequence[str]) -> list[Verdict]:
        keys = [number(s) if self.by == "number" else normal(s) or None for s in samples]
        counts = Counter(key for key in keys if key is not None)
        if self.form == "share":
            return [Verdict(counts[key] / len(keys) if key is not None else 0.0) for key in keys]
        most = counts.most_common(1)[0][0] if counts else None
        return [Verdict(float(key is not None and key == most)) for key in keys]
