"""Metrics: one small class each. A metric first turns every row into a few counts, and then sums into its figure.

So a bootstrap weighs rows and never scores one twice, and a figure over a whole set (an F1, a chrF) gets an interval
as cheaply as a mean. A figure that is no function of sums (a rank correlation, an AUROC) takes the weights itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np

from ..errors import InputError, unknown
from .answers import Answers, Measured, row_losses

__all__ = ["METRICS", "Answers", "Measured", "Metric", "find", "lacks", "names_for", "row_losses", "spans"]

Figure = Callable[[np.ndarray], np.ndarray]
"""From weights of the rows, shape (resamples, rows), to the figure of each resample."""

BINS = 15
"""Groups of confidence, as in Guo et al. 2017."""


class Metric:
    """A figure of merit.

    Attributes:
        greater: whether more is better; None where neither is.
        package: the package that it takes beyond those always there; the extra ``metrics`` has it.
        takes: what it reads of the answers beside the references.
        no_interval: why the bootstrap gives it no interval; empty where it does.
    """

    greater: ClassVar[bool | None] = True
    package: ClassVar[str] = ""
    takes: ClassVar[str] = "predictions"
    no_interval: ClassVar[str] = ""

    def counts(self, answers: Answers) -> np.ndarray:
        """A few numbers for each row, shape (rows, k)."""
        raise NotImplementedError

    def figure(self, sums: np.ndarray) -> np.ndarray:
        """The figure from sums of the counts over rows: (..., k) to (...)."""
        raise NotImplementedError

    def weighted(self, answers: Answers) -> Figure:
        """The figure as a function of the rows' weights; every row is scored once, here."""
        counts = self.counts(answers)
        return lambda weights: self.figure(weights @ counts)

    def lacks(self, answers: Answers) -> str:
        """Why these answers cannot be scored, or an empty string."""
        value = getattr(answers, self.takes)
        return f"no {self.takes} given" if value is None or not len(value) else ""


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
    takes = "probabilities"

    def values(self, answers: Answers) -> np.ndarray:
        return row_losses(answers)


class Brier(Mean):
    """Mean squared distance of the probabilities from certainty of the right class, summed over the classes, 0 to 2.

    Source: Brier 1950, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.
    """

    greater = False
    takes = "probabilities"

    def values(self, answers: Answers) -> np.ndarray:
        assert answers.probabilities is not None
        return np.asarray(((answers.probabilities - _one_hot(answers, answers.references)) ** 2).sum(1))


class CalibrationError(Metric):
    """Mean distance of confidence and accuracy over groups of rows with like confidence, weighted by their size.

    It has no interval. Chance alone moves it above 0, in a resample twice, and the more the wider the confidences
    spread: in simulations of calibrated models (100 to 4,000 rows) the percentile interval never held the true 0, and
    called up to half of the pairs with a constant answer different; the basic bootstrap did little better.

    Source: Guo et al. 2017, arXiv:1706.04599, eq. 3, with 15 bins of equal width.
    """

    greater = False
    takes = "probabilities"
    no_interval = "no interval: chance alone moves it above 0, and the bootstrap doubles that"

    def counts(self, answers: Answers) -> np.ndarray:
        assert answers.probabilities is not None
        sure = answers.probabilities.max(1)
        right = np.asarray(answers.references, dtype=int) == np.asarray(answers.predictions, dtype=int)
        place = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)
        counts = np.zeros((len(sure), 2, BINS))
        counts[np.arange(len(sure)), 0, place] = sure - right
        counts[np.arange(len(sure)), 1, place] = 1
        return counts.reshape(len(sure), -1)

    def figure(self, sums: np.ndarray) -> np.ndarray:
        gap, rows = np.split(sums, 2, axis=-1)
        return _ratio(np.abs(gap).sum(-1), rows.sum(-1))


class AUROC(Metric):
    """Share of pairs of one row of each of two classes in which the second class's row has its higher probability.

    Source: Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747; ties count half.
    """

    takes = "probabilities"

    def lacks(self, answers: Answers) -> str:
        seen = set(np.asarray(answers.references, dtype=int).tolist())
        few = "the rows hold one class only" if len(seen) < 2 else ""
        return super().lacks(answers) or ("there are not two classes" if len(answers.labels) != 2 else few)

    def weighted(self, answers: Answers) -> Figure:
        assert answers.probabilities is not None
        truth = np.asarray(answers.references, dtype=float)
        groups = _Groups(answers.probabilities[:, 1])

        def figure(weights: np.ndarray) -> np.ndarray:
            above, under = groups.sums(weights * truth), groups.sums(weights * (1 - truth))
            won = (above * (under.cumsum(1) - under / 2)).sum(1)
            return _ratio(won, above.sum(1) * under.sum(1), empty=np.nan)

        return figure


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
    """Linear correlation of the predicted with the given numbers; 0 where either does not vary."""

    def lacks(self, answers: Answers) -> str:
        return super().lacks(answers) or ("a correlation takes at least two rows" if len(answers) < 2 else "")

    def counts(self, answers: Answers) -> np.ndarray:
        x, y = (np.asarray(v, dtype=float) for v in (answers.references, answers.predictions))
        x, y = x - x.mean(), y - y.mean()
        return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)

    def figure(self, sums: np.ndarray) -> np.ndarray:
        n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
        spread = np.clip(n * xx - x**2, 0, None) * np.clip(n * yy - y**2, 0, None)
        return _ratio(n * xy - x * y, np.sqrt(spread))


class Spearman(Pearson):
    """Correlation of the ranks, equal values sharing their mean rank; each resample is ranked anew."""

    def weighted(self, answers: Answers) -> Figure:
        groups = [_Groups(np.asarray(v, dtype=float)) for v in (answers.references, answers.predictions)]

        def figure(weights: np.ndarray) -> np.ndarray:
            total = weights.sum(1, keepdims=True)
            x, y = (g.ranks(weights) - total / 2 for g in groups)
            columns = [np.ones_like(x), x, y, x * x, y * y, x * y]
            return self.figure(np.stack([(weights * c).sum(1) for c in columns], axis=-1))

        return figure


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


class TokenMacroF1(MacroF1):
    """Mean over tags of the F1 of each over words: for tags that do not mark spans, such as parts of speech."""

    def counts(self, answers: Answers) -> np.ndarray:
        every = sorted({tag for rows in (answers.references, answers.predictions) for row in rows for tag in row})
        place = {tag: i for i, tag in enumerate(every)}
        counts = np.zeros((len(answers), 3, len(every)))
        for row, (reference, prediction) in enumerate(zip(answers.references, answers.predictions, strict=True)):
            for truth, said in zip(reference, prediction, strict=True):
                counts[row, 1, place[truth]] += 1
                counts[row, 2, place[said]] += 1
                counts[row, 0, place[truth]] += truth == said
        return counts.reshape(len(answers), -1)


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
    takes = "loss"

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

    Words are those of rouge-score without stemming, but of every script: its own tokenizer drops all but a-z and 0-9.

    Source: Lin 2004, aclanthology.org/W04-1013, sec. 3.1; by the library rouge-score.
    """

    package = "rouge_score"

    def values(self, answers: Answers) -> np.ndarray:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(["rougeL"], tokenizer=_Words())
        pairs = zip(answers.references, answers.predictions, strict=True)
        return np.array([scorer.score(r, p)["rougeL"].fmeasure for r, p in pairs])


class LengthRatio(Metric):
    """Words written over words of the references, all texts together; 1 is as long."""

    greater = None

    def counts(self, answers: Answers) -> np.ndarray:
        pairs = zip(answers.references, answers.predictions, strict=True)
        return np.array([[len(p.split()), len(r.split())] for r, p in pairs], dtype=float)

    def figure(self, sums: np.ndarray) -> np.ndarray:
        return _ratio(sums[..., 0], sums[..., 1])


class ChrF(Metric):
    """Character n-gram F-score over all texts together, 0 to 100.

    Source: Popović 2015, aclanthology.org/W15-3049; by the library sacrebleu.
    """

    package = "sacrebleu"

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
    "accuracy": Accuracy(), "macro_f1": MacroF1(), "micro_f1": MicroF1(), "mcc": MCC(), "auroc": AUROC(),
    "log_loss": LogLoss(), "brier": Brier(), "ece": CalibrationError(), "pearson": Pearson(),
    "spearman": Spearman(), "rmse": RMSE(),
    "mae": MAE(), "span_f1": SpanF1(), "token_macro_f1": TokenMacroF1(), "token_accuracy": TokenAccuracy(),
    "exact_match": ExactMatch(), "rouge_l": RougeL(), "chrf": ChrF(), "length_ratio": LengthRatio(),
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
    "prefer": ("loss", "perplexity", "accuracy"),
    "text": ("exact_match", "rouge_l", "chrf", "length_ratio"),
}


def names_for(task: str, *, multi: bool = False, labels: Sequence[str] = ()) -> tuple[str, ...]:
    """The metrics of a task, the one that counts most first; ``text`` has those of generated texts.

    Args:
        task: name of the task, or ``text``.
        multi: whether a row can have several labels.
        labels: the classes or tags, where known: two classes add ``auroc``, and tags of which none begins with B- or
            I- are scored by ``token_macro_f1`` in place of ``span_f1``.

    Raises:
        InputError: no such task.
    """
    if task not in _BY_TASK:
        raise unknown("task", task, _BY_TASK)
    names = _BY_TASK["multi" if multi else task]
    if task in ("classify", "pair") and not multi and len(labels) == 2:
        return (*names[:3], "auroc", *names[3:])
    if task == "tag" and labels and not any(tag.startswith(("B-", "I-")) for tag in labels):
        return ("token_macro_f1", *names[1:])
    return names


def lacks(name: str, answers: Answers) -> str:
    """Why a metric cannot be had of these answers (a missing package is one reason), or an empty string."""
    metric = METRICS[name]
    if metric.package and find_spec(metric.package) is None:
        return f"it needs {metric.package}; pip install 'tunesmith[metrics]'"
    return metric.lacks(answers)


def find(name: str) -> Metric:
    """The metric of this name.

    Raises:
        InputError: there is none, or the library that it takes is not installed.
    """
    if name not in METRICS:
        raise unknown("metric", name, METRICS)
    metric = METRICS[name]
    if metric.package and find_spec(metric.package) is None:
        raise InputError(f"metric {name} needs {metric.package}", fix="pip install 'tunesmith[metrics]'")
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


def _one_hot(answers: Answers, values: Sequence[Any]) -> np.ndarray:
    if answers.multi:
        return np.asarray(values, dtype=np.float32)
    return np.eye(len(answers.labels), dtype=np.float32)[np.asarray(values, dtype=int)]


def _ratio(above: np.ndarray, below: np.ndarray, *, empty: float = 0.0) -> np.ndarray:
    """Division that gives ``empty`` where there is nothing to divide by."""
    above, below = np.asarray(above, dtype=float), np.asarray(below, dtype=float)
    return np.divide(above, below, out=np.full(np.broadcast(above, below).shape, empty), where=below != 0)


class _Groups:
    """Rows with equal values, in ascending order."""

    def __init__(self, values: np.ndarray):
        self.order = np.argsort(values, kind="stable")
        ordered = values[self.order]
        self.starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        self.group = np.empty(len(values), dtype=int)
        self.group[self.order] = np.repeat(np.arange(len(self.starts)), np.diff(np.r_[self.starts, len(values)]))

    def sums(self, weights: np.ndarray) -> np.ndarray:
        """Weights added up within each group: (resamples, rows) to (resamples, groups)."""
        return np.asarray(np.add.reduceat(weights[:, self.order], self.starts, axis=1))

    def ranks(self, weights: np.ndarray) -> np.ndarray:
        """The mean rank, less one half, of every row where a row of weight w stands for w rows."""
        sums = self.sums(weights)
        return np.asarray((sums.cumsum(1) - sums / 2)[:, self.group])


class _Words:
    """Lower-case words of letters and digits of any script, for rouge-score."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"[^\W_]+", text.lower())
