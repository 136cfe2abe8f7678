"""Shipped recipes train for a few steps on tiny bases, and what they promise is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith import recipe as recipes
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
