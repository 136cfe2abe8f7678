"""The general experiment of variants on changed rows, and every claim's file: all of them can be carried out."""

from __future__ import annotations

import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from labs import Asked, PlantedLab, classified
from tiny import tiny
from tunesmith import recipe as recipes
from tunesmith.claims.claim import Claim, every
from tunesmith.claims.lab import Lab
from tunesmith.comparing import arena
from tunesmith.comparing.store import Store
from tunesmith.errors import InputError
from tunesmith.experiments import _rows, ablation, density
from tunesmith.host import Host

CLAIMS = Path(__file__).parent.parent / "claims"


def planted(gains: dict[str, float], under_attack: dict[str, float] | None = None) -> PlantedLab:
    """Accuracies by the name of the loss; audits where asked."""

    def plan(recipe: Asked, seed: int) -> Any:
        name = str(recipe.get("loss", default="plain"))
        found = classified(0.7 + gains.get(name, 0.0) + 0.005 * (seed % 2), log_loss=1.0 - gains.get(name, 0.0))
        found.cost["training_seconds"] = 2.0 if name != "plain" else 1.0
        figure = {"figure": "accuracy_lost_by_noise", "tuned": 0.2 - (under_attack or {}).get(name, 0.0)}
        found.audit = {"findings": [{**figure, "change": {"greater": False}}]} if under_attack else None
        return found

    return PlantedLab(plan)


def test_a_planted_gain_is_found_with_its_sign() -> None:
    lab = planted({"good": 0.1, "bad": -0.1}, {"good": 0.05, "bad": 0.0})
    variants = {"good": {"loss": "good"}, "bad": {"loss": "bad"}}
    figures = ablation.ablation(lab, variants=variants, scores=["log_loss"]).figures
    assert figures["good.difference"].low > 0 > figures["bad.difference"].high
    assert figures["good.over.bad"].value == pytest.approx(0.2) == -figures["bad.over.good"].value
    assert figures["good.log_loss"].value == pytest.approx(0.1), "a lower log loss is better"
    assert figures["good.accuracy_lost_by_noise"].value == pytest.approx(0.05), "less lost is better"
    assert figures["good.time"].value == pytest.approx(2.0)


def test_a_variant_that_changes_nothing_gains_nothing() -> None:
    figure = ablation.ablation(planted({}), variants={"same": {"loss": "same"}}).figures["same.difference"]
    assert figure.low <= 0 <= figure.high and figure.value == 0


def test_the_teachers_folder_stands_in_the_options() -> None:
    filled = ablation._filled({"loss": {"distillation": {"teacher": "{teacher}"}}, "a": ["{teacher}", 3]}, "runs/t")
    assert filled == {"loss": {"distillation": {"teacher": "runs/t"}}, "a": ["runs/t", 3]}


# ---------------------------------------------------------------------- rows

TRAIN = [{"text": f"a {'good' if i % 2 else 'bad'} film {i}", "label": ("rotten", "fresh")[i % 2]} for i in range(200)]
TEST = TRAIN[:60]


def made(kind: str, share: float = 0.3, **more: Any) -> Any:
    return _rows.KINDS[kind](more.get("train", TRAIN), more.get("test", TEST), random.Random(0), share, ["good", "bad"])


def test_a_share_of_the_labels_is_wrong_and_no_held_out_one() -> None:
    train, test, _ = made("flipped")
    assert sum(a["label"] != b["label"] for a, b in zip(train, TRAIN, strict=True)) == 60
    assert test == TEST


def test_a_shortcut_turns_round_in_the_test() -> None:
    train, test, _ = made("shortcut", 0.9)

    def agrees(rows: list[dict[str, str]]) -> float:
        words = {"fresh": "omega", "rotten": "zeta"}
        return float(np.mean([row["text"].startswith(words[row["label"]]) for row in rows]))

    assert agrees(train) == pytest.approx(0.9, abs=0.06) and agrees(test) == pytest.approx(0.1, abs=0.1)


def test_numbers_become_five_classes_of_equal_size() -> None:
    rated = [{"text": str(i), "score": float(i)} for i in range(100)]
    train, test, _ = made("ordinal", train=rated, test=rated[:3])
    assert [r["label"] for r in train[::20]] == ["1", "2", "3", "4", "5"]
    assert {label: sum(r["label"] == label for r in train) for label in "12345"} == dict.fromkeys("12345", 20)
    assert {r["label"] for r in test} == {"1"}


def test_reasons_are_the_words_of_the_list() -> None:
    train, _, options = made("reasons")
    assert train[0]["why"] == ["bad"] and train[1]["why"] == ["good"]
    assert options["columns"] == {"rationale": "why"}


def test_sums_are_worked_out_right() -> None:
    train, test, options = made("sums")
    for row in train + test:
        assert sum(map(int, re.findall(r"\d+", row["prompt"]))) == int(row["completion"].split()[-1])
    assert options["task"] == "generate" and not {r["prompt"] for r in test} <= {r["prompt"] for r in train}


def test_an_unknown_kind_of_rows_is_named() -> None:
    with pytest.raises(InputError, match="did you mean 'flipped'"):
        _rows.with_rows(planted({}), None, "fliped", 0.1)


@pytest.mark.parametrize("kind", ["flipped", "shortcut", "reasons"])
def test_changed_rows_make_a_recipe(
    kind: str, bases: dict[str, Path], rows_file: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(home))
    plain = recipes.make({"base": str(bases["bert"]), "rows": str(rows_file), "length": {"max": 16}})
    lab = Lab(Store(tmp_path), [0])
    found = lab.prepared(_rows.with_rows(lab, plain, kind, 0.5, ["apple", "hammer"]))
    before = lab.prepared(plain)
    assert len(found.encoded["test"]) == len(before.encoded["test"]) and len(found.encoded["train"])
    assert found.task.name == "classify" and found.task.labels == before.task.labels
    assert ("rationale" in found.task.columns) == (kind == "reasons")
    assert lab.prepared(_rows.with_rows(lab, plain, kind, 0.5, ["apple", "hammer"])).facts == found.facts


# ---------------------------------------------------------------------- density


def test_inactive_neurons_are_counted_and_silenced() -> None:
    model = tiny("bert")
    host = Host(model).eval()
    ids = torch.randint(5, 90, (2, 6))
    plain = host(input_ids=ids).logits
    with torch.no_grad(), density._silenced(host, 0.0) as counts:
        torch.testing.assert_close(host(input_ids=ids).logits, plain)
    assert len(counts) == 2 and all(on == of for on, of in counts)
    with torch.no_grad(), density._silenced(host, 1e9) as counts:
        assert not torch.allclose(host(input_ids=ids).logits, plain)
    assert all(on == 0 and of == 2 * 6 * 32 for on, of in counts)
    torch.testing.assert_close(host(input_ids=ids).logits, plain)


# ---------------------------------------------------------------------- the claims' files

FILES = every(CLAIMS)


class Building:
    """A lab that makes every recipe of an experiment, and answers with what was planted."""

    seeds = (0, 1, 2)

    def recipe(self, task: str, technique: Any, **changes: Any) -> Any:
        where = arena.find(task)
        return where.recipe({**arena.tuned_rate(where.family, technique), **technique}, **changes)

    def tuned(self, recipe: Any) -> Path:
        return Path("runs/teacher")

    def results(self, *recipes: Any, seeds: Any = None) -> list[list[Any]]:
        return [[self._result(r) for _ in self.seeds] for r in recipes]

    def _result(self, recipe: Any) -> Any:
        found = classified(0.8)
        found.scores |= dict.fromkeys(("macro_f1", "exact_match"), 0.5)
        names = {"character_noise": "accuracy_lost_by_noise", "substitution": "accuracy_under_attack"}
        figures = [names.get(c.name, c.name) for c in recipe.audit]
        found.audit = {"findings": [{"figure": f, "tuned": 0.5, "change": {"greater": False}} for f in figures]}
        return SimpleNamespace(**{**vars(found), "cost": {"training_seconds": 1.0}})


@pytest.mark.parametrize("name", [n for n, c in FILES.items() if c.experiment and c.experiment.name == "ablation"])
def test_every_recipe_of_a_claim_is_valid_and_every_figure_is_given(name: str, monkeypatch: Any) -> None:
    claim: Claim = FILES[name]
    monkeypatch.setattr(ablation, "with_rows", lambda lab, recipe, kind, share, words=(): recipe)
    assert claim.experiment is not None
    outcome = claim.experiment.part.load()(Building(), **claim.experiment.own)
    assert {e.figure for e in claim.expect} <= outcome.figures.keys()
    assert claim.experiment.own["rows"] in ("own", *_rows.KINDS)
    assert claim.verdict(outcome.figures)
