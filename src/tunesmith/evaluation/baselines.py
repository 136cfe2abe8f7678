"""What a tuned model has to beat: an answer that ignores the row, and a linear probe on the frozen base."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from .metrics import Answers

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Inverse regularisation strengths among which the probe chooses by cross-validation on the training rows."""

SEARCH_ROWS = 1500
"""Rows on which that choice is made."""


def constant(train: Sequence[Any], test: Sequence[Any], labels: Sequence[str] = (), *, multi: bool = False) -> Answers:
    """The commonest class with the classes' frequencies as probabilities, or the mean number."""
    if not labels:
        mean = float(np.mean([float(v) for v in train]))
        return Answers(test, [mean] * len(test))
    if multi:
        share = np.mean(np.asarray(train, dtype=float), axis=0)
        said = [(share > 0.5).astype(float).tolist()] * len(test)
        return Answers(test, said, np.tile(share, (len(test), 1)), labels, multi=True)
    counts = np.bincount(np.asarray(train, dtype=int), minlength=len(labels)) + 1e-9
    share = counts / counts.sum()
    return Answers(test, [int(counts.argmax())] * len(test), np.tile(share, (len(test), 1)), labels)


def commonest_tag(train: Sequence[Sequence[str]], test: Sequence[Sequence[str]]) -> Answers:
    """The commonest tag everywhere."""
    tag = Counter(t for row in train for t in row).most_common(1)[0][0]
    return Answers(test, [[tag] * len(row) for row in test])


class LinearProbe:
    """A linear model on frozen features: logistic regression for classes, ridge regression for numbers.

    Features are standardised; the strength of the regularisation is chosen by threefold cross-validation.

    Source: Alain and Bengio 2016, arXiv:1610.01644.

    Args:
        features: of the training rows, shape (rows, size).
        train: what is right of them: class indices, 0/1 vectors, or numbers.
        labels: names of the classes; none for numbers.
        multi: whether a row can have several labels.
        seed: of the choice of rows for the cross-validation.
    """

    def __init__(
        self, features: np.ndarray, train: Sequence[Any], labels: Sequence[str] = (), *, multi: bool = False,
        seed: int = 0,
    ):  # fmt: skip
        from sklearn.exceptions import ConvergenceWarning

        self.train, self.labels, self.multi = train, labels, multi
        self.model: Any = None
        if labels and not multi and len(set(train)) == 1:
            return
        with warnings.catch_warnings():
            # a strength that does not converge loses the cross-validation; a label that a fold lacks is never said there
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.filterwarnings("ignore", message="Label .* is present in")
            strength = _strength(features, train, multi, seed) if labels else 1.0
            self.model = _linear(bool(labels), multi, strength, seed).fit(features, np.asarray(train))

    def answers(self, features: np.ndarray, truth: Sequence[Any]) -> Answers:
        """What it says of rows with these features, beside what is right."""
        if self.model is None:
            return constant(self.train, truth, self.labels)
        if not self.labels:
            return Answers(truth, self.model.predict(features).astype(float).tolist())
        if self.multi:
            share = np.asarray(self.model.predict_proba(features))
            return Answers(truth, (share > 0.5).astype(float).tolist(), share, self.labels, multi=True)
        share = np.zeros((len(features), len(self.labels)))
        share[:, self.model[-1].classes_] = self.model.predict_proba(features)
        return Answers(truth, share.argmax(1).tolist(), share, self.labels)


def probe(
    features: np.ndarray, train: Sequence[Any], test_features: np.ndarray, test: Sequence[Any],
    labels: Sequence[str] = (), *, multi: bool = False, seed: int = 0,
) -> Answers:  # fmt: skip
    """What a `LinearProbe` of the training rows says of the test rows."""
    return LinearProbe(features, train, labels, multi=multi, seed=seed).answers(test_features, test)


def _linear(classes: bool, multi: bool, strength: float, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if not classes:
        return make_pipeline(StandardScaler(), RidgeCV(alphas=[10.0**k for k in range(-1, 5)]))
    logistic = LogisticRegression(max_iter=300, C=strength, random_state=seed)
    return make_pipeline(StandardScaler(), OneVsRestClassifier(logistic) if multi else logistic)


def _strength(features: np.ndarray, train: Sequence[Any], multi: bool, seed: int) -> float:
    """The inverse strength of regularisation that does best in threefold cross-validation on some of the rows.

    Rows of classes too rare for three folds take no part; by log-loss, or by micro-F1 where a row has several labels.
    """
    from sklearn.model_selection import GridSearchCV

    drawn = np.random.default_rng(seed).permutation(len(features))[:SEARCH_ROWS]
    classes = np.asarray(train)[drawn]
    if not multi:
        names, counts = np.unique(classes, return_counts=True)
        common = np.isin(classes, names[counts >= 3])
        drawn, classes = drawn[common], classes[common]
    if len(drawn) < 3 or (not multi and len(np.unique(classes)) < 2):
        return 1.0
    inside = "onevsrestclassifier__estimator__C" if multi else "logisticregression__C"
    by = "f1_micro" if multi else "neg_log_loss"
    search = GridSearchCV(_linear(True, multi, 1.0, seed), {inside: list(STRENGTHS)}, cv=3, scoring=by)
    return float(search.fit(features[drawn], classes).best_params_[inside])
