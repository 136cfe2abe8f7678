"""The arena: a fixed set of small real tasks on which techniques meet, and the permanent baselines.

Every row set and base comes from a package. One training takes half a minute to a minute on two cores. The rows, the
split and the number of rows seen are the same for every technique; only the parts and their learning rate differ.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import recipe as recipes
from ..errors import RunError, unknown
from ..recipe import Recipe, override
from .identity import Identities
from .pool import Job, fill
from .store import Store


@dataclass(frozen=True)
class ArenaTask:
    """One task.

    Attributes:
        name: what claims and commands call it.
        about: what is asked, in a few words.
        family: ``encoder`` or ``lm``; learning rates are tuned for each.
        values: the recipe's values without a technique.
    """

    name: str
    about: str
    family: str
    values: Mapping[str, Any]

    def recipe(self, technique: Mapping[str, Any], **changes: Any) -> Recipe:
        """The recipe of a technique on this task.

        Args:
            technique: options of a recipe, dotted or nested: ``{"adapter": {"lora": {"rank": 4}}}``.
            **changes: more options, e.g. ``seed=3``.
        """
        return recipes.make(override(self.values, {**technique, **changes}), where=f"arena task {self.name}")


def _encoder(name: str, about: str, rows: str, base: str = "minilm-l6", limit: int = 1000, **more: Any) -> ArenaTask:
    values = {
        "base": base, "rows": {"train": f"packaged:{rows}", "limit": limit}, "batch": {"rows": 16},
        "budget": {"epochs": 3}, "checks": {"rows": 500}, "length": {"max": 48}, **more,
    }  # fmt: skip
    return ArenaTask(name, about, "encoder", values)


def _lm(
    name: str, about: str, source: str, limit: int, length: int, columns: Mapping[str, str] | None = None, **more: Any
) -> ArenaTask:
    values = {
        "base": "smollm2-135m", "batch": {"rows": 8}, "budget": {"epochs": 1},
        "checks": {"rows": 40, "generate": 0}, "length": {"max": length, "over": "truncate"},
        "rows": {"train": f"packaged:{source}", "limit": limit, "columns": columns or {}}, **more,
    }  # fmt: skip
    return ArenaTask(name, about, "lm", values)


TASKS = {
    task.name: task
    for task in (
        _encoder("sentiment", "film reviews: fresh or rotten", "rotten-tomatoes"),
        _encoder("topic", "news articles in five topics", "bbc-news", limit=600, length={"max": 64, "over": "truncate"}),
        _encoder("intent", "questions by what they ask for, six classes", "trec"),
        _encoder("relevance", "does a passage answer a question (pairs)", "privacy-pairs",
                 limit=800, length={"max": 80, "over": "truncate"}),
        _encoder("addresses", "the role of each word of an address (tags)", "us-addresses"),
        _encoder("rating", "how positive a film review is (a number)", "movie-ratings"),
        _encoder("chinese", "Chinese shop reviews: positive or negative", "chinese-reviews", base="e5-small",
                 limit=480, length={"max": 40, "over": "truncate"}, checks={"rows": 400}),
        _lm("instruct", "answers to instructions", "alpaca-demo", 56, 112),
        _lm("news", "news articles, as they go on (lm)", "news-articles", 10, 128),
        _lm("spam", "spam or ham, as a word that is written", "sms-spam", 96, 64,
            {"prompt": "text", "completion": "label"}, task="generate"),
    )
}  # fmt: skip

TECHNIQUES: dict[str, dict[str, Any]] = {
    "full": {"mask": "everything"},
    "head": {"mask": "head"},
    "lora": {"adapter": "lora"},
}
"""The permanent baselines."""

CANDIDATES: dict[str, tuple[float, ...]] = {
    "full": (2e-5, 1e-4, 5e-4),
    "head": (1e-3, 5e-3, 2e-2),
    "lora": (2e-4, 1e-3, 5e-3),
}
"""Learning rates that are tried for each baseline: three each, on one seed that no comparison uses."""

_FIXED = {"density": 0.01, "scope": "tensor", "roles": ["linear"]}

CONTENDERS: dict[str, dict[str, Any]] = {
    "bottleneck beside the MLP": {
        "adapter": {"bottleneck": {"size": 48, "parallel": True, "targets": ["sublayer.mlp"]}}
    },
    "co_fi_tune": {"mask": "co_fi_tune"},
    "hft": {"mask": "hft"},
    "largest entries": {"mask": {"entries": {**_FIXED, "score": "magnitude", "density": 0.1}}},
    "lisa": {"mask": {"lisa": {"count": 2, "period": 5}}},
    "lisa drawn once": {"mask": {"lisa": {"count": 2, "period": 100000}}},
    "lora at attention": {"adapter": {"lora": {"rank": 16, "targets": ["attention.*"]}}},
    "prefix_tuning": {"adapter": "prefix_tuning"},
    "prompt_tuning": {"adapter": "prompt_tuning"},
    "random entries": {"mask": {"entries": {**_FIXED, "score": "random"}}},
    "sara": {"mask": "sara"},
    "scaled_prompt": {"adapter": "scaled_prompt"},
    "spider": {"mask": "spider"},
    "spiel": {"mask": "spiel"},
    "spiel by momentum": {"mask": {"spiel": {"growth": "momentum"}}},
}
"""What claims hold against the baselines on the language model. Their rates are tuned there too: those that the parts bring
along were found in twenty times as many steps."""

FACTORS = (0.2, 1.0, 5.0)
"""Of the rate that a contender's part brings along: what is tried."""

TUNING_SEED = 1000

TUNED_ON = {"encoder": ("intent", "sentiment"), "lm": ("instruct",)}
"""Tasks of each family on which rates are tuned, by the loss of validation rows."""


def find(name: str) -> ArenaTask:
    """The task of this name.

    Raises:
        InputError: there is none; the nearest is offered.
    """
    if name not in TASKS:
        raise unknown("arena task", name, TASKS)
    return TASKS[name]


RATES = Path(__file__).parent / "rates.json"
"""What `tune_rates` found, written by ``tunesmith arena tune``."""


def tuned_rate(family: str, technique: Mapping[str, Any]) -> dict[str, Any]:
    """The optimizer with the rate that was tuned for a baseline or a contender; empty for every other technique.

    A technique that is neither a baseline nor a contender, or names its own optimizer, keeps its own rate.
    """
    known = rates()["rates"][family]
    tuned = {n: v for n, v in {**TECHNIQUES, **CONTENDERS}.items() if n in known}
    names = [n for n, v in tuned.items() if all(technique.get(k) == x for k, x in v.items())]
    if not names or any(key.split(".")[0] == "optimizer" for key in technique):
        return {}
    return {"optimizer": at_rate(known[names[0]])}


def rates() -> dict[str, Any]:
    """The tuned rates and the trials that they come from."""
    found: dict[str, Any] = json.loads(RATES.read_text(encoding="utf-8"))
    return found


def tune(store: Store, only: Sequence[str] = (), **how: Any) -> dict[str, Any]:
    """Tune the rates of the baselines in both families, and on the language model those of the contenders.

    Args:
        store: of the trials.
        only: names of techniques; what is known of the others stays. None tunes all.
        **how: as for `tune_rates`.

    Returns:
        As `tune_rates`.

    Raises:
        InputError: no such technique.
    """
    for name in only:
        if name not in (*TECHNIQUES, *CONTENDERS):
            raise unknown("technique", name, [*TECHNIQUES, *CONTENDERS])
    lm = {"lm": TUNED_ON["lm"]}
    baselines = {n: r for n, r in CANDIDATES.items() if n in (only or CANDIDATES)}
    contenders = {n: _around_own(t) for n, t in CONTENDERS.items() if n in (only or CONTENDERS)}
    found: dict[str, Any] = rates() if only else {"rates": {family: {} for family in TUNED_ON}, "trials": []}
    for new in (
        tune_rates(store, baselines, **how),
        tune_rates(store, contenders, technique=lambda name, task: CONTENDERS[name], tasks=lm, **how),
    ):
        found["rates"] = {family: {**known, **new["rates"].get(family, {})} for family, known in found["rates"].items()}
        again = {(family, name) for family, name, *_ in new["trials"]}
        found["trials"] = [t for t in found["trials"] if (t[0], t[1]) not in again] + new["trials"]
    return found


def _around_own(technique: Mapping[str, Any]) -> list[float]:
    """Rates to try: the one that the part brings along, and others about it."""
    own = find(TUNED_ON["lm"][0]).recipe(technique).with_rate(None).rate
    assert own is not None
    return [float(f"{own * factor:.3g}") for factor in FACTORS]


Technique = Callable[[str, str], Mapping[str, Any]]
"""The options of a recipe that stand for a technique of this name on this task."""


def tune_rates(
    store: Store, candidates: Mapping[str, Sequence[float]] = CANDIDATES, *,
    technique: Technique = lambda name, task: TECHNIQUES[name], tasks: Mapping[str, Sequence[str]] = TUNED_ON,
    options: Mapping[str, Any] = {}, seed: int = TUNING_SEED, **how: Any,
) -> dict[str, Any]:  # fmt: skip
    """Find a learning rate for each technique and family, with the same number of trials for all.

    A rate's loss on a task is that of the validation rows; over the tasks of a family losses are added up as shares of
    the task's best. A best rate at an end of its range gets one more trial, `BEYOND` further. The test rows are not
    looked at. A rate at which a training fails is infinitely bad.

    Args:
        store: of the trials.
        candidates: technique -> rates to try, in ascending order.
        technique: what a technique's name stands for on a task; the permanent baselines if not given.
        tasks: family -> names of its tasks on which rates are tried.
        options: of all trials, on top.
        seed: of all trials; by default one that no comparison uses.
        **how: ``on``, ``workers``, ``crew``, ``hear`` of `pool.fill`.

    Returns:
        ``rates``: family -> technique -> rate; ``trials``: every trial's family, technique, rate, task and loss.

    Raises:
        RunError: a technique failed at every rate.
    """
    trials = _Trials(store, technique, tasks, {**options, "seed": seed}, how)
    wanted = {(f, t): list(rates) for f in tasks for t, rates in candidates.items()}
    trials.carry_out(wanted)
    trials.carry_out({key: _beyond(rates, trials.best(*key)) for key, rates in wanted.items()})
    found: dict[str, dict[str, float]] = {}
    for family, name in wanted:
        found.setdefault(family, {})[name] = trials.best(family, name)
    return {"rates": found, "trials": [[*key, loss] for key, loss in trials.losses.items()]}


BEYOND = 2.5
"""How much further the trial beyond the end of a range goes."""


@dataclass
class _Trials:
    """Trainings at several rates, and the validation loss of each: ``(family, technique, rate, task) -> loss``."""

    store: Store
    technique: Technique
    tasks: Mapping[str, Sequence[str]]
    options: Mapping[str, Any]
    how: Mapping[str, Any]
    losses: dict[tuple[str, str, float, str], float] = field(default_factory=dict)

    def carry_out(self, wanted: Mapping[tuple[str, str], Sequence[float]]) -> None:
        """Try these rates."""
        identities = Identities()
        jobs = {}
        for (family, name), rates in wanted.items():
            for rate, task in itertools.product(rates, self.tasks[family]):
                changes: dict[str, Any] = {**self.options, "optimizer": at_rate(rate)}
                recipe = find(task).recipe(self.technique(name, task), **changes)
                jobs[family, name, rate, task] = Job(f"{task} {name} {rate:g}", recipe, identities.of(recipe))
        with suppress(RunError):  # said by the pool, and a rate's loss is infinite then
            fill(self.store, list(jobs.values()), **self.how)
        self.losses |= {key: _validation(self.store, job) for key, job in jobs.items()}

    def best(self, family: str, name: str) -> float:
        """The rate with the lowest sum of losses, each as a share of the task's best."""
        names = self.tasks[family]
        best = {n: min(loss for key, loss in self.losses.items() if key[3] == n) for n in names}
        if math.inf in best.values():
            raise RunError(f"{name} failed at every rate")
        rates = {rate for f, t, rate, _ in self.losses if (f, t) == (family, name)}
        return min(rates, key=lambda rate: sum(self.losses[family, name, rate, n] / best[n] for n in names))


def _beyond(rates: Sequence[float], best: float) -> list[float]:
    return [best * BEYOND] if best == rates[-1] else [best / BEYOND] if best == rates[0] else []


def _validation(store: Store, job: Job) -> float:
    result = store.get(job.identity)
    loss = result.health["validation_loss"] if result else None
    return math.inf if loss is None else float(loss)


def at_rate(rate: float) -> list[Any]:
    """The optimizer of all trials and baselines, with this learning rate."""
    return ["clip_norm", {"adamw": {"lr": rate}}]
