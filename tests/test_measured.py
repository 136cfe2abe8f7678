"""What was measured of parts is what the files say, and it is shown."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith import measured, parts
from tunesmith.claims import claim as claims
from tunesmith.claims.settle import stored
from tunesmith.cli import measured as wording
from tunesmith.cli import show

ROOT = Path(__file__).resolve().parents[1]
FACTS = measured.everything()["parts"]
FIELDS = {
    "trained",
    "share",
    "weights",
    "gradients",
    "optimizer",
    "scout",
    "folds",
    "exports",
    "code",
    "preset",
    "claims",
}

MOMENTS = 2
"""AdamW keeps two numbers for each that trains, and a count of steps for each tensor."""


@pytest.mark.parametrize("key", FACTS)
def test_a_part_that_was_measured_is_there_and_its_bytes_are_those_of_what_trains(key: str) -> None:
    kind, name = key.split(".")
    found, part = FACTS[key], parts.find(kind, name)
    assert set(found) == FIELDS and 0 < found["share"] == pytest.approx(found["trained"] / total(), rel=1e-9)
    assert found["weights"] == 4 * found["trained"] and 0 < found["gradients"] <= found["weights"]
    assert found["optimizer"] <= 1.01 * MOMENTS * found["gradients"] + 4000
    assert (found["folds"], found["exports"]) == (False, False) or kind == "adapter"
    assert found["folds"] == part.attributes.get("folds", False) or name in COMBINES
    assert not found["exports"] or part.attributes["peft"]


COMBINES = ("average",)
"""What it combines has to fold too."""


def total() -> float:
    """Weights of the base on which all was measured, by the technique that trains all of them."""
    everything: float = FACTS["mask.everything"]["trained"]
    return everything


def test_what_trains_more_costs_more() -> None:
    by_size = sorted(FACTS.values(), key=lambda f: f["trained"])
    assert by_size[0]["optimizer"] < by_size[-1]["optimizer"] / 1000


def test_most_parts_were_measured() -> None:
    known = {f"{p.kind}.{p.name}" for kind in ("adapter", "mask") for p in parts.of_kind(kind).values()}
    assert FACTS.keys() <= known and len(FACTS) >= 55


@pytest.mark.parametrize("path", sorted((ROOT / "bench" / "presets").glob("*.json")), ids=lambda p: p.stem)
def test_a_learning_test_is_shipped_as_its_file_has_it(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    shipped = FACTS[found["part"]]["preset"]
    assert shipped == {k: found[k] for k in shipped}, "run: python bench/parts.py --only"
    tried = [rate for rate, _, _ in found["trials"]]
    assert min(tried) <= found["rate"] <= found["best"] <= found["range"][1] <= max(tried)
    assert found["range"][0] == found["rate"]
    kind, name = found["part"].split(".")
    assert float(parts.of_kind(kind)[name].attributes["rate"]) == pytest.approx(found["rate"]), (
        "the part has another rate"
    )


def test_verdicts_are_those_of_the_claims() -> None:
    known = claims.every(ROOT / "claims")
    shown = {stem: verdict for f in FACTS.values() for stem, verdict in f["claims"].items()}
    assert {"227-lora", "011-layernorm", "195-adalora"} <= shown.keys() <= known.keys()
    for stem, verdict in shown.items():
        found = stored(ROOT / "claims", known[stem])
        assert verdict == (found["verdict"] if found else None), "run: python bench/parts.py --only"


# ---------------------------------------------------------------------- how it is shown


def text(shown: Any, width: int = 200) -> str:
    from rich.console import Console

    stream = io.StringIO()
    Console(width=width, file=stream).print(shown)
    return stream.getvalue()


@pytest.mark.parametrize(("kind", "parts_of"), [("adapters", "adapter"), ("adapter", "adapter"), ("masks", "mask")])
def test_the_table_has_every_part_with_what_is_known(kind: str, parts_of: str) -> None:
    shown = text(show.parts_table(kind, False))
    names = parts.of_kind(parts_of)
    assert all(f" {name} " in shown for name in names) and f"{len(names)} {parts_of}s" in shown
    assert "tested rates" in shown and ("PEFT" in shown) == (parts_of == "adapter")


def test_one_part_tells_its_bytes_and_its_claim() -> None:
    shown = text(show.part_page("lora", False))
    assert (
        "334,086 numbers train, 1.47 %" in shown and "1.3 MB of gradients" in shown and "2.7 MB of optimizer" in shown
    )
    assert "227-lora: within noise" in shown and "has a form in PEFT's format" in shown
    assert "before that 363.3 MB for a full tuning" in text(show.part_page("lt_sft", False))


def test_a_learning_test_is_told_in_a_sentence() -> None:
    beats = {"value": 0.031, "low": 0.01, "high": 0.052}
    found = {
        "rate": 1e-3,
        "best": 2e-3,
        "range": [1e-3, 5e-3],
        "dead": True,
        "beats_head": beats,
        "seeds": 3,
        "tasks": ["intent"],
    }
    said = wording.preset({"preset": found})
    assert (
        "rate 0.001, good from 0.001 to 0.005, of those tried 0.002 had the lowest loss" in said
        and "+3.1 points" in said
    )
    assert "+1.0 to +5.2, 3 seeds" in said and "learned nothing" in said
    assert "not tested" in wording.preset({"preset": None})


def test_a_part_that_was_not_measured_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "facts", lambda kind, name: {})
    assert "not measured yet" in text(show.part_page("lora", False)) and "lora" in text(
        show.parts_table("adapters", False)
    )
    assert show.part_page("lora", True)["measured"] is None
