from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from ..data.rows import read
from ..evaluation.baselines import LinearProbe
from ..evaluation.metrics import Figure
from ..settings import Count
from . import ROWS, TEXT, Audit, Finding, Pair, Row
from ._compare import by_figure, by_metric, by_rows

GENERAL, OTHER = "packaged:bbc-news", "packaged:trec"
"""Rows of general text with a topic each, and those that stand in for them in a run on the first."""


class Forgetting(Audit):
    """What became of what the base knew: its loss on general text, or its sentence vectors and a task of no concern.

    A decoder that writes is measured by its loss on held-out general text. Of the others the sentence vectors of such
    texts are compared, by one minus their linear CKA (Kornblith et al. 2019) and by the cosine of each with its
    former self, and a linear probe for the topic of the texts is fitted on the base's vectors and on the tuned ones.

    Source: Luo et al. 2023, arXiv:2308.08747 (forgetting); Kornblith et al. 2019, arXiv:1905.00414 (linear CKA).

    Settings:
        text: rows with a ``text`` and, for the probe, a ``label``; None takes packaged news with their topics.
        rows: texts that are measured.
        tokens: tokens of each text that a language model reads.
        words: words of each text whose vector is taken.
        fitted: texts on which the probe is fitted.
    """

    tasks: ClassVar[tuple[str, ...]] = (*ROWS, *TEXT)

    def __init__(
        self, *, text: str | None = None, rows: Count = 120, tokens: Count = 128, words: Count = 32, fitted: Count = 180
    ):
        self.text, self.rows, self.tokens, self.words, self.fitted = text, rows, tokens, words, fitted

    def reads(self, source: str) -> list[str]:
        return [self.text or (OTHER if source == GENERAL else GENERAL)]

    def __call__(self, pair: Pair) -> list[Finding]:
        table = read(self.reads(pair.source)[0])
        table.column("text")
        drawn = np.random.default_rng(pair.seed).permutation(len(table))
        if pair.task.name in TEXT and pair.architecture == "decoder":
            return [self._loss(pair, [str(table[int(i)]["text"]) for i in drawn[: self._few]])]
        chosen = [table[int(i)] for i in drawn[: self.rows + self.fitted]]
        return self._vectors(pair, chosen)

    @property
    def _few(self) -> int:
        """A language model is larger, and its texts longer: a fifth of the texts gives as many tokens."""
        return max(6, self.rows // 5)

    def _loss(self, pair: Pair, texts: list[str]) -> Finding:
        base, tuned = (pair.losses(texts, tuned=t, tokens=self.tokens) for t in (False, True))
        return by_metric(pair, "loss", base, tuned, who="the base on general text")

    def _vectors(self, pair: Pair, rows: Sequence[Row]) -> list[Finding]:
        texts = [" ".join(str(row["text"]).split()[: self.words]) for row in rows]
        base, tuned = (pair.features(texts, tuned=t) for t in (False, True))
        asked, fitted = np.split(np.arange(len(rows)), [min(self.rows, len(rows) * 2 // 3)])
        x, y, size = base[asked].astype(float), tuned[asked].astype(float), len(asked)
        norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
        turned = np.round(1 - (x * y).sum(1) / np.maximum(norms, 1e-12), 6)
        findings = [
            by_figure(pair, "cka_drift", lambda w: np.zeros(len(w)), _drift(x, y), size, greater=None, who="the base"),
            by_rows(pair, "cosine_drift", np.zeros(size), turned, greater=None, who="the base"),
        ]
        if "label" not in rows[0] or len({str(rows[i]["label"]) for i in fitted}) < 2:
            return findings
        names = sorted({str(row["label"]) for row in rows})
        classes = [names.index(str(row["label"])) for row in rows]
        said = [
            LinearProbe(vectors[fitted], [classes[i] for i in fitted], names, seed=pair.seed).answers(
                vectors[asked], [classes[i] for i in asked]
            )
            for vectors in (base, tuned)
        ]
        right = [np.array(a.references) == np.array(a.predictions) for a in said]
        return [*findings, by_rows(pair, "other_task_accuracy", right[0], right[1], greater=True, who="the base")]


def _drift(x: np.ndarray, y: np.ndarray) -> Figure:
    """One minus the linear CKA of two sets of vectors, as a function of the rows' weights.

    Only pairs of different rows count: a resample holds rows twice, and a row always agrees with itself.
    """
    one, two = (centred @ centred.T for centred in (x - x.mean(0), y - y.mean(0)))
    for gram in (one, two):
        np.fill_diagonal(gram, 0.0)
    products = (one * two, one * one, two * two)

    def figure(weights: np.ndarray) -> np.ndarray:
        both, first, second = (((weights @ p) * weights).sum(1) for p in products)
        below = np.sqrt(first * second)
        return np.round(1 - np.divide(both, below, out=np.ones_like(both), where=below > 0), 6)

    return figure
