from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import Figure, Lab, Outcome
from ._figures import drawn_difference, over_seeds

Table = list[dict[str, Any]]

HOW = {"student": {}, "keep": 1.0, "soft": True, "labelled": "train", "flipped": 0.0, "finish": None}
"""What may be said of a student: options of its recipe on top of the teacher's; which labels it gets (`labelling.Label`);
the share of them that is made wrong on purpose; options of a last tuning on the rows by people."""


def self_labelled(
    lab: Lab,
    *,
    teacher: dict[str, Any] = {"mask": "everything"},  # noqa: B006
    students: dict[str, Any] = {"student": {"student": {"loss": "soft_labels"}}},  # noqa: B006
    others: dict[str, Any] = {},  # noqa: B006
    views: list[dict[str, Any]] = [],  # noqa: B006
    task: str = "sentiment",
    untuned: bool = False,
    shots: int = 16,
    options: dict[str, Any] = {},  # noqa: B006
) -> Outcome:
    """Students of labels that a teacher of few rows gave to the task's other training rows.

    Every seed draws split and few rows anew. A student's options stand on top of the teacher's, an other's alone; others
    are tuned on the few rows.

    Figures, paired by seed and turned so that more is better: ``NAME.difference``, a student or an other less
    the teacher; ``ONE.over.OTHER``; ``labels.right``, share of the teacher's labels that are right; ``labels.sure``, the
    same of the surer half less that of all; ``labels.views``, that of all views' mean less that of the best one.

    Source: Wang et al. 2021, arXiv:2110.06274; Schick and Schütze 2021, arXiv:2001.07676 (views).

    Settings:
        teacher: options of a recipe.
        students: name -> ``student``, ``keep``, ``soft``, ``labelled``, ``flipped``, ``finish``.
        others: name -> options of a recipe.
        views: options on top of the teacher's; the mean of their shares labels. None is the teacher alone.
        task: name of an arena task with classes.
        untuned: let the teacher's base label as it is.
        shots: rows of each label by people.
        options: of all recipes; ``rows.limit`` bounds what is labelled.
    """
    found: dict[str, list[Any]] = {name: [] for name in ("teacher", *students, *others)}
    told: dict[str, list[float]] = {"right": [], "sure": [], "views": []}
    for seed in lab.seeds:
        one = _Seed(lab, task, teacher, {**options, "rows.seed": seed}, shots, seed)
        shares = [one.untuned()] if untuned else [one.tuned(view) for view in views or [{}]]
        one.judge(shares, told)
        found["teacher"].append(one.teachers(untuned))
        for name, how in students.items():
            found[name].append(one.student({**HOW, **how}, np.mean(shares, axis=0)))
        for name, own in others.items():
            found[name].append(one.other(own))
    figures = _told(told)
    for name in (*students, *others):
        figures[f"{name}.difference"] = drawn_difference(found[name], found["teacher"], f"{name} less the teacher")
    for a, b in itertools.permutations((*students, *others), 2):
        figures[f"{a}.over.{b}"] = drawn_difference(found[a], found[b], f"{a} less {b}")
    series = {n: [[s, r.score] for s, r in zip(lab.seeds, rs, strict=True)] for n, rs in found.items()}
    return Outcome(figures, series, ("seed", f"score, {task}"))


def _told(told: Mapping[str, Sequence[float]]) -> dict[str, Figure]:
    about = {
        "right": "labels of the teacher that are right", "sure": "the surer half less all",
        "views": "the mean of all views less the best of them",
    }  # fmt: skip
    return {f"labels.{name}": over_seeds(values, "points", about[name]) for name, values in told.items()}


class _Seed:
    """One seed's rows: few by people, a pool without labels, and held-out ones."""

    def __init__(
        self, lab: Lab, task: str, teacher: Mapping[str, Any], options: Mapping[str, Any], shots: int, seed: int
    ):
        self.lab, self.task, self.teacher, self.seed = lab, task, dict(teacher), seed
        self.options = {**options, "rows.shots": shots}
        self.whole = dict(options)
        self.few = lab.recipe(task, self.teacher, **self.options)
        some, every = lab.prepared(self.few), lab.prepared(lab.recipe(task, self.teacher, **self.whole))
        self.columns, self.labels = dict(some.task.columns), list(some.task.labels or [])
        tables, indices = some.parted.tables, some.parted.indices
        self.rows = {n: [tables[n][int(i)] for i in indices[n]] for n in ("train", "test")}
        rest = np.setdiff1d(every.parted.indices["train"], indices["train"])
        self.pool: Table = [every.parted.tables["train"][int(i)] for i in rest]

    def tuned(self, view: Mapping[str, Any]) -> np.ndarray:
        """A tuned teacher's shares for the pool."""
        from ..run.opened import Run

        recipe = self.lab.recipe(self.task, {**self.teacher, **view}, **self.options).updated({"seed": self.seed})
        return Run(self.lab.tuned(recipe)).probabilities(self._texts())

    def untuned(self) -> np.ndarray:
        """The base's shares for the pool."""
        asked = self.lab.given(self._plain(), train=self.rows["train"], test=self.pool)
        asked = asked.updated({"checks": {"rows": None}, "rows": {**asked.rows.model_dump(), "shots": None}})
        shares = self.lab.before(asked).answers.probabilities
        assert shares is not None
        return np.asarray(shares)

    def _plain(self) -> Any:
        """The teacher's recipe without what would change its base at birth."""
        from ..improving.self_training import PLAIN

        return self.few.updated(PLAIN)

    def _texts(self) -> Table:
        kept = [c for r, c in self.columns.items() if r in ("text", "second")]
        return [{c: row[c] for c in kept} for row in self.pool]

    def judge(self, shares: Sequence[np.ndarray], told: dict[str, list[float]]) -> None:
        """How many labels are right; added to what is told."""
        from ..improving.labelling import surest

        truth = np.array([self.labels.index(str(row[self.columns["label"]])) for row in self.pool])
        mean = np.mean(shares, axis=0)
        right = mean.argmax(1) == truth
        told["right"].append(float(right.mean()))
        told["sure"].append(float(right[surest(mean, 0.5)].mean() - right.mean()))
        told["views"].append(float(right.mean() - max((one.argmax(1) == truth).mean() for one in shares)))

    def teachers(self, untuned: bool) -> Any:
        """The teacher's own result on the held-out rows."""
        return self.lab.before(self._plain()) if untuned else self.lab.results(self.few, seeds=[self.seed])[0][0]

    def other(self, own: Mapping[str, Any]) -> Any:
        """A recipe on the few rows alone."""
        return self.lab.results(self.lab.recipe(self.task, own, **self.options), seeds=[self.seed])[0][0]

    def student(self, how: Mapping[str, Any], shares: np.ndarray) -> Any:
        """A student's result."""
        from ..improving.labelling import by_people, labelled

        soft, own = how["soft"], by_people(self.rows["train"], self.columns, soft=how["soft"])
        made = labelled(self.pool, shares, self.labels, self.columns, keep=how["keep"], soft=soft)
        made = self._flipped(made, how["flipped"])
        train = own + made if how["labelled"] == "train" else made
        recipe = self.lab.recipe(self.task, {**self.teacher, **how["student"]}, **self.whole)
        given = self._given(recipe, train, own if how["labelled"] == "guide" else None, soft)
        if how["finish"] is None:
            return self.lab.results(given, seeds=[self.seed])[0][0]
        base = str(self.lab.tuned(given.updated({"seed": self.seed})) / "model")
        last = self.lab.recipe(self.task, {**self.teacher, **how["finish"]}, **self.options).updated({"base": base})
        return self.lab.results(last, seeds=[self.seed])[0][0]

    def _flipped(self, rows: Table, share: float) -> Table:
        """A share of the labels made wrong, soft ones with them."""
        draw, label = random.Random(self.seed), self.columns["label"]
        wrong = set(draw.sample(range(len(rows)), round(share * len(rows))))
        made = []
        for i, row in enumerate(rows):
            if i in wrong:
                own, other = row[label], draw.choice([name for name in self.labels if name != row[label]])
                row = {**row, label: other}
                if row.get("soft"):
                    row["soft"] = {**row["soft"], own: row["soft"][other], other: row["soft"][own]}
            made.append(row)
        return made

    def _given(self, recipe: Any, train: Table, validation: Table | None, soft: bool) -> Any:
        from ..run.prepare import on_disk

        kept = list(self.columns.values())
        test = [{**{c: r[c] for c in kept}, **({"soft": None} if soft else {})} for r in self.rows["test"]]
        made = self.lab.given(recipe, train=train, test=test)
        columns = self.columns | ({"soft": "soft"} if soft else {})
        rows = {**made.rows.model_dump(), "shots": None, "columns": columns, "validation": validation}
        return on_disk(made.updated({"rows": rows}))
