from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import unknown
from . import Figure, Lab, Outcome
from ._figures import difference


def selection_rules(
    lab: Lab,
    *,
    tasks: dict[str, list[str]] = {"intent": ["longest", "shortest", "central", "outlying", "diverse"]},  # noqa: B006
    technique: dict[str, Any] = {"adapter": "lora"},  # noqa: B006
    pool: int = 4000,
    keep: int = 200,
    options: dict[str, Any] = {},  # noqa: B006
) -> Outcome:
    """Rules that choose training rows without another model, against as many rows drawn at random.

    ``longest`` and ``shortest`` go by characters; ``central`` and ``outlying`` by the distance of the untuned base's
    features from their mean; ``diverse`` takes each time the row farthest from those it has. Every class keeps its share
    of the pool, so that only the choice within classes differs. Each seed draws its own random rows.

    Figures: ``TASK.RULE``, the rule's advantage over random rows in the task's chief metric; ``TASK.RULE.tokens``, the
    tokens that it trains on, over those of random rows; ``TASK.diversity``, ``diverse`` against ``central``.

    Source: Xia et al. 2024, arXiv:2410.09335; ``diverse``: Sener and Savarese 2018, arXiv:1708.00489, alg. 1.

    Settings:
        tasks: arena task -> rules.
        technique: options of a recipe; all rows are learned alike.
        pool: rows to choose from.
        keep: rows that are chosen.
        options: of all recipes, e.g. ``{budget.epochs: 6}``.
    """
    figures: dict[str, Figure] = {}
    series = {}
    for task, rules in tasks.items():
        recipe = lab.recipe(task, technique, **{**options, "rows.limit": pool})
        rows = _Pool(lab, recipe, keep)
        drawn = lab.each([rows.chosen("random", s) for s in lab.seeds])
        found = dict(zip(rules, lab.results(*(rows.chosen(r, 0) for r in rules)), strict=True))
        for rule, results in found.items():
            figures[f"{task}.{rule}"] = difference(results, drawn, f"{task}, {rule} rows less random ones")
            tokens = sum(r.cost["tokens"] for r in results) / sum(r.cost["tokens"] for r in drawn)
            figures[f"{task}.{rule}.tokens"] = Figure(tokens, tokens, tokens, (), "times", "tokens trained on")
        if {"diverse", "central"} <= found.keys():
            about = f"{task}, diverse rows less central ones"
            figures[f"{task}.diversity"] = difference(found["diverse"], found["central"], about)
        means = [float(np.mean([r.score for r in results])) for results in (drawn, *found.values())]
        series[task] = [[number, mean] for number, mean in enumerate(means)]
    axis = "; ".join(f"{task}: random, {', '.join(rules)}" for task, rules in tasks.items())
    return Outcome(figures, series, (axis, "score"))


class _Pool:
    """The rows of a recipe."""

    def __init__(self, lab: Lab, recipe: Any, keep: int):
        self.lab, self.recipe, self.keep = lab, recipe, keep
        self.prepared = lab.prepared(recipe)
        self.encoded = self.prepared.encoded["train"]

    @cached_property
    def features(self) -> np.ndarray:
        """The base's, computed when the first rule asks."""
        return np.asarray(self.lab.features(self.recipe), dtype=float)

    def chosen(self, rule: str, seed: int) -> Any:
        """The recipe with the rows that a rule chooses."""
        if rule not in _RULES:
            raise unknown("rule", rule, _RULES)
        best = np.concatenate([c[_RULES[rule](self, c, seed)[:n]] for c, n in self._shares()])
        original = np.unique(self.encoded.rows[best])
        return self.lab.given(self.recipe, train=self.prepared.parted.tables["train"].take(original))

    def _shares(self) -> list[tuple[np.ndarray, int]]:
        """Places of each class's rows, and how many of them are kept; without classes, of all rows."""
        labels = [row["labels"] for row in self.encoded.take(np.arange(len(self.encoded)))]
        if any(isinstance(label, list) for label in labels):
            return [(np.arange(len(labels)), self.keep)]
        classes, counts = np.unique(labels, return_counts=True)
        wanted = np.maximum(1, np.round(self.keep * counts / len(labels))).astype(int)
        return [(np.flatnonzero(np.array(labels) == c), int(n)) for c, n in zip(classes, wanted, strict=True)]

    def characters(self, places: np.ndarray) -> np.ndarray:
        """Length of rows as they are, before a long one is cut."""
        columns = self.prepared.task.columns.values()
        return np.array([sum(len(str(row[c])) for c in columns) for row in map(self.encoded.original, places)])


def _distance(pool: _Pool, places: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(pool.features[places] - pool.features[places].mean(0), axis=1))


def _diverse(pool: _Pool, places: np.ndarray, seed: int) -> np.ndarray:
    """Greedy k-centre, from the most central row on."""
    features = pool.features[places]
    order = [int(_distance(pool, places).argmin())]
    far = np.linalg.norm(features - features[order[0]], axis=1)
    while len(order) < min(pool.keep, len(places)):
        order.append(int(far.argmax()))
        far = np.minimum(far, np.linalg.norm(features - features[order[-1]], axis=1))
    return np.array(order)


_RULES: dict[str, Callable[[_Pool, np.ndarray, int], np.ndarray]] = {
    "random": lambda pool, places, seed: np.random.default_rng(seed).permutation(len(places)),
    "longest": lambda pool, places, seed: np.argsort(-pool.characters(places), kind="stable"),
    "shortest": lambda pool, places, seed: np.argsort(pool.characters(places), kind="stable"),
    "central": lambda pool, places, seed: np.argsort(_distance(pool, places), kind="stable"),
    "outlying": lambda pool, places, seed: np.argsort(-_distance(pool, places), kind="stable"),
    "diverse": _diverse,
}
"""Rule -> the order of some places, best first."""
