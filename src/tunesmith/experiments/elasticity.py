from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError
from . import Lab, Outcome
from ._figures import over_seeds


def elasticity(
    lab: Lab,
    *,
    task: str = "spam",
    rows: list[int] = [32, 96],  # noqa: B006
    against: list[int] = [8, 24],  # noqa: B006
    held_out: int = 24,
    options: dict[str, Any] = {},  # noqa: B006
) -> Outcome:
    """How fast a language model that was taught something forgets it when it is taught the opposite.

    The model first learns the right completion of two; then, at a constant rate, the wrong one for other prompts. What is
    measured is its leaning: the log odds of the right against the wrong completion, mean over held-out prompts of which
    each completion has half.

    Figures: ``taught``, what the first stage adds to the untuned base's leaning with the most rows; ``rebound``, by how
    much more the leaning falls with the fewest opposite rows if it was taught with more rows; ``rebound_share``, the same
    for what is lost as a share of what was taught; ``flattening``, of the model taught with more rows, what the leaning
    falls by with each of the first opposite rows less with each of the later ones; ``beyond``, the leaning with the
    most opposite rows less the untuned base's (0: it is back where it began).

    Source: Ji et al. 2024, arXiv:2406.06144, sec. 4.

    Settings:
        task: an arena task whose rows have one of two completions.
        rows: rows of the first stage: fewer, more.
        against: opposite rows of the second stage: fewer, more.
        held_out: prompts on which the leaning is measured.
        options: of all recipes, e.g. ``{length.max: 48}``.
    """
    from ..comparing import arena

    plain = lab.recipe(task, arena.TECHNIQUES["full"], **{**options, "rows.limit": None, "checks.rows": 2 * held_out})
    stock = _Stock(lab, plain, held_out)
    leanings = np.array([[stock.course(plain, seed, n, against) for n in rows] for seed in lab.seeds])
    start = stock.leaning(lab.before(stock.given(plain, stock.rows(max(rows), 0, flip=False))))
    few, many = leanings[:, 0], leanings[:, -1]
    lost = leanings[:, :, 0] - leanings[:, :, 1]
    share = lost / (leanings[:, :, 0] - start)
    first, later = lost[:, -1] / against[0], (many[:, 1] - many[:, -1]) / (against[-1] - against[0])
    figures = {
        "taught": over_seeds(many[:, 0] - start, "nats", f"{rows[-1]} rows"),
        "rebound": over_seeds(lost[:, -1] - lost[:, 0], "nats", f"{rows[-1]} rows less {rows[0]}"),
        "rebound_share": over_seeds(share[:, -1] - share[:, 0], "points", f"{rows[-1]} rows less {rows[0]}"),
        "flattening": over_seeds(first - later, "nats", "a row"),
        "beyond": over_seeds(many[:, -1] - start, "nats", f"{against[-1]} opposite rows"),
    }
    sides = {f"taught with {n} rows": side.mean(0) for n, side in ((rows[0], few), (rows[-1], many))}
    series = {n: [[m, float(v)] for m, v in zip([0, *against], side, strict=True)] for n, side in sides.items()}
    notes = [f"leaning of the untuned base: {start:.3f} nats"]
    return Outcome(figures, series, ("opposite rows", "leaning, nats"), notes)


class _Stock:
    """Prompts with their right and wrong completion; no prompt is used in two places."""

    def __init__(self, lab: Lab, recipe: Any, held_out: int):
        self.lab = lab
        prepared = lab.prepared(recipe)
        self.column = prepared.task.columns["completion"]
        self.train, self.held = (_by_answer(prepared, name, self.column) for name in ("train", "test"))
        self.answers = sorted(self.train)
        if len(self.answers) != 2:
            found = f"column {self.column!r} holds {len(self.answers)} different completions"
            raise InputError(found, expected="two", fix="choose another task for the experiment elasticity")
        self.prompts = [self.held[a][i] for i in range(held_out // 2) for a in self.answers]

    def rows(self, count: int, seed: int, *, flip: bool) -> list[dict[str, Any]]:
        """Training rows, of each completion half; flipped ones have the wrong completion and are other rows."""
        made = []
        for answer in self.answers:
            order = np.random.default_rng(seed).permutation(len(self.train[answer]))
            picked = order[::-1][: count // 2] if flip else order[: count // 2]
            made += [self._answered(self.train[answer][i], flip) for i in picked]
        return made

    def given(self, recipe: Any, train: list[dict[str, Any]]) -> Any:
        """The recipe with these training rows, scored on each held-out prompt with the right and the wrong completion."""
        asked = [self._answered(row, flip) for flip in (False, True) for row in self.prompts]
        return self.lab.given(recipe, train=train, test=asked)

    def _answered(self, row: dict[str, Any], flip: bool) -> dict[str, Any]:
        other = self.answers[1 - self.answers.index(row[self.column])]
        return {**row, self.column: other} if flip else row

    def leaning(self, result: Any) -> float:
        """Mean log odds of the right completion against the wrong one."""
        right, wrong = np.split(np.asarray(result.answers.loss), 2)
        return float(np.mean(wrong - right))

    def course(self, recipe: Any, seed: int, count: int, against: list[int]) -> list[float]:
        """The leaning after so many rows, and then after each number of opposite ones."""
        taught = self.lab.tuned(self.given(recipe, self.rows(count, seed, flip=False)).updated({"seed": seed}))
        again = {"base": str(taught / "model"), "schedule": "constant", "batch": {"rows": 4}, "seed": seed}
        second = [self.given(recipe.updated(again), self.rows(m, seed, flip=True)) for m in against]
        after = [self.lab.results(r, seeds=[seed])[0][0] for r in second]
        return [self.leaning(r) for r in (self.lab.before(second[0]), *after)]


def _by_answer(prepared: Any, name: str, column: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of a split by their completion, in the table's order."""
    table = prepared.parted.tables[name]
    found: dict[str, list[dict[str, Any]]] = {}
    for index in prepared.parted.indices[name]:
        row = table[int(index)]
        found.setdefault(row[column], []).append(row)
    return found
