from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from ..errors import InputError
from ..settings import Share
from . import Bench, Judge, Question, Verdict
from ._texts import groups, normal


class SemanticEntropy(Judge):
    """How sure a model is of what it means: 1 less the entropy of the meanings of its samples, over its greatest value.

    Samples are grouped by meaning. The entropy is ``-sum p log p`` over the groups, ``p`` the share of the samples in
    each, and its greatest value the logarithm of the number of samples; every sample of a prompt gets the same score.

    Source: Kuhn et al. 2023, arXiv:2302.09664; shares in place of sequence probabilities as in Farquhar et al. 2024,
    doi:10.1038/s41586-024-07421-0.

    Settings:
        by: what makes two samples the same: the normalised ``text``; ``entailment`` in both directions, by a run of
            task ``pair``; or an ``embedding`` whose cosine is at least ``least``.
        run: folder of the run that judges entailment.
        label: its class for entailment.
        base: the encoder that embeds.
        least: the cosine from which on two samples mean the same.
    """

    measures = False
    compares = True

    def __init__(
        self, *, by: Literal["text", "entailment", "embedding"] = "text", run: str = "", label: str = "entailment",
        base: str = "minilm-l6", least: Share = 0.85,
    ):  # fmt: skip
        if by == "entailment" and not run:
            raise InputError(
                "judge semantic_entropy names no run", expected="judge.semantic_entropy.run, of task pair",
                fix="or by: text, or by: embedding",
            )  # fmt: skip
        self.by = by
        self.run, self.label = run, label
        self.base, self.least = base, least

    def __call__(self, questions: Sequence[Question], bench: Bench) -> list[list[Verdict]]:
        return [self._verdicts(owners) for owners in self.meanings(questions, bench)]

    def meanings(self, questions: Sequence[Question], bench: Bench) -> list[list[int]]:
        """The group of each sample of each question, numbered in the order in which they come up."""
        if self.by == "embedding":
            return [self._embedded(question.samples, bench) for question in questions]
        if self.by == "entailment":
            return [self._entailed(question, bench) for question in questions]
        return [_written([normal(s) for s in question.samples]) for question in questions]

    def _embedded(self, samples: Sequence[str], bench: Bench) -> list[int]:
        vectors = bench.embeddings(self.base, samples)
        near = vectors @ vectors.T >= self.least
        return groups(samples, lambda i, j: bool(near[i, j]))

    def _entailed(self, question: Question, bench: Bench) -> list[int]:
        """Both directions, of answers that stand behind their question as the paper has it."""
        texts = [f"{question.prompt} {s}" for s in question.samples]
        places = [(i, j) for i in range(len(texts)) for j in range(len(texts)) if i != j and texts[i] != texts[j]]
        said = bench.predictions(self.run, [(texts[i], texts[j]) for i, j in places])
        entails = {place for place, one in zip(places, said, strict=True) if one.get("label") == self.label}
        return groups(texts, lambda i, j: texts[i] == texts[j] or {(i, j), (j, i)} <= entails)

    def _verdicts(self, owners: Sequence[int]) -> list[Verdict]:
        shares = [count / len(owners) for count in Counter(owners).values()]
        entropy = -sum(p * math.log(p) for p in shares)
        score = 1 - entropy / math.log(len(owners)) if len(owners) > 1 else 1.0
        return [Verdict(score, f"{len(shares)} meanings in {len(owners)} samples")] * len(owners)


def _written(keys: Sequence[str]) -> list[int]:
    return groups(keys, lambda i, j: keys[i] == keys[j])
