from __future__ import annotations

from collections.abc import Sequence

from . import Bench, Judge, Question, Verdict


class ContextDependency(Judge):
    """How much an answer reads what the user said: the attention that its tokens pay to the user's words.

    The attention on all of the user's tokens is summed, averaged over the answer's tokens, and taken for the head in
    which it is greatest. The writing model measures, so it should be one that was tuned on such rows before.

    Source: Wang et al. 2024, arXiv:2411.02688.
    """

    measures = False

    def __call__(self, questions: Sequence[Question], bench: Bench) -> list[list[Verdict]]:
        return [[Verdict(float(v)) for v in values] for values in bench.context_attention(questions)]
