"""Tuning of learning rates: what is planted is found, and a rate that fails is the worst; and those that parts bring along."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tunesmith import recipe as recipes
from tunesmith.comparing import arena
from tunesmith.comparing.pool import Job
from tunesmith.comparing.store import Store
from tunesmith.errors import InputError, RunError
from tunesmith.run.prepare import prepare

BEST = 3e-3


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Trainings that are not carried out: their loss grows with the distance of the rate from the best, above 0.1 they fail."""
    jobs: list[Job] = []

    def fill(store: Any, wanted: Sequence[Job], **how: Any) -> None:
        jobs.extend(wanted)
        if any(rate(job) > 0.1 for job in wanted):
            raise RunError("it is nan")

    def validation(store: Any, job: Job) -> float:
        return math.inf if rate(job) > 0.1 else 0.5 + abs(math.log(rate(job) / BEST))

    monkeypatch.setattr(arena, "fill", fill)
    monkeypatch.setattr(arena, "_validation", validation)
    monkeypatch.setattr(arena, "Identities", lambda: SimpleNamespace(of=lambda recipe: None))
    return jobs


def rate(job: Job) -> float:
    return float(job.recipe.optimizer[-1].settings["lr"])


def found(tmp_path: Path, rates: Sequence[float], **more: Any) -> dict[str, Any]:
    tasks = {"encoder": ("intent", "sentiment")}
    return arena.tune_rates(
        Store(tmp_path), {"mine": rates}, technique=lambda name, task: {"mask": "norms"}, tasks=tasks, **more
    )


def test_the_best_rate_inside_the_range_is_taken_without_more_trials(tried: list[Job], tmp_path: Path) -> None:
    said = found(tmp_path, [1e-4, 2e-3, 1e-1], options={"rows.limit": 33})
    assert said["rates"] == {"encoder": {"mine": 2e-3}} and len(said["trials"]) == 6
    assert all(job.recipe.rows.limit == 33 and job.recipe.seed == arena.TUNING_SEED for job in tried)
    assert {job.recipe.mask.name for job in tried if job.recipe.mask} == {"norms"}


@pytest.mark.parametrize(("rates", "beyond"), [([1e-4, 2e-4, 1.4e-3], 1.4e-3 * 2.5), ([8e-3, 2e-2, 5e-2], 8e-3 / 2.5)])
def test_an_end_that_wins_gets_one_more_trial_beyond_it(
    rates: list[float], beyond: float, tried: list[Job], tmp_path: Path
) -> None:
    said = found(tmp_path, rates)
    assert said["rates"]["encoder"]["mine"] == pytest.approx(beyond) and len(tried) == 8


def test_a_rate_that_fails_is_the_worst(tried: list[Job], tmp_path: Path) -> None:
    said = found(tmp_path, [1e-3, 5e-3, 1.0])
    assert said["rates"]["encoder"]["mine"] == 5e-3
    assert {loss for _, _, r, _, loss in said["trials"] if r == 1.0} == {math.inf}


def test_a_technique_that_fails_at_every_rate_says_so(tried: list[Job], tmp_path: Path) -> None:
    with pytest.raises(RunError, match="mine failed at every rate"):
        found(tmp_path, [1.0, 2.0, 3.0])


def test_the_baselines_are_what_is_tuned_if_nothing_else_is_named(tried: list[Job], tmp_path: Path) -> None:
    said = arena.tune_rates(Store(tmp_path))
    assert {f: set(t) for f, t in said["rates"].items()} == {f: set(arena.TECHNIQUES) for f in arena.TUNED_ON}


def test_one_contender_is_tuned_on_the_language_model_and_the_others_rates_stay(
    tried: list[Job], tmp_path: Path
) -> None:
    before = arena.rates()
    after = arena.tune(Store(tmp_path), ["lisa"])
    assert {job.recipe.mask.name for job in tried if job.recipe.mask} == {"lisa"} and len(tried) in (3, 4)
    assert {job.recipe.base for job in tried} == {"smollm2-135m"}
    assert after["rates"]["encoder"] == before["rates"]["encoder"]
    assert {n: r for n, r in after["rates"]["lm"].items() if n != "lisa"} == {
        n: r for n, r in before["rates"]["lm"].items() if n != "lisa"
    }
    assert after["rates"]["lm"]["lisa"] == min((rate(job) for job in tried), key=lambda r: abs(math.log(r / BEST)))
    assert {name for _, name, *_ in after["trials"]} == {name for _, name, *_ in before["trials"]} | {"lisa"}


def test_every_contender_is_in_a_claim_just_as_it_is_tuned() -> None:
    """One that a claim has otherwise would keep the rate of an encoder, and nobody would be told."""
    import yaml

    def within(value: Any) -> Any:
        yield value
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from within(item)

    claims = Path(__file__).parent.parent / "claims"
    held = [v for p in claims.glob("*.yaml") for v in within(yaml.safe_load(p.read_text(encoding="utf-8")))]
    assert [name for name, technique in arena.CONTENDERS.items() if technique not in held] == []


def test_an_unknown_technique_is_not_tuned(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="prefix_tuning"):
        arena.tune(Store(tmp_path), ["prefixtuning"])


# ---------------------------------------------------------------------- what parts bring along


def brought(width: int | None, **technique: Any) -> float | None:
    return recipes.make({"rows": "x.csv", **technique}).with_rate(width).rate


@pytest.mark.parametrize(
    ("technique", "power"),
    [({"mask": "everything"}, 1.0), ({"adapter": "lora"}, 0.5), ({"adapter": "prefix_tuning"}, 0.5)],
)
def test_a_rate_that_was_found_on_narrow_bases_falls_on_wider_ones(technique: dict[str, Any], power: float) -> None:
    found = brought(384, **technique)
    assert found is not None
    assert brought(None, **technique) == brought(64, **technique) == found
    assert brought(4 * 384, **technique) == pytest.approx(found / 4**power)


def test_a_given_rate_is_the_rate_on_every_base() -> None:
    given = {"optimizer": ["clip_norm", {"adamw": {"lr": 3e-4}}], "mask": "everything"}
    assert brought(384, **given) == brought(8192, **given) == 3e-4


def test_of_several_parts_the_lowest_rate_on_this_base_is_taken() -> None:
    mask, adapter = brought(8192, mask="everything"), brought(8192, adapter="lora")
    assert mask is not None and adapter is not None
    assert brought(8192, mask="everything", adapter="lora") == min(mask, adapter)


def test_the_rate_is_written_with_what_was_run(bases: dict[str, Path], rows_file: Path) -> None:
    values = {"base": str(bases["bert"]), "rows": str(rows_file), "adapter": "lora", "length": {"max": 16}}
    given = recipes.make(values)
    complete = prepare(given).recipe
    assert given.rate is None and complete.rate == brought(None, adapter="lora")
    assert recipes.make(complete.to_dict()) == complete
