"""The experiment on packed prompts: its lengths, its text, and what it finds of a tiny model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from labs import Asked, PlantedLab
from test_engine import table
from tiny import tiny
from tunesmith.errors import InputError
from tunesmith.experiments.prefill import SPREADS, _cut, _lengths, _stream, prepacked_prompts
from tunesmith.host import Host


class ReadingLab(PlantedLab):
    """Gives a tiny model that packs, and rows in memory."""

    def __init__(self) -> None:
        super().__init__(lambda recipe, seed: None, seeds=range(2))
        self.host = Host(tiny("llama"))
        self.host.pack()

    def untuned(self, recipe: Asked) -> Any:
        assert recipe.get("packing") is True
        return SimpleNamespace(host=self.host)

    def prepared(self, recipe: Asked) -> Any:
        return SimpleNamespace(encoded={"train": table("lm", 40)})


@pytest.mark.parametrize("spread", SPREADS.values())
def test_lengths_add_up(spread: float) -> None:
    lengths = _lengths(spread, 8, 300, 120, np.random.default_rng(0))
    assert sum(lengths) == 300 and min(lengths) >= 2 and max(lengths) <= 120
    assert (max(lengths) - min(lengths) <= 1) is (spread == 0)
    with pytest.raises(InputError, match="expected 300 tokens in all"):
        _lengths(spread, 2, 300, 120, np.random.default_rng(0))


def test_prompts_are_text_of_the_rows() -> None:
    stream = _stream(table("lm", 5), 20)
    assert _cut(stream, [3, 4]) == [stream[:3], stream[3:7]]
    with pytest.raises(InputError, match="ask for fewer tokens"):
        _stream(table("lm", 1), 1000)


def test_packed_prompts_are_continued_alike() -> None:
    found = prepacked_prompts(ReadingLab(), prompts=4, tokens=80, longest=50, repeats=1)
    assert found.figures["gap"].value < 1e-5
    assert found.figures["tokens.equal"].value == 1.0 > found.figures["tokens.mixed"].value
    assert found.figures["tokens.wide"].value < found.figures["tokens.mixed"].value
    assert set(found.figures) == {*(f"{w}.{n}" for w in ("time", "tokens") for n in SPREADS), "growth", "gap"}
