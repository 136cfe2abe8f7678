from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import Lab, Outcome
from ._figures import over_seeds, times_over_seeds
from ._summaries import steps_to


def thin_wrapper(
    lab: Lab,
    *,
    task: str = "intent",
    suppress_steps: int = 60,
    suppress_rows: int = 400,
    revive_rows: int = 200,
    steps: list[int] = [2, 6, 18, 54],  # noqa: B006
    share: float = 0.9,
    options: dict[str, Any] = {},  # noqa: B006
) -> Outcome:
    """Whether a capability that fine-tuning took away is gone, or still there under a thin layer.

    A base is tuned on a task (taught), then tuned to give the commonest class as the answer to everything (suppressed; one
    row of each other class keeps its label, so that the classifier stays the same). Then the true rows come back for a
    few steps, and as many go to a base that was never taught.

    Figures: ``suppressed``, accuracy that suppression takes; ``head_start``, accuracy of the suppressed model less the
    untaught one's after the fewest steps; ``fewer_steps``, steps that the untaught base needs to come to ``share`` of the
    taught accuracy over the steps that the suppressed model needs, at least: a model that never comes there counts with
    the longest budget; ``probe``, accuracy of a linear probe on the suppressed model's features less that of one on the
    untaught base's.

    Source: Jain et al. 2023, arXiv:2311.12786 (reverse fine-tuning and probing; no pruning here).

    Settings:
        task: name of an arena task of classes.
        suppress_steps: steps of the training that suppresses.
        suppress_rows: its rows.
        revive_rows: true rows that come back, none of which served to suppress.
        steps: budgets of the revival, ascending.
        share: of the taught accuracy that counts as revived.
        options: of all recipes, e.g. ``{length.max: 32}``.
    """
    from ..comparing import arena

    plain = lab.recipe(task, arena.TECHNIQUES["full"], **options)
    rows, label = _rows(lab.prepared(plain)), lab.prepared(plain).task.columns["label"]
    first, right = _portions(rows, label, suppress_rows, revive_rows)
    wrong = _silenced(first, label)
    lines = [_Course(lab, plain, seed).run(wrong, right, suppress_steps, steps) for seed in lab.seeds]
    told, again, fresh, probes = (np.array([line[i] for line in lines]) for i in range(4))
    needed = [
        [steps_to(steps, line, share * t[0]) for line, t in zip(side, told, strict=True)] for side in (fresh, again)
    ]
    figures = {
        "suppressed": over_seeds(told[:, 0] - told[:, 1], "points", "accuracy, taught less suppressed"),
        "head_start": over_seeds(again[:, 0] - fresh[:, 0], "points", f"accuracy after {steps[0]} steps"),
        "fewer_steps": times_over_seeds(list(np.log(needed[0]) - np.log(needed[1])), "steps, untaught over suppressed"),
        "probe": over_seeds(probes[:, 1] - probes[:, 0], "points", "probe accuracy, suppressed less untaught"),
    }
    sides = {"suppressed": again, "untaught": fresh}
    series = {n: [[s, float(v)] for s, v in zip(steps, side.mean(0), strict=True)] for n, side in sides.items()}
    return Outcome(figures, series, ("steps on true rows", f"accuracy, {task}"))


def _rows(prepared: Any) -> list[dict[str, Any]]:
    """The training rows, shuffled."""
    order = np.random.default_rng(0).permutation(prepared.parted.indices["train"])
    return [prepared.parted.tables["train"][int(i)] for i in order]


def _portions(rows: list[dict[str, Any]], label: str, *sizes: int) -> list[list[dict[str, Any]]]:
    """Portions of so many rows, none of them in two; each has every class, so that the classifier stays the same."""
    left, found = list(rows), []
    for size in sizes:
        given = [row[label] for row in left]
        leading = [i for i, value in enumerate(given) if given.index(value) == i]
        others = [i for i in range(len(left)) if i not in leading]
        taken = [*leading, *others[: size - len(leading)]]
        found.append([left[i] for i in taken])
        left = [row for i, row in enumerate(left) if i not in taken]
    return found


def _silenced(rows: list[dict[str, Any]], label: str) -> list[dict[str, Any]]:
    """The rows with the commonest class as the answer to all but the first row of each class."""
    given = [row[label] for row in rows]
    commonest = max(sorted(set(given), key=str), key=given.count)
    first = {value: given.index(value) for value in set(given)}
    return [row if first[row[label]] == i else {**row, label: commonest} for i, row in enumerate(rows)]


@dataclass(frozen=True)
class _Stage:
    """A model on the way, as a base for the next training, and its accuracy."""

    base: str
    score: float


class _Course:
    """What one seed goes through."""

    def __init__(self, lab: Lab, plain: Any, seed: int):
        self.lab, self.plain, self.seed = lab, plain, seed

    def run(self, wrong: list[Any], right: list[Any], suppress_steps: int, steps: list[int]) -> tuple[Any, ...]:
        """Accuracies taught and suppressed; after each budget of the suppressed and of the untaught; of the probes."""
        taught = self._tuned(self._recipe({}))
        silent = self._tuned(self._recipe({"base": taught.base, "budget": _exactly(suppress_steps)}, wrong))
        again = [self._score(self._recipe({"base": silent.base, "budget": _exactly(n)}, right)) for n in steps]
        fresh = [self._score(self._recipe({"budget": _exactly(n)}, right)) for n in steps]
        probes = [self._probe({}), self._probe({"base": silent.base})]
        return [taught.score, silent.score], again, fresh, probes

    def _recipe(self, changes: dict[str, Any], train: list[Any] | None = None) -> Any:
        recipe = self.plain.updated({**changes, "seed": self.seed})
        return recipe if train is None else self.lab.given(recipe, train=train)

    def _tuned(self, recipe: Any) -> _Stage:
        folder = self.lab.tuned(recipe)
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return _Stage(str(folder / "model"), float(report["tuned"][report["metric"]]["value"]))

    def _score(self, recipe: Any) -> float:
        return float(self.lab.results(recipe, seeds=[self.seed])[0][0].score)

    def _probe(self, changes: dict[str, Any]) -> float:
        return float(self.lab.before(self._recipe(changes)).score)


def _exactly(steps: int) -> dict[str, Any]:
    return {"steps": steps, "epochs": None}
