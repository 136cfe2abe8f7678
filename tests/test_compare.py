"""Comparisons: what is called a difference, what counts as the same result, and that none is lost."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Command
from forked import Forked
from tunesmith import InputError
from tunesmith import recipe as recipes
from tunesmith.comparing import arena
from tunesmith.comparing.comparison import Comparison, compare
from tunesmith.comparing.identity import Identities, codes
from tunesmith.comparing.pool import Crew, Job, Worker, fill
from tunesmith.comparing.statistics import (
    Effect,
    adjusted,
    combine,
    effect,
    power_of,
    power_statement,
    seeds_for,
    verdict,
    visible,
)  # fmt: skip
from tunesmith.comparing.store import Store
from tunesmith.comparing.work import FORKS, carry_out
from tunesmith.engine.batches import epoch_steps
from tunesmith.engine.loop import usual_step
from tunesmith.evaluation.answers import Answers
from tunesmith.run.prepare import on_disk, prepare


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(home))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


# ---------------------------------------------------------------------- statistics


def trained(draw: np.random.Generator, chance: np.ndarray, seeds: int, noise: float) -> list[Answers]:
    """What trainings of one recipe say: each row has a chance to be right, and each seed moves them all."""
    said = []
    for _ in range(seeds):
        z = np.log(chance / (1 - chance)) + draw.normal(0, noise)
        right = draw.random(len(chance)) < 1 / (1 + np.exp(-z))
        said.append(Answers([1] * len(chance), right.astype(int).tolist()))
    return said


@pytest.mark.parametrize("seeds,noise", [(5, 0.1), (3, 0.2)])
def test_a_recipe_is_seldom_called_different_from_itself(seeds: int, noise: float) -> None:
    draw = np.random.default_rng(0)
    called = 0
    for _ in range(200):
        chance = draw.beta(2, 0.6, 200).clip(0.01, 0.99)
        change = effect("accuracy", trained(draw, chance, seeds, noise), trained(draw, chance, seeds, noise))
        called += verdict(change) != "no difference seen"
    assert called <= 10


def test_a_planted_difference_is_found_with_the_stated_power() -> None:
    draw = np.random.default_rng(1)
    found, stated = [], []
    for _ in range(150):
        chance = draw.beta(6, 2, 300).clip(0.02, 0.95)
        better = np.minimum(chance + 0.03, 0.99)
        change = effect("accuracy", trained(draw, better, 6, 0.03), trained(draw, chance, 6, 0.03))
        found.append(verdict(change) == "better")
        stated.append(power_of(change, float((better - chance).mean())))
    assert 0.3 < np.mean(stated) < 0.95
    assert abs(np.mean(found) - np.mean(stated)) < 0.1


def test_an_effect_is_the_mean_of_the_seeds_and_pairs_by_row() -> None:
    right = [Answers([1, 1, 0, 0], said) for said in ([1, 1, 0, 0], [1, 1, 0, 1])]
    wrong = [Answers([1, 1, 0, 0], said) for said in ([0, 1, 0, 0], [0, 1, 0, 1])]
    change = effect("accuracy", right, wrong)
    assert change.value == 0.25 and change.seeds == 2 and change.rows == 4
    assert change.spread == 0 and change.seed_variance == 0
    # every seed differs in the one same row: the variance over rows is that of a proportion of 1 in 4
    assert change.row_variance == pytest.approx(0.25 * 0.75 / 4, rel=0.1)
    back = effect("accuracy", wrong, right)
    assert (back.value, back.low, back.high) == (-change.value, -change.high, -change.low)
    with pytest.raises(ValueError, match="same seeds"):
        effect("accuracy", right, wrong[:1])


def test_without_noise_over_rows_the_interval_is_students() -> None:
    from scipy import stats

    values = np.array([0.01, 0.03, 0.02, 0.05])
    change = combine(values, 0.0, 100)
    wanted = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (change.low, change.high) == pytest.approx((wanted.low, wanted.high))
    assert change.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_many_comparisons_are_corrected() -> None:
    assert adjusted([0.01, 0.02, 0.03, 0.005]) == pytest.approx([0.03, 0.04, 0.04, 0.02])
    assert adjusted([0.01, float("nan")])[0] == 0.01
    change = Effect(0.02, 0.001, 0.039, 0.04, 5, 500, 0.01, 1e-5, 1e-5, 8.0)
    assert verdict(change) == "better"
    assert verdict(change, p=0.08) == "no difference seen"
    assert verdict(Effect(-0.02, -0.039, -0.001, 0.04, 5, 500, 0.01, 1e-5, 1e-5, 8.0, greater=False)) == "better"


def test_power_says_how_many_seeds_it_takes() -> None:
    change = combine(np.array([0.00, 0.02, 0.01, 0.03, -0.01]), 1e-6, 500)
    sees = visible(change)
    needed = seeds_for(change, sees / 2)
    assert needed is not None and needed > 5
    assert visible(change, needed) <= sees / 2 < visible(change, needed - 1)
    assert power_of(change, sees) == pytest.approx(0.8, abs=0.03)
    assert power_statement(change, lambda v: f"{100 * v:.1f} points") == (
        f"5 seeds on 500 rows see {100 * sees:.1f} points with 80% power; {50 * sees:.1f} points needs {needed}."
    )
    few = combine(np.array([0.0, 0.001, -0.001]), 1e-3, 50)
    assert seeds_for(few, 0.01) is None
    assert "more held-out rows" in power_statement(few, str)


# ---------------------------------------------------------------------- what is the same result


@pytest.fixture(scope="module")
def recipe(bases: dict[str, Path], rows_file: Path) -> recipes.Recipe:
    return recipes.make({
        "base": str(bases["bert"]), "rows": str(rows_file), "adapter": {"lora": {"rank": 2}}, "budget": {"steps": 3},
        "precision": "fp32",
    })  # fmt: skip


@dataclass(frozen=True)
class Compared:
    """Two recipes, compared once for all tests: what came of it, where it is kept, the lines that were heard."""

    recipes: dict[str, recipes.Recipe]
    comparison: Comparison
    store: Path
    lines: list[str]

    def copy(self, folder: Path) -> Path:
        """The store, for a test that changes it."""
        return shutil.copytree(self.store, folder, ignore=shutil.ignore_patterns(".locks"))


@pytest.fixture(scope="module")
def compared(recipe: recipes.Recipe, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    both = {"two": recipe, "three": recipe.updated({"adapter": {"lora": {"rank": 3}}})}
    store, lines = tmp_path_factory.mktemp("compared"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_HOME", str(home))
        made = compare(both, seeds=2, store=store, workers=2, hear=lines.append)
    return Compared(both, made, store, lines)


def test_a_fingerprint_holds_all_that_a_result_depends_on(recipe: recipes.Recipe, tmp_path: Path) -> None:
    of = Identities().of
    same = of(recipe).fingerprint
    assert of(recipe.updated({"save": {"minutes": 1.0}})).fingerprint == same
    for change in ({"seed": 1}, {"adapter": {"lora": {"rank": 3}}}, {"budget": {"steps": 4}}, {"mask": "norms"}):
        assert of(recipe.updated(change)).fingerprint != same
    other = tmp_path / "other.csv"
    other.write_text(Path(recipe.rows.train).read_text() + "the plum number 999,fruit\n")
    assert of(recipe.updated({"rows": str(other)})).fingerprint != same
    moved = tmp_path / "moved.csv"
    shutil.copyfile(recipe.rows.train, moved)
    assert of(recipe.updated({"rows": str(moved)})).fingerprint == same


def test_what_is_off_counts_where_it_is_on_when_nothing_is_said(bases: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"prompt": f"what is {i}?", "completion": str(i)} for i in range(40)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shown = {"base": str(bases["llama"]), "rows": str(path), "task": {"generate": {}}}
    given = recipes.make({**shown, "length": {"max": 40}})
    of = Identities().of
    said = of(given.updated({"task": {"generate": {"chat": False}}}))
    assert said.fingerprint != of(given).fingerprint
    assert of(given.updated({"packing": False})).fingerprint == of(given).fingerprint


def test_the_code_of_a_part_counts_and_its_comments_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.comparing import identity

    recipe = recipes.make({"rows": "x.csv", "adapter": "lora"})
    before = codes(recipe)
    assert set(before) == {
        "adapter.lora",
        "gradient.backprop",
        "optimizer.clip_norm",
        "optimizer.adamw",
        "schedule.linear",
    }
    from tunesmith.adapters import _low_rank

    source = Path(_low_rank.__file__).read_text()
    copy = tmp_path / "low_rank.py"

    def hashed(text: str) -> str:
        copy.write_text(text)
        monkeypatch.setattr(identity.importlib.util, "find_spec", lambda name: type("Spec", (), {"origin": str(copy)}))
        identity._definitions.cache_clear()
        return identity._code.__wrapped__("m", "LowRank")

    assert hashed(source) == hashed(
        source.replace('    """A low-rank update', '    # a comment\n    """Some low-rank update', 1)
    )
    assert hashed(source) != hashed(source.replace("alpha / (rank", "alpha * (rank"))
    rate = "    rate: ClassVar[float] = 1.0\n"
    with_rate = source.replace("    def __init__(", f"{rate}\n    def __init__(", 1)
    assert with_rate != source and hashed(source) == hashed(with_rate)
    assert hashed(source) == hashed(source.replace("class Anchored(LowRank)", "class Other(LowRank)"))
    identity._definitions.cache_clear()


def test_what_audits_found_is_kept(recipe: recipes.Recipe, tmp_path: Path) -> None:
    audited = recipe.updated({"audit": ["character_noise"]})
    carry_out(audited.to_dict(), "tuned", str(tmp_path), 1)
    kept = Store(tmp_path).get(Identities().of(audited))
    assert kept is not None and kept.audit is not None
    assert {found["audit"] for found in kept.audit["findings"]} == {"character_noise"}


def test_the_rate_that_a_part_brings_along_counts_as_a_given_one(recipe: recipes.Recipe) -> None:
    def of(**settings: float) -> str:
        return Identities().of(recipe.updated({"optimizer": ["clip_norm", {"adamw": settings}]})).fingerprint

    brought = recipe.updated({"optimizer": "adamw"}).with_rate(None).rate
    assert brought is not None
    assert of() == of(lr=brought) != of(lr=2 * brought)


def test_a_part_is_known_by_what_it_inherits_too() -> None:
    from tunesmith.comparing import identity

    definitions, imported = identity._definitions("tunesmith.adapters.lora")
    assert "LoRA" in definitions and imported["LowRank"] == ("tunesmith.adapters._low_rank", "LowRank")


# ---------------------------------------------------------------------- nothing lost, nothing twice


def test_a_comparison_uses_what_is_stored(compared: Compared, tmp_path: Path) -> None:
    both, first, lines = compared.recipes, compared.comparison, compared.lines
    store = compared.copy(tmp_path / "s")
    assert len(lines) == 5 and lines[-1].startswith("5/5")
    again: list[str] = []
    second = compare(both, seeds=2, store=store, hear=again.append)
    assert not again and first.to_dict() == second.to_dict()
    values = first.to_dict()
    assert [r["name"] for r in values["recipes"]] == ["two", "three"]
    assert {(p["ours"], p["theirs"]) for p in values["pairs"]} == {
        ("two", "base (linear probe)"), ("three", "base (linear probe)"), ("three", "two"),
    }  # fmt: skip
    cost = values["recipes"][0]["cost"]
    assert cost["flops"] > 0 and cost["tokens"] > 0 and cost["cpu_seconds"] > 0 and cost["peak_bytes"] > 0
    assert cost["trainable"] < values["recipes"][1]["cost"]["trainable"]
    more = compare(both, seeds=3, store=store, workers=2, hear=again.append)
    assert len(again) == 2 and [r.score for r in more.results["two"][:2]] == [r.score for r in first.results["two"]]


def test_compare_in_python(compared: Compared, tmp_path: Path) -> None:
    import tunesmith as ts

    options = compared.recipes["two"].to_dict()
    rows = options.pop("rows")["train"]
    options |= {"store": compared.store, "workers": 2}
    made = ts.compare(
        rows, {"narrow": {"adapter": ts.LoRA(rank=2)}, "wide": {"adapter": ts.LoRA(rank=3)}}, seeds=2, **options
    )
    assert made.save(tmp_path / "c") == made.to_dict()
    assert [r["score"] for r in made.to_dict()["recipes"]] == [
        r["score"] for r in compared.comparison.to_dict()["recipes"]
    ]
    assert "<svg" in (tmp_path / "c" / "report.html").read_text() and made.report()
    with pytest.raises(InputError, match="loar"):
        ts.compare(rows, ["loar", "norms"], **options)
    with pytest.raises(InputError, match="only lora"):
        ts.compare(rows, ["lora"], **options)


def test_flops_are_those_of_the_products(compared: Compared) -> None:
    """A wider adapter costs just its own products more: forward, and backward by two, at each adapted site, padding too."""
    cost = {name: made[0].cost for name, made in compared.comparison.results.items() if name in ("two", "three")}
    wider = cost["three"]["trainable"] - cost["two"]["trainable"]
    more = cost["three"]["flops"] / cost["three"]["tokens"] - cost["two"]["flops"] / cost["two"]["tokens"]
    recipe = compared.recipes["two"]
    lengths = prepare(on_disk(recipe)).encoded["train"].lengths
    step = usual_step(epoch_steps(lengths, recipe.batch.rows, seed=0, epoch=0), lengths)
    counted = lengths[step[:: max(1, len(step) // 4)]]
    assert more == pytest.approx(6 * wider * len(counted) * counted.max() / counted.sum(), rel=0.05)


@pytest.mark.skipif(not FORKS, reason="jobs are copies of a process on Linux alone")
def test_a_job_that_crashes_or_is_killed_is_one_line_and_the_next_goes_on(
    recipe: recipes.Recipe, tmp_path: Path
) -> None:
    payload = {"values": recipe.to_dict(), "what": "before", "folder": str(tmp_path), "threads": 1}
    with Worker(1) as worker, ThreadPoolExecutor(1) as aside:
        crashed = worker.carry_out({"nonsense": 1})
        assert crashed["outcome"] == "failed" and "nonsense" in crashed["error"] and "\n" not in crashed["error"]
        assert worker._process is not None
        job = aside.submit(worker.carry_out, payload)
        while not (pids := children(worker._process.pid)):
            time.sleep(0.01)
        os.kill(pids[0], signal.SIGKILL)
        assert "SIGKILL" in job.result()["error"]
        assert worker.carry_out(payload) == {"outcome": "done"}


@pytest.mark.skipif(not FORKS, reason="jobs are copies of a process on Linux alone")
def test_a_crew_keeps_its_processes_from_call_to_call_and_ends_them(recipe: recipes.Recipe, tmp_path: Path) -> None:
    seen: list[int] = []
    others = set(children(os.getpid()))
    with Crew(1) as crew:
        for seed in (7, 8):
            other = recipe.updated({"rows": {**recipe.rows.model_dump(), "seed": seed}})
            job = Job("base", other, Identities().of(other, "before"), "before")
            fill(Store(tmp_path), [job], crew=crew)
            seen += set(children(os.getpid())) - others
            assert Store(tmp_path).get(job.identity) is not None
    assert len(seen) == 2 and len(set(seen)) == 1 and not Path(f"/proc/{seen[0]}/exe").exists()


@pytest.mark.skipif(not FORKS, reason="jobs are copies of a process on Linux alone")
def test_an_interrupted_driver_ends_its_jobs_at_once(recipe: recipes.Recipe, tmp_path: Path) -> None:
    endless = recipe.updated({"budget": {"epochs": None, "minutes": 10}}).to_dict()
    (tmp_path / "a.yaml").write_text(json.dumps(endless), encoding="utf-8")
    (tmp_path / "b.yaml").write_text(json.dumps({**endless, "seed": 7}), encoding="utf-8")
    driver = spawn([tmp_path / "a.yaml", tmp_path / "b.yaml"], tmp_path / "store", tmp_path / "out")
    try:
        while not (jobs := [j for worker in children(driver.pid) for j in children(worker)]):
            assert driver.poll() is None, driver.wait()
            time.sleep(0.1)
        driver.send_signal(signal.SIGINT)
        assert driver.wait(60).returncode == 130
        time.sleep(0.5)
        assert not any(Path(f"/proc/{j}/exe").exists() for j in jobs)
    finally:
        with contextlib.suppress(ProcessLookupError):
            driver.kill()


def children(pid: int) -> list[int]:
    """Of all threads of a process."""
    return [int(c) for t in Path(f"/proc/{pid}/task").glob("*/children") for c in t.read_text().split()]


def test_rows_that_differ_are_not_compared(recipe: recipes.Recipe, tmp_path: Path) -> None:
    other = recipe.updated({"rows": {**recipe.rows.model_dump(), "seed": 3}})
    with pytest.raises(InputError, match="other held-out rows"):
        compare({"a": recipe, "b": other}, seeds=1, store=tmp_path / "s")
    assert not list(tmp_path.rglob("*.json"))


def test_a_damaged_result_is_named(compared: Compared, tmp_path: Path) -> None:
    store = Store(compared.copy(tmp_path / "s"))
    two, three = (Identities().of(r) for r in compared.recipes.values())
    result = store.get(two)
    assert result is not None and result == compared.comparison.results["two"][0]
    path = store.path(two)
    path.write_text(path.read_text()[:100])
    with pytest.raises(InputError, match="is no result"):
        store.get(two)
    path.unlink()
    path.write_text(store.path(three).read_text())
    with pytest.raises(InputError, match="something else"):
        store.get(two)
    path.unlink()
    store.put(result)
    assert store.get(two) == result


def spawn(recipe_files: list[Path], store: Path, out: Path, *more: str) -> Forked:
    return Forked("compare", *recipe_files, "--seeds", "2", "--store", store, "--out", out, "--json", *more)


def figures(text: str) -> list[Any]:
    return [(r["name"], r["values"], r["score"]) for r in json.loads(text)["recipes"]]


def test_killed_drivers_lose_nothing_and_two_at_once_double_nothing(compared: Compared, tmp_path: Path) -> None:
    """Drivers with all their workers are killed at random moments; then two go on at the same time."""
    files = []
    for name, recipe in compared.recipes.items():
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(recipe.to_yaml())
    store, draw = tmp_path / "s", random.Random(0)
    finished: dict[str, str] = {}
    for number in range(2):
        driver = spawn(files, store, tmp_path / f"killed{number}")
        while len(list(store.rglob("*/*.json"))) <= number and driver.poll() is None:
            time.sleep(0.05)
        time.sleep(draw.uniform(0, 1))
        assert driver.poll() is None, "it ended before it could be killed"
        driver.kill()
        driver.wait()
        for path in store.rglob("*/*.json"):
            json.loads(path.read_text())
            assert finished.setdefault(path.name, path.read_text()) == path.read_text()
    drivers = [spawn(files, store, tmp_path / f"o{n}") for n in range(2)]
    said = [d.done().stdout for d in drivers]
    assert figures(said[0]) == figures(said[1])
    kept = {p.name: p.read_text() for p in store.rglob("*/*.json")}
    assert len(kept) == 5 and finished.items() <= kept.items()
    assert figures(said[0]) == figures(json.dumps(compared.comparison.to_dict()))


def test_ray_gives_the_same_bits(compared: Compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # the other tests would starve it
    here = compared.comparison.to_dict()
    there = compare(compared.recipes, seeds=2, store=tmp_path / "ray", workers=2, on="ray").to_dict()
    import ray

    ray.shutdown()
    assert [(r["values"], r["scores"]) for r in here["recipes"]] == [
        (r["values"], r["scores"]) for r in there["recipes"]
    ]
    assert here["pairs"] == there["pairs"]
    answers = [
        {p.name: json.loads(p.read_text())["answers"] for p in s.rglob("*/*.json")}
        for s in (compared.store, tmp_path / "ray")
    ]
    assert answers[0] == answers[1] and len(answers[0]) == 5


# ---------------------------------------------------------------------- commands


def test_compare_on_the_command_line(command: Command, bases: dict[str, Path], rows_file: Path, tmp_path: Path) -> None:
    done = command(
        "compare", str(rows_file), "--with", "lora,head,lora+norms", "--base", str(bases["bert"]), "--seeds", "1",
        "--set", "budget.steps=2", "--set", "rows.limit=60", "--workers", "2", "--no-audit",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "compare-things"
    values = json.loads((folder / "comparison.json").read_text())
    assert [r["name"] for r in values["recipes"]] == ["lora", "head", "lora+norms"]
    assert (folder / "report.html").stat().st_size > 10_000
    assert values["power"] in done.stdout.replace("\n", " ") or values["power"][:20] in done.stdout


BAD = [
    (["compare", "ROWS"], "nothing to compare"),
    (["compare", "ROWS", "--with", "lora"], "only lora"),
    (["compare", "ROWS", "--with", "lora,hed"], "hed"),
    (["compare", "ROWS", "--with", "lora,head+norms"], "two masks"),
    (["compare", "ROWS", "x.yaml", "--with", "lora,head"], "not alike"),
    (["compare", "ROWS", "--with", "lora,head", "--on", "moon"], "moon"),
    (["compare", "ROWS", "--with", "lora,head", "--correction", "none"], "holm or bh"),
    (["arena", "run", "sentimant"], "sentiment"),
    (["claims", "show", "lora", "--folder", "nowhere"], "no folder of claims"),
    (["claims", "--folder", "nowhere"], "no folder of claims"),
]


@pytest.mark.parametrize("arguments,says", BAD, ids=[" ".join(a) for a, _ in BAD])
def test_what_is_wrong_is_one_line(
    arguments: list[str], says: str, command: Command, bases: dict[str, Path], rows_file: Path, tmp_path: Path
) -> None:
    given = [str(rows_file) if a == "ROWS" else a for a in arguments]
    done = command(*given, *(["--base", str(bases["bert"])] if given[0] == "compare" else []))
    assert done.returncode == 2, done.stderr
    assert says in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.glob("runs/*/comparison.json"))


def test_the_arena_is_what_it_says() -> None:
    families = [t.family for t in arena.TASKS.values()]
    assert families.count("encoder") >= 6 and families.count("lm") >= 3
    assert set(arena.rates()["rates"]) == set(families)
    for task in arena.TASKS.values():
        for technique in arena.TECHNIQUES.values():
            task.recipe({**arena.tuned_rate(task.family, technique), **technique})
    assert arena.tuned_rate("encoder", {"adapter": {"lora": {"rank": 4}}}) == {}
    trials = {}
    for family, technique, rate, _, loss in arena.rates()["trials"]:
        assert np.isfinite(loss)
        trials.setdefault((family, technique), set()).add(rate)
    assert all(3 <= len(rates) <= 4 for rates in trials.values())
