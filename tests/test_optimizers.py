"""The laws of optimizers: each is its paper's rule, written a second time, and resumes as if never cut off."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from test_engine import Loop, weights, work
from tunesmith import parts
from tunesmith.engine.components import components, layers_above
from tunesmith.engine.loop import Budget
from tunesmith.errors import InputError
from tunesmith.optimizers._codes import decode, encode

RATE, DECAY = 0.01, 0.1

Formula = Callable[[Tensor, list[Tensor]], Tensor]
"""From a matrix and the gradients of some steps to the matrix after them."""


def adamw(w: Tensor, grads: list[Tensor], beta1: float = 0.9, beta2: float = 0.999, decay: float = DECAY) -> Tensor:
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t, g in enumerate(grads, 1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        w = w - RATE * decay * w - RATE * (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + 1e-8)
    return w


def sgd(w: Tensor, grads: list[Tensor]) -> Tensor:
    m = torch.zeros_like(w)
    for t, g in enumerate(grads):
        g = g + DECAY * w
        m = g if t == 0 else 0.9 * m + g
        w = w - RATE * m
    return w


def lion(w: Tensor, grads: list[Tensor]) -> Tensor:
    m = torch.zeros_like(w)
    for g in grads:
        w = w - RATE * (torch.sign(0.9 * m + 0.1 * g) + DECAY * w)
        m = 0.99 * m + 0.01 * g
    return w


def adafactor(w: Tensor, grads: list[Tensor]) -> Tensor:
    rows, columns = torch.zeros(len(w), 1), torch.zeros(1, w.shape[1])
    for t, g in enumerate(grads, 1):
        keep = 1 - t**-0.8
        rows = keep * rows + (1 - keep) * (g**2).mean(1, keepdim=True)
        columns = keep * columns + (1 - keep) * (g**2).mean(0, keepdim=True)
        u = g / (rows @ columns / rows.mean()).sqrt()
        u = u / max(1.0, float(u.square().mean().sqrt()))
        step = min(RATE, 1 / math.sqrt(t)) * max(1e-3, float(w.square().mean().sqrt()))
        w = w - RATE * DECAY * w - step * u
    return w


def galore(w: Tensor, grads: list[Tensor]) -> Tensor:
    """Rank 2, a new subspace every 2 steps, a matrix with more rows than columns."""
    m, v = torch.zeros(len(w), 2), torch.zeros(len(w), 2)
    for t, g in enumerate(grads, 1):
        if t % 2 == 1:
            q = torch.linalg.svd(g, full_matrices=False)[2][:2].T
        r = g @ q
        m, v = 0.9 * m + 0.1 * r, 0.999 * v + 0.001 * r**2
        n = (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        w = w - RATE * DECAY * w - RATE * 0.25 * n @ q.T
    return w


def muon(w: Tensor, grads: list[Tensor]) -> Tensor:
    """The quintic of the author on the singular values themselves."""
    m = torch.zeros_like(w)
    for g in grads:
        m = 0.95 * m + 0.05 * g
        u, s, v = torch.linalg.svd(0.95 * m + 0.05 * g, full_matrices=False)
        s = s / s.norm()
        for _ in range(5):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        w = w - RATE * DECAY * w - RATE * 0.2 * math.sqrt(max(w.shape)) * (u * s) @ v
    return w


def schedule_free(w: Tensor, grads: list[Tensor]) -> Tensor:
    """The average after all steps; all rates are equal, so that it is the plain mean of ``z``."""
    z, x, y, v = w, w, w, torch.zeros_like(w)
    for t, g in enumerate(grads, 1):
        v = 0.999 * v + 0.001 * g**2
        z = z - RATE * (g / ((v / (1 - 0.999**t)).sqrt() + 1e-8) + DECAY * y)
        x = (1 - 1 / t) * x + z / t
        y = 0.1 * z + 0.9 * x
    return x


STEPPERS: dict[str, tuple[dict[str, Any], Formula, float]] = {
    "adamw": ({}, adamw, 1e-6),
    "adamw8bit": ({"smallest": 0}, adamw, 4e-3),
    "sgd": ({}, sgd, 1e-6),
    "lion": ({}, lion, 1e-6),
    "adafactor": ({}, adafactor, 1e-5),
    "ga_lore": ({"rank": 2, "refresh": 2}, galore, 1e-5),
    "muon": ({}, muon, 1e-4),
    "schedule_free": ({}, schedule_free, 1e-5),
}
"""Name -> settings, the paper's rule, and the largest difference; 8 bits round, by less than half a step here."""


def norm(g: Tensor) -> Tensor:
    return g.square().sum().sqrt()


TRANSFORMS: dict[str, tuple[dict[str, Any], Callable[[list[Tensor], list[Tensor]], list[Tensor]]]] = {
    "clip_norm": ({"limit": 1.0}, lambda w, g: [x / norm(torch.cat([y.flatten() for y in g])) for x in g]),
    "clip_value": ({"limit": 0.5}, lambda w, g: [x.clamp(-0.5, 0.5) for x in g]),
    "clip_component": (
        {"limit": 1.0},  # the first two are one component
        lambda w, g: [x / norm(torch.cat([g[0].flatten(), g[1].flatten()])) for x in g[:2]] + [g[2] / norm(g[2])],
    ),
    "clip_adaptive": (
        {"limit": 0.1},
        lambda w, g: [
            torch.stack([r * min(1.0, 0.1 * max(float(norm(v)), 1e-3) / float(norm(r))) for v, r in zip(a, b, strict=True)])
            if a.ndim > 1 else b * min(1.0, 0.1 * max(float(norm(a)), 1e-3) / float(norm(b)))
            for a, b in zip(w, g, strict=True)
        ],
    ),
    "sign": ({}, lambda w, g: [x.sign() for x in g]),
}  # fmt: skip


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_every_optimizer_has_its_law() -> None:
    assert set(parts.of_kind("optimizer")) == set(STEPPERS) | set(TRANSFORMS)


@pytest.mark.parametrize("name", STEPPERS)
@pytest.mark.parametrize("shape", [(7, 5), (12, 4)])
def test_a_stepper_is_its_papers_rule(name: str, shape: tuple[int, int]) -> None:
    settings, formula, tolerance = STEPPERS[name]
    stepper = parts.find("optimizer", name).choose({"lr": RATE, "weight_decay": DECAY, **settings}).build()
    p = nn.Parameter(numbers(*shape, seed=0))
    grads = [numbers(*shape, seed=1 + i) for i in range(5)]
    wanted = formula(p.detach().clone(), grads)
    optimizer = stepper.build([{"params": [p], "decays": True, "factor": 1.0}])
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
    if hasattr(optimizer, "eval"):
        optimizer.eval()
    torch.testing.assert_close(p.detach(), wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_is_its_papers_rule(name: str) -> None:
    settings, formula = TRANSFORMS[name]
    transform = parts.find("optimizer", name).choose(settings).build()
    ps = [nn.Parameter(numbers(*shape, seed=i)) for i, shape in enumerate([(4, 3), (2, 5), (6,)])]
    grads = [2 * numbers(*p.shape, seed=9 + i) for i, p in enumerate(ps)]
    transform.begin(dict(zip(ps, ["attention.query", "attention.query", "head.bias"], strict=True)))
    for p, g in zip(ps, grads, strict=True):
        p.grad = g.clone()
    transform(ps)
    wanted = formula([p.detach() for p in ps], grads)
    torch.testing.assert_close([p.grad for p in ps], wanted, rtol=1e-5, atol=1e-6)
    if transform.each:
        for p, g in zip(ps, grads, strict=True):
            p.grad = g.clone()
            transform([p])
        torch.testing.assert_close([p.grad for p in ps], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", STEPPERS)
def test_resumed_is_uninterrupted(name: str, tmp_path: Path) -> None:
    """To the bit, with a validation before the cut and all weights training."""

    def made(**changes: Any) -> Loop:
        stepper = parts.find("optimizer", name).choose({"lr": 1e-3, **STEPPERS[name][0]}).build()
        base = work(adapter=None, mask="everything", budget=Budget(epochs=None, steps=6), validate=lambda: 1.0)
        return Loop(replace(base, stepper=stepper, **changes))

    whole = made()
    list(whole)
    for event in made(folder=tmp_path, save_steps=4):
        if event["event"] == "save":
            break
    second = made(folder=tmp_path)
    assert second.resume() and second.state.step == 4
    list(second)
    for n, tensor in weights(whole).items():
        assert torch.equal(weights(second)[n], tensor), n


@pytest.mark.parametrize("name", STEPPERS)
def test_it_learns(name: str) -> None:
    """Ten steps on the same rows lower the loss."""
    rate = {"sgd": 0.05, "adafactor": 0.05, "lion": 1e-3}.get(name, 5e-3)
    stepper = parts.find("optimizer", name).choose({"lr": rate, **STEPPERS[name][0]}).build()
    base = work(adapter=None, mask="everything", budget=Budget(epochs=None, steps=10), rows_per_step=24)
    constant = parts.find("schedule", "constant").choose({"warmup": 0.0}).build()
    losses = [e["loss"] for e in Loop(replace(base, stepper=stepper, schedule=constant)) if e["event"] == "step"]
    assert losses[-1] < losses[0] - 0.015


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon")
def test_muon_is_pytorchs() -> None:
    """PyTorch iterates in bf16, so the two agree to its rounding."""
    w, grads = numbers(8, 6, seed=0), [numbers(8, 6, seed=1 + i) for i in range(3)]
    ours, theirs = nn.Parameter(w.clone()), nn.Parameter(w.clone())
    stepper = parts.find("optimizer", "muon").choose({"lr": RATE, "weight_decay": DECAY}).build()
    both = [
        stepper.build([{"params": [ours], "decays": True, "factor": 1.0}]),
        torch.optim.Muon([theirs], lr=RATE, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"),
    ]
    for g in grads:
        for p, optimizer in zip((ours, theirs), both, strict=True):
            p.grad = g.clone()
            optimizer.step()
    moved = theirs.detach() - w
    assert float((ours.detach() - theirs.detach()).norm() / moved.norm()) < 0.02


def test_muon_leaves_embeddings_and_heads_to_adam() -> None:
    stepper = parts.find("optimizer", "muon").choose({"lr": RATE}).build()
    loop = Loop(work("gpt2", adapter=None, mask="everything", stepper=stepper))
    list(loop)
    kinds = {n: "square" in loop.optimizer.state[p] for n, p in loop.parameters.items()}
    assert kinds["model.transformer.wte.weight"] and kinds["model.transformer.h.0.ln_1.weight"]
    assert not kinds["model.transformer.h.0.mlp.c_fc.weight"]


@pytest.mark.parametrize("signed", [True, False])
def test_eight_bits_keep_seven_powers_of_ten(signed: bool) -> None:
    values = torch.logspace(-6, 0, 1000) * (torch.tensor([1.0, -1.0]).repeat(500) if signed else 1.0)
    codes, scales = encode(values, 256, signed=signed)
    back = decode(codes, scales, signed=signed)[: len(values)]
    assert codes.dtype == torch.uint8 and len(codes) == 1024 and len(scales) == 4
    near = values.abs() > 0.02 * values.abs().max()
    assert ((back - values).abs() / values.abs())[near].max() < (0.07 if signed else 0.035), (
        "half a code's distance at the low end of a power"
    )
    assert (back[values.abs() > 1e-5].sign() == values[values.abs() > 1e-5].sign()).all()


def test_eight_bits_take_a_quarter() -> None:
    stepper = parts.find("optimizer", "adamw8bit").choose({"lr": RATE}).build()
    p = nn.Parameter(numbers(128, 64, seed=0))
    optimizer = stepper.build([{"params": [p], "decays": True, "factor": 1.0}])
    p.grad = numbers(128, 64, seed=1)
    optimizer.step()
    held = sum(t.numel() * t.element_size() for t in optimizer.state[p].values() if isinstance(t, Tensor))
    assert held < 0.26 * 2 * 4 * p.numel()


def test_the_average_is_what_is_used() -> None:
    """Validation sees the average, training goes on from where it was, and the run ends with the average."""
    stepper = parts.find("optimizer", "schedule_free").choose({"lr": 1e-2}).build()
    seen: list[Tensor] = []
    made = work(adapter=None, mask="everything", budget=Budget(epochs=None, steps=3), stepper=stepper)
    name = "model.bert.encoder.layer.0.output.dense.weight"
    loop = Loop(replace(made, validate=lambda: seen.append(loop.parameters[name].detach().clone()) or 1.0))
    trained = []
    for event in loop:
        if event["event"] in ("step", "validation"):
            trained.append(loop.parameters[name].detach().clone())
    assert not torch.allclose(seen[0], trained[-1], atol=1e-6)
    torch.testing.assert_close(trained[-1], trained[-2], rtol=0, atol=1e-6)
    torch.testing.assert_close(loop.parameters[name].detach(), seen[0], rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="beta1 is 0"):
        parts.find("optimizer", "schedule_free").choose({"beta1": 0.0}).build()


def test_layers_further_down_have_lower_rates() -> None:
    stepper = parts.find("optimizer", "adamw").choose({"lr": 1e-3, "layer_decay": 0.5}).build()
    made = work(adapter=None, mask="everything", stepper=stepper)
    loop = Loop(made)
    rates = {id(p): g["factor"] for g in loop.optimizer.param_groups for p in g["params"]}
    found = {n: rates[id(p)] for n, p in loop.parameters.items()}
    assert found["model.classifier.weight"] == 1 == found["model.bert.encoder.layer.1.output.dense.weight"]
    assert found["model.bert.encoder.layer.0.output.dense.weight"] == 0.5
    assert found["model.bert.embeddings.word_embeddings.weight"] == 0.25
    lora = Loop(work(stepper=stepper))
    above = layers_above(lora.work.host, lora.parameters)
    assert {above[p] for n, p in lora.parameters.items() if "layer.0" in n} == {1}


def test_components_are_roles() -> None:
    full, lora = work(adapter=None, mask="everything"), work()
    own = components(full.host, full.host.trainable())
    added = components(lora.host, lora.host.trainable())
    assert {"attention.query", "attention.query.bias", "embedding"} <= set(own.values())
    assert {"attention.query.A", "attention.query.B"} <= set(added.values())
    assert sum(role == "attention.query" for role in own.values()) == 2, "one in each layer"
    assert len(own) == len(full.host.trainable())
