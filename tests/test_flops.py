"""Counting of floating-point operations after a training: nothing is observed, chosen or tuned a second time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from test_engine import work
from tunesmith import parts
from tunesmith.engine import chunked
from tunesmith.engine.batches import epoch_steps
from tunesmith.engine.loop import Loop, Work, flops


def masked(name: str, settings: Mapping[str, Any] | None = None) -> Work:
    return replace(work("bert", None, name), mask=parts.find("mask", name).choose(settings or {}).build())


def test_operations_are_counted_where_the_loss_is_made_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients that are made by the way are as many operations as those that come after, but for one place that finds the head."""
    found = []
    for largest in (10**9, 0):
        monkeypatch.setattr(chunked, "LARGEST", largest)
        found.append(flops(work("llama", None, "everything"))[0])
    assert 0 <= found[1] - found[0] <= 0.002 * found[0]


@pytest.mark.parametrize("name", ["everything", "fish", "lt_sft", "graft", "surgical"])
def test_flops_after_training_are_those_of_its_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of entries is taken from that of their whole tensors."""
    made = masked(name)
    list(Loop(made))
    host = made.host
    before = {n: p.detach().clone() for n, p in host.named_parameters()}

    def again(*_: Any) -> None:
        raise AssertionError("rows are observed, or everything is tuned, a second time")

    monkeypatch.setattr("tunesmith.engine.choosing.Chooser.choose", again)
    counted, tokens = flops(made, trained=True)
    assert tokens > 0 and all(torch.equal(p, before[n]) for n, p in host.named_parameters())
    head = masked("head")
    assert counted > flops(head)[0]


@pytest.mark.parametrize("name,settings", [("lisa", {"count": 1, "period": 1}), ("green_trainer", {"choices": 1})])
def test_what_rested_in_a_training_is_not_counted(name: str, settings: dict[str, Any]) -> None:
    """Nothing is computed for weights that rest, and nothing is passed on below the deepest that moves."""
    made, every = masked(name, settings), masked("everything")
    list(Loop(made))
    list(Loop(every))
    assert any(made.host.rested) and not any(every.host.rested)
    least, some, most = flops(masked("head")), flops(made, trained=True), flops(every, trained=True)
    assert least[0] / least[1] < some[0] / some[1] < most[0] / most[1]


def test_the_step_that_is_counted_is_of_middle_length() -> None:
    """The first one, with the longest row, has more operations a token than a training has."""
    made = masked("everything")
    steps = epoch_steps(made.rows.lengths, made.rows_per_step, seed=made.seed, epoch=0)
    tokens = sorted(float(made.rows.lengths[step].mean()) for step in steps)
    assert tokens[0] < tokens[-1], "rows of one length show nothing"
    counted = flops(made, rows=made.rows_per_step)[1]
    assert counted == tokens[len(tokens) // 2] * made.rows_per_step
