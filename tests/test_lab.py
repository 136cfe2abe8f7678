"""The lab: recipes on chosen rows, features of the base, and results that name no folder of this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tunesmith import recipe as recipes
from tunesmith.claims.lab import Lab
from tunesmith.comparing.identity import by_content
from tunesmith.comparing.store import Store
from tunesmith.comparing.work import _nameless
from tunesmith.data.rows import Rows
from tunesmith.experiments import intruders
from tunesmith.recipe import Recipe
from tunesmith.storage import cache_home


@pytest.fixture
def recipe(bases: dict[str, Path], rows_file: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.setenv("TUNESMITH_HOME", str(home))
    values = {"base": str(bases["bert"]), "rows": str(rows_file), "adapter": "lora", "checks": {"rows": 20}}
    return recipes.make({**values, "budget": {"steps": 2}, "length": {"max": 16}})


def texts(rows: Rows, indices: np.ndarray) -> list[str]:
    return [rows[int(i)]["text"] for i in indices]


def test_a_recipe_is_given_rows_and_keeps_its_held_out_ones(recipe: Recipe, tmp_path: Path) -> None:
    lab = Lab(Store(tmp_path), [0])
    before = lab.prepared(recipe).parted
    some = [before.tables["train"].take(before.indices["train"][start : start + 12]) for start in (0, 12)]
    given = [lab.prepared(lab.given(recipe, train=rows)).parted for rows in some]
    for rows, after in zip(some, given, strict=True):
        assert texts(after.tables["train"], after.indices["train"]) == texts(rows, np.arange(12))
        assert texts(after.tables["test"], after.indices["test"]) == texts(
            before.tables["test"], before.indices["test"]
        )
        assert len(after.indices["validation"]) == 0
    assert given[0].tables["train"].fingerprint != given[1].tables["train"].fingerprint


def test_held_out_rows_can_be_given_too(recipe: Recipe, tmp_path: Path) -> None:
    rows = [{"text": f"{w} {i}", "label": w} for i in range(3) for w in ("fruit", "tool")]
    other = [{"text": f"a {w}", "label": w} for w in ("fruit", "tool")]
    after = Lab(Store(tmp_path), [0]).prepared(Lab(Store(tmp_path), [0]).given(recipe, train=rows, test=other)).parted
    assert texts(after.tables["test"], after.indices["test"]) == ["a fruit", "a tool"]
    assert len(after.indices["train"]) == 6


def test_features_are_the_bases_own(recipe: Recipe, tmp_path: Path) -> None:
    lab = Lab(Store(tmp_path), [0])
    found = lab.features(recipe)
    assert found.shape == (len(lab.prepared(recipe).encoded["train"]), 16)
    assert np.ptp(found, axis=0).min() > 0 and (found == lab.features(recipe)).all()


def test_a_result_of_given_rows_names_no_folder_of_the_cache(recipe: Recipe, tmp_path: Path) -> None:
    lab = Lab(Store(tmp_path), [0])
    parted = lab.prepared(recipe).parted
    given = lab.given(recipe, train=parted.tables["train"].take(parted.indices["train"][:12]))
    ((result,),) = lab.results(given)
    assert str(cache_home()) not in str(result.recipe) and result.recipe["rows"]["train"].startswith("cache:")
    assert lab.before(given).health["name"] == "base (linear probe)"


def test_a_teacher_is_named_by_what_it_is_and_not_by_where_it_lies(
    recipe: Recipe, bases: dict[str, Path], tmp_path: Path
) -> None:
    def of(teacher: Path) -> str:
        loss = {"cross_entropy": {}, "distillation": {"teacher": str(teacher)}}
        return Lab(Store(tmp_path), [0])._job(recipe.updated({"loss": loss})).identity.fingerprint

    same, other = tmp_path / "a" / "model", tmp_path / "b" / "model"
    shutil.copytree(bases["bert"], same)
    shutil.copytree(bases["bert"], other)
    assert of(same) == of(other)
    weights = next(other.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert of(same) != of(other)
    inside = {"teachers": [str(cache_home() / "lab" / "abc" / "model"), "packaged/one", "alpha/rank"]}
    assert by_content(inside) == {"teachers": ["lab:abc/model", "packaged/one", "alpha/rank"]}


def test_only_the_cache_is_left_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(home))
    inside = str(cache_home() / "rows" / "a.arrow")
    assert _nameless({"a": [inside, "packaged:trec", 3]}) == {"a": ["cache:/rows/a.arrow", "packaged:trec", 3]}


def test_matrices_of_a_tuned_run_differ_from_the_bases_by_the_adapters_rank(recipe: Recipe, tmp_path: Path) -> None:
    lab = Lab(Store(tmp_path), [0])
    lora = recipe.updated({"adapter": {"lora": {"rank": 2}}, "optimizer": [{"adamw": {"lr": 0.1}}]})
    matrices = intruders._matrices(lab.tuned(lora))
    assert len(matrices) == 2 * 6
    for base, tuned in matrices:
        values = torch.linalg.svdvals((tuned - base).double())
        assert values[1] > 1e-3 and values[2] < 1e-5 * values[0]
    count, novelty, score = intruders._look(lab, lora, 0, 4, 0.9)
    assert 0 <= count <= 4 and 0 < novelty < 1 and 0 <= score <= 1
