"""Framings: what they find out for a model, and what they make of a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tunesmith import parts
from tunesmith.framings import Framing, Kept


class Trial:
    """A model that says a prompt backwards, answers every second training prompt right, and likes prompts with an 8."""

    def __init__(self) -> None:
        self.tried: list[Kept] = []
        self.drawn = 0

    def write(self, prompts: Sequence[str]) -> list[str]:
        return [prompt[::-1] for prompt in prompts]

    def examples(self, most: int) -> Kept:
        return [{"prompt": f"p{i}", "answer": f"a{i}"} for i in range(0, most, 2)]

    def value(self, kept: Kept) -> float:
        self.tried.append(kept)
        return float(any("8" in one["prompt"] for one in kept))

    def draw(self, count: int, of: int) -> list[int]:
        self.drawn += 1
        return [(self.drawn + i) % of for i in range(count)]


def of(name: str, **settings: object) -> Framing:
    made: Framing = parts.find("framing", name).choose(settings).build()
    return made


def test_demonstrations_are_right_answers_and_the_best_draw_stays() -> None:
    trial, framing = Trial(), of("demonstrations", count=2, draws=4, pool=10)
    kept = framing.settle(trial)
    assert trial.tried[0] == [] and len(trial.tried) == 5
    assert kept == [{"prompt": "p6", "answer": "a6"}, {"prompt": "p8", "answer": "a8"}]
    assert framing(["q"], kept, trial) == ["p6 a6\n\np8 a8\n\nq"]
    assert framing(["q"], [], trial) == ["q"]


def test_without_right_answers_or_gain_there_are_no_demonstrations() -> None:
    trial = Trial()
    trial.value = lambda kept: 0.5  # type: ignore[method-assign]
    assert of("demonstrations").settle(trial) == []
    trial.examples = lambda most: []  # type: ignore[method-assign]
    assert of("demonstrations").settle(trial) == []


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, ["?ba\nab", "?dc\ncd"]),
        ({"relevance": "Think."}, ["Think.\n?ba\nab", "Think.\n?dc\ncd"]),
        ({"shift": 1}, ["?dc\nab", "?ba\ncd"]),
        ({"ask": ""}, ["ab", "cd"]),
    ],
)
def test_evidence_stands_before_the_prompt(settings: dict[str, object], wanted: list[str]) -> None:
    framing = of("evidence", **{"ask": "?", **settings})
    said = framing(["ab", "cd"], framing.settle(Trial()), Trial())
    assert said == [w.replace("?ba", "?\nba").replace("?dc", "?\ndc") for w in wanted]
    assert framing.votes == 1 and not framing.searches


def test_every_framing_stands_here() -> None:
    assert set(parts.of_kind("framing")) == {"demonstrations", "evidence"}
