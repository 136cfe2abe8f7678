"""The laws of gradients: each agrees with backpropagation in the way that it says, and holds no more than it says."""

from __future__ import annotations

import json
import math
import mmap
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from test_engine import Loop, Work, collate, work
from tunesmith import parts
from tunesmith.engine.loop import Budget
from tunesmith.engine.memory import is_out_of_memory
from tunesmith.engine.step import Step
from tunesmith.errors import InputError, RunError
from tunesmith.gradients import Gradient, Plan
from tunesmith.recipe import make

PLAIN = ("sgd", {"lr": 1e-2, "momentum": 0.0})


def build(name: str, **settings: Any) -> Any:
    return parts.find("gradient", name).choose(settings).build()


def asks(name: str, chain: tuple[str, dict[str, Any]] = PLAIN, settings: dict[str, Any] | None = None, *,
         family: str = "bert", adapter: str | None = "lora", mask: str | None = None, **changes: Any) -> Work:  # fmt: skip
    """A recipe's work with this gradient and this optimizer, without transforms."""
    stepper = parts.find("optimizer", chain[0]).choose(chain[1]).build()
    made = work(family, adapter, mask, transforms=[], gradient=build(name, **(settings or {})), stepper=stepper)
    return replace(made, **changes)


def final(made: Work) -> dict[str, Tensor]:
    loop = Loop(made)
    list(loop)
    return {n: p.detach().clone() for n, p in loop.parameters.items()}


def still(losses: Sequence[Callable[[], Tensor]], parameters: list[nn.Parameter], gradient: Gradient) -> list[Tensor]:
    """The gradients that a way gives, without moving anything."""
    found: dict[nn.Parameter, Tensor] = {}

    def take(p: nn.Parameter) -> None:
        assert p.grad is not None
        found[p] = found.get(p, torch.zeros_like(p)) + p.grad
        p.grad = None

    if gradient.streams:
        gradient.stream(losses, parameters, take)
    else:
        gradient(losses, parameters)
        for p in parameters:
            take(p)
    return [found[p] for p in parameters]


# ---------------------------------------------------------------------- every way


def quadratic() -> tuple[list[Callable[[], Tensor]], list[nn.Parameter], list[Tensor]]:
    """Two micro-batches of a quadratic in two tensors, its tensors, and its gradient."""
    generator = torch.Generator().manual_seed(3)
    w = nn.Parameter(torch.randn(3, 2, generator=generator, dtype=torch.float64))
    b = nn.Parameter(torch.randn(4, generator=generator, dtype=torch.float64))

    def one() -> Tensor:
        return 0.5 * (w * w).sum() + (w[0] * b[:2]).sum()

    def two() -> Tensor:
        return (b * torch.arange(1.0, 5.0, dtype=torch.float64)).sum()

    with torch.no_grad():
        gw, gb = w.clone(), torch.arange(1.0, 5.0, dtype=torch.float64)
        gw[0] += b[:2]
        gb[:2] += w[0]
    return [one, two], [w, b], [gw, gb]


ESTIMATES: dict[str, tuple[dict[str, Any], bool]] = {
    "mezo": ({}, True),
    "zeroth_order": ({"sides": "one", "eps": 1e-5}, True),
    "zeroth_order-blocks": ({"blocks": 2, "queries": 2}, True),
    "forward_gradient": ({}, True),
    "backprop": ({}, False),
    "lomo": ({}, False),
}
"""Way -> settings, and whether it agrees in expectation only."""

OTHER_LAWS = {
    "policy_gradient": "is the gradient of a mean over choices",
    "sam": "is the gradient elsewhere",
    "private": "is clipped and noisy",
}


def test_every_way_has_its_law() -> None:
    assert set(parts.of_kind("gradient")) == {k.split("-")[0] for k in ESTIMATES} | set(OTHER_LAWS)


@pytest.mark.parametrize("case", ESTIMATES)
def test_agrees_with_backpropagation(case: str) -> None:
    """The mean of 600 draws lies within five of its own standard errors of the gradient, entry by entry."""
    settings, random = ESTIMATES[case]
    losses, parameters, exact = quadratic()
    gradient = build(case.split("-")[0], **settings)
    whole = [lambda: losses[0]() + losses[1]()] if case == "lomo" else losses
    draws = []
    for seed in range(600 if random else 1):
        torch.manual_seed(seed)
        draws.append(torch.cat([g.flatten() for g in still(whole, parameters, gradient)]))
    drawn, wanted = torch.stack(draws), torch.cat([g.flatten() for g in exact])
    error = drawn.std(0) / len(drawn) ** 0.5 if random else torch.zeros_like(wanted)
    assert ((drawn.mean(0) - wanted).abs() <= 5 * error + 1e-9).all()
    assert not random or (error < 0.6).all()


@pytest.mark.parametrize("name", ["mezo", "zeroth_order", "forward_gradient", "lomo", "sam"])
def test_nothing_moves_but_by_the_optimizer(name: str) -> None:
    """The weights stand where they stood, up to the rounding of going there and back."""
    losses, parameters, _ = quadratic()
    before = [p.detach().clone() for p in parameters]
    still([lambda: losses[0]() + losses[1]()], parameters, build(name))
    for p, was in zip(parameters, before, strict=True):
        torch.testing.assert_close(
            p.detach(), was, rtol=0, atol=0 if name in ("sam", "lomo", "forward_gradient") else 1e-15
        )


@pytest.mark.parametrize("name", ["mezo", "zeroth_order", "forward_gradient", "sam", "private", "backprop"])
def test_micro_batches_add_up(name: str) -> None:
    """One or many micro-batches give the same weights; drop-out is off in these models' evaluation mode only."""
    settings = {"private": {"noise": 0.3}}.get(name, {})
    results = []
    for tokens in (10_000, 40):
        made = asks(name, settings=settings, tokens=tokens, budget=Budget(epochs=None, steps=2))
        for module in made.host.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        results.append(final(made))
    for n, tensor in results[0].items():
        torch.testing.assert_close(results[1][n], tensor, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("name,chain", [
    ("mezo", PLAIN), ("mezo", ("adamw", {"lr": 1e-3})), ("mezo", ("sgd", {"lr": 1e-3, "momentum": 0.9})),
    ("zeroth_order", PLAIN), ("forward_gradient", ("lion", {"lr": 1e-3})),
])  # fmt: skip
@pytest.mark.parametrize("patience", [None, 3])
def test_a_log_of_steps_is_a_checkpoint(name: str, chain: Any, patience: int | None, tmp_path: Path) -> None:
    """A run that is taken up from its log alone ends with the bits of one that was never cut off."""
    settings = {"zeroth_order": {"queries": 2, "blocks": 2, "conservative": True}}.get(name, {})

    def made(**changes: Any) -> Work:
        losses = iter([1.0, 3.0, 2.0])
        budget = Budget(epochs=None, steps=8, patience=patience)
        return asks(name, chain, settings, budget=budget, validate=lambda: next(losses), **changes)

    whole = Loop(made())
    list(whole)
    first = Loop(made(folder=tmp_path, save_steps=5))
    for event in first:
        if event["event"] == "save":
            break
    kept = sorted((tmp_path / "step-00000005").iterdir())
    assert sum(f.stat().st_size for f in kept if f.suffix == ".safetensors") < 5 * 8 * 9 + 500
    second = Loop(made(folder=tmp_path))
    assert second.resume() and second.state.step == 5
    second.work.validate = iter([3.0, 2.0]).__next__
    list(second)
    log = whole.kept_log()
    assert log is not None and (patience is None or len(log) == whole.state.best_step == 3)
    for n, p in whole.parameters.items():
        assert torch.equal(p, second.parameters[n]), n


def test_the_log_is_honest_about_what_it_cannot_hold(tmp_path: Path) -> None:
    made = asks("mezo", adapter=None, mask="lisa", folder=tmp_path, save_steps=2)
    loop = Loop(replace(made, mask=parts.find("mask", "lisa").choose().build()))
    notes = [e["text"] for e in loop if e["event"] == "note"]
    assert any("mask lisa chooses what moves" in n for n in notes) and loop.kept_log() is None
    assert any(n.startswith("model.") for n in load_file(next(tmp_path.glob("step-*")) / "weights.safetensors"))


# ---------------------------------------------------------------------- memory


class Alive(nn.Module):
    """Counts the gradients that exist whenever one is made."""

    def __init__(self, parameters: list[nn.Parameter]):
        super().__init__()
        self.most = 0
        for p in parameters:
            p.register_post_accumulate_grad_hook(lambda _, ps=parameters: self.see(ps))

    def see(self, parameters: list[nn.Parameter]) -> None:
        self.most = max(self.most, sum(p.grad is not None for p in parameters))


@pytest.mark.parametrize("name,most", [("backprop", None), ("lomo", 1), ("mezo", 0), ("forward_gradient", 0)])
def test_gradients_alive(name: str, most: int | None) -> None:
    """LOMO holds one gradient at a time; of the forward ways none comes from a backward pass."""
    made = asks(name, adapter=None, mask="everything", budget=Budget(epochs=None, steps=2))
    alive = Alive([p for p in made.host.parameters() if p.requires_grad])
    loop = Loop(made)
    list(loop)
    assert alive.most == most or (most is None and alive.most > 20)
    assert not any(p.grad is not None for p in loop.parameters.values())


def test_forward_ways_build_no_graph() -> None:
    seen: list[bool] = []
    made = asks("mezo", budget=Budget(epochs=None, steps=1))
    made.host.model.register_forward_hook(lambda m, x, y: seen.append(y.logits.requires_grad))
    list(Loop(made))
    assert seen == [False, False]


# ---------------------------------------------------------------------- one by one


@pytest.mark.parametrize("family,adapter,mask", [("bert", "lora", None), ("gpt2", None, "everything")])
def test_lomo_is_sgd_to_the_bit(family: str, adapter: str | None, mask: str | None) -> None:
    """Drop-out, tied embeddings and momentum included."""
    for momentum in (0.0, 0.9):
        chain = ("sgd", {"lr": 1e-2, "momentum": momentum})
        ours, plain = (
            final(asks(name, chain, family=family, adapter=adapter, mask=mask)) for name in ("lomo", "backprop")
        )
        assert all(torch.equal(ours[n], t) for n, t in plain.items())


def test_lomo_with_a_limit_is_clipped_sgd() -> None:
    limited = asks("lomo", settings={"limit": 0.1})
    clipped = asks("backprop")
    clipped.transforms = [parts.find("optimizer", "clip_norm").choose({"limit": 0.1}).build()]
    theirs = final(clipped)
    for n, tensor in final(limited).items():
        torch.testing.assert_close(tensor, theirs[n], rtol=1e-5, atol=1e-7)


def test_lomo_cannot_accumulate() -> None:
    with pytest.raises(InputError, match="cannot add up micro-batches, and a step has 8; raise batch.tokens"):
        list(Loop(asks("lomo", tokens=1)))


def test_memory_that_runs_out_half_way_ends_the_run() -> None:
    made = asks("lomo", adapter=None, mask="everything")
    loop = Loop(made)
    last = next(iter(loop.parameters.values()))
    last.register_hook(lambda g: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory (simulated)")))
    with pytest.raises(RunError, match="memory ran out when some weights had moved already"):
        list(loop)
    assert is_out_of_memory(torch.OutOfMemoryError("out of memory"))


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_is_its_equation(adaptive: bool) -> None:
    """Foret et al. 2020, eq. 2 and 3, by hand on the quadratic."""
    losses, (w, b), (gw, gb) = quadratic()
    sizes = [w.detach().abs(), b.detach().abs()] if adaptive else [torch.ones_like(gw), torch.ones_like(gb)]
    norm = torch.sqrt(sum((s * g).square().sum() for s, g in zip(sizes, (gw, gb), strict=True)))
    e = [0.2 * s**2 * g / norm for s, g in zip(sizes, (gw, gb), strict=True)]
    wanted_w, wanted_b = gw + e[0], gb.clone()
    wanted_w[0] += e[1][:2]
    wanted_b[:2] += e[0][0]
    found = still(losses, [w, b], build("sam", rho=0.2, adaptive=adaptive))
    torch.testing.assert_close(found, [wanted_w, wanted_b], rtol=1e-9, atol=1e-12)


def test_policy_gradient_is_that_of_the_expected_loss() -> None:
    """The mean of 800 draws lies within five standard errors of the slope of the loss's mean over all choices."""
    draw = torch.Generator().manual_seed(0)
    table = torch.randn(3, 4, generator=draw, dtype=torch.float64) + 5.0
    one = nn.Parameter(torch.randn(1, 3, generator=draw, dtype=torch.float64))
    two = nn.Parameter(torch.randn(1, 4, generator=draw, dtype=torch.float64))
    expected = (one.softmax(-1).T * two.softmax(-1) * table).sum()
    wanted = torch.cat([g.flatten() for g in torch.autograd.grad(expected, [one, two])])
    before = [p.detach().clone() for p in (one, two)]
    drawn = []
    for seed in range(800):
        torch.manual_seed(seed)
        found = still([lambda: table[one.argmax(), two.argmax()]], [one, two], build("policy_gradient", samples=4))
        drawn.append(torch.cat([g.flatten() for g in found]))
    stacked = torch.stack(drawn)
    error = stacked.std(0) / len(stacked) ** 0.5
    assert ((stacked.mean(0) - wanted).abs() <= 5 * error).all() and (error < 0.05).all()
    assert torch.equal(one, before[0]) and torch.equal(two, before[1])


def test_policy_gradient_moves_choices_alone() -> None:
    with pytest.raises(InputError, match="which is no choice; expected adapter discrete_prompt alone"):
        Loop(asks("policy_gradient"))
    made = asks("policy_gradient", ("adamw", {"lr": 0.1}), {"samples": 3}, family="llama", adapter="discrete_prompt",
                budget=Budget(epochs=None, steps=2))  # fmt: skip
    loop = Loop(made)
    list(loop)
    (logits,) = loop.parameters.values()
    assert logits.isfinite().all() and not any(
        m.weight.grad is not None for m in made.host.modules() if isinstance(m, nn.Linear)
    )


def test_conservative_never_gets_worse_on_its_rows() -> None:
    losses, parameters, _ = quadratic()
    optimizer = torch.optim.SGD(parameters, lr=1.0)

    def take(p: nn.Parameter) -> None:
        others = [q for q in parameters if q is not p]
        assert all(q.grad is None for q in others)
        optimizer.step()
        p.grad = None

    gradient, factors = build("zeroth_order", conservative=True), []
    for seed in range(30):
        torch.manual_seed(seed)
        before = (losses[0]() + losses[1]()).item()
        gradient.stream(losses, parameters, take)
        factors.append(gradient.scalars[-1])
        assert (losses[0]() + losses[1]()).item() <= before + 1e-9
    assert set(factors) == {1.0, 2.0}, "steps are kept or left out; the opposite is never better on a convex loss"
    with pytest.raises(InputError, match="conservative step may be taken back"):
        Loop(asks("zeroth_order", ("adamw", {"lr": 1e-3}), {"conservative": True}))


def test_only_chosen_entries_move() -> None:
    made = asks("mezo", adapter=None, mask="graft")
    base = {n: p.detach().clone() for n, p in made.host.model.named_parameters()}
    loop = Loop(replace(made, mask=parts.find("mask", "graft").choose().build()))
    list(loop)
    total = 0
    for name, patch in loop.work.host.patches.items():
        moved = (dict(loop.work.host.model.named_parameters())[name] != base[name]).flatten().nonzero()[:, 0]
        assert patch.indices is not None and set(moved.tolist()) <= set(patch.indices.tolist())
        total += len(moved)
    assert total


def test_forward_gradient_names_what_it_cannot_differentiate() -> None:
    class Odd(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g * 2

    p = nn.Parameter(torch.ones(2))
    with pytest.raises(InputError, match="cannot differentiate this model forwards"):
        build("forward_gradient").stream([lambda: Odd.apply(p * 1).sum()], [p], lambda q: None)


@pytest.mark.parametrize("settings,message", [
    ({"gradient": "mezo"}, r"clip_norm needs all of them at once; optimizer: \['adamw'\]"),
    ({"gradient": "lomo", "optimizer": ["clip_component", "sgd"]}, "clip_component needs all of them"),
    ({"gradient": "private", "mask": "graft"}, "mask graft moves single entries"),
])  # fmt: skip
def test_recipes_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make({"rows": "a.csv", **settings})


def test_parts_that_need_all_gradients_are_named() -> None:
    with pytest.raises(InputError, match="adapter ada_lora acts after the step"):
        Loop(asks("lomo", adapter="ada_lora"))
    with pytest.raises(InputError, match="a sum over rows"):
        Loop(asks("private", adapter="ada_lora", settings={"noise": 1.0}))


# ---------------------------------------------------------------------- privacy

PRIVATE = [(f, a, m) for f in ("bert", "gpt2", "llama") for a, m in (("lora", None), (None, "everything"))]


def by_hand(made: Work, rows: np.ndarray) -> tuple[dict[str, Tensor], float]:
    """Each row's gradient by backpropagation of its own loss, clipped at the middle of their norms: their sum over the
    rows of a step, and that norm."""
    trained = made.host.trainable()
    each, norms = [], []
    for row in rows:
        step = Step(made.host, collate(made.rows.take(np.array([row]))), made.head)
        loss = made.losses[0](step) * step.units
        each.append(torch.autograd.grad(loss, list(trained.values()), allow_unused=True))
        norms.append(float(torch.sqrt(sum(g.square().sum() for g in each[-1] if g is not None))))
    clip = float(np.median(norms))
    total = {
        n: sum(g * min(1.0, clip / norm) for g, norm in zip(grads, norms, strict=True)) / len(rows)
        for n, *grads in zip(trained, *each, strict=True)
        if grads[0] is not None
    }
    return total, clip


@pytest.mark.parametrize("family,adapter,mask", PRIVATE)
@pytest.mark.parametrize("tokens", [10_000, 60])
def test_ghost_clipping_is_clipping_row_by_row(family: str, adapter: str | None, mask: str | None, tokens: int) -> None:
    """To 1e-5 of the largest entry, with tied embeddings, positions, norms, several micro-batches, and rows on both sides
    of the limit."""
    made = asks(
        "private", family=family, adapter=adapter, mask=mask, tokens=tokens, settings={"noise": 0.0, "clip": 20.0}
    )
    if family == "gpt2" and mask:
        assert made.host.model.lm_head.weight is made.host.model.transformer.wte.weight
    with torch.no_grad():
        for n, p in made.host.named_parameters():
            if n.endswith(".B"):
                nn.init.normal_(p, std=0.1)
    wanted, made.gradient.clip = by_hand(made, np.arange(8))
    loop = Loop(made)
    loop.work.host.eval()
    loop._gradient(np.arange(8))
    for n, g in wanted.items():
        grad = loop.parameters[n].grad
        assert grad is not None
        torch.testing.assert_close(grad, g, rtol=0, atol=1e-5 * max(1.0, float(g.abs().max())))


def test_noise_has_the_size_that_is_said() -> None:
    made = asks("private", settings={"noise": 3.0, "clip": 2.0}, adapter=None, mask="everything")
    loop = Loop(made)
    loop.work.host.eval()
    drawn = []
    for seed in range(20):
        torch.manual_seed(seed)
        loop._gradient(np.arange(8))
        drawn.append(torch.cat([p.grad.flatten() for p in loop.parameters.values() if p.grad is not None]))
        loop.optimizer.zero_grad()
    assert float(torch.stack(drawn).std(0).mean()) == pytest.approx(3.0 * 2.0 / 8, rel=0.05)


def test_what_cannot_be_told_apart_by_rows_is_refused() -> None:
    with pytest.raises(InputError, match="relative_attention_bias"):
        list(Loop(asks("private", family="t5", adapter=None, mask="everything", settings={"noise": 1.0})))


def test_a_row_of_several_sequences_is_refused() -> None:
    made = asks("private", settings={"noise": 1.0})
    plain = made.collate
    made.collate = lambda rows: {**plain(rows), "pairs": torch.zeros(1)}
    with pytest.raises(InputError, match="one sequence a row"):
        list(Loop(made))


def test_private_needs_an_end_in_steps() -> None:
    with pytest.raises(InputError, match="the noise depends on the number of steps"):
        build("private").begin(nn.Linear(2, 2), Plan(100, 10, math.inf))


@pytest.mark.parametrize("rate,steps,epsilon", [(0.05, 400, 3.0), (0.1, 300, 8.0)])
def test_accountants_agree(rate: float, steps: int, epsilon: float) -> None:
    """The Edgeworth estimate lies below the bound of Renyi's accountant and within 3% of the numerical one's noise."""
    pytest.importorskip("opacus")
    from tunesmith.gradients._privacy import epsilon_of, noise_for

    estimate = noise_for(epsilon, 1e-5, rate, steps, "edgeworth")
    assert epsilon_of(estimate, 1e-5, rate, steps, "edgeworth") <= epsilon
    assert epsilon_of(estimate, 1e-5, rate, steps, "rdp") > epsilon
    assert epsilon_of(1.03 * estimate, 1e-5, rate, steps, "prv") <= epsilon


def test_edgeworth_is_exact_where_the_ratio_is_normal() -> None:
    """With every row in every step the sum is normal: Dong et al. 2019, arXiv:1905.02383, corollary 2.13."""
    from tunesmith.gradients._privacy import edgeworth_delta

    noise, steps, epsilon = 4.0, 10, 1.5
    mu = math.sqrt(steps) / noise
    cdf = torch.distributions.Normal(0.0, 1.0).cdf
    ends = [cdf(torch.tensor(sign * mu / 2 - epsilon / mu, dtype=torch.float64)) for sign in (1, -1)]
    assert edgeworth_delta(epsilon, noise, 1.0, steps) == pytest.approx(
        float(ends[0] - math.exp(epsilon) * ends[1]), rel=1e-3
    )


# ---------------------------------------------------------------------- a whole run


def test_a_run_is_rebuilt_from_its_log(bases: dict[str, Path], rows_file: Path, home: Path, tmp_path: Path,
                                       monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Exported as a log of some bytes a step, and opened again to the bit on the base."""
    monkeypatch.setenv("TUNESMITH_HOME", str(home))
    from tunesmith.run.api import open_run, tune

    run = tune(str(rows_file), base=str(bases["bert"]), out=tmp_path / "runs", name="m", progress="quiet", steps=6,
               mask="everything", gradient="mezo", optimizer={"sgd": {"lr": 1e-3, "momentum": 0.0}},
               precision="fp32")  # fmt: skip
    out = run.save_pretrained(tmp_path / "log", form="log")
    assert (out / "steps.safetensors").stat().st_size < 6 * 24 + 400
    assert json.loads((tmp_path / "runs" / "m" / "report.json").read_text(encoding="utf-8"))
    again = open_run(out)
    for n, tensor in run.host.state().items():
        assert torch.equal(again.host.state()[n], tensor), n
    assert again.predict(["the apple"]) == run.predict(["the apple"])
    with pytest.raises(InputError, match="is the log of a run"):
        again.save_pretrained(tmp_path / "x", form="merged")


FAULTS = """
import resource, sys
import torch
from tunesmith.engine import memory

assert getattr(memory, sys.argv[1])()
torch.ones(2**22)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(2**22)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc")
def test_memory_that_is_kept_for_the_next_step_is_not_asked_for_again_and_under_a_limit_it_goes_back() -> None:
    def faults(setting: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, setting], capture_output=True, text=True, check=True)
        return int(done.stdout)

    pages, every_time = 20 * 2**24 / mmap.PAGESIZE, faults("give_back")
    assert every_time > 0.9 * pages
    assert faults("reuse") < 0.5 * every_time


SHAPES = """
import torch
from tunesmith.engine.precision import pick

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

torch.set_num_threads(1)
pick("bf16", torch.device("cpu"))
weight = torch.ones(64, 64, dtype=torch.bfloat16)
torch.ones(1, 64, dtype=torch.bfloat16) @ weight
before = resident()
for rows in range(2, 602):
    torch.ones(rows, 64, dtype=torch.bfloat16) @ weight
print(resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of the process as Linux tells it")
@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN does not multiply in bf16 here")
def test_kernels_of_long_past_lengths_are_not_kept_unless_the_environment_says_so() -> None:
    def pages(kept: str | None) -> int:
        settings = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
        variables = {n: v for n, v in os.environ.items() if n not in settings}
        variables |= dict.fromkeys(settings, kept) if kept else {}
        done = subprocess.run([sys.executable, "-c", SHAPES], capture_output=True, text=True, check=True, env=variables)
        return int(done.stdout)

    assert pages(None) < 0.4 * pages("1024")
