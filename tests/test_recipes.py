"""Shipped recipes train for a few steps on tiny bases, and what they promise is in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith import recipe as recipes
from tunesmith.data.collection import Source, collect
from tunesmith.improving import labelling, self_training
from tunesmith.run import carry_out
from tunesmith.run.api import start
from tunesmith.run.carry_out import score

FOLDER = Path(__file__).parent.parent / "recipes"
SHORT = {"budget.steps": 3, "checks.rows": 8, "checks.generate": 0}


@pytest.fixture(autouse=True)
def _cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(home))
    monkeypatch.chdir(FOLDER.parent)


def shortly(name: str, folder: Path, **changes: Any) -> Any:
    values = {**SHORT, **{k.replace("__", "."): v for k, v in changes.items()}}
    return score(recipes.read(FOLDER / f"{name}.yaml", values), folder, listen=lambda event: None)


def test_adversarial_self_training_goes_on_with_its_own_labels(
    bases: dict[str, Path], rows_file: Path, tmp_path: Path
) -> None:
    scored = shortly("vega", tmp_path, base=str(bases["bert"]), rows=str(rows_file))
    losses = [e["loss"] for e in scored.events if e["event"] == "step"]
    assert len(losses) == 3 and np.isfinite(losses).all()
    assert [type(t).__name__ for t in scored.work.losses] == ["SelfTraining", "SMART"]


@pytest.mark.parametrize(
    ("name", "sources"), [("morepair", ["code", "explanation"]), ("math-stages", ["generate", "judge"])]
)
def test_two_targets_of_an_input_count_alike(
    name: str, sources: list[str], bases: dict[str, Path], tmp_path: Path
) -> None:
    scored = shortly(name, tmp_path, base=str(bases["llama"]), length__over="truncate")
    assert scored.prepared.task.sources == sources
    rows = scored.work.rows
    batch = scored.work.collate(rows.take(np.arange(len(rows))))
    assert batch["source"].unique().tolist() == [0, 1]
    assert np.isfinite([e["loss"] for e in scored.events if e["event"] == "step"]).all()


# ---------------------------------------------------------------------- bases that fill blanks


WORDS = {"task.classify.cloze.words": {"fox": "fox", "dog": "dog"}}
"""The smallest tokenizer knows few words."""

FAST = {"optimizer": ["clip_norm", {"adamw": {"lr": 0.02}}]}


def test_rows_of_one_class_are_drawn_together_at_the_blank(masked: Path, reviews: Path, tmp_path: Path) -> None:
    scored = shortly("lm-cppf", tmp_path, base=str(masked), rows__train=str(reviews), **WORDS)
    assert [type(t).__name__ for t in scored.work.losses] == ["CrossEntropy", "SupervisedContrastive"]
    assert np.isfinite([e["loss"] for e in scored.events if e["event"] == "step"]).all()


@pytest.mark.parametrize(
    ("name", "form"), [("instructed-masks", "options"), ("meta-tuning", "yes_no"), ("qa4re", "options")]
)
def test_questions_of_a_collection_are_learned(
    name: str, form: Any, masked: Path, bases: dict[str, Path], reviews: Path, tmp_path: Path
) -> None:
    made = collect({"reviews": Source(str(reviews), "Which is it?")}, form, 40)
    rows = tmp_path / "questions.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    base = masked if name == "instructed-masks" else bases["llama"]
    words = {"task.classify.cloze.words": {"A": "A", "B": "B"}} if name == "qa4re" else {}
    scored = score(
        recipes.read(FOLDER / f"{name}.yaml", {**SHORT, **words, "base": str(base), "rows": str(rows), "length.max": 60}),
        tmp_path, listen=lambda event: None,
    )  # fmt: skip
    assert scored.prepared.task.labels == (["no", "yes"] if form == "yes_no" else ["A", "B"])
    assert np.isfinite([e["loss"] for e in scored.events if e["event"] == "step"]).all()


def even(rows: Any, shares: np.ndarray, *others: Any, **how: Any) -> Any:
    """Labels by the rows' order in the first class's shares: a tiny random base says one class of all of them."""
    first = (shares[:, 0].argsort(kind="stable").argsort(kind="stable") + 0.5) / len(shares)
    return labelling.labelled(rows, np.stack([first, 1 - first], 1), *others, **how)


@pytest.mark.parametrize("path", sorted((FOLDER / "label").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_teacher_labels_and_a_student_learns(
    path: Path, masked: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carry_out, "prove", lambda folder: {})  # a process of its own for each of many runs
    monkeypatch.setattr(self_training, "labelled", even)
    changes = {
        **FAST, **WORDS, "base": str(masked), "rows.train": str(reviews), "label.rows": str(reviews), "budget.steps": 2, "rows.limit": 40,
        "rows.validation_share": 0.05, "checks.rows": 8,
    }  # fmt: skip
    plan = labelling.read(path, changes)
    done = self_training.self_train(plan, out=tmp_path, name="made", progress="quiet")
    wanted = (
        (len(plan.label.views) or 1) * (plan.label.teacher == "tuned")
        + plan.label.rounds
        + (plan.label.finish is not None)
    )
    assert len(done.results["models"]) == wanted
    for one in done.results["rounds"]:
        assert 0 < one["labelled"] <= one["asked"] and 0 <= one["right_of_kept"] <= 1
    terms = [c.name for c in done.run.recipe.loss]
    assert terms == ([] if path.stem in ("pcp", "unsupervised-prompt") else ["soft_labels"])


def test_few_shot_adapters_begin_where_a_large_set_left_them(
    bases: dict[str, Path], rows_file: Path, tmp_path: Path
) -> None:
    first = recipes.read(FOLDER / "pvp-1.yaml", {**SHORT, "base": str(bases["bert"]), "rows": str(rows_file)})
    run = start(first, tmp_path / "runs", "pvp-1", listen=lambda event: None)
    still = {"optimizer.adamw.lr": 1e-12, "adapter.lora.tuned": str(run.folder), "rows.train": str(rows_file)}
    scored = shortly("pvp-2", tmp_path / "second", base=str(bases["bert"]), **still)
    before, now = run.host.state(), scored.host.state()
    adapters = [n for n in before if n.startswith("adapter.")]
    assert adapters and all(before[n].abs().sum() > 0 for n in adapters)
    for name in adapters:
        torch.testing.assert_close(now[name], before[name], rtol=1e-5, atol=1e-8)
    assert not torch.equal(now["model.classifier.weight"], before["model.classifier.weight"])
    assert scored.prepared.facts["shots"] == {"fruit": 4, "tool": 4}
