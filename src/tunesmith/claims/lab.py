"""The lab: carries out what an experiment asks for, and keeps it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..comparing import arena
from ..comparing.identity import Identities, Identity, by_content, codes_of
from ..comparing.pool import Crew, Job, fill
from ..comparing.result import Result
from ..comparing.store import Store
from ..data.rows import read
from ..recipe import Recipe
from ..run.prepare import Prepared, on_disk
from ..storage import cache_home, hash_json


class Lab:
    """See `tunesmith.experiments.Lab`.

    Args:
        store: where results are kept.
        seeds: the claim's seeds.
        on: ``here`` or ``ray``.
        workers: trainings at a time.
        crew: of `pool.fill`.
        hear: gets a line for each result.
    """

    def __init__(
        self, store: Store, seeds: Sequence[int], *, on: str = "here", workers: int = 1, crew: Crew | None = None,
        hear: Callable[[str], None] = lambda text: None,
    ):  # fmt: skip
        self.seeds = list(seeds)
        self.say = hear
        self.used: dict[str, Result] = {}
        self.rounds: list[Path] = []
        self._store = store
        self._how: dict[str, Any] = {"on": on, "workers": workers, "crew": crew, "hear": hear}
        self._identities = Identities()

    def recipe(self, task: str, technique: Mapping[str, Any], **changes: Any) -> Recipe:
        where = arena.find(task)
        return where.recipe({**arena.tuned_rate(where.family, technique), **technique}, **changes)

    def results(self, *recipes: Recipe, seeds: Sequence[int] | None = None) -> list[list[Result]]:
        chosen = self.seeds if seeds is None else list(seeds)
        jobs = [[self._job(recipe.updated({"seed": s})) for s in chosen] for recipe in recipes]
        fill(self._store, [j for several in jobs for j in several], **self._how)
        return [[self._take(j.identity) for j in several] for several in jobs]

    def each(self, recipes: Sequence[Recipe]) -> list[Result]:
        jobs = [self._job(r.updated({"seed": s})) for r, s in zip(recipes, self.seeds, strict=True)]
        fill(self._store, jobs, **self._how)
        return [self._take(job.identity) for job in jobs]

    def _job(self, recipe: Recipe) -> Job:
        parts = [c.name for c in (*recipe.adapter, *([recipe.mask] if recipe.mask else []))]
        rows = Path(str(recipe.rows.train).removeprefix("packaged:")).name
        return Job(f"{rows} {' + '.join(parts)} seed {recipe.seed}", recipe, self._identities.of(recipe))

    def _take(self, identity: Identity) -> Result:
        result = self._store.get(identity)
        assert result is not None, "the pool raises where a result is missing"
        self.used[identity.fingerprint] = result
        return result

    def before(self, recipe: Recipe) -> Result:
        job = Job("base", recipe, self._identities.of(recipe, "before"), "before")
        fill(self._store, [job], **self._how)
        return self._take(job.identity)

    def prepared(self, recipe: Recipe) -> Prepared:
        return self._identities.prepared(recipe)

    def given(self, recipe: Recipe, *, train: Any, test: Any = None) -> Recipe:
        if test is None:
            parted = self.prepared(recipe).parted
            test = parted.tables["test"].take(parted.indices["test"])
        whole = {"train": read(train), "validation": None, "test": read(test), "validation_share": 0.0, "limit": None}
        rows = {**recipe.rows.model_dump(), **whole, "group": None}
        task = recipe.task or self.prepared(recipe).task.name
        return on_disk(recipe.updated({"rows": rows, "task": task}))

    def features(self, recipe: Recipe) -> np.ndarray:
        from ..run.carry_out import untuned_features

        return untuned_features(self.prepared(recipe), "train")

    def untuned(self, recipe: Recipe) -> Any:
        from ..run.carry_out import untuned

        return untuned(self._known(recipe))

    def loop(self, recipe: Recipe) -> Any:
        from ..run.carry_out import unbegun

        return unbegun(self._known(recipe))

    def _known(self, recipe: Recipe) -> Prepared:
        """The prepared rows of a recipe with the recipe itself, of which recipes that share rows know nothing."""
        known = self.prepared(recipe)
        filled = {"base": known.base.name, "length": known.recipe.length.model_dump()}
        return replace(known, recipe=recipe.with_rate(known.base.width).updated(filled))

    def tuned(self, recipe: Recipe) -> Path:
        """Kept in the cache: weights are large, and can be made again."""
        from ..run.api import start

        out = cache_home() / "lab"
        name = self._identities.of(recipe).fingerprint
        folder = out / name
        if not (folder / "report.json").exists():
            self.say(f"training {folder}")
            shutil.rmtree(folder, ignore_errors=True)
            start(recipe, out, name, listen=lambda event: None)
        return folder

    def improved(self, recipe: Recipe, loop: Mapping[str, Any], seed: int) -> Path:
        """Kept in the cache, as `tuned` runs are; one that was cut off goes on."""
        from ..improving import api, plan

        made = plan.make({**recipe.updated({"seed": seed}).to_dict(), "improve": dict(loop)})
        parts = [made.improve.judge, made.improve.maker, *made.improve.trust]
        parts += [made.improve.check] if made.improve.check else []
        facts = [self._identities.of(made.recipe).facts, by_content(made.to_dict()["improve"]), codes_of(parts)]
        folder = cache_home() / "lab" / f"improved-{hash_json(facts)[:24]}"
        if not (folder / "report.json").exists():
            self.say(f"improving {folder}")
            begun = (folder / api.FILE).exists()
            if not begun:
                shutil.rmtree(folder, ignore_errors=True)
            api.start(made, folder, lambda event: None, resume=begun)
        self.rounds += [Path(p) for p in sorted(folder.glob("round-*/run")) if p not in self.rounds]
        return folder
