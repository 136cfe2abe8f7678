"""What each technique of the LoRA family promises besides the laws: budgets, starts, densities, links."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lines_low_rank import LOW_RANK_LINES
from test_engine import table, weights, work
from tiny import batch, tiny
from tunesmith import parts
from tunesmith.engine.loop import Budget, Loop
from tunesmith.engine.precision import arithmetic
from tunesmith.errors import InputError
from tunesmith.host import Host


def host_with(name: str, family: str = "bert", **settings: Any) -> Host:
    model = tiny(family)
    host = Host(model, [n for n, _ in model.named_parameters() if "classifier" in n])
    host.attach(parts.find("adapter", name).choose({**LOW_RANK_LINES[name][0], **settings}))
    return host


def loop_with(name: str, *, steps: int = 30, settings: dict[str, Any] | None = None, **changes: Any) -> Loop:
    known = {"host": host_with(name, **(settings or {})), "held_out": table("classify", 12, seed=9)}
    return Loop(work(budget=Budget(epochs=None, steps=steps), **known, **changes))


def adapters(host: Host) -> list[Any]:
    (technique,) = host.techniques()
    return technique


def logits(host: Host) -> Tensor:
    with torch.no_grad():
        made: Tensor = host.eval()(**batch("bert")).logits
    return made


def ranks(host: Host) -> list[int]:
    return [len(a.A) for a in adapters(host)]


# ---------------------------------------------------------------------- every technique


@pytest.mark.parametrize("name", LOW_RANK_LINES)
def test_it_trains_in_half_precision_with_recomputed_activations(name: str) -> None:
    loop = loop_with(name, steps=3, dtype=torch.bfloat16, tokens=60)
    loop.work.host.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    before = weights(loop)
    assert [e["step"] for e in loop if e["event"] == "step"] == [1, 2, 3]
    changed = [n for n, t in weights(loop).items() if t.shape != before[n].shape or not torch.equal(t, before[n])]
    assert len(changed) > len(before) / 2


@pytest.mark.parametrize(
    "name", ["ada_lora", "incre_lora", "rose_lora", "chain_of_lora", "eva", "co_lora", "corda", "mip"]
)
def test_resumed_is_uninterrupted(name: str, tmp_path: Path) -> None:
    def made(folder: Path | None = None) -> Loop:
        settings = {"every": 2} if name == "ada_lora" else {}
        return loop_with(name, steps=9, settings=settings, folder=folder, save_steps=1)

    whole = made()
    whole.work.save_steps = None
    list(whole)
    for event in made(tmp_path):
        if event["event"] == "save" and event["step"] == 4:
            break
    second = made(tmp_path)
    assert second.resume() and second.state.step == 4
    list(second)
    for key, tensor in whole.work.host.state(training=True).items():
        assert torch.equal(second.work.host.state(training=True)[key], tensor), key


@pytest.mark.parametrize("name", ["ada_lora", "incre_lora", "rose_lora"])
def test_what_only_training_needs_is_not_left_behind(name: str) -> None:
    host = host_with(name)
    assert not [n for n in host.state() if n.endswith(("_mean", "_spread"))]
    assert [n for n in host.state(training=True) if n.endswith("_mean")]


# ---------------------------------------------------------------------- starts


@pytest.mark.parametrize("name", ["pissa", "olora", "loftq", "corda"])
def test_a_rank_above_the_weight_s_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="rank 20 is more than .*; expected at most 16"):
        host_with(name, rank=20)


def test_pissa_starts_from_the_principal_directions() -> None:
    for iterations, close in ((0, 1e-4), (4, 2e-2)):
        (one, *_) = adapters(host_with("pissa", iterations=iterations))
        rest = one.site.weight - one.scale * one.B0 @ one.A0
        singular = torch.linalg.svdvals(one.site.weight)
        torch.testing.assert_close(torch.linalg.svdvals(rest)[:14], singular[2:], rtol=close, atol=close)


def test_loftq_starts_from_what_quantisation_loses() -> None:
    from tunesmith.adapters.loftq import NF4, _quantised

    (one, *_) = adapters(host_with("loftq", rank=8))
    weight = one.site.weight.detach()
    first = _quantised(weight, 16)
    scale = weight.flatten().view(-1, 16).abs().amax(1, keepdim=True)
    levels = (first.flatten().view(-1, 16) / scale).flatten()
    assert (levels[:, None] - torch.tensor(NF4)).abs().amin(1).max() < 1e-6
    kept = one.scale * one.B0 @ one.A0
    assert (weight - _quantised(weight - kept, 16) - kept).norm() < 0.7 * (weight - first).norm()


def seen(name: str, **settings: Any) -> tuple[Loop, dict[str, Tensor], Tensor]:
    """A loop whose adapters have settled, each site's observed inputs, and the outputs of the base."""
    loop = loop_with(name, settings=settings)
    base = logits(loop.work.host)
    inputs: dict[str, Tensor] = {}
    for adapter in adapters(loop.work.host):
        whole = adapter.observe

        def note(x: Tensor, y: Tensor, gradient: Tensor | None, a: Any = adapter, whole: Any = whole) -> None:
            inputs[a.site.path] = torch.cat([inputs.get(a.site.path, x[:0]), x])
            whole(x, y, gradient)

        adapter.observe = note
    loop._observe()
    return loop, inputs, base


@pytest.mark.parametrize("name", ["eva", "corda", "co_lora"])
def test_what_is_observed_has_no_padding_and_changes_nothing(name: str) -> None:
    loop, inputs, base = seen(name)
    assert torch.equal(logits(loop.work.host), base)
    # 24 rows are three micro-batches; the first layer's inputs are those of every token once
    tokens = int(loop.work.rows.lengths.sum())
    assert len(inputs["bert.encoder.layer.0.attention.self.query"]) == tokens
    assert all(p.grad is None for p in loop.work.host.parameters())


def test_eva_starts_from_the_inputs_directions_and_keeps_the_budget() -> None:
    loop, inputs, _ = seen("eva", rank=4)
    host = loop.work.host
    assert sum(ranks(host)) == 4 * len(ranks(host)) and len(set(ranks(host))) > 1 and max(ranks(host)) <= 8
    for adapter in adapters(host):
        _, _, V = torch.linalg.svd(inputs[adapter.site.path].double(), full_matrices=False)
        overlap = (adapter.A.double() @ V[: len(adapter.A)].T).square().sum()
        assert float(overlap) == pytest.approx(len(adapter.A), rel=1e-3)
        assert adapter.B.shape == (adapter.site.outputs, len(adapter.A)) and not adapter.B.any()
    even = seen("eva", rank=4, most=1.0)[0].work.host
    assert set(ranks(even)) == {4}


def test_corda_splits_the_weight_in_the_context_of_the_inputs() -> None:
    for mode, chosen in (("instruction", slice(0, 2)), ("knowledge", slice(14, 16))):
        loop, inputs, _ = seen("corda", mode=mode)
        one = adapters(loop.work.host)[0]
        x = inputs[one.site.path].double()
        C = x.T @ x
        C = C / C.diagonal().mean() + 0.01 * torch.eye(16)
        U, s, V = torch.linalg.svd(one.site.weight.double() @ C)
        expected = U[:, chosen] @ torch.diag(s[chosen]) @ V[chosen] @ torch.linalg.inv(C)
        actual = one.scale * one.B0.double() @ one.A0.double()
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5)
        length = (s[chosen] / one.scale).sqrt().float()
        torch.testing.assert_close(one.B0.norm(dim=0), length, rtol=1e-3, atol=1e-5)


def test_colora_gives_rank_to_what_contributes() -> None:
    for order in ("proportional", "inverse"):
        loop = loop_with("co_lora", settings={"rank": 4, "order": order})
        mine = adapters(loop.work.host)
        norms: list[float] = []

        def settle(host: Host = loop.work.host, norms: list[float] = norms, mine: list[Any] = mine) -> None:
            norms += [float(a.gradient.norm()) for a in mine]
            Host.settle(host)

        loop.work.host.settle = settle  # type: ignore[method-assign]
        loop._observe()
        by_norm = [rank for _, rank in sorted(zip(norms, ranks(loop.work.host), strict=True))]
        assert sum(by_norm) == 4 * len(mine) and len(set(by_norm)) > 2
        assert by_norm == sorted(by_norm, reverse=order == "inverse")


# ---------------------------------------------------------------------- budgets


def test_adalora_ends_on_its_budget_and_orthogonal() -> None:
    loop = loop_with("ada_lora", steps=60, settings={"rank": 2, "start": 2.0, "every": 2, "orthogonality": 12.0})
    mine = adapters(loop.work.host)
    before = float(loop.work.host.penalty())
    assert ranks(loop.work.host) == [4] * len(mine)
    list(loop)
    used = [int((a.E != 0).sum()) for a in mine]
    assert sum(used) == 2 * len(mine) and len(set(used)) > 1
    assert float(loop.work.host.penalty()) < before / 2


def test_adalora_s_importance_is_peft_s() -> None:
    peft = pytest.importorskip("peft")
    from peft.tuners.adalora.layer import RankAllocator

    host = host_with("ada_lora", rank=2, start=1.5, targets=["attention.query"], every=1000)
    mine = adapters(host)
    model = nn.ModuleDict({str(i): nn.Module() for i in range(len(mine))})
    for i, adapter in enumerate(mine):
        for name in "ABE":
            values = getattr(adapter, name).detach().clone()
            model[str(i)].register_parameter(f"lora_{name}", nn.Parameter(values[:, None] if name == "E" else values))
    config = peft.AdaLoraConfig(init_r=3, target_r=2, total_step=99)
    theirs = RankAllocator(model, config, "")
    for step in range(4):
        torch.manual_seed(step)
        for i, adapter in enumerate(mine):
            for name in "ABE":
                own, other = getattr(adapter, name), getattr(model[str(i)], f"lora_{name}")
                own.data = torch.randn_like(own)
                own.grad = torch.randn_like(own)
                other.data, other.grad = own.data.reshape(other.shape), own.grad.reshape(other.shape)
        theirs.update_ipt(model)
        type(mine[0]).after_step(mine, 0.5)
    for i, adapter in enumerate(mine):
        score = {n: theirs._element_score(f"{i}.lora_{n}") for n in "ABE"}
        pair = torch.stack([score["A"].mean(1), score["B"].mean(0)], dim=1)
        torch.testing.assert_close(adapter.importance(), theirs._combine_ipt(score["E"], pair))


def test_increlora_grows_to_its_budget_without_a_jump() -> None:
    loop = loop_with("incre_lora", steps=40, settings={"rank": 3, "together": 2})
    host = loop.work.host
    mine = adapters(host)
    assert {int(a.used) for a in mine} == {1}
    list(loop)
    used = [int(a.used) for a in mine]
    assert sum(used) == 3 * len(mine) and len(set(used)) > 1 and max(used) <= 6
    roomy = next(a for a in mine if a.used < len(a.E) - 1)
    before = logits(host)
    with torch.no_grad():
        roomy.used += 1
    assert torch.equal(logits(host), before)


def test_lorasp_trains_half_of_the_entries() -> None:
    loop, whole = loop_with("lorasp", steps=5), loop_with("loraplus")
    mine, full = adapters(loop.work.host), adapters(whole.work.host)
    count = sum(p.numel() for a in mine for p in a.parameters())
    assert count == sum(p.numel() for a in full for p in a.parameters()) / 2
    before = [[t.detach().clone() for t in a.factors()] for a in mine]
    list(loop)
    for adapter, factors in zip(mine, before, strict=True):
        for old, new, places in zip(factors, adapter.factors(), (adapter.A_places, adapter.B_places), strict=True):
            changed = (old != new).flatten().nonzero().squeeze(1)
            assert set(changed.tolist()) <= set(places.tolist()) and len(changed) > 0


def test_roselora_ends_sparse_in_rows_and_columns() -> None:
    loop = loop_with("rose_lora", steps=30, settings={"density": 0.25})
    list(loop)
    for adapter in adapters(loop.work.host):
        assert ((adapter.A != 0).sum(1) <= round(0.25 * adapter.site.inputs)).all()
        assert ((adapter.B != 0).sum(0) <= round(0.25 * adapter.site.outputs)).all()
        touched = float(((adapter.B @ adapter.A) != 0).float().mean())
        assert 0 < touched <= 2 * 0.25**2


def test_a_chain_s_links_add_up() -> None:
    loop = loop_with("chain_of_lora", steps=12, settings={"rank": 2, "links": 3})
    host = loop.work.host
    mine = adapters(host)
    step = loop.optimizer.step
    seen: list[Tensor] = []
    loop.optimizer.step = lambda: (step(), seen.append(logits(host)), host.train())  # type: ignore[assignment]
    for event in loop:
        if event["event"] == "step" and event["step"] in (5, 9):
            # the step that ends a link changes the weights, and the new link then adds nothing
            assert not mine[0].B.any() and mine[0].A not in loop.optimizer.state
            torch.testing.assert_close(logits(host), seen[-1])
            host.train()
    A, B = mine[0].factors()
    assert torch.linalg.matrix_rank(B @ A) == 6 and int(mine[0].done) == 2


# ---------------------------------------------------------------------- forms


def test_lora_plus_has_a_rate_for_b() -> None:
    loop = loop_with("loraplus", settings={"ratio": 4.0})
    rate = loop.work.stepper.lr
    loop.set_rate(rate)
    of = {id(p): g["lr"] for g in loop.optimizer.param_groups for p in g["params"]}
    one = adapters(loop.work.host)[0]
    assert of[id(one.A)] == rate and of[id(one.B)] == 4 * rate


@pytest.mark.parametrize(
    ("name", "key"), [("vera", "adapter.shared.vera.A"), ("mip", "adapter.shared.mip.nets.16.0.weight")]
)
def test_what_sites_share_is_saved_once(name: str, key: str) -> None:
    host = host_with(name)
    host.attach(parts.find("adapter", name).choose({**LOW_RANK_LINES[name][0], "targets": ["attention.query"]}), seed=3)
    assert sum(".shared." in n for n in host.state()) == sum(len(m.state_dict()) for m in host.shared.values())
    assert key in host.state() and len({a.site.shared for a in host.techniques()[0]}) == 1
    assert host.techniques()[1][0].site.shared is not host.techniques()[0][0].site.shared


def test_mip_s_code_is_as_long_in_every_layer() -> None:
    codes = {a.site.layer: a.code for a in adapters(host_with("mip"))}
    assert codes[0].tolist() == [1, 0] and float(codes[1].norm()) == pytest.approx(1)
    assert adapters(host_with("mip", encoding="raw", residual=False))[0].code.tolist() == [0]


def test_oft_keeps_lengths_and_angles() -> None:
    host = host_with("oft")
    for adapter in adapters(host):
        nn.init.normal_(adapter.skew)
    before = {p: m[0][0].weight.detach().clone() for p, m in host.by_module().items()}
    host.fold()
    for path, weight in before.items():
        after = host.anatomy.modules[path].weight
        torch.testing.assert_close(after @ after.T, weight @ weight.T, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(after, weight, atol=1e-2)


@pytest.mark.parametrize("name", ["oft", "ia3"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_what_acts_on_the_input_does_so_before_or_after_its_layer(name: str, family: str) -> None:
    """Alone before the layer; beside another adapter, which still sees the layer's own input, after it."""
    settings: dict[str, Any] = {"targets": ["mlp.down"], **({"block": 4} if name == "oft" else {})}
    outputs = []
    for others in ([], ["lora"]):
        host = Host(tiny(family))
        for part in (name, *others):
            host.attach(parts.find("adapter", part).choose(settings if part == name else {"targets": ["mlp.down"]}))
        torch.manual_seed(3)
        for adapter in host.techniques()[0]:
            for parameter in adapter.parameters():
                torch.nn.init.normal_(parameter, std=0.5)
        value = host(**batch(family)).logits
        value.square().mean().backward()
        gradients = [p.grad for adapter in host.techniques()[0] for p in adapter.parameters()]
        outputs.append([value.detach(), *gradients])
    for alone, beside in zip(*outputs, strict=True):
        torch.testing.assert_close(alone, beside, rtol=1e-4, atol=1e-5)


def test_a_rotation_of_the_input_costs_no_second_pass_through_the_weight() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    def flops(host: Host) -> int:
        with FlopCounterMode(display=False) as counter:
            host(**batch("bert"))
        return counter.get_total_flops()

    host = Host(tiny("bert"))
    base = flops(host)
    host.attach(parts.find("adapter", "oft").choose({"block": 2}))
    assert flops(host) < 1.5 * base


def test_oft_refuses_a_block_that_does_not_divide() -> None:
    with pytest.raises(InputError, match="block 32 does not divide the 16 inputs of bert"):
        host_with("oft", block=32)


def test_dsee_trains_where_the_weight_is_least_low_rank() -> None:
    model = tiny("bert")
    weight = model.get_submodule("bert.encoder.layer.0.attention.self.query").weight
    with torch.no_grad():
        weight.copy_(torch.randn(16, 2) @ torch.randn(2, 16))
        weight[3, 5] += 9
        weight[7, 1] -= 9
    host = Host(model)
    settings = {"rank": 2, "entries": 2, "targets": ["attention.query"], "layers": [0]}
    host.attach(parts.find("adapter", "dsee").choose(settings))
    (one,) = adapters(host)
    assert sorted(zip(one.rows.tolist(), one.columns.tolist(), strict=True)) == [(3, 5), (7, 1)]


def test_the_penalty_is_part_of_the_loss() -> None:
    loss = {}
    for weight in (0.0, 1.0):
        loop = loop_with("ada_lora", settings={"orthogonality": weight})
        loop.work.host.eval()
        indices = torch.arange(8).numpy()
        loss[weight] = float(loop._gradient(indices)[0])
    with arithmetic(torch.float32, torch.device("cpu")):
        penalty = float(loop.work.host.penalty())
    assert loss[1.0] - loss[0.0] == pytest.approx(penalty, rel=1e-4)


@pytest.mark.parametrize("name", ["pissa", "olora", "loftq", "dsee"])
def test_a_saved_state_needs_no_start(name: str) -> None:
    whole = host_with(name)
    bare = Host(tiny("bert"), [n for n, _ in tiny("bert").named_parameters() if "classifier" in n])
    bare.attach(parts.find("adapter", name).choose(LOW_RANK_LINES[name][0]), begin=False)
    started = "rows" if name == "dsee" else "B0"
    assert not getattr(adapters(bare)[0], started).any() and getattr(adapters(whole)[0], started).any()
    for parameter in whole.adapters.parameters():
        nn.init.normal_(parameter, std=0.3)
    bare.load(whole.state())
    assert torch.equal(logits(bare), logits(whole))
