"""Cross-entropy in chunks of places: the value and the gradients of whole logits, and no more than a chunk of them at once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from test_engine import collate, work
from tiny import VOCABULARY
from tunesmith import parts
from tunesmith.engine import chunked
from tunesmith.engine.loop import Loop
from tunesmith.engine.predict import Reading, read
from tunesmith.engine.step import Step
from tunesmith.planning import footprint as footprints
from tunesmith.planning.trace import Trace


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "CHUNK", 7 * 4 * VOCABULARY)


def whole_up_to(places: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """More places than this are asked in chunks."""
    monkeypatch.setattr(chunked, "LARGEST", 4 * VOCABULARY * places)


def gradients(family: str, mask: str, **changes: Any) -> tuple[float, dict[str, torch.Tensor]]:
    made = work(family, adapter=changes.pop("adapter", None), mask=mask, **changes)
    loop = Loop(made)
    loop.work.host.eval()
    loss = loop._gradient(np.arange(8))[0]
    return float(loss), {n: p.grad.clone() for n, p in loop.parameters.items() if p.grad is not None}


@pytest.mark.parametrize("settings", [{}, {"smoothing": 0.1}])
@pytest.mark.parametrize("mask", ["everything", "biases", "head"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "t5"])
def test_chunked_is_whole(family: str, mask: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all learns, what lies below the head, or the head alone."""
    losses = [parts.find("loss", "cross_entropy").choose(settings).build()]
    adapter = "lora" if mask == "biases" else None
    whole_up_to(math.inf, monkeypatch)
    whole, theirs = gradients(family, mask, losses=losses, adapter=adapter)
    whole_up_to(0, monkeypatch)
    loss, ours = gradients(family, mask, losses=losses, adapter=adapter)
    assert loss == pytest.approx(whole, rel=1e-6)
    assert ours.keys() == theirs.keys() and ours
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=1e-6, msg=name)


def test_what_acts_on_the_head_learns_by_a_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter at the head is no tensor of the head's own."""
    found = []
    for places in (math.inf, 0):
        whole_up_to(places, monkeypatch)
        made = work("llama", adapter=None, mask=None)
        made.host.attach(parts.find("adapter", "lora").choose({"targets": ["lm_head"]}))
        loop = Loop(made)
        loop._gradient(np.arange(8))
        found.append({n: p.grad.clone() for n, p in loop.parameters.items() if p.grad is not None})
    assert found[0].keys() == found[1].keys() and any("lora" in name for name in found[0])
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-6, msg=name)


def test_each_chunk_of_the_head_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole_up_to(0, monkeypatch)
    made = work("llama")
    seen: list[int] = []
    head = made.host.model.get_output_embeddings()
    before = head.forward
    monkeypatch.setattr(head, "forward", lambda x: (seen.append(len(x.reshape(-1, x.shape[-1]))), before(x))[1])
    loop = Loop(made)
    loop._gradient(np.arange(8))
    units = int((collate(loop.work.rows.take(np.arange(8)))["labels"][:, 1:] != -100).sum())
    asked = [n for n in seen if n > 1]  # one place shows that the head is plain
    assert max(asked) == 7 and sum(asked) >= units - 1 and sum(seen) <= units + 4
    reading = Reading(made.host, collate, made.head)
    seen.clear()
    mine = read(reading, made.rows).loss
    assert max(seen) <= 7
    whole_up_to(math.inf, monkeypatch)
    np.testing.assert_allclose(mine, read(reading, made.rows).loss, rtol=1e-6)


def test_a_model_that_squashes_its_logits_keeps_them_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole_up_to(0, monkeypatch)
    made = work("gemma3")
    made.host.model.config.final_logit_softcapping = 2.0
    loop = Loop(made)
    assert loop.chunks
    list(loop)
    assert not loop.chunks
    reading = Reading(made.host, collate, made.head)
    mine = read(reading, made.rows).loss
    whole_up_to(math.inf, monkeypatch)
    np.testing.assert_array_equal(read(reading, made.rows).loss, mine)


def test_only_large_logits_are_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Loop(work("llama")).chunks
    whole_up_to(50, monkeypatch)
    loop = Loop(work("llama"))
    assert loop.chunks
    batch = collate(loop.work.rows.take(np.arange(2)))
    assert not chunked.too_large(loop.work.host, Step(loop.work.host, batch, loop.work.head).units)
    focal = [parts.find("loss", "focal").choose().build()]
    assert not Loop(work("llama", losses=focal)).chunks and not Loop(work("bert")).chunks


def test_the_plan_sees_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    real = collate(work("llama").rows.take(np.arange(8)))
    units = int((real["labels"][:, 1:] != -100).sum())
    largest = []
    for places in (math.inf, 0):
        whole_up_to(places, monkeypatch)
        with footprints.shapes_only() as mode:
            loop = Loop(work("llama", None, "everything"), torch.device("cpu"))
            trace = Trace(units, tuple(real["labels"].shape), VOCABULARY)
            with trace:
                trace.begin()
                seen = {k: mode.from_tensor(v) for k, v in real.items()}
                footprints._step(loop, seen, units, list(loop.parameters.values()), trace)
        largest.append(max(piece.bytes for piece in trace._pieces if piece.what == "logits"))
    assert largest == [4 * VOCABULARY * units, 4 * VOCABULARY * 7]
