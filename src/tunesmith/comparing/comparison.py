"""Several recipes over several seeds on the same rows: scores, differences, costs, and what the seeds can see."""

from __future__ import annotations

import itertools
import math
import statistics as plain
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..evaluation.wording import PERCENT
from ..recipe import Recipe
from ..run.reporting import technique_of
from ..storage import atomic_file, write_json
from .identity import Identities, Identity
from .pool import Hear, Job, fill
from .result import Result
from .statistics import Effect, adjusted, effect, power_statement, verdict
from .store import Store

SCHEMA = 1

COSTS = (
    "trainable",
    "stored_bytes",
    "peak_bytes",
    "seconds",
    "training_seconds",
    "cpu_seconds",
    "tokens",
    "flops",
    "joules",
)
"""What is reported beside a score: counts, bytes, seconds, floating-point operations, joules."""


@dataclass(frozen=True)
class Pair:
    """One recipe against another: ours minus theirs, with the p-value corrected for all pairs."""

    ours: str
    theirs: str
    effect: Effect
    p: float

    @property
    def verdict(self) -> str:
        return verdict(self.effect, self.p)


@dataclass(frozen=True)
class Comparison:
    """What was compared.

    Attributes:
        results: name -> a result for each seed, in the order of ``seeds``.
        before: the base or the baseline that tuning has to beat.
        seeds: the seeds.
        correction: ``holm`` or ``bh``.
        level: coverage of the intervals.
    """

    results: Mapping[str, Sequence[Result]]
    before: Result
    seeds: Sequence[int]
    correction: str = "holm"
    level: float = 0.95

    @property
    def metric(self) -> str:
        return self.before.metric

    @property
    def base_name(self) -> str:
        """What stands for no tuning, e.g. ``linear probe``."""
        return str(self.before.health["name"])

    def score(self, name: str) -> Effect:
        """Mean score of a recipe over its seeds; see `effect`."""
        return effect(self.metric, [r.answers for r in self.results[name]], level=self.level)

    def pairs(self) -> list[Pair]:
        """Every recipe against the untuned base, then every two recipes."""
        said = {n: [r.answers for r in found] for n, found in self.results.items()}
        untuned = [self.before.answers] * len(self.seeds)
        named = [(n, self.base_name, said[n], untuned) for n in said]
        named += [(b, a, said[b], said[a]) for a, b in itertools.combinations(said, 2)]
        effects = [effect(self.metric, ours, theirs, self.level) for _, _, ours, theirs in named]
        corrected = adjusted([e.p for e in effects], self.correction)
        return [Pair(a, b, e, p) for (a, b, _, _), e, p in zip(named, effects, corrected, strict=True)]

    def cost(self, name: str) -> dict[str, float | None]:
        """Median over the seeds of each cost; None where the machine did not tell."""
        found: dict[str, float | None] = {}
        for key in COSTS:
            values = [r.cost[key] for r in self.results[name] if r.cost.get(key) is not None]
            found[key] = float(plain.median(values)) if values else None
        return found

    def front(self, cost: str = "training_seconds") -> list[str]:
        """Names that no other beats in both mean score and this cost (the Pareto front), cheapest first."""
        sign = -1 if self.score(next(iter(self.results))).greater is False else 1
        points = {n: (self.cost(n)[cost] or 0.0, sign * self.score(n).value) for n in self.results}
        ordered = sorted(points, key=lambda n: (points[n][0], -points[n][1]))
        best, front = float("-inf"), []
        for name in ordered:
            if points[name][1] > best:
                best = points[name][1]
                front.append(name)
        return front

    def power(self) -> str:
        """What these seeds and rows can see, by the noisiest pair of recipes."""
        pairs = [p for p in self.pairs() if p.theirs != self.base_name] or self.pairs()
        noisiest = max(pairs, key=lambda p: p.effect.error)
        return power_statement(noisiest.effect, self.unit)

    def unit(self, value: float) -> str:
        """A difference as people read it."""
        return f"{100 * value:.1f} points" if self.metric in PERCENT else f"{value:.3g}"

    def to_dict(self) -> dict[str, Any]:
        """Everything that ``comparison.json`` holds."""
        first = next(iter(self.results.values()))[0]
        pairs = self.pairs()
        values = {
            "schema": SCHEMA, "task": first.task, "base": first.base, "metric": self.metric,
            "greater": self.score(next(iter(self.results))).greater, "seeds": list(self.seeds), "level": self.level,
            "correction": self.correction, "rows": len(first.answers), "source": first.recipe["rows"]["train"],
            "before": {"name": self.base_name, "score": asdict(effect(self.metric, [self.before.answers]))},
            "recipes": [
                {
                    "name": name, "technique": technique_of(found[0].recipe), "score": asdict(self.score(name)),
                    "values": [r.score for r in found], "scores": [dict(r.scores) for r in found],
                    "cost": self.cost(name), "recipe": found[0].recipe, "audit": [r.audit for r in found],
                    "commits": sorted({str(r.environment["commit"]) for r in found if r.environment.get("commit")}),
                }
                for name, found in self.results.items()
            ],
            "pairs": [
                {"ours": p.ours, "theirs": p.theirs, **asdict(p.effect), "p_corrected": p.p, "verdict": p.verdict}
                for p in pairs
            ],
            "front": {cost: self.front(cost) for cost in ("training_seconds", "trainable", "peak_bytes")},
            "power": self.power(), "environment": first.environment,
            "fingerprints": {n: [Identity(r.identity).fingerprint for r in found] for n, found in self.results.items()},
        }  # fmt: skip
        return _strict(values)

    def report(self) -> Any:
        """The comparison for a terminal or a notebook."""
        from .report import render_terminal

        return render_terminal(self.to_dict())

    def save(self, folder: str | Path) -> dict[str, Any]:
        """Write ``comparison.json`` and ``report.html``; gives what the first holds."""
        from .report import render_html

        folder, values = Path(folder), self.to_dict()
        write_json(folder / "comparison.json", values)
        with atomic_file(folder / "report.html") as file:
            file.write(render_html(values, title=folder.name))
        return values

    def _repr_html_(self) -> str:
        from .report import render_html

        return render_html(self.to_dict(), title="comparison")


def _strict(value: Any) -> Any:
    """With None for what is no number, as JSON has it."""
    if isinstance(value, Mapping):
        return {k: _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def compare(
    recipes: Mapping[str, Recipe], *, seeds: int | Sequence[int] = 5, store: Store | Path | str = "runs/results",
    on: str = "here", workers: int = 1, correction: str = "holm", level: float = 0.95, hear: Hear = lambda text: None,
) -> Comparison:  # fmt: skip
    """Carry out each recipe with each seed, re-using what the store has, and compare them.

    Args:
        recipes: name -> recipe. All have the same rows and the same split; base and parts may differ. Audits are made
            with the first seed of each.
        seeds: how many, or which; every recipe gets the same.
        store: folder of results. What is there is not computed again.
        on: ``here`` or ``ray``.
        workers: trainings at a time.
        correction: for many comparisons: ``holm`` or ``bh``.
        level: coverage of the intervals.
        hear: gets a line for each result.

    Raises:
        InputError: the recipes do not have the same held-out rows, or one has something for the user to mend.
        RunError: a training failed; what is done stays in the store.
    """
    store = store if isinstance(store, Store) else Store(store)
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    identities = Identities()
    jobs = {
        name: [_job(identities, f"{name} seed {s}", _with_seed(recipe, s, first=s == chosen[0])) for s in chosen]
        for name, recipe in recipes.items()
    }
    _check_same_rows({n: j[0] for n, j in jobs.items()})
    first = next(iter(recipes.values()))
    before = Job("base", first, identities.of(first, "before"), "before")
    fill(store, [before, *itertools.chain(*zip(*jobs.values(), strict=True))], on=on, workers=workers, hear=hear)
    found = {name: [_have(store, job) for job in several] for name, several in jobs.items()}
    return Comparison(found, _have(store, before), chosen, correction, level)


def _with_seed(recipe: Recipe, seed: int, *, first: bool) -> Recipe:
    """The recipe with this seed; its audits are made with the first one only."""
    return recipe.updated({"seed": seed} if first else {"seed": seed, "audit": []})


def _job(identities: Identities, name: str, recipe: Recipe) -> Job:
    return Job(name, recipe, identities.of(recipe))


def _have(store: Store, job: Job) -> Result:
    result = store.get(job.identity)
    if result is None:
        raise InputError(f"the result of {job.name} is gone", where=store.folder, fix="run the comparison again")
    return result


def _check_same_rows(jobs: Mapping[str, Job]) -> None:
    first, *others = jobs
    for name in others:
        if jobs[name].identity.facts["rows"]["test"] != jobs[first].identity.facts["rows"]["test"]:
            raise InputError(
                f"{name} and {first} have other held-out rows", expected="the same rows, split alike",
                fix="give all recipes the same rows, rows.seed, rows.test_share and length.over",
            )  # fmt: skip
