"""Values that are tuned on validation rows while a run trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from test_engine import table, work
from tunesmith import parts
from tunesmith.adapters import Tuned
from tunesmith.engine.loop import Loop, flops
from tunesmith.errors import InputError


def tuned(**changes: Any) -> Loop:
    made = work("bert", None, held_out=table("classify", 12, seed=9), **changes)
    made.host.attach(parts.find("adapter", "stn").choose({"rank": 2, "spread": 0.1}))
    return Loop(made)


def values(loop: Loop) -> torch.nn.Parameter:
    (shared,) = loop.work.host.shared.values()
    return shared.h  # type: ignore[return-value, union-attr]


def test_training_rows_move_the_weights_and_validation_rows_the_values() -> None:
    loop = tuned()
    for adapter in loop.work.host.adapters.values():
        torch.nn.init.normal_(adapter.B_gated, std=0.3)
    loop.work.host.train()
    loop._gradient(loop.work.rows.lengths.argsort()[:8])
    assert values(loop).grad is None
    before = {n: p.grad.clone() for n, p in loop.parameters.items() if p.grad is not None}
    assert any(n.endswith("V") and g.any() for n, g in before.items())
    loop.tuner.after_backward()
    assert values(loop).grad is not None and values(loop).grad.any()
    for name, gradient in before.items():
        assert torch.equal(loop.parameters[name].grad, gradient), name


def test_the_values_gradient_is_that_of_the_validation_loss() -> None:
    """By finite differences, at the values that are drawn nearby in this step."""
    loop = tuned()
    host, h = loop.work.host.double(), values(loop)
    for adapter in host.adapters.values():
        torch.nn.init.normal_(adapter.B_gated, std=0.3)
    torch.manual_seed(5)
    host.eval()
    found = []
    with type(next(iter(host.adapters.values()))).tuning(list(host.adapters.values())):
        ((gradient,),) = loop.tuner._gradients(Tuned([h]))
        for by in (1e-5, -1e-5):
            with torch.no_grad():
                h[0, 0] += by
                found.append(held_out_loss(loop))
                h[0, 0] -= by
    assert float(gradient[0, 0]) == pytest.approx((found[0] - found[1]) / 2e-5, rel=1e-3)


def test_the_entropy_of_the_draw_is_added_to_what_is_sought() -> None:
    """The spreads' logarithms are ten times what is stored, and so is the entropy's gradient."""
    loop = tuned()
    adapters = list(loop.work.host.adapters.values())
    for adapter in adapters:
        torch.nn.init.normal_(adapter.B_gated, std=0.3)
    loop.work.host.eval()
    with type(adapters[0]).tuning(adapters) as found:
        *rows, entropy = loop.tuner._gradients(found)
    assert len(rows) == 1 and entropy[0].tolist() == [[0, 0], pytest.approx([-0.01, -0.01])]
    draw, spread = torch.Generator().manual_seed(torch.initial_seed() % 2**63), 0.1
    drawn = torch.randn(2, generator=draw)
    ((gradient,),) = rows
    at_value, at_spread = gradient
    assert at_value.any() and torch.allclose(at_spread, at_value * spread * drawn, atol=1e-7)


def held_out_loss(loop: Loop) -> float:
    """Of the rows that the first step draws."""
    work = loop.work
    assert work.held_out is not None
    chosen = np.random.default_rng([work.seed, 0]).choice(len(work.held_out), size=8, replace=False)
    batch = work.collate(work.held_out.take(chosen))
    return float(loop.closure(batch, len(chosen), loop.tuner._asks)())


def test_it_stops_and_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole = tuned()
    list(whole)
    first = tuned(folder=tmp_path, save_steps=2)
    for event in first:
        if event["event"] == "save":
            break
    second = tuned(folder=tmp_path)
    assert second.resume() and second.state.step == 2
    list(second)
    assert values(whole).any() and torch.equal(values(second), values(whole))
    for name, tensor in whole.work.host.state().items():
        assert torch.equal(second.work.host.state()[name], tensor), name


def test_operations_on_validation_rows_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = tuned()
    before = {n: t.clone() for n, t in loop.work.host.state().items()}
    both, tokens = flops(loop.work)
    assert all(torch.equal(t, before[n]) for n, t in loop.work.host.state().items())
    monkeypatch.setattr("tunesmith.engine.tuning.Tuner.after_backward", lambda self: None)
    alone, same = flops(loop.work)
    assert tokens == same and 1.3 * alone < both < 3 * alone


def test_what_it_needs_is_named() -> None:
    made = work("bert", None)
    made.host.attach(parts.find("adapter", "stn").choose({"rank": 2}))
    with pytest.raises(InputError, match="tunes on validation rows, and there are none"):
        Loop(made)
    with pytest.raises(InputError, match="take gradient backprop"):
        tuned(gradient=parts.find("gradient", "mezo").choose().build(), transforms=[])
