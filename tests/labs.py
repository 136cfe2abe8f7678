"""A lab without a training: planted results, so that an experiment's own arithmetic is what is tested."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tunesmith.evaluation.answers import Answers
from tunesmith.recipe import override


@dataclass(frozen=True)
class Asked:
    """What an experiment asked for: an arena task and dotted or nested options."""

    task: str
    values: Mapping[str, Any]
    seed: int = 0
    budget: Any = field(default_factory=lambda: SimpleNamespace(epochs=3.0))
    batch: Any = field(default_factory=lambda: SimpleNamespace(rows=16))

    def get(self, *path: str, default: Any = None) -> Any:
        value: Any = self.values
        for step in path:
            value = value.get(step, default) if isinstance(value, Mapping) else default
        return value

    def updated(self, changes: Mapping[str, Any]) -> Asked:
        return Asked(self.task, {**self.values, **changes}, changes.get("seed", self.seed))


Plan = Callable[[Asked, int], Any]


class PlantedLab:
    """Gives the result that a plan makes of a recipe and a seed."""

    def __init__(self, plan: Plan, seeds: Sequence[int] = range(5)):
        self.plan, self.seeds = plan, list(seeds)

    def recipe(self, task: str, technique: Mapping[str, Any], **changes: Any) -> Asked:
        return Asked(task, override({}, {**technique, **changes}))

    def results(self, *recipes: Asked, seeds: Sequence[int] | None = None) -> list[list[Any]]:
        return [[self.plan(r, s) for s in (self.seeds if seeds is None else seeds)] for r in recipes]

    def each(self, recipes: Sequence[Asked]) -> list[Any]:
        return [self.results(r, seeds=[s])[0][0] for r, s in zip(recipes, self.seeds, strict=True)]

    def before(self, recipe: Asked) -> Any:
        return self.plan(recipe, -1)

    def say(self, text: str) -> None:
        pass


def classified(accuracy: float, rows: int = 200, log_loss: float = 0.5, tokens: int = 1000) -> Any:
    """A result of a classifier that is right on this share of the rows, the first ones."""
    right = round(accuracy * rows)
    answers = Answers([1] * rows, [1] * right + [0] * (rows - right), labels=("no", "yes"))
    scores = {"accuracy": right / rows, "log_loss": log_loss}
    return SimpleNamespace(
        metric="accuracy", scores=scores, score=scores["accuracy"], answers=answers, cost={"tokens": tokens}, environment={}
    )  # fmt: skip


def written(losses: Sequence[float]) -> Any:
    """A result of a language model with these losses of its held-out rows."""
    answers = Answers([""] * len(losses), loss=np.array(losses, dtype=float), units=np.ones(len(losses), dtype=int))
    mean = float(np.mean(losses))
    return SimpleNamespace(metric="loss", scores={"loss": mean}, score=mean, answers=answers, environment={})


def folder_of(name: str) -> Path:
    """A folder that stands for a run."""
    return Path("runs") / name
