"""The loop's laws: exact accumulation, exact resumption, honest stops."""

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

from tiny import BOTH, DECODERS, tiny
from tunesmith import parts
from tunesmith.engine.batches import epoch_steps, micro_batches
from tunesmith.engine.health import Watch
from tunesmith.engine.loop import Budget, Loop, Work
from tunesmith.engine.predict import Reading, read
from tunesmith.engine.step import Step, count_units
from tunesmith.errors import RunError
from tunesmith.host import Host


class Table:
    """Encoded rows in memory."""

    def __init__(self, rows: list[dict[str, Any]]):
        self.rows = rows
        self.lengths = np.array([len(r["input_ids"]) for r in rows])

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: np.ndarray) -> list[dict[str, Any]]:
        return [self.rows[int(i)] for i in indices]

    def where(self, index: int) -> str:
        return f"rows.csv line {index + 2}"


def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    width = max(len(r["input_ids"]) for r in rows)

    def pad(key: str, value: int) -> Tensor:
        return torch.tensor([r[key] + [value] * (width - len(r[key])) for r in rows])

    mask = torch.tensor([[1] * len(r["input_ids"]) + [0] * (width - len(r["input_ids"])) for r in rows])
    labels = pad("labels", -100) if isinstance(rows[0]["labels"], list) else torch.tensor([r["labels"] for r in rows])
    return {"input_ids": pad("input_ids", 0), "attention_mask": mask, "labels": labels}


def table(kind: str, count: int = 24, seed: int = 0) -> Table:
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        ids = random.integers(5, 100, random.integers(4, 20)).tolist()
        labels: Any = ids[0] % 3 if kind == "classify" else [t if j > 2 else -100 for j, t in enumerate(ids)]
        rows.append({"input_ids": ids, "labels": labels})
    return Table(rows)


def work(family: str = "bert", adapter: str | None = "lora", mask: str | None = None, **changes: Any) -> Work:
    decoder = family in DECODERS + BOTH
    model = tiny(family)
    fresh = [n for n, _ in model.named_parameters() if "classifier" in n]
    host = Host(model, fresh)
    if adapter:
        host.attach(parts.find("adapter", adapter).choose())
    host.train_only(parts.find("mask", mask).choose().build() if mask else None)
    made = Work(
        host=host,
        rows=table("lm" if decoder else "classify"),
        collate=collate,
        head="seq2seq-lm" if family in BOTH else "causal-lm" if decoder else "sequence-classification",
        losses=[parts.find("loss", "cross_entropy").choose().build()],
        gradient=parts.find("gradient", "backprop").choose().build(),
        transforms=[parts.find("optimizer", "clip_norm").choose().build()],
        stepper=parts.find("optimizer", "adamw").choose({"lr": 1e-2}).build(),
        schedule=parts.find("schedule", "linear").choose().build(),
        budget=Budget(epochs=None, steps=5),
        rows_per_step=8,
        tokens=10_000,
    )
    return replace(made, **changes)


def weights(loop: Loop) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in loop.parameters.items()}


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
def test_accumulation_is_exact(family: str) -> None:
    """1 x 8, 2 x 4 and 8 x 1 rows give the same gradient, on rows of uneven length."""
    gradients = []
    for tokens in (10_000, 60, 1):
        loop = Loop(work(family, tokens=tokens))
        loop.work.host.eval()
        loop._gradient(np.arange(8))
        gradients.append({n: p.grad.clone() for n, p in loop.parameters.items() if p.grad is not None})
    assert len(list(micro_batches(np.arange(8), loop.work.rows.lengths, 1))) == 8
    for other in gradients[1:]:
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "opt", "t5"])
def test_loss_is_the_mean_over_supervised_tokens(family: str) -> None:
    """The loss equals the one that transformers computes, although the head sees only supervised places."""
    made = work(family, adapter=None, mask="everything")
    batch = collate(made.rows.take(np.arange(6)))
    step = Step(made.host, batch, made.head)
    ours = made.losses[0](step)
    theirs = made.host.model(**batch).loss
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert step.units == count_units(batch["labels"], made.head) == len(step.targets) == len(step.logits)


def test_padding_does_not_change_what_is_read() -> None:
    for family in ("bert", "llama", "t5"):
        made = work(family)
        whole = read(Reading(made.host, collate, made.head, tokens=10_000), made.rows)
        single = read(Reading(made.host, collate, made.head, tokens=1), made.rows)
        np.testing.assert_allclose(whole.logits, single.logits, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(whole.loss, single.loss, rtol=1e-4, atol=1e-4)


def test_every_row_is_seen_once_an_epoch() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 1003)
    steps = epoch_steps(lengths, 32, seed=1, epoch=0)
    assert sorted(itertools.chain(*steps)) == list(range(1003)) and {len(s) for s in steps} == {32, 1003 % 32}
    again = epoch_steps(lengths, 32, seed=1, epoch=0)
    assert all(np.array_equal(a, b) for a, b in zip(steps, again, strict=True))
    other = epoch_steps(lengths, 32, seed=1, epoch=1)
    assert not all(np.array_equal(a, b) for a, b in zip(steps, other, strict=True))


def test_the_longest_row_comes_first_in_a_run() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 1003)
    for seed in range(5):
        first, *_, rest = epoch_steps(lengths, 32, seed=seed, epoch=0)
        assert len(rest) == 1003 % 32 and lengths[first].max() >= np.delete(lengths, rest).max()


def greedily(lengths: list[int], tokens: int, packed: bool) -> int:
    """How many groups there are when each is filled up before the next is begun; lengths from the longest on."""
    groups: list[list[int]] = [[]]
    for length in lengths:
        group = [*groups[-1], length]
        if (sum(group) if packed else len(group) * group[0]) <= tokens:
            groups[-1] = group
        else:
            groups.append([length])
    return len(groups)


@pytest.mark.parametrize("packed", [False, True])
def test_micro_batches_are_as_few_as_fit_and_of_like_size(packed: bool) -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        lengths = random.integers(1, 60, 40)
        cut = list(micro_batches(np.arange(40), lengths, 300, packed=packed))
        sizes = [int(lengths[g].sum()) if packed else len(g) * int(lengths[g].max()) for g in cut]
        assert sorted(itertools.chain(*cut)) == list(range(40)) and max(sizes) <= 300
        assert len(cut) == greedily(sorted(lengths.tolist(), reverse=True), 300, packed)
        fuller = list(micro_batches(np.arange(40), lengths, max(sizes) - 1, packed=packed))
        assert len(fuller) > len(cut), "a smaller budget would have done"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_change_of_any_entry_is_seen_and_none_is_no_change(dtype: torch.dtype) -> None:
    """Also of two entries that move by as much one up, one down, as those of two classes do."""
    tensors = {
        n: nn.Parameter(torch.tensor(v, dtype=dtype))
        for n, v in {"both": [1.5, 1.25], "one": [0.0, 2.0], "none": [3.0]}.items()
    }
    for tensor in tensors.values():
        tensor.grad = torch.ones_like(tensor)
    watch = Watch(tensors)
    assert not watch.see_gradients() and set(watch.asleep()) == set(tensors)
    with torch.no_grad():
        tensors["both"] += torch.tensor([0.0625, -0.0625], dtype=dtype)
        tensors["one"][0] += 0.5
    assert set(watch.asleep()) == {"none"}


@pytest.mark.parametrize("value,broken", [(1e30, False), (1e-30, False), (math.nan, True), (math.inf, True)])
def test_gradients_whose_squares_leave_the_range_are_finite_ones(value: float, broken: bool) -> None:
    tensor = nn.Parameter(torch.zeros(3))
    tensor.grad = torch.full((3,), value)
    watch = Watch({"w": tensor})
    assert watch.see_gradients() == (["w"] if broken else [])
    tensor.data.add_(1)
    assert ("w" in watch.asleep()) == broken


def test_little_is_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 5000)
    padded = sum(len(s) * lengths[s].max() for s in epoch_steps(lengths, 32, seed=0, epoch=0))
    assert lengths.sum() / padded > 0.9


@pytest.mark.parametrize("adapter,mask", [("lora", None), (None, "everything")])
def test_resumed_is_uninterrupted(adapter: str | None, mask: str | None, tmp_path: Path) -> None:
    """A run that is cut off after any step and taken up again ends with the same bits, dropout and all."""
    whole = Loop(work(adapter=adapter, mask=mask, budget=Budget(epochs=3)))
    events = list(whole)
    for cut in (1, 4, 7):
        folder = tmp_path / str(cut)
        first = Loop(work(adapter=adapter, mask=mask, budget=Budget(epochs=3), folder=folder, save_steps=1))
        for event in first:
            if event["event"] == "save" and event["step"] == cut:
                break
        second = Loop(work(adapter=adapter, mask=mask, budget=Budget(epochs=3), folder=folder))
        assert second.resume() and second.state.step == cut
        rest = [e["loss"] for e in second if e["event"] == "step"]
        assert rest == [e["loss"] for e in events if e["event"] == "step"][cut:]
        for name, tensor in weights(whole).items():
            assert torch.equal(weights(second)[name], tensor), name


def test_smaller_micro_batches_when_memory_runs_out() -> None:
    """The micro-batch shrinks, the step's rows and the gradient stay."""
    reference, limited = Loop(work()), work()
    for module in (*reference.work.host.modules(), *limited.host.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # a micro-batch draws its own drop-out
    list(reference)
    sizes: list[int] = []
    plain = limited.collate

    def collate_within_limit(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        if len(rows) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        sizes.append(len(rows))
        return plain(rows)

    loop = Loop(replace(limited, collate=collate_within_limit))
    list(loop)
    assert max(sizes) <= 3 and loop.state.rows == reference.state.rows
    for name, tensor in weights(reference).items():
        torch.testing.assert_close(weights(loop)[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_row_that_does_not_fit_alone_is_an_error() -> None:
    def never(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        raise MemoryError

    with pytest.raises(RunError, match="does not hold a single row of"):
        list(Loop(work(collate=never)))


def test_a_loss_that_is_not_finite_names_its_rows() -> None:
    made = work(rows=table("classify", 8), rows_per_step=8)
    bad = made.rows.rows[5]["input_ids"][0]
    for i, row in enumerate(made.rows.rows):
        row["input_ids"] = [t for t in row["input_ids"] if t != bad] or [6]
        if i == 5:
            row["input_ids"] = [bad, 7]
    made.rows.lengths = np.array([len(r["input_ids"]) for r in made.rows.rows])
    with torch.no_grad():
        made.host.model.get_input_embeddings().weight[bad] = math.nan
    with pytest.raises(RunError, match=r"the loss is nan; it comes from rows.csv line 7;"):
        list(Loop(made))


def test_a_tensor_that_does_not_learn_is_reported() -> None:
    made = work(budget=Budget(epochs=None, steps=12))
    idle = nn.Parameter(torch.ones(3))
    made.host.adapters["idle"] = nn.Module()
    made.host.adapters["idle"].register_parameter("w", idle)
    events = {e["step"]: e for e in Loop(made) if e["event"] == "health"}
    assert events[10]["asleep"] == {"adapter.idle.w": "no gradient"}
    assert any("lora.A" in name for name in events[1]["asleep"]), "LoRA's A has no gradient in the first step"


def test_nothing_learns_is_an_error() -> None:
    made = work(schedule=lambda progress: 0.0)
    with pytest.raises(RunError, match="nothing has learned"):
        list(Loop(made))


def test_a_first_step_that_teaches_nothing_is_no_error_but_ten_of_them_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss may weigh every row of a batch with zero."""
    plain, silent = Loop._gradient, 1

    def gradient(self: Loop, indices: Any) -> Any:
        loss, units, tokens = plain(self, indices)
        if self.state.step >= silent:
            return loss, units, tokens
        self.optimizer.zero_grad(set_to_none=True)
        return 0 * loss, units, tokens

    monkeypatch.setattr(Loop, "_gradient", gradient)
    assert list(Loop(work(budget=Budget(epochs=None, steps=12))))[-1]["event"] == "end"
    silent = 12
    with pytest.raises(RunError, match="after 10 steps nothing has learned"):
        list(Loop(work(budget=Budget(epochs=None, steps=12))))


@pytest.mark.parametrize("budget,steps,why", [
    (Budget(epochs=2), 6, "budget"), (Budget(epochs=None, rows=20), 3, "budget"), (Budget(epochs=0.34), 1, "budget"),
    (Budget(epochs=9, minutes=1e-6), 1, "minutes"), (Budget(epochs=9, steps=4), 4, "budget"),
])  # fmt: skip
def test_budgets_end_the_run(budget: Budget, steps: int, why: str) -> None:
    loop = Loop(work(budget=budget))
    list(loop)
    assert (loop.state.step, loop.state.stopped) == (steps, why)


@pytest.mark.parametrize("minutes", [1e-3, 600.0])
def test_time_alone_can_limit_a_run(minutes: float) -> None:
    """The first step learns, though nothing is known yet of how long steps take."""
    loop = Loop(work(budget=Budget(epochs=None, minutes=minutes)))
    events = [e for e in itertools.islice(loop, 12 if minutes > 1 else None) if e["event"] == "step"]
    assert events[0]["rate"] > 0 and (loop.state.stopped == "minutes" or minutes > 1)


def test_patience_keeps_the_best_weights() -> None:
    losses = iter([3.0, 1.0, 2.0, 2.5, 0.1])
    loop = Loop(work(budget=Budget(epochs=9, patience=2), validate=lambda: next(losses)))
    kept = None
    for event in loop:
        if event["event"] == "validation" and event["loss"] == 1.0:
            kept = weights(loop)
    assert loop.state.stopped == "patience" and loop.state.best_step == 6 and kept is not None
    for name, tensor in kept.items():
        assert torch.equal(weights(loop)[name], tensor)


@pytest.mark.parametrize(
    ("read", "patience", "at"), [(24, None, [3, 6, 9, 12, 13]), (60, None, [9, 13]), (10**6, None, [13]),
                                 (60, 99, [3, 6, 9, 12, 13])],
)  # fmt: skip
def test_a_validation_waits_until_as_many_rows_have_been_trained_on(
    read: int, patience: int | None, at: list[int]
) -> None:
    """24 rows in steps of 8: an epoch has three; the last step is always followed by one."""
    budget = Budget(epochs=9, steps=13, patience=patience)
    loop = Loop(work(budget=budget, validate=lambda: 1.0, validation_rows=read))
    assert [e["step"] for e in loop if e["event"] == "validation"] == at


def test_interrupt_saves_and_stops(tmp_path: Path) -> None:
    loop = Loop(work(budget=Budget(epochs=9), folder=tmp_path))
    for event in loop:
        if event["event"] == "step" and event["step"] == 2:
            loop.interrupt = 15
    assert loop.state.stopped == "interrupted" and [p.name for p in tmp_path.glob("step-*")] == ["step-00000002"]
    assert Loop(work(folder=tmp_path)).resume()


def test_bf16_follows_fp32() -> None:
    """The gradient in bf16 points where the one in fp32 does."""
    flat = {}
    for dtype in (torch.float32, torch.bfloat16):
        loop = Loop(work(dtype=dtype))
        loop.work.host.eval()
        loop._gradient(np.arange(8))
        flat[dtype] = torch.cat([p.grad.flatten() for p in loop.parameters.values() if p.grad is not None])
    assert torch.cosine_similarity(flat[torch.float32], flat[torch.bfloat16], dim=0) > 0.99


@pytest.mark.parametrize("name", list(parts.of_kind("schedule")))
def test_schedules_warm_up_and_stay_within_bounds(name: str) -> None:
    schedule = parts.find("schedule", name).choose({"warmup": 0.25}).build()
    values = [schedule(i / 100) for i in range(101)]
    assert all(0 <= v <= 1 for v in values) and max(values) == pytest.approx(1.0)
    assert all(b > a for a, b in itertools.pairwise(values[:26]))
    assert all(b <= a for a, b in itertools.pairwise(values[25:]))


def test_slanted_triangular_is_the_papers_equation() -> None:
    """Howard and Ruder 2018, eq. 3, with T = 100, cut_frac = 0.1, ratio = 32."""
    schedule = parts.find("schedule", "slanted_triangular").choose().build()
    total, cut_frac, ratio = 100, 0.1, 32
    cut = math.floor(total * cut_frac)
    for t in range(total):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_frac - 1))
        assert schedule(t / total) == pytest.approx((1 + p * (ratio - 1)) / ratio)


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_move() -> None:
    made = work(budget=Budget(epochs=None, steps=20))

    class Broken(type(made.gradient)):  # type: ignore[misc]
        def __call__(self, losses: Any, parameters: Any) -> Tensor:
            value = super().__call__(losses, parameters)
            if loop.state.step == 15:
                parameters[0].grad.fill_(math.inf)
            return value

    made.gradient = Broken()
    loop = Loop(made)
    with pytest.raises(RunError, match="step 16: gradient_norm is inf"):
        list(loop)
    assert all(p.isfinite().all() for p in loop.parameters.values())
