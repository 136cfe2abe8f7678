"""Packed rows: the same logits and gradients as padded ones, on every family that can; the others are refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from test_engine import Table, collate, table, work
from tiny import DECODERS, tiny
from tunesmith import parts
from tunesmith.engine.batches import micro_batches
from tunesmith.engine.generate import Sampling, generate
from tunesmith.engine.loop import Loop
from tunesmith.engine.packed import check
from tunesmith.engine.passes import ACTIVATIONS, STATES
from tunesmith.engine.predict import Reading, read
from tunesmith.engine.step import Step
from tunesmith.errors import InputError
from tunesmith.host import Host
from tunesmith.models import packing

PACKS = ("bert", "roberta", "distilbert", "electra", "modernbert", "gpt2", "llama", "qwen", "gemma3", "opt")
LENGTHS = (3, 30, 17, 1, 24, 5)
"""Longer than the tiny models' windows of 16 tokens, in no order, of several blocks."""


def rows(family: str, lengths: tuple[int, ...] = LENGTHS) -> Table:
    random = np.random.default_rng(1)
    found = []
    for n in lengths:
        ids = random.integers(5, 100, n).tolist()
        labels: Any = [-100, *ids[1:]] if family in DECODERS else ids[0] % 3
        found.append({"input_ids": ids, "labels": labels})
    return Table(found)


def both_ways(family: str, attach: str | None = None, **asked: Any) -> list[tuple[Step, dict[str, Tensor]]]:
    """The step and the gradients of everything, padded and packed."""
    found = []
    for packed in (False, True):
        made = work(family, adapter=attach, mask="everything")
        if packed:
            made.host.pack()
        data = rows(family)
        step = Step(made.host, collate(data.take(np.arange(len(data)))), made.head, **asked)
        made.losses[0](step).backward()
        found.append((step, {n: p.grad for n, p in made.host.trainable().items() if p.grad is not None}))
    return found


@pytest.mark.parametrize("attach", [None, "prompt_tuning", "prefix_tuning"])
@pytest.mark.parametrize("family", PACKS)
def test_packed_is_padded(family: str, attach: str | None) -> None:
    (padded, theirs), (packed, ours) = both_ways(family, attach)
    torch.testing.assert_close(packed.logits, padded.logits, rtol=1e-5, atol=1e-5)
    there = padded.attended
    torch.testing.assert_close(packed.main.hidden[there], padded.main.hidden[there], rtol=1e-5, atol=1e-5)
    assert ours.keys() == theirs.keys()
    scale = max(float(g.abs().max()) for g in theirs.values())
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=1e-5 * max(1, scale), msg=name)


@contextmanager
def leaking() -> Iterator[None]:
    """Attention over the whole sequence, as if the rows were one text."""
    before = packing.attend

    def one(plan: Any, masks: Any, query: Tensor, key: Tensor, value: Tensor, inner: Any) -> Tensor:
        return inner(query, key, value, None)

    packing.attend = one  # type: ignore[assignment]
    try:
        yield
    finally:
        packing.attend = before


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_leak_between_rows_is_seen(family: str) -> None:
    made = work(family)
    made.host.pack()
    reading = Reading(made.host, collate, made.head)
    assert check(reading, rows(family)) < 1e-5
    with leaking(), pytest.raises(InputError, match="says something else of packed rows"):
        check(reading, rows(family))


def test_another_attention_is_given_its_padding() -> None:
    (padded, _), (packed, _) = both_ways("llama")
    packed.host.model.set_attn_implementation("eager")
    assert not packed.host.packs
    torch.testing.assert_close(packed.run().logits, padded.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["t5", "deberta-v2"])
def test_what_cannot_pack_says_so(family: str) -> None:
    with pytest.raises(InputError, match="leave packing out"):
        Host(tiny(family)).pack()


def test_an_adapter_that_acts_at_places_of_a_row_says_so() -> None:
    host = Host(tiny("llama"))
    host.reads = True
    with pytest.raises(InputError, match="packing: an adapter acts at places of each row"):
        host.pack()


def test_a_model_that_counts_places_itself_is_found_out() -> None:
    made = work("bert")
    made.host.pack()
    assert made.host.packer is not None
    made.host.packer._positions = lambda ids, embeddings: torch.zeros_like(ids)  # type: ignore[method-assign,assignment]
    with pytest.raises(InputError, match="packing: BertForSequenceClassification says something else"):
        check(Reading(made.host, collate, made.head), rows("bert"))


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_what_a_loss_looks_at_is_spread_again(family: str) -> None:
    (padded, _), (packed, _) = both_ways(family, keep={STATES, ACTIVATIONS})
    there = padded.attended
    for name in ("states", "activations"):
        for mine, theirs in zip(getattr(packed, name), getattr(padded, name), strict=True):
            assert mine.shape == theirs.shape
            torch.testing.assert_close(mine[there], theirs[there], rtol=1e-5, atol=1e-5)
    shift = padded.draw(padded.embeddings.shape[-1])
    torch.testing.assert_close(packed.run(shift=shift).logits, padded.run(shift=shift).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_recomputed_layers_find_their_rows(family: str) -> None:
    gradients = []
    for recompute in (False, True):
        made = work(family)
        made.host.pack()
        if recompute:
            made.host.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        made.host.train()
        loop = Loop(made)
        torch.manual_seed(0)
        loop._gradient(np.arange(8))
        gradients.append({n: p.grad.clone() for n, p in loop.parameters.items() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_training_packed_is_training_padded() -> None:
    weights = []
    for packed in (False, True):
        made = work("llama", tokens=64)
        if packed:
            made.host.pack()
        loop = Loop(made)
        for _ in loop:
            pass
        weights.append({n: p.detach() for n, p in loop.parameters.items()})
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_reading_packed_is_reading_padded(family: str) -> None:
    made = work(family)
    found = []
    for _ in range(2):
        found.append(read(Reading(made.host, collate, made.head, tokens=64), made.rows))
        made.host.pack()
    np.testing.assert_allclose(found[1].logits, found[0].logits, atol=1e-5)
    np.testing.assert_allclose(found[1].loss, found[0].loss, rtol=1e-5)


def test_packed_micro_batches_count_no_padding() -> None:
    lengths = np.array([9, 1, 1, 1, 8, 3, 20])
    cut = list(micro_batches(np.arange(7), lengths, 12, packed=True))
    assert sorted(i for group in cut for i in group) == list(range(7))
    assert [int(lengths[g].sum()) for g in cut] == [20, 9, 8, 6]
    assert all(len(g) == 1 or lengths[g].sum() <= 12 for g in cut)
    uneven = np.array([6, 1, 1, 1, 1, 1, 1])
    assert len(list(micro_batches(np.arange(7), uneven, 12, packed=True))) == 1
    assert len(list(micro_batches(np.arange(7), uneven, 12))) > 1


def test_gradients_of_single_rows_do_not_fit() -> None:
    made = work("bert", gradient=parts.find("gradient", "private").choose({"epsilon": 8.0}).build())
    made.host.pack()
    with pytest.raises(InputError, match="leave packing out"):
        Loop(made)


def test_holes_and_full_batches_are_read_as_they_are() -> None:
    device = torch.device("cpu")
    assert packing.Packing.of(torch.tensor([[1, 0, 1], [1, 1, 1]])) is None
    assert packing.Packing.of(torch.tensor([[0, 1, 1], [1, 1, 1]])) is None
    assert packing.Packing.of(torch.ones(2, 3)) is None
    made = packing.Packing.of(torch.tensor([[1, 1, 0], [1, 1, 1]]))
    assert made is not None and made.tokens == 5 and made.places.tolist() == [0, 1, 3, 4, 5]
    x = torch.arange(6.0).reshape(2, 3, 1)
    spread = made.spread(made.pack(x))
    assert spread.flatten().tolist() == [0, 1, 0, 3, 4, 5] and spread.device == device
    assert table("lm").lengths.min() > 1


PROMPTS = [[5, 6, 7], [8] * 40, [9], list(range(10, 30)), [31, 32]]


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen", "gemma3", "opt"])
def test_prepacked_prompts_are_continued_alike(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(tiny(family)).eval()
    plain = said(host)
    host.pack()
    filled = fills(host, monkeypatch)
    assert said(host) == plain
    assert filled == [sum(len(p) - 1 for p in PROMPTS)], "the prompts are read once, without padding"
    assert said(host, temperature=1.0, seed=3) == said(Host(tiny(family)).eval(), temperature=1.0, seed=3)


def test_prompts_of_one_length_and_virtual_tokens_are_read_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(tiny("llama")).eval()
    host.pack()
    filled = fills(host, monkeypatch)
    assert said(host, prompts=[[5, 6, 7]] * 3) and not filled
    host.attach(parts.find("adapter", "prefix_tuning").choose())
    assert said(host) and not filled


def said(host: Host, prompts: list[list[int]] = PROMPTS, **options: Any) -> list[list[int]]:
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=2, get_vocab=dict)
    return [w.ids for w in generate(host, prompts, tokenizer, sampling=Sampling(max_tokens=6, **options))]


def fills(host: Host, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens of each batch of prompts that is read without padding from here on."""
    packer, found = host.packer, []
    assert packer is not None
    whole = packer.fill

    def fill(ids: Tensor, mask: Tensor) -> Any:
        found.append(int(mask.sum()))
        return whole(ids, mask)

    monkeypatch.setattr(packer, "fill", fill)
    return found


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_prepacked_cache_is_the_padded_one(family: str) -> None:
    """Logits after the prompt, so that a cache that is nearly right does not pass for one that is."""
    host = Host(tiny(family)).eval()
    host.pack()
    assert host.packer is not None
    width = max(map(len, PROMPTS))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in PROMPTS])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in PROMPTS])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad(), host.packer.off():
        plain = host.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits[:, -1]
    with torch.no_grad():
        front = torch.tensor([p[:-1] + [0] * (width - len(p)) for p in PROMPTS])
        cache = host.packer.fill(front, torch.tensor([[1] * (len(p) - 1) + [0] * (width - len(p)) for p in PROMPTS]))
        last = {"input_ids": ids[:, -1:], "position_ids": positions[:, -1:], "past_key_values": cache}
        found = host.model(attention_mask=mask, **last).logits[:, -1]
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)
