"""One result: what a recipe came to on its rows with one seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..evaluation.answers import Answers


@dataclass(frozen=True)
class Result:
    """What is stored of one training.

    Attributes:
        identity: what it depends on (`identity.Identity.facts`).
        recipe: complete, as a recipe file has it.
        task, base: names.
        metric: the metric that counts most.
        scores: metric -> figure on the held-out rows.
        answers: what the model said of each held-out row, so that two results can be paired by row.
        texts: the same for texts that it wrote; None where it writes none.
        cost: what it took (`work.cost_of`).
        health: last losses, warnings, and whether training ended as planned.
        environment: versions, machine, commit.
        audit: findings of the audits, where the recipe has some.
    """

    identity: Mapping[str, Any]
    recipe: Mapping[str, Any]
    task: str
    base: str
    metric: str
    scores: Mapping[str, float]
    answers: Answers
    texts: Answers | None
    cost: Mapping[str, Any]
    health: Mapping[str, Any]
    environment: Mapping[str, Any]
    audit: Mapping[str, Any] | None = None

    @property
    def score(self) -> float:
        """The figure of the chief metric."""
        return self.scores[self.metric]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as the store's file has them."""
        said = {n: _pack(a) if isinstance(a := getattr(self, n), Answers) else None for n in ("answers", "texts")}
        names = ("identity", "recipe", "task", "base", "metric", "scores", "cost", "health", "environment", "audit")
        return {**{n: getattr(self, n) for n in names}, **said}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Result:
        """The result that `to_dict` gave."""
        said = {n: _unpack(values[n]) if values.get(n) else None for n in ("answers", "texts")}
        return cls(**{**values, **said})


def _pack(answers: Answers) -> dict[str, Any]:
    """Without the probabilities, which would be most of the file; what is made of them stands in the scores."""
    packed = {k: _plain(v) for k, v in asdict(answers).items() if v is not None and k != "probabilities"}
    if answers.loss is not None:
        packed["loss"] = np.round(answers.loss.astype(float), 5).tolist()
    return packed


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else getattr(value, "item", lambda: value)()


def _unpack(values: Mapping[str, Any]) -> Answers:
    arrays = {k: np.array(values[k]) for k in ("loss", "units") if k in values}
    return Answers(**{**values, **arrays})
