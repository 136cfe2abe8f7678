"""The learning test of every adapter and mask: a learning rate by validation rows, then three seeds against head only.

    python bench/presets.py [--only NAME ...] [--workers 2] [--lm]

On two arena tasks with fewer rows. Each part gets three rates, a fifth of its default to five times it, and one more beyond
the range if an end wins, on the first seed and by the loss of validation rows. Of those that are nearly as good as the best,
the lowest goes on to three seeds, on held-out rows, which had no part in the choice: too high a rate ruins what it is used
on next, too low a one only learns more slowly. One file a part, ``bench/presets/NAME.json``, written when it is whole; one that was
made of the same code, rows and rates is left alone, and its trainings lie in a store, so that a run that was cut off goes
on. ``--lm`` adds a language-model task, for which nothing is chosen: it is trained at the rate that the part brings along for
a base of that width. ``bench/parts.py`` takes the files into the package, and ``bench/adapters_page.py`` draws them.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from techniques import every, technique

from tunesmith.claims.lab import Lab
from tunesmith.comparing import arena
from tunesmith.comparing.identity import Identities
from tunesmith.comparing.pool import Crew
from tunesmith.comparing.result import Result
from tunesmith.comparing.store import Store
from tunesmith.errors import TunesmithError
from tunesmith.experiments._figures import difference, over_seeds
from tunesmith.experiments._summaries import mean_of
from tunesmith.parts import Part
from tunesmith.storage import hash_json, write_json

ROOT = Path(__file__).parent.parent
PRESETS = ROOT / "bench" / "presets"
TASKS, LM = ("intent", "addresses"), "spam"
OPTIONS = {"rows.limit": 800, "rows.test_share": 0.4, "checks.rows": 250}
"""Three passes over 800 rows are 150 steps: enough for what learns slowly, such as virtual tokens."""
FACTORS = (0.2, 1.0, 5.0)
SEEDS = (0, 1, 2)
COSTS = ("trainable", "stored_bytes", "peak_bytes", "training_seconds", "flops")

GAIN, NEARLY = 0.85, 0.7
"""A rate belongs to a part's range if it gains at least this share of what the best does, on the mean of the tasks: what the
validation loss falls by from the lowest rate tried. Where a rate that nearly does lies far below the lowest that does, one
halfway between them is tried too."""


class Test:
    """The learning test of one part.

    Args:
        part: an adapter or a mask.
        lab: carries out, and keeps the results.
        identities: of recipes.
        head: the file of head only; None while that itself is tested.
        how: ``workers`` and ``hear`` of the pool.
    """

    def __init__(
        self, part: Part, lab: Lab, identities: Identities, head: Mapping[str, Any] | None, how: dict[str, Any]
    ):
        self.part, self.lab, self.identities, self.head, self.how = part, lab, identities, head, how
        found = read(part.name)
        self.now = float(part.attributes["rate"])
        self.default = float(found["default"]) if found else self.now  # rates are tried about what it was at first
        self.halfway: list[float] = []

    def technique(self, task: str) -> dict[str, Any]:
        """The part alone."""
        return technique(self.part, task, self.identities)

    def fingerprint(self) -> str:
        """Of all that the test's outcome follows from."""
        same = {"seed": 0, "optimizer": arena.at_rate(1.0)}
        recipes = [arena.find(t).recipe({**self.technique(t), **same}, **OPTIONS) for t in TASKS]
        facts = [self.identities.of(recipe).fingerprint for recipe in recipes]
        return hash_json([facts, FACTORS, SEEDS, GAIN, NEARLY, self.head and self.head["rate"]])[:16]

    def stands(self) -> bool:
        """Whether the part's file is there, of this code and these rows, and of its default or what made it the default."""
        found = read(self.part.name)
        if found is None or self.now not in (found["default"], found["rate"]):
            return False
        return bool(found["fingerprint"] == self.fingerprint())

    def carry_out(self, store: Store) -> dict[str, Any]:
        """What the part's file holds."""
        name = self.part.name
        best, trials = self.trials(store)
        if found := between(trials):
            self.halfway = [found]
            best, trials = self.trials(store)
        rate, highest = reach(trials)
        ours = self.results(TASKS, self.technique, rate, OPTIONS)
        theirs = self.results(TASKS, lambda _: {"mask": "head"}, self.head["rate"], OPTIONS) if self.head else {}
        changes = [difference(ours[task], theirs[task], task) for task in theirs]
        beats = mean_of(changes) if changes else None
        tasks = {task: summary(results) for task, results in ours.items()}
        return {
            "part": f"{self.part.kind}.{name}", "fingerprint": self.fingerprint(), "rate": rate, "default": self.default,
            "range": [rate, highest], "best": best, "trials": trials, "seeds": len(SEEDS),
            "dead": any(t["score"]["value"] <= t["commonest"] for t in tasks.values()),
            "beats_head": beats and {"value": beats.value, "low": beats.low, "high": beats.high},
            "tasks": tasks, "environment": next(iter(ours.values()))[0].environment,
        }  # fmt: skip

    def rates(self) -> list[float]:
        """Those that are tried first."""
        return sorted([*(float(f"{self.default * f:.3g}") for f in FACTORS), *self.halfway])

    def trials(self, store: Store) -> tuple[float, list[list[Any]]]:
        """The rate with the lowest loss, and rate, task and loss of each trial."""
        found = tuned_rates([self], store, self.how)
        trials = [[r, task, loss if math.isfinite(loss) else None] for _, _, r, task, loss in found["trials"]]
        return found["rates"]["encoder"][self.part.name], trials

    def results(
        self,
        tasks: Sequence[str],
        technique: Callable[[str], Mapping[str, Any]],
        rate: float | None,
        options: Mapping[str, Any],
    ) -> dict[str, list[Result]]:
        """By task, one result a seed at this rate, or at the part's own."""
        at = {} if rate is None else {"optimizer": arena.at_rate(rate)}
        recipes = [self.lab.recipe(t, {**technique(t), **at}, **options) for t in tasks]
        return dict(zip(tasks, self.lab.results(*recipes), strict=True))

    def language(self) -> dict[str, Any]:
        """The summary of the language-model task; as for the others, a higher score is better."""
        return summary(self.results([LM], self.technique, None, {})[LM])


def tuned_rates(tests: Sequence[Test], store: Store, how: Mapping[str, Any]) -> dict[str, Any]:
    """Rates of some parts, tried together (`arena.tune_rates`)."""
    by_name = {test.part.name: test for test in tests}
    return arena.tune_rates(
        store, {name: test.rates() for name, test in by_name.items()},
        technique=lambda name, task: by_name[name].technique(task), tasks={"encoder": TASKS}, options=OPTIONS, seed=SEEDS[0],
        **how,
    )  # fmt: skip


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Score over the seeds with its interval, the share of the commonest answer, and median costs."""
    sign = -1.0 if results[0].metric in ("loss", "log_loss") else 1.0
    score = over_seeds([sign * r.score for r in results])
    said = Counter(map(str, results[0].answers.references))
    costs = {name: [r.cost[name] for r in results if r.cost.get(name) is not None] for name in COSTS}
    return {
        "metric": results[0].metric, "commonest": max(said.values()) / len(results[0].answers.references),
        "score": {"value": score.value, "low": score.low, "high": score.high, "values": list(score.values)},
        "cost": {name: statistics.median(values) for name, values in costs.items() if values},
    }  # fmt: skip


def reach(trials: Sequence[Sequence[Any]]) -> tuple[float, float]:
    """The lowest and the highest good rate."""
    good = [rate for rate, share in shares(trials).items() if share >= GAIN]
    return min(good), max(good)


def between(trials: Sequence[Sequence[Any]]) -> float | None:
    """A rate halfway between the lowest good one and one far below that is nearly good; None where there is none."""
    lowest, _ = reach(trials)
    near = [rate for rate, share in shares(trials).items() if NEARLY <= share < GAIN and rate < lowest / 4]
    return float(f"{math.sqrt(max(near) * lowest):.2g}") if near else None


def shares(trials: Sequence[Sequence[Any]]) -> dict[float, float]:
    """What each rate gains, as a share of what the best does."""
    losses = {(rate, task): math.inf if loss is None else loss for rate, task, loss in trials}
    rates = sorted({rate for rate, _ in losses})
    gains = {(r, task): losses[rates[0], task] - loss for (r, task), loss in losses.items()}
    most = {task: max(gains[r, task] for r in rates) for task in TASKS}
    gained = {
        r: statistics.fmean(gains[r, t] / most[t] if most[t] else float(r == rates[0]) for t in TASKS) for r in rates
    }
    return {rate: gain / max(gained.values()) for rate, gain in gained.items()}


def read(name: str) -> dict[str, Any] | None:
    """The file of a part, or None."""
    path = PRESETS / f"{name}.json"
    found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return found


def main() -> None:
    """Test the parts, and write a file for each."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--only", nargs="*", help="names of parts")
    asked.add_argument("--workers", type=int, default=2, help="trainings at a time")
    asked.add_argument("--lm", action="store_true", help="the language-model task too")
    asked.add_argument("--store", type=Path, default=ROOT / "runs" / "presets", help="folder of the trainings' results")
    given = asked.parse_args()
    store, identities = Store(given.store), Identities()
    parts = [p for p in every() if not given.only or p.name in (*given.only, "head")]
    failed = []
    with Crew(given.workers) as crew:
        how: dict[str, Any] = {"workers": given.workers, "crew": crew, "hear": lambda text: print(text, flush=True)}
        lab = Lab(store, SEEDS, **how)

        def test(part: Part) -> Test:
            return Test(part, lab, identities, read("head") if part.name != "head" else None, how)

        one(test(parts[0]), store, lm=given.lm)
        waiting = [t for t in map(test, parts[1:]) if not t.stands()]
        with suppress(TunesmithError):  # said again by the part that it is of
            tuned_rates(waiting, store, how)
        for part in parts[1:]:
            try:
                one(test(part), store, lm=given.lm)
            except TunesmithError as error:
                failed.append(f"{part.name}: {error}")
    if failed:
        raise SystemExit("\n".join(failed))


def one(test: Test, store: Store, *, lm: bool) -> None:
    """Test one part unless its file is there and stands."""
    name = test.part.name
    found = read(name) if test.stands() else None
    if found is None:
        found = test.carry_out(store)
        write_json(PRESETS / f"{name}.json", found)
    if lm and LM not in found["tasks"]:
        found["tasks"][LM] = test.language()
        write_json(PRESETS / f"{name}.json", found)
    change = found["beats_head"]
    beats = f"{100 * change['value']:+.1f} points against head only" if change else "what the others are held against"
    print(
        f"{name}: rate {found['rate']:g} (default {found['default']:g}), {beats}{', DEAD' if found['dead'] else ''}",
        flush=True,
    )


if __name__ == "__main__":
    main()
