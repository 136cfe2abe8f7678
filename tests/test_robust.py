"""The page of robust terms says what its results say, and every row of it can be trained."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def robust(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import robust as module

    yield module
    for name in ("robust", "evidence", "render"):
        sys.modules.pop(name, None)


def result(clean: float, lost: float, attacked: float, seconds: float = 10.0) -> Any:
    figures = {"accuracy_lost_by_noise": lost, "accuracy_lost_by_casing": 0.0, "accuracy_under_attack": attacked}
    told = {"processor": "a CPU", "threads": 1, "python": "3.11", "packages": {"torch": "2", "transformers": "5"}}
    audit = {"findings": [{"figure": name, "tuned": value} for name, value in figures.items()]}
    return SimpleNamespace(
        score=clean, audit=audit, cost={"training_seconds": seconds}, environment={**told, "commit": "abc"}
    )


def test_scores_under_attack_are_clean_ones_less_what_is_lost(robust: Any) -> None:
    found = robust.under_attack(result(0.8, 0.1, 0.3))
    assert found == pytest.approx({"clean": 80, "typing mistakes": 70, "casing": 80, "swapped words": 30})


def test_a_difference_outside_its_interval_is_bold_and_no_other(robust: Any) -> None:
    plain = {seed: result(0.8, 0.2 + 0.001 * seed, 0.2) for seed in range(3)}
    better = {seed: result(0.8 + 0.01 * (seed - 1), 0.1, 0.2, 30.0) for seed in range(3)}
    task, base = robust.WHERE[0]
    page = robust.page({(task, base, "full fine-tuning"): plain, (task, base, "SMART"): better})
    (line,) = [x for x in page.splitlines() if x.startswith("| SMART |")]
    clean, mistyped = line.split("|")[2:4]
    assert "80.0 (+0.0 ±" in clean and "**" not in clean
    assert "70.0 (**+10.1 ±" in mistyped and "| 3.0 x | 3 |" in line
    assert "commits abc" in page and robust.WHERE[1][1] not in page, "a base without results is not shown"


def test_one_seed_has_no_difference(robust: Any) -> None:
    assert robust.cell({0: result(0.5, 0, 0)}, {0: result(0.4, 0, 0)}, "clean") == "50.0"


def test_a_dry_run_leaves_out_what_is_there_and_foretells_the_rest(
    robust: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = (*robust.WHERE[0], "SMART")
    done = SimpleNamespace(cost={"seconds": 600.0})
    monkeypatch.setattr(robust, "found", lambda: {key: {0: done}})
    monkeypatch.setattr(robust, "kept", lambda folder: {})
    (told, total) = robust.dry_run(2, "SMART;minilm-l6", 3).splitlines()
    assert told == f"{' '.join(key)}: seeds 1, 2, about 20.0 min" and total == "about 10 minutes with 2 at a time"
    slow, plain = (robust.seconds_of((*robust.WHERE[0], name), {}, {}) for name in ("SMART", "label smoothing"))
    assert slow > plain > robust.ATTACKS


def test_every_row_is_a_valid_recipe_and_the_page_is_up_to_date(robust: Any) -> None:
    made = dict(robust.recipes())
    assert len(made) == len(robust.TERMS) + len(robust.CASED)
    assert {r.rows.limit for r in made.values()} == {robust.TRAINED}
    assert {a for a, _ in robust.TERMS.values()} <= {"", *robust.TERMS}
    assert robust.PAGE.read_text(encoding="utf-8") == robust.page(robust.found())
