"""What a tuned model has to beat: an answer that ignores the row, and a linear probe on the frozen base."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from .metrics import Answers

STRENGTHS = (0.1, 1.0, 10.0, 100.0)
"""Inverse regularisation strengths among which the probe chooses by cross-validation on the training rows."""


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


def probe(
    features: np.ndarray, train: Sequence[Any], test_features: np.ndarray, test: Sequence[Any],
    labels: Sequence[str] = (), *, multi: bool = False, seed: int = 0,
) -> Answers:  # fmt: skip
    """A linear model on frozen features: logistic regression for classes, ridge regression for numbers.

    Features are standardised; the strength of the regularisation is chosen by threefold cross-validation.

    Source: Alain and Bengio 2016, arXiv:1610.01644.
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), _linear(train, bool(labels), multi, seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a strength that does not converge loses the cross-validation
        model.fit(features, np.asarray(train))
    if not labels:
        return Answers(test, model.predict(test_features).astype(float).tolist())
    if multi:
        share = np.asarray(model.predict_proba(test_features))
        return Answers(test, (share > 0.5).astype(float).tolist(), share, labels, multi=True)
    share = np.zeros((len(test_features), len(labels)))
    share[:, model[-1].classes_] = model.predict_proba(test_features)
    return Answers(test, share.argmax(1).tolist(), share, labels)


def _linear(train: Sequence[Any], classes: bool, multi: bool, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.model_selection import GridSearchCV
    from sklearn.multiclass import OneVsRestClassifier

    if not classes:
        return RidgeCV(alphas=[10.0**k for k in range(-1, 5)])
    logistic = LogisticRegression(max_iter=300, random_state=seed)
    if multi:
        return OneVsRestClassifier(LogisticRegression(max_iter=300, C=1.0))
    if min(Counter(train).values()) < 3:
        return logistic
    return GridSearchCV(logistic, {"C": list(STRENGTHS)}, cv=3)


