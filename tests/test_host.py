"""The laws of adapters, held to every one on every family of models."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lines_low_rank import LOW_RANK_LINES
from lines_places import PLACE_LINES
from tiny import BOTH, CONFIGS, ENCODERS, batch, tiny
from tunesmith import artefacts, parts, peft_format
from tunesmith.errors import InputError, RunError
from tunesmith.host import Host
from tunesmith.models.anatomy import Anatomy, Site

FAMILIES = list(CONFIGS)
ADAPTERS = list(parts.of_kind("adapter"))

LINES = {
    **LOW_RANK_LINES,
    **PLACE_LINES,
    "lora": ({"rank": 2, "alpha": 4.0}, lambda W, b, a: (W + 2 * a.B @ a.A, b)),
}
"""Each adapter's formula, written a second time: weight, bias, adapter -> new weight, new bias; of one that does not fold
input, output, adapter -> new output."""

FOLDS = [a for a in ADAPTERS if parts.find("adapter", a).attributes.get("folds", True)]
COMPOSES = [a for a in ADAPTERS if parts.find("adapter", a).attributes.get("composes", False)]

PAIRS = [(a, f) for a in ADAPTERS for f in FAMILIES if a == "lora" or f in ("bert", "gpt2", "t5")]
"""One adapter meets every family; what differs between families is the host's to hide."""


def attached(family: str, adapter: str, **settings: object) -> Host:
    host = Host(tiny(family))
    chosen = {**LINES[adapter][0], **settings}
    if adapter in COMPOSES:
        members = {"rank": 2, "targets": chosen.pop("targets", ["linear"])}
        for seed in (1, 2):
            host.attach(parts.find("adapter", "lora").choose(members), seed=seed)
    host.attach(parts.find("adapter", adapter).choose(chosen))
    return host.eval()


def stir(host: Host, seed: int = 1) -> None:
    """Give every adapter tensor a random value, as training would."""
    torch.manual_seed(seed)
    for parameter in (*host.adapters.parameters(), *host.shared.parameters()):
        nn.init.normal_(parameter, std=0.3)


@torch.no_grad()
def logits(host: Host, family: str) -> Tensor:
    return host(**batch(family)).logits


def test_every_adapter_has_its_line() -> None:
    assert sorted(LINES) == sorted(ADAPTERS)


@pytest.mark.parametrize(("adapter", "family"), PAIRS)
class TestAdapterLaws:
    def test_changes_nothing_at_birth_and_off_is_the_base(self, adapter: str, family: str) -> None:
        base = logits(Host(tiny(family)), family)
        host = attached(family, adapter)
        assert torch.equal(logits(host, family), base) or parts.find("adapter", adapter).attributes["changes_at_birth"]
        stir(host)
        assert not torch.allclose(logits(host, family), base)
        with host.off():
            assert torch.equal(logits(host, family), base)

    def test_folded_is_live(self, adapter: str, family: str) -> None:
        host = attached(family, adapter)
        stir(host)
        live = logits(host, family)
        if adapter not in FOLDS:
            with pytest.raises(RunError, match="is not an affine map"):
                host.fold()
            return
        host.fold()
        assert len(host.adapters) == 0
        torch.testing.assert_close(logits(host, family), live, rtol=1e-4, atol=1e-4)

    def test_only_its_own_weights_learn(self, adapter: str, family: str) -> None:
        host = attached(family, adapter)
        stir(host)
        host(**batch(family)).logits.square().mean().backward()
        for name, parameter in host.named_parameters():
            mine = name.startswith(("adapters.", "shared.")) and parameter.requires_grad
            assert (parameter.grad is not None) == mine, name

    def test_saved_is_loaded(self, adapter: str, family: str, tmp_path) -> None:
        host = attached(family, adapter)
        stir(host)
        head = "sequence-classification" if family in ENCODERS else "seq2seq-lm" if family in BOTH else "causal-lm"
        artefacts.save_adapter(host, tmp_path, base="b", revision=None, head=head)
        other = attached(family, adapter)
        artefacts.load_adapter(other, tmp_path)
        assert torch.equal(logits(other, family), logits(host, family))


@pytest.mark.parametrize("adapter", [a for a in ADAPTERS if a not in FOLDS])
def test_live_is_the_formula(adapter: str) -> None:
    host = attached("bert", adapter)
    stir(host)
    for members in host.by_module().values():
        site, part = members[-1]
        torch.manual_seed(3)
        x = torch.randn(3, 5, site.inputs) if site.kind != "input" else torch.tensor([[1, 1, 1, 1, 0]] * 3)
        y = torch.randn(2, 0, site.outputs) if site.kind == "attention" else torch.randn(3, 5, site.outputs)
        torch.testing.assert_close(part(x, y), LINES[adapter][1](x, y, part), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("adapter", FOLDS)
def test_folded_is_the_formula(adapter: str) -> None:
    host = attached("bert", adapter, targets=["mlp.up"])
    stir(host)
    formula = LINES[adapter][1]
    expected = {}
    for path, [(site, part)] in host.by_module().items():
        expected[path] = [t.detach().clone() for t in formula(site.weight, site.bias, part)]
    host.fold()
    for path, (weight, bias) in expected.items():
        module = host.anatomy.modules[path]
        torch.testing.assert_close(module.weight, weight)
        torch.testing.assert_close(module.bias, bias)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
def test_two_adapters_stack_and_fold(family: str) -> None:
    host = attached(family, "lora")
    host.attach(parts.find("adapter", "lora").choose({"rank": 3}), seed=5)
    stir(host)
    live = logits(host, family)
    host.fold()
    torch.testing.assert_close(logits(host, family), live, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "modernbert"])
def test_part_of_a_fused_module(family: str) -> None:
    host = attached(family, "lora", targets=["attention.query", "attention.value"])
    stir(host)
    live = logits(host, family)
    [path] = [p for p in host.by_module() if "0" in p]
    before = host.anatomy.modules[path].weight.detach().clone()
    host.fold()
    torch.testing.assert_close(logits(host, family), live, rtol=1e-4, atol=1e-4)
    after = host.anatomy.modules[path].weight.detach()
    changed = (after - before if family == "modernbert" else (after - before).T).abs().amax(1)
    assert (changed[:16] > 1e-3).all() and (changed[16:32] < 1e-5).all() and (changed[32:] > 1e-3).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_has_its_roles(family: str) -> None:
    anatomy = Anatomy(tiny(family))
    for stack in ("encoder", "decoder") if family in BOTH else ("",):
        assert anatomy.layers(stack) == 2
        for layer in range(2):
            roles = {s.role for s in anatomy.sites if s.layer == layer and s.stack == stack}
            assert {"attention.query", "attention.key", "attention.value", "attention.output", "norm"} <= roles
            assert {"mlp.up", "mlp.down"} <= roles and not roles & {"other", "mlp.other", "attention.other"}
    assert any(s.role == "embedding" for s in anatomy.sites) and any(s.role == "head" for s in anatomy.sites)


def test_unknown_role_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown role 'attention.qery'.*did you mean 'attention.query'"):
        Host(tiny("bert")).attach(parts.find("adapter", "lora").choose({"targets": ["attention.qery"]}))


def test_unknown_layer_is_named() -> None:
    with pytest.raises(InputError, match="layer 7 does not exist; expected -2 to 1"):
        Host(tiny("bert")).attach(parts.find("adapter", "lora").choose({"layers": [7]}))


def test_layers_count_from_the_top() -> None:
    host = attached("bert", "lora", targets=["attention.query"], layers=[-1])
    assert list(host.by_module()) == ["bert.encoder.layer.1.attention.self.query"]


def test_an_adapter_refuses_a_site_of_another_kind() -> None:
    with pytest.raises(InputError, match="cannot act on norm"):
        Host(tiny("bert")).attach(parts.find("adapter", "lora").choose({"targets": ["norm"]}))


def test_birth_depends_on_the_seed_alone() -> None:
    first, second = attached("bert", "lora"), attached("bert", "lora")
    for a, b in zip(first.adapters.parameters(), second.adapters.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_missing_trained_tensor_is_an_error(tmp_path) -> None:
    host = attached("bert", "lora")
    artefacts.save_adapter(host, tmp_path, base="b", revision=None, head="sequence-classification")
    other = attached("bert", "lora", layers=[0])
    with pytest.raises(RunError, match="missing"):
        artefacts.load_adapter(other, tmp_path)


def test_folding_a_tied_head_unties_it() -> None:
    host = Host(tiny("gemma3"))
    host.attach(parts.find("adapter", "lora").choose({"targets": ["head"]}))
    stir(host)
    live, embedding = logits(host, "gemma3"), host.model.get_input_embeddings().weight.clone()
    host.fold()
    torch.testing.assert_close(logits(host, "gemma3"), live, rtol=1e-4, atol=1e-4)
    assert torch.equal(host.model.get_input_embeddings().weight, embedding)
    assert host.model.config.tie_word_embeddings is False


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "modernbert", "t5"])
@pytest.mark.parametrize("targets", [["linear"], ["attention.query", "attention.value"]])
def test_peft_gives_the_same_outputs(family: str, targets: list[str], tmp_path) -> None:
    peft = pytest.importorskip("peft")
    fresh = [n for n, _ in tiny(family).named_parameters() if "classifier" in n]
    host = Host(tiny(family), fresh)
    host.attach(parts.find("adapter", "lora").choose({"rank": 2, "targets": targets}))
    stir(host)
    head = {"bert": "sequence-classification", "modernbert": "sequence-classification", "t5": "seq2seq-lm"}.get(
        family, "causal-lm"
    )
    artefacts.save_adapter(host, tmp_path, base="b", revision=None, head=head)
    theirs = peft.PeftModel.from_pretrained(tiny(family), tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(**batch(family)).logits, logits(host, family), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_an_adapter_from_peft_gives_the_same_outputs(family: str, tmp_path) -> None:
    peft = pytest.importorskip("peft")
    task = "SEQ_CLS" if family == "bert" else "CAUSAL_LM"
    wanted = {"bert": ["query", "value"], "gpt2": ["c_attn", "c_fc"], "llama": ["q_proj", "down_proj"]}[family]
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=wanted, task_type=task, use_rslora=True,
                             fan_in_fan_out=family == "gpt2")  # fmt: skip
    theirs = peft.get_peft_model(tiny(family), config).eval()
    for parameter in theirs.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path)
    host = Host(tiny(family))
    peft_format.attach(host, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(logits(host, family), theirs(**batch(family)).logits, rtol=1e-5, atol=1e-5)


def test_fused_sites_have_rows() -> None:
    sites = {s.role: s for s in Anatomy(tiny("gpt2")).sites if s.layer == 0 and isinstance(s, Site)}
    assert sites["attention.value"].rows == slice(32, 48)
    assert sites["attention.value"].weight.shape == (16, 16)
