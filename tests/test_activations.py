"""Hidden states below what trains: computed once, the same to the bit, and refused where they would not be the same."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from test_engine import Table, table, work
from tunesmith import parts
from tunesmith.engine import chunked
from tunesmith.engine.activations import WithStates, without_lower
from tunesmith.engine.loop import Loop, Work
from tunesmith.errors import InputError


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path))


class Keyed(Table):
    """Rows that have a name in the cache, the longest first: all of them in one batch, in the order in which it is read."""

    def __init__(self, plain: Table):
        super().__init__(sorted(plain.rows, key=lambda r: -len(r["input_ids"])))
        self.key = "rows"


def made(family: str, mask: str | None = "top_layers", settings: Any = None, **changes: Any) -> Work:
    found = work(family, adapter=changes.pop("adapter", None), mask=None, **changes)
    if mask:
        found.host.train_only(parts.find("mask", mask).choose({"count": 1} if settings is None else settings).build())
    found.rows = Keyed(table("lm" if found.head == "causal-lm" else "classify"))
    return found


def gradients(loop: Loop) -> tuple[float, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    loss = loop._gradient(np.arange(len(loop.work.rows)))[0]
    return float(loss), {n: p.grad for n, p in loop.parameters.items() if p.grad is not None}


def ran(host: Any) -> list[str]:
    """The layers that compute something from here on."""
    found: list[str] = []
    for site in host.anatomy.sites:
        if site.role == "mlp.down":
            site.module.register_forward_pre_hook(lambda m, a, n=site.layer: found.append(n))
    return found


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("chunks", [False, True])
@pytest.mark.parametrize("family", ["llama", "gemma3", "opt", "modernbert"])
def test_cached_is_computed(family: str, chunks: bool, packs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "LARGEST", 0 if chunks else math.inf)
    plain, cached = made(family, None), made(family, None)
    for each in (plain, cached):
        each.host.attach(parts.find("adapter", "lora").choose({"layers": [-1]}))
        each.host.model.config.dropout = 0.0
        for module in each.host.model.modules():
            if hasattr(module, "dropout") and isinstance(module.dropout, float):
                module.dropout = 0.0
        if packs:
            each.host.pack()
    cached = without_lower(cached, True)
    for each in (plain, cached):
        each.host.train()
    loss, theirs = gradients(Loop(plain))
    layers = ran(cached.host)
    mine, ours = gradients(Loop(cached))
    assert layers == [1], "the layer below is left out"
    assert mine == loss
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[n], g) for n, g in theirs.items())


def test_a_head_alone_reads_what_was_kept() -> None:
    plain, cached = made("modernbert", None), without_lower(made("modernbert", None), True)
    layers = ran(cached.host)
    assert gradients(Loop(cached))[0] == gradients(Loop(plain))[0]
    assert layers == []


def test_whole_layers_above() -> None:
    plain, cached = made("llama"), without_lower(made("llama"), True)
    assert cached.host.below is not None and cached.host.below.count == 1
    assert gradients(Loop(cached))[0] == gradients(Loop(plain))[0]


def test_the_same_is_taken_from_the_cache_and_nothing_else(tmp_path: Path) -> None:
    first = without_lower(made("llama"), True)
    folder = tmp_path / "activations"
    (name,) = [f.name for f in folder.iterdir() if f.is_dir()]
    stamp = (folder / name / "states.bin").stat().st_mtime_ns
    second = without_lower(made("llama", seed=5), True)
    assert (folder / name / "states.bin").stat().st_mtime_ns == stamp
    assert isinstance(first.rows, WithStates) and isinstance(second.rows, WithStates)
    changed = made("llama")
    with torch.no_grad():
        changed.host.model.get_input_embeddings().weight[7] += 1
    without_lower(changed, True)
    assert len([f for f in folder.iterdir() if f.is_dir()]) == 2
    with open(folder / name / "states.bin", "r+b") as file:
        file.write(b"\1" * 64)
    with pytest.raises(InputError, match="is damaged"):
        without_lower(made("llama"), True)


def test_what_would_not_be_the_same_is_refused() -> None:
    with pytest.raises(
        InputError, match="cache_activations: BertForSequenceClassification drops out below .* no_dropout"
    ):
        without_lower(made("bert"), True)
    assert isinstance(without_lower(made("bert"), "no_dropout").rows, WithStates)
    with pytest.raises(InputError, match="trains, and nothing lies below it"):
        without_lower(made("llama", "everything", {}), True)
    with pytest.raises(InputError, match="attention.query in .* trains, and nothing lies below it"):
        without_lower(made("llama", None, adapter="lora"), True)
    with pytest.raises(InputError, match="trains, and nothing lies below it"):
        without_lower(made("gemma3", "head", {}), True)
    chooses = made("llama")
    chooses.mask = parts.find("mask", "random_entries").choose().build()
    with pytest.raises(InputError, match="chooses during the run what trains"):
        without_lower(chooses, True)
    with pytest.raises(InputError, match="is not one stack of layers"):
        without_lower(made("t5", "head", {}), True)


def test_training_with_states_is_training_without() -> None:
    losses = []
    for cached in (False, True):
        each = made("llama", tokens=64)
        loop = Loop(without_lower(each, True) if cached else each)
        losses.append([e["loss"] for e in loop if e["event"] == "step"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
