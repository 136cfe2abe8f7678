"""Laws of the ways to compute less than all of a model while it trains, and each way's formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from test_places import padded
from tiny import batch, tiny
from tunesmith import parts
from tunesmith.errors import InputError
from tunesmith.forwards import best
from tunesmith.forwards.le_mo import _received
from tunesmith.forwards.top_attention import TopAttention
from tunesmith.host import Host
from tunesmith.models.attention import Asked

LINES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "le_mo": ({"drop": 0.5, "ends": 0}, {"drop": 0.0, "ends": 0}),
    "top_attention": ({"share": 0.3, "least": 1}, {"share": 1.0}),
}
"""Each way's settings that leave something out, and those that leave nothing out."""

FAMILIES = ["bert", "distilbert", "modernbert", "gpt2", "llama", "gemma3", "opt"]
PAIRS = [(name, family) for name in LINES for family in FAMILIES]


def hosted(family: str, *ways: tuple[str, dict[str, Any]]) -> Host:
    host = Host(tiny(family))
    for module in host.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "attn_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    host.train_only(parts.find("mask", "everything").choose().build())
    for name, settings in ways:
        host.compute(name, parts.find("forward", name).choose(settings).build())
    return host.train()


def test_every_way_has_its_line() -> None:
    assert sorted(LINES) == sorted(parts.of_kind("forward"))


@pytest.mark.parametrize(("name", "family"), PAIRS)
class TestForwardLaws:
    @torch.no_grad()
    def test_it_leaves_out_in_training_alone(self, name: str, family: str) -> None:
        base, given = tiny(family)(**batch(family)).logits, batch(family)
        host = hosted(family, (name, LINES[name][0]))
        assert not torch.allclose(host(**given).logits, base, atol=1e-3)
        with host.off():
            torch.testing.assert_close(host(**given).logits, base)
        assert torch.equal(host.eval()(**given).logits, base)
        assert host.state().keys() == hosted(family).state().keys()

    def test_with_nothing_left_out_it_is_the_model(self, name: str, family: str) -> None:
        found = []
        for host in (hosted(family), hosted(family, (name, LINES[name][1]))):
            given = batch(family)
            given["attention_mask"][1, 5:] = 0
            logits = host(**given).logits
            logits[0].square().mean().backward()
            found.append(
                {"": logits[:1].detach(), **{n: p.grad for n, p in host.named_parameters() if p.grad is not None}}
            )
        for key, value in found[0].items():
            torch.testing.assert_close(found[1][key], value, rtol=1e-4, atol=1e-5)

    def test_padding_changes_nothing(self, name: str, family: str) -> None:
        host = hosted(family, (name, LINES[name][0]))
        found = []
        for width in (5, 9):
            host.zero_grad()
            logits = host(**padded(family, width)).logits
            logits = logits if logits.ndim == 2 else logits[:, :5]
            logits.square().mean().backward()
            found.append([logits.detach(), *(p.grad for p in host.parameters() if p.grad is not None)])
            assert all(t.isfinite().all() for t in found[-1])
        torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-4, atol=1e-4)

    def test_recomputed_it_leaves_out_the_same(self, name: str, family: str) -> None:
        found = []
        for again in (False, True):
            host = hosted(family, (name, LINES[name][0]))
            if again:
                host.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            host(**batch(family)).logits.square().mean().backward()
            found.append({n: p.grad for n, p in host.named_parameters() if p.grad is not None})
        for key, value in found[0].items():
            torch.testing.assert_close(found[1][key], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_both_ways_and_an_adapter_stack_in_bf16(family: str) -> None:
    host = hosted(family, *((name, own) for name, (own, _) in LINES.items()))
    host.attach(parts.find("adapter", "lora").choose({"rank": 2}))
    host.attach(parts.find("adapter", "prefix_tuning").choose({"length": 2}))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = host.train()(**batch(family)).logits.float().square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in host.trainable().values())


# ---------------------------------------------------------------------- the formulae


def test_the_best_of_each_row_are_kept_in_order() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.7], [0.9, 0.1, 0.5, 0.8]])
    there = torch.tensor([[True] * 4, [True, True, False, False]])
    kept = best(scores, there, 0.5)
    assert kept.places.tolist() == [[1, 3], [0, 1]] and kept.real.tolist() == [[True, True], [True, False]]


def test_tokens_that_are_dropped_stay_what_they_were() -> None:
    host = hosted("llama", ("le_mo", {"drop": 0.5, "ends": 0}))
    seen: list[tuple[Tensor, Tensor]] = []
    layers = host.model.model.layers
    layers[0].register_forward_hook(lambda m, a, y: seen.append((a[0], y)))
    host(**batch("llama", length=8))
    ((x, y),) = seen
    assert ((x == y).all(-1).sum(1) == 4).all(), "half of the tokens of each row go around"


def test_received_attention_is_its_formula() -> None:
    torch.manual_seed(0)
    asked = Asked(*(torch.randn(2, 2, 6, 4) for _ in range(3)), None, True, 0.5, 0.0)
    found = _received(asked, torch.ones(2, 6, dtype=torch.bool))
    weights = (0.5 * asked.query @ asked.key.mT).masked_fill(~torch.ones(6, 6).tril().bool(), -torch.inf).softmax(-1)
    ranks = torch.linspace(0, 5, 64).round().long()
    for row in range(2):
        for token in range(6):
            seers = [i for i in ranks.tolist() if i >= token]
            wanted = sum(float(weights[row, :, i, token].mean()) * (i + 1) for i in seers) / len(seers)
            assert float(found[row, token]) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("causal", [False, True])
def test_top_attention_is_its_formula(causal: bool, dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.forwards.top_attention.CHUNK", 4)
    torch.manual_seed(0)
    query = torch.randn(2, 4, 10, 8, requires_grad=True)
    key, value = (torch.randn(2, 2, 10, 8, requires_grad=True) for _ in range(2))
    torch.manual_seed(1)
    found = TopAttention(share=0.3, least=1).attend(Asked(query, key, value, None, causal, 0.3, dropout))
    k, v = (t.repeat_interleave(2, 1) for t in (key, value))
    scores = 0.3 * query @ k.mT
    scores = scores.masked_fill(~torch.ones(10, 10).tril().bool(), -torch.inf) if causal else scores
    values, places = scores.topk(3, -1)
    weights = values.softmax(-1)
    torch.manual_seed(1)
    kept = (torch.rand(2, 4, 10, 3) >= dropout) / (1 - dropout) if dropout else 1.0
    wanted = torch.zeros(2, 4, 10, 10).scatter(-1, places, weights * kept) @ v
    torch.testing.assert_close(found, wanted)
    factor = torch.randn_like(found)
    theirs = torch.autograd.grad((wanted * factor).sum(), (query, key, value))
    ours = torch.autograd.grad((found * factor).sum(), (query, key, value))
    torch.testing.assert_close(ours, theirs)


# ---------------------------------------------------------------------- what cannot be


def test_what_cannot_be_left_out_is_named() -> None:
    with pytest.raises(InputError, match="forward le_mo leaves no layer of LlamaForCausalLM; set forward.le_mo.ends"):
        hosted("llama", ("le_mo", {}))
    with pytest.raises(InputError, match="two ways choose the tokens"):
        hosted("llama", ("le_mo", {"ends": 0}), ("le_mo", {"ends": 0}))
    with pytest.raises(InputError, match="two ways compute the same attention"):
        hosted("llama", ("top_attention", {}), ("top_attention", {}))
    with pytest.raises(InputError, match="by itself|of its own"):
        hosted("t5", ("le_mo", {"ends": 0}))(**batch("t5"))
    with pytest.raises(InputError, match="adds a bias of its own to the scores"):
        hosted("t5", ("top_attention", {}))(**batch("t5"))
