"""Cross-entropy in chunks of places: the value and the gradients of whole logits, and no more than a chunk of them at once."""

from __future__ import annotations

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


def gradients(family: str, chunks: bool, **changes: Any) -> tuple[float, dict[str, torch.Tensor]]:
    made = work(family, adapter=None, mask="everything", chunked=chunks, **changes)
    loop = Loop(made)
    loop.work.host.eval()
    assert loop.chunks is chunks
    loss = loop._gradient(np.arange(8))[0]
    return float(loss), {n: p.grad.clone() for n, p in loop.parameters.items() if p.grad is not None}


@pytest.mark.parametrize("settings", [{}, {"smoothing": 0.1}])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "t5"])
def test_chunked_is_whole(family: str, settings: dict[str, Any]) -> None:
    losses = [parts.find("loss", "cross_entropy").choose(settings).build()]
    whole, theirs = gradients(family, False, losses=losses)
    loss, ours = gradients(family, True, losses=losses)
    assert loss == pytest.approx(whole, rel=1e-6)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=1e-6, msg=name)


def test_the_head_never_sees_more_than_a_chunk() -> None:
    made = work("llama", chunked=True)
    seen: list[int] = []
    made.host.model.get_output_embeddings().register_forward_hook(lambda m, a, y: seen.append(y.numel() // VOCABULARY))
    loop = Loop(made)
    loop._gradient(np.arange(8))
    assert max(seen) == 7 and len(seen) > 8
    reading = Reading(made.host, collate, made.head, chunked=True)
    seen.clear()
    mine = read(reading, made.rows).loss
    assert max(seen) <= 7
    np.testing.assert_allclose(mine, read(Reading(made.host, collate, made.head), made.rows).loss, rtol=1e-6)


def test_a_model_that_squashes_its_logits_keeps_them_whole() -> None:
    made = work("gemma3", chunked=True)
    made.host.model.config.final_logit_softcapping = 2.0
    loop = Loop(made)
    notes = [e["text"] for e in loop if e["event"] == "note"]
    assert not loop.chunks and any(note.startswith("chunked_loss: ") for note in notes)
    whole = read(Reading(made.host, collate, made.head), made.rows).loss
    np.testing.assert_array_equal(read(Reading(made.host, collate, made.head, chunked=True), made.rows).loss, whole)


def test_large_logits_are_chunked_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Loop(work("llama")).chunks
    monkeypatch.setattr(chunked, "LARGEST", 4 * VOCABULARY * 50)
    loop = Loop(work("llama"))
    assert loop.chunks
    batch = collate(loop.work.rows.take(np.arange(2)))
    assert not chunked.too_large(loop.work.host, Step(loop.work.host, batch, loop.work.head).units)
    focal = [parts.find("loss", "focal").choose().build()]
    assert not Loop(work("llama", losses=focal)).chunks and not Loop(work("bert")).chunks


def test_the_plan_sees_the_chunks() -> None:
    real = collate(work("llama").rows.take(np.arange(8)))
    units = int((real["labels"][:, 1:] != -100).sum())
    largest = {}
    for chunks in (False, True):
        with footprints.shapes_only() as mode:
            loop = Loop(work("llama", None, "everything", chunked=chunks), torch.device("cpu"))
            trace = Trace(units, tuple(real["labels"].shape), VOCABULARY)
            with trace:
                trace.begin()
                seen = {k: mode.from_tensor(v) for k, v in real.items()}
                footprints._step(loop, seen, units, list(loop.parameters.values()), trace)
        largest[chunks] = max(piece.bytes for piece in trace._pieces if piece.what == "logits")
    assert largest == {False: 4 * VOCABULARY * units, True: 4 * VOCABULARY * 7}
