"""Shipped recipes train for a few steps on tiny bases, and what they promise is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunesmith import recipe as recipes
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
