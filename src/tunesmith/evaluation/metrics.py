"""Metrics: one small class each. A metric first turns every row into a few counts, and then sums into its figure.

So a bootstrap resamples counts and never scores a row twice, and a figure over a whole set (an F1, a chrF) gets an
interval as cheaply as a mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ..errors import InputError


@dataclass
class Answers:
    """What a model said of some rows, beside what is right. Lists run over the rows.

    Attributes:
        references: what is right: a class index, a 0/1 vector, a number, tags, or a text.
        predictions: what the model said, in the same form; empty where nothing was predicted.
        probabilities: (rows, classes) where the model gives them.
        labels: names of the classes.
        loss: summed loss of each row in nats, for language models and taggers.
        units: supervised units of each row, to go with ``loss``.
        multi: whether a row can have several labels.
    """

    references: Sequence[Any]
    predictions: Sequence[Any] = ()
    probabilities: np.ndarray | None = None
    labels: Sequence[str] = ()
    loss: np.ndarray | None = None
    units: np.ndarray | None = None
    multi: bool = False

    def __len__(self) -> int:
        return len(self.references)


class Metric:
    """A figure of merit.

    Attributes:
        greater: whether more is better.
        needs: package that it takes; the extra ``metrics`` has it.
    """

    greater: ClassVar[bool] = True
    needs: ClassVar[str] = ""

    def counts(self, answers: Answers) -> np.ndarray:
        """A few numbers for each row, shape (rows, k)."""
        raise NotImplementedError

    def figure(self, sums: np.ndarray) -> np.ndarray:
        """The figure from sums of the counts over rows: (..., k) to (...)."""
        raise NotImplementedError


class Mean(Metric):
    """The mean of one number a row."""

    def figure(self, sums: np.ndarray) -> np.ndarray:
        return _ratio(sums[..., 0], sums[..., 1])

    def values(self, answers: Answers) -> np.ndarray:
        raise NotImplementedError

    def counts(self, answers: Answers) -> np.ndarray:
        values = np.asarray(self.values(answers), dtype=float)
        return np.stack([values, np.ones_like(values)], axis=1)


class Accuracy(Mean):
    """Share of rows whose answer is wholly right (of several labels: all of them)."""

    def values(self, answers: Answers) -> np.ndarray:
        pairs = zip(answers.references, answers.predictions, strict=True)
        return np.array([np.array_equal(r, p) for r, p in pairs], dtype=float)


class ExactMatch(Mean):
    """Share of texts that equal the reference but for white space at their ends."""

    def values(self, answers: Answers) -> np.ndarray:
        return np.array([r.strip() == p.strip() for r, p in zip(answers.references, answers.predictions, strict=True)])


class LogLoss(Mean):
    """Mean negative log-probability of the right class, in nats."""

    greater = False

    def values(self, answers: Answers) -> np.ndarray:
        return row_losses(answers)


class MacroF1(Metric):
    """Mean over classes of the F1 of each; a class that neither is nor was said counts for nothing.

    Source: Sokolova and Lapalme 2009, doi:10.1016/j.ipm.2009.03.002, table 3.
    """

    def counts(self, answers: Answers) -> np.ndarray:
        truth, said = _one_hot(answers, answers.references), _one_hot(answers, answers.predictions)
        return np.concatenate([truth * said, truth, said], axis=1).astype(np.float64)

    def figure(self, sums: np.ndarray) -> np.ndarray:
        right, truth, said = np.split(sums, 3, axis=-1)
        seen = (truth + said) > 0
        f1 = np.where(seen, _ratio(2 * right, truth + said), 0.0)
        return _ratio(f1.sum(-1), seen.sum(-1))


class MicroF1(MacroF1):
    """F1 over all labels of all rows together."""

    def figure(self, sums: np.ndarray) -> np.ndarray:
        right, truth, said = (part.sum(-1) for part in np.split(sums, 3, axis=-1))
        return _ratio(2 * right, truth + said)


class MCC(Metric):
    """Matthews' correlation of the answers with what is right, for any number of classes.

    Source: Gorodkin 2004, doi:10.1016/j.compbiolchem.2004.09.006, eq. 8.
    """

    def counts(self, answers: Answers) -> np.ndarray:
        truth, said = _one_hot(answers, answers.references), _one_hot(answers, answers.predictions)
        right = (truth * said).sum(1, keepdims=True)
        return np.concatenate([right, np.ones_like(right), truth, said], axis=1).astype(np.float64)

    def figure(self, sums: np.ndarray) -> np.ndarray:
        right, total = sums[..., 0], sums[..., 1]
        truth, said = np.split(sums[..., 2:], 2, axis=-1)
        above = right * total - (truth * said).sum(-1)
        below = np.sqrt((total**2 - (said**2).sum(-1)) * (total**2 - (truth**2).sum(-1)))
        return _ratio(above, below)


class Pearson(Metric):
    """Linear correlation of the predicted with the given numbers."""

    def counts(self, answers: Answers) -> np.ndarray:
        x, y = (np.asarray(v, dtype=float) for v in (answers.references, answers.predictions))
        x, y = x - x.mean(), y - y.mean()
        return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)

    def figure(self, sums: np.ndarray) -> np.ndarray:
        n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
        spread = np.clip(n * xx - x**2, 0, None) * np.clip(n * yy - y**2, 0, None)
        return _ratio(n * xy - x * y, np.sqrt(spread))


class Spearman(Pearson):
    """Correlation of the ranks; resamples keep the ranks of the whole set."""

    def counts(self, answers: Answers) -> np.ndarray:
        from scipy.stats import rankdata

        ranks = Answers(rankdata(answers.references), rankdata(answers.predictions))
        return super().counts(ranks)


class MAE(Mean):
    """Mean absolute error."""

    greater = False

    def values(self, answers: Answers) -> np.ndarray:
        return np.abs(np.asarray(answers.references, dtype=float) - np.asarray(answers.predictions, dtype=float))


class RMSE(MAE):
    """Root of the mean squared error."""

    def values(self, answers: Answers) -> np.ndarray:
        return super().values(answers) ** 2

    def figure(self, sums: np.ndarray) -> np.ndarray:
        return np.sqrt(super().figure(sums))


class SpanF1(Metric):
    """F1 over spans: a span is right if its kind, its first and its last word are. An I- that begins a span counts as B-.

    Tags without B- and I- are spans of one word; ``O`` is none.

    Source: Tjong Kim Sang and De Meulder 2003, arXiv:cs/0306050, sec. 2.
    """

    def counts(self, answers: Answers) -> np.ndarray:
        rows = []
        for reference, prediction in zip(answers.references, answers.predictions, strict=True):
            truth, said = spans(reference), spans(prediction)
            rows.append([len(truth & said), len(truth), len(said)])
        return np.array(rows, dtype=float)

    def figure(self, sums: np.ndarray) -> np.ndarray:
        return _ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


class TokenAccuracy(Metric):
    """Share of words whose tag is right."""

    def counts(self, answers: Answers) -> np.ndarray:
        pairs = zip(answers.references, answers.predictions, strict=True)
        return np.array([[sum(a == b for a, b in zip(r, p, strict=True)), len(r)] for r, p in pairs], dtype=float)

    def figure(self, sums: np.ndarray) -> np.ndarray:
        return _ratio(sums[..., 0], sums[..., 1])


class TokenLoss(Metric):
    """Mean negative log-likelihood of a supervised token, in nats."""

    greater = False

    def counts(self, answers: Answers) -> np.ndarray:
        assert answers.loss is not None and answers.units is not None
        return np.stack([answers.loss, answers.units.astype(float)], axis=1)

    def figure(self, sums: np.ndarray) -> np.ndarray:
        return _ratio(sums[..., 0], sums[..., 1])


class Perplexity(TokenLoss):
    """The exponential of the mean loss of a token."""

    def figure(self, sums: np.ndarray) -> np.ndarray:
        return np.exp(np.clip(super().figure(sums), None, 50))


class RougeL(Mean):
    """Mean F-measure of the longest common subsequence of words.

    Source: Lin 2004, aclanthology.org/W04-1013, sec. 3.1; by the library rouge-score.
    """

    needs = "rouge_score"

    def values(self, answers: Answers) -> np.ndarray:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(["rougeL"])
        pairs = zip(answers.references, answers.predictions, strict=True)
        return np.array([scorer.score(r, p)["rougeL"].fmeasure for r, p in pairs])


class ChrF(Metric):
    """Character n-gram F-score over all texts together, 0 to 100.

    Source: Popović 2015, aclanthology.org/W15-3049; by the library sacrebleu.
    """

    needs = "sacrebleu"

    def counts(self, answers: Answers) -> np.ndarray:
        from sacrebleu.metrics import CHRF

        scorer = CHRF()
        references = [[str(r) for r in answers.references]]
        statistics = scorer._extract_corpus_statistics([str(p) for p in answers.predictions], references)
        return np.array(statistics, dtype=float)

    def figure(self, sums: np.ndarray) -> np.ndarray:
        hypothesis, reference, match = np.moveaxis(sums.reshape(*sums.shape[:-1], -1, 3), -1, 0)
        precision, recall = _ratio(match, hypothesis), _ratio(match, reference)
        present = (hypothesis > 0) & (reference > 0)
        p = _ratio((precision * present).sum(-1), present.sum(-1))
        r = _ratio((recall * present).sum(-1), present.sum(-1))
        return 100 * _ratio(5 * p * r, 4 * p + r)


METRICS: Mapping[str, Metric] = {
    "accuracy": Accuracy(), "macro_f1": MacroF1(), "micro_f1": MicroF1(), "mcc": MCC(), "log_loss": LogLoss(),
    "pearson": Pearson(), "spearman": Spearman(), "rmse": RMSE(), "mae": MAE(), "span_f1": SpanF1(),
    "token_accuracy": TokenAccuracy(), "exact_match": ExactMatch(), "rouge_l": RougeL(), "chrf": ChrF(),
    "loss": TokenLoss(), "perplexity": Perplexity(),
}  # fmt: skip

_BY_TASK = {
    "classify": ("accuracy", "macro_f1", "mcc", "log_loss"),
    "pair": ("accuracy", "macro_f1", "mcc", "log_loss"),
    "multi": ("micro_f1", "macro_f1", "accuracy", "log_loss"),
    "regress": ("pearson", "spearman", "rmse", "mae"),
    "tag": ("span_f1", "token_accuracy", "loss"),
    "generate": ("loss", "perplexity"),
    "chat": ("loss", "perplexity"),
    "lm": ("loss", "perplexity"),
    "text": ("exact_match", "rouge_l", "chrf"),
}


def names_for(task: str, *, multi: bool = False) -> tuple[str, ...]:
    """The metrics of a task, the one that counts most first; ``text`` has those of generated texts."""
    return _BY_TASK["multi" if multi else task]


@dataclass(frozen=True)
class Measured:
    """A figure and how sure it is.

    Attributes:
        value: the figure over all rows.
        low, high: ends of the bootstrap interval.
        rows: number of rows.
        greater: whether more is better.
        level: coverage of the interval.
    """

    value: float
    low: float
    high: float
    rows: int
    greater: bool = True
    level: float = 0.95
    note: str = field(default="", compare=False)


def find(name: str) -> Metric:
    """The metric of this name.

    Raises:
        InputError: there is none, or the library that it takes is not installed.
    """
    from importlib.util import find_spec

    from ..errors import unknown

    if name not in METRICS:
        raise unknown("metric", name, METRICS)
    metric = METRICS[name]
    if metric.needs and find_spec(metric.needs) is None:
        raise InputError(f"metric {name} needs {metric.needs}", fix="pip install 'tunesmith[metrics]'")
    return metric


def spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """The spans of BIO tags: kind, first word, last word.

    >>> sorted(spans(["B-A", "I-A", "O", "I-B", "B-B"]))
    [('A', 0, 1), ('B', 3, 3), ('B', 4, 4)]
    """
    found, start, kind = set(), -1, ""
    for place, tag in enumerate([*tags, "O"]):
        prefix, name = (tag[0], tag[2:]) if tag[:2] in ("B-", "I-") else ("B", tag)
        goes_on = prefix == "I" and start >= 0 and name == kind
        if start >= 0 and not goes_on:
            found.add((kind, start, place - 1))
            start = -1
        if tag != "O" and not goes_on:
            start, kind = place, name
    return found


def row_losses(answers: Answers) -> np.ndarray:
    """The loss of each row in nats: of its class, the mean over its labels, or over its tokens."""
    if answers.loss is not None and answers.units is not None:
        return np.asarray(answers.loss / np.maximum(answers.units, 1))
    assert answers.probabilities is not None
    p = np.clip(answers.probabilities, 1e-12, 1.0)
    if answers.multi:
        y = np.asarray(answers.references)
        return np.asarray(-(y * np.log(p) + (1 - y) * np.log(np.clip(1 - p, 1e-12, 1))).mean(1))
    return np.asarray(-np.log(p[np.arange(len(p)), np.asarray(answers.references, dtype=int)]))


def _one_hot(answers: Answers, values: Sequence[Any]) -> np.ndarray:
    if answers.multi:
        return np.asarray(values, dtype=np.float32)
    return np.eye(len(answers.labels), dtype=np.float32)[np.asarray(values, dtype=int)]


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Division that gives 0 where there is nothing to divide by."""
    above, below = np.asarray(above, dtype=float), np.asarray(below, dtype=float)
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below != 0)
