"""The plan: what is traced on shapes is what a real step holds, and what it chooses fits without learning otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import Command
from test_engine import collate, work
from tunesmith import parts, recipe
from tunesmith.engine.loop import Loop
from tunesmith.engine.step import count_units, supervised
from tunesmith.errors import InputError
from tunesmith.planning import footprint as footprints
from tunesmith.planning import machine
from tunesmith.planning.machine import Machine
from tunesmith.planning.trace import Trace
from tunesmith.run import planned
from tunesmith.run.build import micro_batch
from tunesmith.run.carry_out import _begin, _work
from tunesmith.run.prepare import on_disk, prepare

MB = 2**20


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(home))
    monkeypatch.setattr(machine, "framework", lambda: 100 * MB)


# ---------------------------------------------------------------------- the trace


def test_a_trace_counts_what_is_held_and_multiplied() -> None:
    """A matrix of 1000 x 250 by one of 250 x 100, squared: the product and its square are held, the inputs are weights."""
    trace = Trace(0, (0,), -1)
    with footprints.shapes_only():
        a, b = torch.empty(1000, 250), torch.empty(250, 100)
        with trace:
            trace.hold([a, b], "weights")
            y = a @ b
            z = (y * y).sum()
    del z
    assert trace.items()["weights"] == 4 * (1000 * 250 + 250 * 100)
    assert trace.peak - trace.items()["weights"] in range(2 * 4 * 1000 * 100, 2 * 4 * 1000 * 100 + 9)
    assert sum(o.flops for o in trace.operations) == 2 * 1000 * 250 * 100


def step_of(made: Any, batch: dict[str, torch.Tensor], units: int, places: tuple[int, ...]) -> Trace:
    """One step of the loop under a trace: with values or without, it is the same code."""
    trace = Trace(units, places, 100)
    loop = Loop(made, torch.device("cpu"))
    made.host.train()
    with trace:
        trace.hold(footprints._weights(made).values(), "weights")
        trace.begin()
        footprints._step(loop, batch, units, list(loop.parameters.values()), trace)
    return trace


@pytest.mark.parametrize("family,adapter,mask", [
    ("bert", "lora", None), ("bert", None, "everything"), ("llama", "lora", None), ("gpt2", None, "biases"), ("t5", "bottleneck", None),
])  # fmt: skip
def test_shapes_alone_hold_what_a_real_step_holds(family: str, adapter: str | None, mask: str | None) -> None:
    real = work(family, adapter, mask)
    batch = collate(real.rows.take(np.arange(8)))
    units, mask_of = count_units(batch["labels"], real.head), supervised(batch["labels"], real.head)
    places = tuple(batch["labels"].shape if mask_of is None else mask_of.shape)
    measured = step_of(real, batch, units, places)
    with footprints.shapes_only() as mode:
        shown = work(family, None, None)
        if adapter:
            shown.host.attach(parts.find("adapter", adapter).choose(), begin=False)
        if mask:
            shown.host.train_only(parts.find("mask", mask).choose().build())
        predicted = step_of(shown, {k: mode.from_tensor(v) for k, v in batch.items()}, units, places)
    assert predicted.peak == pytest.approx(measured.peak, rel=0.03)
    assert sum(o.flops for o in predicted.operations) == sum(o.flops for o in measured.operations)


# ---------------------------------------------------------------------- plans


def made(source: Path, base: Path, **options: Any) -> recipe.Recipe:
    return recipe.make(
        recipe.override({"rows": {"train": str(source)}, "base": str(base), "precision": "fp32"}, options)
    )


def test_a_plan_follows_what_it_is_asked(rows_file: Path, chat_file: Path, bases: dict[str, Path]) -> None:
    """Smaller micro-batches, recomputation and a rule without moments take less; a full tuning takes more."""
    rows = prepare(on_disk(made(rows_file, bases["bert"])))
    peak = {
        name: planned._trace(rows, rows.recipe.updated(recipe.override({}, options)))[0]
        for name, options in {
            "lora": {}, "small": {"batch": {"tokens": 64}}, "full": {"adapter": [], "mask": "everything"},
            "again": {"gradient_checkpointing": True}, "sgd": {"adapter": [], "mask": "everything", "optimizer": "sgd"},
            "entries": {"adapter": [], "mask": {"random_entries": {"density": 0.1}}}, "lisa": {"adapter": [], "mask": "lisa"},
        }.items()
    }  # fmt: skip
    training = {name: sum(found.phases["training"].values()) for name, found in peak.items()}
    assert training["small"] < training["lora"] and training["again"] < training["lora"]
    assert training["sgd"] < training["full"] and peak["lora"].moments < peak["full"].moments
    assert peak["small"].passes > peak["lora"].passes and peak["small"].rows < peak["lora"].rows
    chat = planned.plan(made(chat_file, bases["llama"]), "8GB")
    assert chat.fits and chat.seconds is None and not chat.changes and chat.footprint.phases["training"]["logits"] > 0


def test_a_plan_knows_what_is_left_out(chat_file: Path, bases: dict[str, Path]) -> None:
    """Padding that nobody computes, logits that never stand whole, layers whose states lie on disk."""
    rows = prepare(on_disk(made(chat_file, bases["llama"], **{"adapter": {"lora": {"layers": [-1]}}})))
    found = {
        name: planned._trace(rows, rows.recipe.updated(options))[0]
        for name, options in {
            "plain": {}, "packed": {"packing": True}, "cached": {"cache_activations": True},
            "all": {"packing": True, "cache_activations": True},
        }.items()
    }  # fmt: skip
    flops = {name: sum(o.flops for o in f.operations) / f.traced for name, f in found.items()}
    assert found["packed"].tokens <= found["plain"].tokens
    assert flops["cached"] < flops["plain"] and flops["all"] < flops["plain"]
    encoded = rows.encoded["train"]
    assert found["cached"].cached == 4 * 16 * int(encoded.lengths.sum()) and not found["plain"].cached


def test_a_micro_batch_that_is_left_open_is_the_devices(
    rows_file: Path, bases: dict[str, Path], tmp_path: Path
) -> None:
    """512 tokens on a CPU, 1,024 where it writes; what a recipe says; the whole step where its rows belong together."""

    def tokens(**options: Any) -> tuple[int, int]:
        begun = _begin(prepare(on_disk(made(rows_file, bases["bert"], **{"batch.rows": 200, **options}))), tmp_path)
        work = _work(begun)
        return begun.reading.tokens, work.tokens

    longest = max(len(line) for line in rows_file.read_text(encoding="utf-8").splitlines())
    assert tokens() == (512, 512) and tokens(**{"batch.tokens": 77}) == (77, 77)
    assert micro_batch(made(rows_file, bases["bert"]), "causal-lm") == 1024
    for whole in ({"gradient": "lomo", "optimizer": "sgd"}, {"loss": ["cross_entropy", "supervised_contrastive"]}):
        reads, trains = tokens(**whole)
        assert reads == 512 < trains <= 200 * longest
        assert tokens(**whole, **{"batch.tokens": 77}) == (77, 77)


def test_what_does_not_fit_says_what_would(
    rows_file: Path, bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = prepare(on_disk(made(rows_file, bases["bert"], **{"adapter": [], "mask": "everything"})))
    whole = planned._trace(rows, rows.recipe)[0].peak
    monkeypatch.setattr(
        machine, "this", lambda: Machine("this machine", 100 * MB + whole * 2 // 3, 1, 100 * MB, False, True)
    )
    found = planned.plan_prepared(rows, machine.this())
    assert not found.fits
    first = found.changes[0]
    assert first.learns and first.peak <= found.limit
    assert any(c.learns and "batch.tokens" in c.options for c in found.changes)
    limit = f"{found.limit // 1024}KB"
    rows.recipe = rows.recipe.updated({"memory": limit})
    chosen = planned.fitted(rows, lambda text: None)
    assert chosen.gradient_checkpointing or chosen.batch.tokens < micro_batch(rows.recipe, rows.head)
    assert chosen.batch.rows == rows.recipe.batch.rows and chosen.seed == rows.recipe.seed
    assert planned.fitted(rows, lambda text: None, before=chosen) == chosen, "a run that goes on keeps its choice"
    rows.recipe = rows.recipe.updated({"memory": "100MB"})
    with pytest.raises(InputError, match=r"memory: the run needs .* at least; expected at most 100 MB; "):
        planned.fitted(rows, lambda text: None)


# ---------------------------------------------------------------------- the command


def test_plan_on_the_command_line(command: Command, rows_file: Path, bases: dict[str, Path]) -> None:
    done = command("plan", rows_file, "--base", bases["bert"], "--for", "1x24GB", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["fits"] and found["peak"] == sum(found["memory"].values()) and found["machine"]["devices"] == 1
    wrong = command("plan", rows_file, "--base", bases["bert"], "--for", "big")
    assert wrong.returncode == 2 and wrong.stderr.splitlines()[-1] == (
        "tunesmith: --for: 'big' is no size; expected a number with MB or GB, e.g. 2GB"
    )
