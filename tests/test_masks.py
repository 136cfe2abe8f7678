"""The laws of masks, held to every mask on an encoder, a decoder and an encoder-decoder; and each paper's rule again."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tunesmith as ts
from test_engine import work
from tiny import BOTH, CONFIGS, batch, tiny
from tunesmith import artefacts, parts
from tunesmith.engine.batches import epoch_steps
from tunesmith.engine.loop import Budget, Loop, Work
from tunesmith.engine.step import count_units
from tunesmith.errors import InputError
from tunesmith.host import Host
from tunesmith.masks import EntryMask, Moment
from tunesmith.masks._knapsack import plan
from tunesmith.masks._polar import polar
from tunesmith.models.anatomy import Anatomy

FAMILIES = ["bert", "gpt2", "llama", "t5"]
MASKS = list(parts.of_kind("mask"))
SPARSE = [n for n, p in parts.of_kind("mask").items() if p.attributes["sparse"]]

TINY: dict[str, dict[str, Any]] = {
    "entries": {"density": 0.05, "samples": 8}, "fish": {"density": 0.05, "samples": 8}, "lisa": {"count": 1, "period": 2},
    "fisher_norms": {"samples": 8}, "magnitude_entries": {"density": 0.05}, "random_entries": {"density": 0.05},
    "movement_entries": {"density": 0.05, "samples": 24}, "surgical": {"count": 1, "samples": 8}, "hft": {"stages": 2},
    "slim_fit": {"frozen": 0.5}, "green_trainer": {"choices": 2, "measured": 1}, "top_layers": {"count": 1},
    "spiel": {"density": 0.05, "refreshes": 3, "drop": 0.5, "looks": 16}, "spider": {"samples": 24},
    "graft": {"density": 0.01}, "r_amt": {"margin": 0.01}, "co_fi_tune": {"samples": 8, "stop": 0.75},
    "lt_sft": {"l1": 10.0},
}  # fmt: skip
"""Settings that suit models of two layers and runs of six steps."""


def chosen(mask: str, **settings: Any) -> Any:
    return parts.find("mask", mask).choose({**TINY.get(mask, {}), **settings}).build()


def still(made: Work) -> Work:
    """Without dropout, so that runs can be compared that cut their batches elsewhere."""
    for module in made.host.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0  # type: ignore[assignment]
    return made


def job(mask: str, family: str = "bert", adapter: str | None = None, settings: dict[str, Any] | None = None,
        **changes: Any) -> Work:  # fmt: skip
    made = work(family, adapter, **{"budget": Budget(epochs=None, steps=6), **changes})
    return still(replace(made, mask=chosen(mask, **(settings or {}))))


def has_nothing(mask: str, family: str) -> bool:
    return mask == "biases" and family in ("llama", "t5")


def ran(made: Work) -> Loop:
    loop = Loop(made)
    for _ in loop:
        pass
    return loop


def tensors(host: Host) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in host.model.named_parameters()}


IN_TURN = [(m, next(f for f in itertools.islice(itertools.cycle(FAMILIES), i, None) if not has_nothing(m, f)))
           for i, m in enumerate(MASKS)]  # fmt: skip
"""Every mask once, with another family each."""

EVERY = [(m, f) for m in MASKS for f in FAMILIES if not has_nothing(m, f)]


# ---------------------------------------------------------------------- laws


@pytest.mark.parametrize("mask,family", EVERY)
def test_only_what_is_chosen_moves(mask: str, family: str) -> None:
    """All other entries are bit-equal to the base, of what moves something does, and the optimizer has state of no more."""
    made = job(mask, family)
    base = tensors(made.host)
    loop = Loop(made)
    for event in loop:
        if event["event"] == "step":
            state = sum(t.numel() for kept in loop.optimizer.state.values() for t in kept.values() if t.ndim)
            trains = sum(p.numel() for p in loop.parameters.values() if p in loop.optimizer.state)
            assert state == 2 * trains, "AdamW keeps two numbers for each that trains"
    host, moved = made.host, 0
    whole = {w.name for w in host.weights().values()}
    for name, tensor in host.model.named_parameters():
        changed = (tensor.detach() != base[name]).reshape(-1)
        if name in whole:
            moved += int(changed.sum())
            continue
        allowed = torch.zeros_like(changed)
        if name in host.patches:
            indices = host.patches[name].indices
            allowed[slice(None) if indices is None else indices] = True
        assert not (changed & ~allowed).any(), name
        moved += int(changed.sum())
    assert moved > 0
    if mask in SPARSE:
        assert all(n.startswith("entries.") or "classifier" in n for n in loop.parameters)


@pytest.mark.parametrize("mask", MASKS)
def test_a_seed_gives_the_same_bits(mask: str) -> None:
    one, two = (ran(job(mask)).work.host for _ in "ab")
    assert all(torch.equal(a, b) for a, b in zip(tensors(one).values(), tensors(two).values(), strict=True))


@pytest.mark.parametrize("mask,family", [(m, f) for m, f in IN_TURN if m != "r_amt"])
def test_accumulation_changes_nothing(mask: str, family: str) -> None:
    """One micro-batch or one for each row: the same choice, and the same step to rounding.

    Not R-AMT: a bit flips where a score lies at its threshold.
    """
    ends = []
    for tokens in (10_000, 1):
        sgd = parts.find("optimizer", "sgd").choose({"lr": 1e-2}).build()
        made = job(mask, family, tokens=tokens, stepper=sgd, budget=Budget(epochs=None, steps=3))
        if isinstance(made.mask, EntryMask):
            made.mask.scout_rate = 1e-3  # type: ignore[misc]
        ends.append(tensors(ran(made).work.host))
    for name, tensor in ends[0].items():
        close = torch.isclose(tensor, ends[1][name], rtol=1e-4, atol=1e-5)
        assert close.float().mean() > 0.99, name


@pytest.mark.parametrize("mask,adapter", [(m, ("lora", None)[i % 2]) for i, m in enumerate(MASKS)])
def test_resumed_is_uninterrupted(mask: str, adapter: str | None, tmp_path: Path) -> None:
    whole = ran(job(mask, adapter=adapter))
    first = Loop(job(mask, adapter=adapter, folder=tmp_path))
    for event in first:
        if event["event"] == "step" and event["step"] == 3:
            first.interrupt = 2
    again = Loop(job(mask, adapter=adapter, folder=tmp_path))
    assert again.resume() and again.state.step == 3
    for _ in again:
        pass
    one, two = whole.work.host.state(), again.work.host.state()
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name
    for name, tensor in tensors(whole.work.host).items():
        assert torch.equal(tensor, dict(again.work.host.model.named_parameters())[name]), name


@pytest.mark.parametrize("mask", [m for m in MASKS if m != "head"])
def test_an_adapter_learns_beside_it(mask: str) -> None:
    made = job(mask, adapter="lora")
    ups = {n: p.detach().clone() for n, p in made.host.adapters.named_parameters() if n.endswith("B")}
    base = tensors(made.host)
    ran(made)
    assert all(not torch.equal(p, ups[n]) for n, p in made.host.adapters.named_parameters() if n in ups)
    assert any(not torch.equal(p, base[n]) for n, p in made.host.model.named_parameters() if "classifier" not in n)


@pytest.mark.parametrize("mask,family", [(m, f) for m, f in IN_TURN if m in SPARSE])
def test_saved_is_loaded_and_off_is_the_base(mask: str, family: str, tmp_path: Path) -> None:
    made = job(mask, family)
    base = tensors(made.host)
    host = ran(made).work.host
    tuned = tensors(host)
    with host.off():
        assert all(torch.equal(p, base[n]) for n, p in host.model.named_parameters() if n in host.patches)
    assert all(torch.equal(p, tuned[n]) for n, p in host.model.named_parameters())
    artefacts.save_adapter(host, tmp_path, base="b", revision=None, head="causal-lm")
    other = Host(tiny(family), [n for n in base if "classifier" in n])
    artefacts.load_adapter(other, tmp_path)
    assert all(torch.equal(p, tuned[n]) for n, p in other.model.named_parameters())
    other.fold()
    assert not other.patches and all(torch.equal(p, tuned[n]) for n, p in other.model.named_parameters())
    plain = tiny(family)
    delta = ts.SparseDelta.load(tmp_path)
    delta.apply(plain)
    assert all(torch.equal(p, tuned[n]) for n, p in plain.named_parameters() if "classifier" not in n)
    assert len(delta) == sum(len(p.base) for p in host.patches.values())
    assert not list(tmp_path.glob("*.bin")) and (tmp_path / artefacts.OWN_FILE).stat().st_size < 60_000


@pytest.mark.parametrize("mask", ["entries", "fish", "fisher_norms", "random_entries", "magnitude_entries",
                                  "movement_entries", "spiel", "sara", "lt_sft", "graft"])  # fmt: skip
def test_the_density_is_the_one_asked_for(mask: str) -> None:
    made = job(mask)
    density = made.mask.kept if mask == "graft" else made.mask.density  # type: ignore[union-attr]
    candidates = made.host.choosable(made.mask)
    host = ran(made).work.host
    per_tensor = made.mask.scope == "tensor"  # type: ignore[union-attr]
    sizes = [w.parameter.numel() for w in candidates]
    expected = sum(max(1, round(density * n)) for n in sizes) if per_tensor else round(density * sum(sizes))
    assert sum(len(p.base) for p in host.patches.values()) == expected


def test_an_unknown_role_is_named() -> None:
    with pytest.raises(InputError, match=r"unknown role 'atention.query'.*did you mean 'attention.query'"):
        Loop(job("entries", settings={"roles": ["atention.query"]}))


def test_a_tuning_first_needs_a_counted_budget() -> None:
    with pytest.raises(InputError, match="expected epochs, steps or rows"):
        ran(job("lt_sft", budget=Budget(epochs=None, minutes=1)))


@pytest.mark.parametrize("family", list(CONFIGS))
def test_every_family_has_weights_for_every_mask(family: str) -> None:
    host = Host(tiny(family))
    for mask in MASKS:
        made = chosen(mask)
        if mask == "biases" and family in ("llama", "gemma3", "t5", "t5-gated"):
            with pytest.raises(InputError, match="leaves nothing to train"):
                host.train_only(made)
            continue
        made.begin(host.choosable(made), 0)
        host.train_only(made)
        assert host.count() > 0
        assert mask != "everything" or len(host.trainable()) == len(list(host.model.parameters()))


@pytest.mark.parametrize("mask,settings,asleep", [
    ("top_layers", {"count": 1}, ["bert.encoder.layer.0"]), ("elsa", {}, ["bert.encoder.layer.0"]),
    ("slim_fit", {"frozen": 0.9}, None), ("ulmfit", {"unfreeze": 1.0}, ["bert.encoder.layer.0", "bert.embeddings"]),
])  # fmt: skip
def test_what_rests_costs_no_gradient(mask: str, settings: dict[str, Any], asleep: list[str] | None) -> None:
    """A resting tensor has no gradient, and below the deepest that moves nothing is differentiated."""
    made = job(mask, settings=settings)
    flows: dict[str, bool] = {}
    for path in asleep or ():
        module = made.host.anatomy.modules[path]
        module.register_forward_hook(
            lambda m, i, o, path=path: flows.update({path: (o[0] if isinstance(o, tuple) else o).requires_grad})
        )
    loop = Loop(made)
    seen = 0
    for event in loop:
        if event["event"] == "step" and event["step"] == 2:
            break
    after = loop.chooser.after_backward

    def look() -> None:
        nonlocal seen
        for weight in made.host.weights().values():
            if weight.name in made.host._resting:
                seen += 1
                assert weight.parameter.grad is None, weight.name
        after()

    loop.chooser.after_backward = look  # type: ignore[method-assign]
    loop._step(np.arange(8), None)
    assert seen > 0 or mask in ("top_layers", "elsa")
    assert not any(flows.values())


# ---------------------------------------------------------------------- each paper's rule, written a second time


def gradients(made: Work, samples: int, together: int, salt: int = 0) -> list[dict[str, Tensor]]:
    """The gradient of every weight for groups of rows, got by plain backprop from transformers' own loss."""
    host, found = made.host, []
    epochs = (
        epoch_steps(made.rows.lengths, together, seed=made.seed, epoch=(1 << 40) + salt + i) for i in itertools.count()
    )
    groups = itertools.islice(itertools.chain.from_iterable(epochs), -(-samples // together))
    parameters = [p.requires_grad_(True) for p in host.model.parameters()]
    names = [n for n, _ in host.model.named_parameters()]
    host.eval()
    for rows in groups:
        rows_batch = made.collate(made.rows.take(rows))
        loss = host.model(**rows_batch).loss
        made_of = torch.autograd.grad(loss, parameters, allow_unused=True)
        found.append({n: g for n, g in zip(names, made_of, strict=True) if g is not None})
    return found


def best(scores: dict[str, Tensor], share: float) -> dict[str, set[int]]:
    """The highest of all, by a plain sort."""
    ranked = sorted(((float(v), n, i) for n, s in scores.items() for i, v in enumerate(s.reshape(-1))), reverse=True)
    found: dict[str, set[int]] = {}
    for _, name, i in ranked[: round(share * len(ranked))]:
        found.setdefault(name, set()).add(i)
    return found


def placed(made: Work) -> dict[str, set[int]]:
    """The entries that a mask chooses, before any of them moves."""
    loop = Loop(made)
    for _ in loop.choose():
        pass
    return {n: set(p.indices.tolist()) for n, p in made.host.patches.items() if p.indices is not None}


def test_fish_takes_the_largest_mean_square_of_single_gradients() -> None:
    found = placed(made := job("fish"))
    seen = gradients(job("fish"), 8, 1)
    names = [w.name for w in made.host.anatomy.weights if not w.fresh]
    fisher = {n: torch.stack([g[n] for g in seen if n in g]).square().mean(0) for n in names}
    assert found == best(fisher, 0.05)


def test_movement_takes_what_is_pushed_away_from_zero() -> None:
    found = placed(made := job("movement_entries"))
    seen = gradients(job("movement_entries"), 24, 32)
    for weight in made.host.anatomy.weights:
        if not weight.fresh:
            score = -sum(weight.parameter.detach() * g[weight.name] for g in seen)
            assert found[weight.name] == best({weight.name: score}, 0.05)[weight.name] or weight.parameter.numel() < 20


@pytest.mark.parametrize("mask,sign", [("magnitude_entries", 1), ("sara", -1)])
def test_magnitude_and_sara_take_the_largest_and_the_smallest(mask: str, sign: int) -> None:
    found = placed(made := job(mask, settings={"density": 0.1}))
    weights = {w.name: w.parameter.detach() for w in made.host.choosable(made.mask)}
    if mask == "sara":
        assert found == best({n: -w.abs() for n, w in weights.items()}, 0.1)
    else:
        assert all(found[n] == best({n: w.abs()}, 0.1)[n] for n, w in weights.items() if w.numel() >= 20)


def test_lt_sft_takes_what_a_full_tuning_changes_most() -> None:
    found = placed(made := job("lt_sft"))
    full = job("everything", budget=Budget(epochs=None, steps=6))
    full.host.train_only(type("T", (), {"sparse": False, "trains": lambda self, w: w.role != "norm"})())
    before = tensors(full.host)
    adamw = parts.find("optimizer", "adamw").choose({"lr": EntryMask.scout_rate}).build()
    ran(replace(full, mask=None, stepper=adamw))
    changes = {w.name: (w.parameter.detach() - before[w.name]).abs() for w in made.host.choosable(made.mask)
               for w in [next(v for v in full.host.anatomy.weights if v.name == w.name)]}  # fmt: skip
    assert found == best(changes, 0.05)
    assert all(torch.equal(p, before[n]) for n, p in made.host.model.named_parameters()), "the weights are taken back"


def test_lt_sft_takes_what_a_stored_tuning_changed_most(tmp_path: Path) -> None:
    full, base = job("everything"), tiny("bert")
    ran(full)
    ts.SparseDelta.between(full.host.model, base).save(tmp_path / "full")
    found = placed(made := job("lt_sft", settings={"found": str(tmp_path / "full")}))
    tuned = tensors(full.host)
    changes = {w.name: (tuned[w.name] - w.parameter.detach()).abs() for w in made.host.choosable(made.mask)}
    assert found == best(changes, 0.05)
    other = job("lt_sft", settings={"found": str(tmp_path / "full")})
    with torch.no_grad():
        other.host.model.bert.pooler.dense.weight += 1.0
    with pytest.raises(InputError, match=r"pooler\.dense\.weight is not the tensor that the difference was taken from"):
        placed(other)


def test_sara_looks_at_the_nuclear_norm_now_and_then_and_remembers_it() -> None:
    made = job("sara")
    placed(made)
    mask, patch = made.mask, next(iter(made.host.patches.values()))
    patch.values.data.normal_()
    first = mask.pull(patch, 0)  # type: ignore[union-attr]
    patch.values.data.normal_()
    assert first is not None and first.any() and torch.equal(mask.pull(patch, 9), first)  # type: ignore[union-attr]
    later = job("sara").mask
    later.load(mask.state())  # type: ignore[union-attr]
    assert torch.equal(later.pull(patch, 9), first)  # type: ignore[union-attr]
    assert not torch.allclose(mask.pull(patch, 10), first)  # type: ignore[union-attr]


def test_lt_sft_is_pulled_back_by_the_mean_of_absolute_differences() -> None:
    made = job("lt_sft")
    placed(made)
    patch = next(iter(made.host.patches.values()))
    patch.values.data.normal_()
    value = patch.values.detach().clone().requires_grad_(True)
    entries = sum(w.parameter.numel() for w in made.host.choosable(made.mask))
    (10.0 / entries * value.abs().sum()).backward()
    torch.testing.assert_close(made.mask.pull(patch, 0), value.grad)  # type: ignore[union-attr]


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_neft_takes_the_rows_whose_cosine_is_lowest(family: str) -> None:
    made = job("neft", family, settings={"density": 0.1})
    mask: Any = made.mask
    turned: dict[tuple[str, int], float] = {}
    compare = mask.compare

    def spy(weight: Any, before: Tensor) -> None:
        compare(weight, before)
        old, new = (t.T if family == "gpt2" else t for t in (before, weight.parameter.detach()))
        for row in range(len(old)):
            turned[weight.name, row] = float(old[row] @ new[row] / (old[row].norm() * new[row].norm()))

    mask.compare = spy
    found = placed(made)
    rows = set()
    for name, indices in found.items():
        inputs, outputs = made.host.patches[name].weight.parameter.shape
        rows |= {(name, i % outputs if family == "gpt2" else i // outputs) for i in indices}
    assert len(rows) == round(0.1 * len(turned))
    assert max(turned[r] for r in rows) <= min(v for k, v in turned.items() if k not in rows) + 1e-6


def test_spider_takes_what_matters_more_to_the_rows_and_by_how_much() -> None:
    found = placed(made := job("spider"))
    seen = gradients(job("spider"), 24, 32)
    for name, patch in made.host.patches.items():
        rows = sum(g[name] for g in seen).abs().reshape(-1)  # type: ignore[union-attr]
        base = patch.weight.parameter.detach().abs().reshape(-1)
        rows, base = rows / rows.mean(), base / base.mean()
        assert len(found[name] ^ set(torch.nonzero(rows > base)[:, 0].tolist())) <= 1
        shares = (rows / (rows + base))[patch.indices]
        torch.testing.assert_close(patch.given, shares, rtol=1e-3, atol=1e-4)


def test_a_soft_mask_scales_the_step() -> None:
    """Under SGD the step is rate x share x gradient, whatever the optimizer does besides."""
    made = job("spider", stepper=parts.find("optimizer", "sgd").choose({"lr": 0.1, "momentum": 0.0}).build(),
               transforms=[])  # fmt: skip
    loop = Loop(made)
    for _ in loop.choose():
        pass
    loop._gradient(np.arange(8))
    grads = {n: p.values.grad.clone() for n, p in made.host.patches.items() if p.values.grad is not None}
    loop.optimizer.zero_grad()
    loop._step(np.arange(8), None)
    rate = loop.optimizer.param_groups[0]["lr"]
    for name, patch in made.host.patches.items():
        assert patch.given is not None
        torch.testing.assert_close(patch.values.detach(), -rate * patch.given * grads[name], rtol=1e-3, atol=1e-7)


def test_gmt_keeps_the_largest_of_each_gradient() -> None:
    mask = chosen("gmt", dropped=0.4)
    weight = Anatomy(tiny("bert")).weights[0]
    grad = torch.randn(weight.parameter.shape)
    limit = grad.abs().reshape(-1).sort().values[round(0.4 * grad.numel()) - 1]
    assert torch.equal(mask.filter(weight, grad), grad * (grad.abs() > limit))


def test_spiel_drops_what_changed_least_and_grows_where_the_gradient_is() -> None:
    made = job("spiel", settings={"density": 0.1})
    placed(made)
    mask: Any = made.mask
    name, patch = next(iter(made.host.patches.items()))
    assert patch.indices is not None and patch.given is not None
    before, base = patch.indices.clone(), tensors(Host(tiny("bert")))[name].reshape(-1)
    patch.given = torch.randn(len(before))
    patch.values.data = patch.given + torch.randn(len(before))
    patch.write()
    change = (patch.values.detach() - patch.given).abs()
    total = sum(torch.randn(3, patch.weight.parameter.numel()))  # type: ignore[arg-type]
    assert isinstance(total, Tensor)
    mask.observe(patch.weight, total.view(patch.weight.parameter.shape))
    new = mask.renew(patch, Moment(3, 6, 0.5))
    count = round(0.5 * (1 + math.cos(math.pi * 0.5)) / 2 * len(before))
    kept = set(before[change.argsort(descending=True)[: len(before) - count]].tolist())
    outside = [i for i in total.abs().argsort(descending=True).tolist() if i not in set(before.tolist())]
    assert set(new.tolist()) == kept | set(outside[:count]) and count > 0
    values = dict(zip(before.tolist(), patch.values.tolist(), strict=True))
    source = patch.move(new)
    flat = patch.weight.parameter.detach().reshape(-1)
    assert torch.equal(flat[before[~torch.isin(before, new)]], base[before[~torch.isin(before, new)]])
    assert patch.values.tolist() == [values[i] if i in kept else 0.0 for i in new.tolist()]
    assert torch.equal(before[source[source >= 0]], new[source >= 0])


def test_spiel_by_momentum_grows_where_sm3_puts_the_largest_squares() -> None:
    made = job("spiel", settings={"density": 0.1, "growth": "momentum"})
    placed(made)
    mask: Any = made.mask
    name, patch = next(iter(made.host.patches.items()))
    assert patch.indices is not None and patch.given is not None and mask.looks == 0
    outputs, inputs = patch.weight.parameter.shape
    before, rows, columns = patch.indices.tolist(), [0.0] * outputs, [0.0] * inputs
    for _ in range(3):
        grad = torch.randn(len(before))
        mask.watch(patch, grad)
        sums = {
            i: min(rows[i // inputs], columns[i % inputs]) + float(g) ** 2 for i, g in zip(before, grad, strict=True)
        }
        for i, total in sums.items():
            rows[i // inputs] = max(rows[i // inputs], total)
            columns[i % inputs] = max(columns[i % inputs], total)
    patch.given = torch.randn(len(before))
    new = mask.renew(patch, Moment(3, 6, 0.5)).tolist()
    count = round(0.5 * (1 + math.cos(math.pi * 0.5)) / 2 * len(before))
    product = {i: rows[i // inputs] * columns[i % inputs] for i in range(outputs * inputs) if i not in before}
    grown = sorted(set(new) - set(before), key=lambda i: -product[i])
    assert len(grown) == count > 0 and len(new) == len(before)
    wanted = sorted(product.values(), reverse=True)[:count]
    assert [product[i] for i in grown] == pytest.approx(wanted)


def test_spiel_by_momentum_resumes(tmp_path: Path) -> None:
    settings = {"growth": "momentum"}
    whole = ran(job("spiel", settings=settings))
    first = Loop(job("spiel", settings=settings, folder=tmp_path))
    for event in first:
        if event["event"] == "step" and event["step"] == 3:
            first.interrupt = 2
    again = Loop(job("spiel", settings=settings, folder=tmp_path))
    assert again.resume()
    for _ in again:
        pass
    assert whole.state.refreshes == 3
    now = tensors(again.work.host)
    assert all(torch.equal(t, now[n]) for n, t in tensors(whole.work.host).items())


def test_spiel_goes_on_moving_the_same_number() -> None:
    made = job("spiel")
    loop = Loop(made)
    sets = []
    for event in loop:
        if event["event"] == "step":
            sets.append({n: set(p.indices.tolist()) for n, p in made.host.patches.items() if p.indices is not None})
    sizes = [sum(map(len, s.values())) for s in sets]
    assert len(set(sizes)) == 1 and loop.state.refreshes == 3
    assert sum(a != b for a, b in itertools.pairwise(sets)) == 3


@pytest.mark.parametrize("shape", [(12, 12), (8, 20), (20, 8)])
def test_polar_is_the_gradient_of_the_nuclear_norm(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(polar(matrix, 30), u @ v, rtol=1e-3, atol=1e-3)
    assert torch.equal(polar(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_sara_stops_what_has_grown_beyond_the_threshold() -> None:
    made = job("sara")
    placed(made)
    mask: Any = made.mask
    patch = next(iter(made.host.patches.values()))
    limit = patch.base.abs().max()
    patch.values.data[0] = 3 * limit
    mask.renew(patch, Moment(3, 6, 0.5))
    assert patch.given is not None and patch.given[0] == 0 and patch.given[1:].all()


def test_r_amt_only_switches_off() -> None:
    made = job("r_amt", budget=Budget(epochs=None, steps=8))
    base = tensors(made.host)
    host = ran(made).work.host
    off = 0
    for name, patch in host.patches.items():
        now = patch.weight.parameter.detach()
        assert ((now == base[name]) | (now == 0)).all()
        assert ".attention." in name
        off += int((now == 0).sum())
    assert 0 < off == sum(len(p.base) for p in host.patches.values())


def test_r_amt_is_straight_through_and_drops_what_the_base_does_not_share() -> None:
    made = job("r_amt")
    placed(made)
    mask: Any = made.mask
    patch = next(iter(made.host.patches.values()))
    grad = torch.randn(len(patch.base))
    assert torch.equal(mask.chain(patch, grad), grad * patch.base)
    g, h = torch.tensor([1.0, 1.0, -1.0, 1.0]), torch.tensor([2.0, -3.0, -1.0, 0.0])
    kept = torch.stack([mask.reconcile(patch, g, h) != 0 for _ in range(4000)]).float().mean(0)
    expected = 0.5 * (1 + g.sign() * (g + h) / (g.abs() + h.abs()))
    torch.testing.assert_close(kept, expected, rtol=0, atol=0.03)


def test_a_graft_keeps_whole_changes_or_none() -> None:
    made = job("graft")
    mask: Any = made.mask
    before, changes = tensors(made.host), {}
    compare = mask.compare

    def spy(weight: Any, base: Tensor) -> None:
        compare(weight, base)
        changes[weight.name] = (weight.parameter.detach() - base).clone()

    mask.compare = spy
    host = ran(made).work.host
    for name, patch in host.patches.items():
        now = patch.weight.parameter.detach()
        assert ((now == before[name]) | (now == before[name] + changes[name])).all()


def test_co_fi_tune_spares_the_neurons_that_the_base_needs() -> None:
    made = job("co_fi_tune")
    placed(made)
    assert {n.split(".")[3] for n in made.host.patches} == {"0"} or len(made.host.patches) > 0
    mask: Any = made.mask
    weight = next(w for w in made.host.anatomy.weights if w.parameter.ndim == 2 and w.role == "mlp.up")
    grad = torch.randn(weight.parameter.shape)
    mask.scores = {}
    mask.observe(weight, grad)
    score = torch.stack([(w @ g).abs() for w, g in zip(weight.parameter.detach(), grad, strict=True)])
    patch = made.host.patches[weight.name]
    importance = ((score - score.mean()) / score.std()).tanh().abs()
    torch.testing.assert_close(
        mask.prepare(patch).view(weight.parameter.shape), (1 - importance)[:, None].expand_as(grad)
    )


def test_surgical_takes_the_layers_with_the_most_fisher_information() -> None:
    made = job("surgical")
    loop = Loop(made)
    for _ in loop.choose():
        pass
    seen = gradients(job("surgical"), 8, 1)
    fisher = {layer: sum(float(g[w.name].square().sum()) for g in seen for w in made.host.anatomy.weights
                         if w.layer == layer) for layer in (0, 1)}  # fmt: skip
    assert {w.layer for w in made.host.weights().values() if not w.fresh} == {max(fisher, key=fisher.__getitem__)}


def test_ulmfit_wakes_from_the_top_and_learns_more_slowly_below() -> None:
    host = Host(tiny("bert"))
    mask = chosen("ulmfit", decay=2.0, unfreeze=0.6)
    mask.begin(host.choosable(mask), 0)
    depth = {"classifier": 0, "pooler": 0, "layer.1.": 1, "layer.0.": 2, "embeddings": 3}
    for weight in host.anatomy.weights:
        place = next(d for word, d in depth.items() if word in weight.name)
        assert mask.rate_of(weight) == 2.0**-place
        for progress in (0.0, 0.19, 0.21, 0.39, 0.41, 0.59, 0.61, 1.0):
            assert mask.now(weight, Moment(0, 10, progress)) == (progress >= 0.6 * place / 3)


def test_rates_reach_the_optimizer() -> None:
    made = job("ulmfit", settings={"decay": 2.0, "unfreeze": 0.0})
    loop = ran(made)
    rates = {id(p): g["lr"] for g in loop.optimizer.param_groups for p in g["params"]}
    top = rates[id(loop.parameters["model.classifier.weight"])]
    assert rates[id(loop.parameters["model.bert.encoder.layer.0.output.dense.weight"])] == pytest.approx(top / 4)
    assert rates[id(loop.parameters["model.bert.embeddings.word_embeddings.weight"])] == pytest.approx(top / 8)


def test_lisa_draws_anew_and_forgets() -> None:
    made = job("lisa", settings={"count": 1, "period": 2}, budget=Budget(epochs=None, steps=20))
    loop, drawn = Loop(made), []
    for event in loop:
        if event["event"] == "step":
            awake = {w.layer for n, w in made.host.weights().items() if w.parameter.requires_grad} - {None}
            drawn.append(awake)
            known = {w.layer for w in made.host.weights().values() if w.parameter in loop.optimizer.state} - {None}
            assert known == awake and len(awake) == 1
    assert all(drawn[i] == drawn[i + 1] for i in range(0, 20, 2)) and {0} in drawn and {1} in drawn


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_hft_moves_half_of_each_layer(family: str) -> None:
    host = Host(tiny(family))
    mask = chosen("hft", stages=1)
    mask.begin(host.choosable(mask), 3)
    for stack in ("encoder", "decoder") if family in BOTH else ("",):
        for layer in (0, 1):
            mine = [w for w in host.anatomy.weights if (w.stack, w.layer) == (stack, layer)]
            for kind in ("attention", "cross_attention", "mlp", "norm"):
                modules = {w.name.rpartition(".")[0] for w in mine if w.role.startswith(kind)}
                moving = {w.name.rpartition(".")[0] for w in mine if w.role.startswith(kind) and mask.trains(w)}
                assert len(moving) in (len(modules) // 2, -(-len(modules) // 2))
    two = chosen("hft", stages=2)
    two.begin(host.choosable(two), 3)
    assert two.halves[0] != two.halves[1]


def test_slim_fit_rests_what_changed_least() -> None:
    made = job("slim_fit", settings={"frozen": 0.5, "warmup": 1})
    loop = Loop(made)
    before = tensors(made.host)
    for event in loop:
        if event["event"] == "step":
            break
    names = {n.rpartition(".")[0] for n in before if "classifier" not in n}
    now = tensors(made.host)
    ratio = {}
    for module in names:
        mine = [n for n in before if n.rpartition(".")[0] == module]
        size = math.sqrt(sum(float(before[n].square().sum()) for n in mine))
        ratio[module] = math.sqrt(sum(float((now[n] - before[n]).square().sum()) for n in mine)) / size
    loop.chooser.before_step(loop.moment)
    awake = {w.name.rpartition(".")[0] for w in made.host.weights().values() if w.parameter.requires_grad} & names
    assert awake == set(sorted(ratio, key=lambda m: -ratio[m])[: round(0.5 * len(ratio))])


def test_green_trainers_plan_is_the_best_of_all() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        gain, flops = random.normal(1, 1, 10), random.integers(0, 6, 10).astype(float)
        allowed = float(random.integers(8, 40))

        def cost(taken: tuple[int, ...], flops: np.ndarray = flops) -> float:
            return float(flops[: max(taken)].sum() + flops[list(taken)].sum())

        sets = [s for r in range(1, 11) for s in itertools.combinations(range(10), r) if cost(s) <= allowed]
        found = plan(gain, flops, allowed, bins=int(allowed))
        taken = tuple(np.nonzero(found)[0].tolist())
        assert cost(taken) <= allowed
        assert gain[found].sum() == pytest.approx(max(gain[list(s)].sum() for s in sets))


def test_green_trainer_keeps_to_its_budget() -> None:
    made = job("green_trainer", settings={"budget": 0.6, "choices": 1, "measured": 2})
    loop = ran(made)
    mask: Any = loop.work.mask
    awake = mask.awake.numpy()
    spent = mask.flops.sum() + mask.flops[: awake.nonzero()[0].max()].sum() + mask.flops[awake].sum()
    assert 0.34 < spent / (3 * mask.flops.sum()) <= 0.6
    with pytest.raises(InputError, match="above 1/3"):
        chosen("green_trainer", budget=0.3)


# ---------------------------------------------------------------------- differences as task vectors


def test_differences_add_up(tmp_path: Path) -> None:
    base, one, two = tiny("bert"), tiny("bert"), tiny("bert")
    with torch.no_grad():
        one.bert.encoder.layer[0].output.dense.weight[0, :3] += 1.0
        two.bert.encoder.layer[0].output.dense.weight[0, 2:5] += 2.0
        two.bert.pooler.dense.bias[1] -= 1.0
    a, b = ts.SparseDelta.between(one, base), ts.SparseDelta.between(two, base)
    assert (len(a), len(b), len(a + b)) == (3, 4, 6)
    name = "bert.encoder.layer.0.output.dense.weight"
    torch.testing.assert_close((2 * a - b).dense(name)[0, :6], torch.tensor([2.0, 2.0, 0.0, -2.0, -2.0, 0.0]))
    (a + b).save(tmp_path / "sum")
    both = tiny("bert")
    ts.SparseDelta.load(tmp_path / "sum").apply(both)
    wanted = base.bert.encoder.layer[0].output.dense.weight[0, :6] + torch.tensor([1.0, 1.0, 3.0, 2.0, 2.0, 0.0])
    torch.testing.assert_close(both.bert.encoder.layer[0].output.dense.weight[0, :6], wanted)
    with pytest.raises(InputError, match="is not the tensor that the difference was taken from"):
        a.apply(both)
    with pytest.raises(InputError, match="is there already"):
        a.save(tmp_path / "sum")
    with pytest.raises(InputError, match="holds no adapter and no difference"):
        ts.SparseDelta.load(tmp_path)


def test_a_gradient_by_any_other_way_sees_the_entries() -> None:
    """What moves the values moves the model: zeroth-order ways can work on them."""
    made = job("random_entries")
    loop = Loop(made)
    for _ in loop.choose():
        pass
    rows = made.collate(made.rows.take(np.arange(8)))
    closure = loop.closure(rows, count_units(rows["labels"], made.head))
    made.host.eval()
    before = float(closure().detach())
    for patch in made.host.patches.values():
        patch.values.data += 0.5
    assert float(closure().detach()) != before


@pytest.mark.parametrize("mask", ["fish", "lisa", "r_amt"])
def test_it_works_in_low_precision_with_recomputed_activations(mask: str) -> None:
    made = job(mask, "llama", dtype=torch.bfloat16)
    made.host.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    base = tensors(made.host)
    events = list(Loop(made))
    assert all(math.isfinite(e["loss"]) for e in events if e["event"] == "step")
    assert any(not torch.equal(p, base[n]) for n, p in made.host.model.named_parameters())


def test_the_base_is_seen_beside_the_model_in_low_precision() -> None:
    """Autocast keeps weights in low precision; switching the entries off must not find the tuned ones there."""
    made = job("random_entries", "llama", settings={"density": 0.5})
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        base = made.host.eval()(**batch("llama")).logits
    placed(made)
    for patch in made.host.patches.values():
        patch.values.data.normal_()
    made.host.write()
    made.host.eval()
    with torch.autocast("cpu", torch.bfloat16):
        tuned = made.host(**batch("llama")).logits
        with made.host.off():
            assert torch.equal(made.host(**batch("llama")).logits, base)
        assert torch.equal(made.host(**batch("llama")).logits, tuned) and not torch.equal(tuned, base)


def test_a_tuning_that_is_cut_off_begins_anew(tmp_path: Path) -> None:
    first = Loop(job("lt_sft", folder=tmp_path))
    events = []
    for event in first:
        events.append(event["event"])
        first.interrupt = 2
    assert first.state.stopped == "interrupted" and "step" not in events and not list(tmp_path.iterdir())
    again = Loop(job("lt_sft", folder=tmp_path))
    assert not again.resume()
    for _ in again:
        pass
    whole = ran(job("lt_sft")).work.host
    assert all(
        torch.equal(p, dict(whole.model.named_parameters())[n]) for n, p in again.work.host.model.named_parameters()
    )
