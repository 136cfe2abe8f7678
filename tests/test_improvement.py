"""The experiment of ways to improve: its arithmetic on planted folders, its rows, the claims that use it, and one whole run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunesmith.claims.claim import every
from tunesmith.claims.lab import Lab
from tunesmith.comparing import arena
from tunesmith.comparing.store import Store
from tunesmith.errors import InputError
from tunesmith.experiments import _asked, _improved
from tunesmith.experiments._improved import Way
from tunesmith.experiments.improvement import improvement
from tunesmith.improving import plan
from tunesmith.judges._texts import number

CLAIMS = Path(__file__).parent.parent / "claims"
PROMPTS = 40
SAYS = "I don't know."

Planted = Callable[[Mapping[str, Any], int], tuple[Sequence[float], Sequence[str]]]


class PlantedLab:
    """A lab whose improvements come to what a plan says of their options and the round."""

    def __init__(self, folder: Path, planted: Planted, seeds: Sequence[int] = (0, 1, 2)):
        self.folder, self.planted, self.seeds = folder, planted, seeds
        self.made: list[plan.Improvement] = []

    def recipe(self, task: str, technique: Mapping[str, Any], **changes: Any) -> Any:
        return arena.find(task).recipe({**arena.tuned_rate("lm", technique), **technique}, **changes)

    def given(self, recipe: Any, *, train: Any, test: Any = None) -> Any:
        return recipe

    def tuned(self, recipe: Any) -> Path:
        return Path("runs/model")

    def improved(self, recipe: Any, loop: Mapping[str, Any], seed: int) -> Path:
        made = plan.make({**recipe.updated({"seed": seed}).to_dict(), "improve": dict(loop)})
        self.made.append(made)
        folder = self.folder / f"{len(self.made)}"
        scored = []
        for n in range(made.improve.rounds + 1):
            values, texts = self.planted(made.to_dict(), n)
            (folder / f"round-{n}").mkdir(parents=True)
            told = [json.dumps({"text": t, "score": v}) + "\n" for t, v in zip(texts, values, strict=True)]
            (folder / f"round-{n}" / "said-test.jsonl").write_text("".join(told), encoding="utf-8")
            trust = {c.name: {"value": 0.6 + 0.01 * n + 0.001 * seed} for c in made.improve.trust}
            scored.append({"round": n, "test": {"value": float(np.mean(values)), "trust": trust}})
        report = {"rounds": [], "scores": scored, "best": made.improve.rounds, "stopped": ""}
        (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
        return folder


def right(share: float, text: str = "an answer") -> tuple[list[float], list[str]]:
    count = round(share * PROMPTS)
    return [1.0] * count + [0.0] * (PROMPTS - count), [text] * PROMPTS


def test_planted_gains_are_found_with_their_sign(tmp_path: Path) -> None:
    def planted(made: Mapping[str, Any], number: int) -> Any:
        loop, jitter = made["improve"], made["seed"] / PROMPTS
        if loop["samples"] == 0:
            return right(0.3 + 0.2 * number + jitter)
        return right(0.3 + (0.3 if loop["samples"] == 4 else 0.05) * number + jitter, "a longer answer")

    ways = {name: {"like": "rest_em", "judge": "numeric_answer", "samples": n, "rounds": 2}
            for name, n in (("good", 4), ("poor", 2))}  # fmt: skip
    outcome = improvement(PlantedLab(tmp_path, planted), ways=ways)  # type: ignore[arg-type]
    figures = outcome.figures
    assert figures["good.gain"].value == pytest.approx(0.6) and figures["plain.gain"].value == pytest.approx(0.2)
    assert figures["good.difference"].low > 0 > figures["poor.difference"].high
    assert figures["good.over.poor"].value == pytest.approx(0.5) == -figures["poor.over.good"].value
    assert figures["good.length"].value == pytest.approx(3 / 2)
    assert [round(v, 3) for _, v in outcome.series["good"]] == [0.325, 0.625, 0.925]


def test_the_first_writes_for_all_and_a_way_can_name_an_earlier_one(tmp_path: Path) -> None:
    lab = PlantedLab(tmp_path, lambda made, number: right(0.5), seeds=(0,))
    improvement(lab, ways={"next": {"judge": "likelihood", "maker": "rated", "policy": "{plain}"}})  # type: ignore[arg-type]
    first, plain, after = lab.made
    assert first.improve.policy is None and plain.improve.policy == str(tmp_path / "1" / "round-1" / "run")
    assert after.improve.policy == str(tmp_path / "2" / "round-1" / "run")


def test_refusals_are_told_from_wrong_answers(tmp_path: Path) -> None:
    way = Way(PlantedLab(tmp_path, _half_refused).improved(
        arena.find("instruct").recipe({}), {"judge": "exact_match", "samples": 1}, 0))  # fmt: skip
    told = way.refusing(SAYS)
    assert told["refused"] == 0.5 and told["wrong"] == 0.25
    assert told["distance"] == pytest.approx(np.sqrt((0.25**2 + 0.5**2) / 2)), "half of what was known is withheld"


def _half_refused(made: Mapping[str, Any], number: int) -> Any:
    """Before, the even ones are right; after, the first half is refused, and the even ones of the rest are right."""
    values = [float(i % 2 == 0) for i in range(PROMPTS)]
    if not number:
        return values, ["said"] * PROMPTS
    half = PROMPTS // 2
    return [0.0] * half + values[half:], [SAYS] * half + ["said"] * half


# ---------------------------------------------------------------------- rows


@pytest.mark.parametrize("kind", ["sums", "programs", "facts", "topics"])
def test_prompts_have_right_answers_and_no_prompt_is_in_both_parts(kind: str) -> None:
    train, test = _asked.asked(kind)
    assert len(train) >= 50 and len(test) >= 25 and (train, test) == _asked.asked(kind)
    prompts = [row["prompt"] for row in train + test]
    assert len(set(prompts)) == len(prompts)
    for row in train + test:
        if kind == "sums":
            one, two = (int(w.strip("?")) for w in row["prompt"].removeprefix("What is ").split(" + "))
            assert number(row["completion"]) == one + two
        if kind == "programs":
            exec(f"{row['completion']}\n{row['tests']}", {})
        if kind == "topics":
            assert row["completion"] == " ".join(row["facts"]) and not set(row["others"]) >= set(row["facts"])


def test_an_unknown_kind_of_prompts_is_named() -> None:
    with pytest.raises(InputError, match="did you mean 'sums'"):
        _asked.asked("sum")


def test_exchanged_answers_are_other_rows_own() -> None:
    import random

    from tunesmith.experiments._rows import KINDS

    rows = [{"instruction": f"do {i}", "output": f"done {i}"} for i in range(50)]
    train, test, options = KINDS["exchanged"](rows, rows[:5], random.Random(0), 0.3, [])
    wrong = [i for i, row in enumerate(train) if row["output"] != f"done {i}"]
    assert len(wrong) == 15 and sorted(train[i]["output"] for i in wrong) == sorted(f"done {i}" for i in wrong)
    assert test == rows[:5] and options == {"task": "generate"}


# ---------------------------------------------------------------------- the claims' files

FILES = {n: c for n, c in every(CLAIMS).items() if c.experiment and c.experiment.name == "improvement"}


@pytest.mark.parametrize("name", sorted(FILES))
def test_every_improvement_of_a_claim_is_valid_and_every_figure_is_given(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = FILES[name]
    assert claim.experiment is not None
    packaged = [
        {"text": f"{i} a b c d e f g h i j k", "label": "x", "instruction": f"{i}?", "output": "a"} for i in range(700)
    ]
    monkeypatch.setattr(_asked, "read", lambda source: packaged)
    monkeypatch.setattr(_improved.Way, "asked", lambda self, form: np.zeros(PROMPTS))
    monkeypatch.setattr(_improved.Way, "preferred", lambda self, kind: np.zeros(PROMPTS))
    monkeypatch.setattr("tunesmith.experiments.improvement.merged", lambda run: "runs/merged")
    lab = PlantedLab(tmp_path, lambda made, number: right(0.3 + 0.1 * number))
    outcome = claim.experiment.part.load()(lab, **claim.experiment.own)
    assert {e.figure for e in claim.expect} <= outcome.figures.keys()
    assert all(f.value == f.value for n, f in outcome.figures.items() if n in {e.figure for e in claim.expect})


# ---------------------------------------------------------------------- whole


def test_a_lab_carries_improvements_out_once(
    bases: dict[str, Path], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    for module in ("carry_out", "opened"):
        monkeypatch.setattr(f"tunesmith.run.{module}.prove", lambda *a: {})
    monkeypatch.setattr(_asked, "TRAIN", 16)
    monkeypatch.setattr(_asked, "TEST", 8)
    options = {
        "base": str(bases["llama"]),
        "check": {"claims": {"facts": "facts"}},
        "tokens": 3,
        "budget.steps": 1,
        "length.max": 48,
    }
    ways = {
        "certain": {"like": "r_tuning", "trust": ["likelihood", "stated_certainty", "semantic_entropy"]},
        "rated": {"judge": "likelihood", "maker": {"rated": {"least": -3.0}}, "loss": "kto", "samples": 2},
    }
    lab = Lab(Store(tmp_path / "store"), [0])
    how: dict[str, Any] = {"ways": ways, "rows": "topics", "first": 4, "options": options}
    how |= {"asks": {"otherwise": "Please: {prompt}"}, "corruptions": ["shuffle"], "refusal": SAYS}
    found = improvement(lab, **how)
    assert {
        "certain.own.otherwise",
        "rated.prefers.shuffle",
        "rated.nearer.certain",
        "rated.gain",
    } <= found.figures.keys()
    assert len(lab.rounds) == 4 and all((run / "report.json").exists() for run in lab.rounds)
    trusted = (tmp_path / "home" / "lab").glob("improved-*/round-1/trust-test.jsonl")
    (line, *_) = next(iter(trusted)).read_text(encoding="utf-8").splitlines()
    assert 0 < json.loads(line)["stated_certainty"] < 1 and 0 <= json.loads(line)["semantic_entropy"] <= 1
    again = Lab(Store(tmp_path / "store"), [0], hear=lambda text: pytest.fail(text))
    assert str(improvement(again, **how).figures) == str(found.figures)


def test_a_preference_loss_starts_from_what_it_compares_with(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    for module in ("carry_out", "opened"):
        monkeypatch.setattr(f"tunesmith.run.{module}.prove", lambda *a: {})
    options = {
        "base": str(bases["llama"]),
        "check": {"claims": {"facts": "facts"}},
        "tokens": 3,
        "budget.steps": 1,
        "length.max": 48,
    }
    pairs = {"like": "knowtuning_implicit", "base": "{merged}", "policy": None, "start": "base", "loss": "dpo"}
    lab = Lab(Store(tmp_path / "store"), [0])
    improvement(lab, rows="topics", first=4, options=options, ways={"pairs": pairs})
    (told,) = [plan.read(p.parents[1] / "improve.yaml") for p in lab.rounds if (p.parents[1] / "round-1" / "rows.jsonl")
               .read_text(encoding="utf-8").count("rejected")]  # fmt: skip
    assert str(told.recipe.base).endswith("merged") and told.improve.policy is None
