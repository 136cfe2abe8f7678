"""Equal to PEFT: outputs and gradients from the same weights, and adapters that go both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tiny import batch, tiny
from tunesmith import artefacts, parts, peft_format
from tunesmith.errors import InputError
from tunesmith.host import Host

peft = pytest.importorskip("peft")

HEADS = {"bert": "sequence-classification", "gpt2": "causal-lm", "llama": "causal-lm"}
TARGETS = {
    "bert": ["query", "intermediate.dense"],
    "gpt2": ["c_attn", "c_fc"],
    "llama": ["q_proj", "down_proj"],
}

THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("LoraConfig", {"r": 3, "lora_alpha": 5}),
    "rslora": ("LoraConfig", {"r": 3, "lora_alpha": 5, "use_rslora": True}),
    "dora": ("LoraConfig", {"r": 3, "lora_alpha": 5, "use_dora": True}),
    "pissa": ("LoraConfig", {"r": 3, "lora_alpha": 5, "init_lora_weights": "pissa"}),
    "olora": ("LoraConfig", {"r": 3, "lora_alpha": 5, "init_lora_weights": "olora"}),
    "ada_lora": ("AdaLoraConfig", {"init_r": 3, "target_r": 2, "lora_alpha": 5, "total_step": 99, "tinit": 1}),
    "vera": ("VeraConfig", {"r": 6}),
    "loha": ("LoHaConfig", {"r": 3, "alpha": 5}),
    "lokr": ("LoKrConfig", {"r": 1, "alpha": 5}),
    "ia3": ("IA3Config", {}),
    "oft": ("OFTConfig", {"oft_block_size": 4, "r": 0, "use_cayley_neumann": False}),
    "boft": ("BOFTConfig", {"boft_block_size": 4, "boft_n_butterfly_factor": 3}),
}
ONLY_LINEAR = ("loha", "lokr", "oft", "boft")
PAIRS = [(t, f) for t in THEIRS for f in TARGETS if not (f == "gpt2" and t in (*ONLY_LINEAR, "olora"))]


class Blocks:
    """PEFT's kernel for BOFT's matrices on a GPU, without which it takes one factor only, and its gradient."""

    @staticmethod
    def forward(blocks: torch.Tensor) -> list[torch.Tensor]:
        return [torch.stack([torch.block_diag(*each) for each in blocks])]

    @staticmethod
    def backward(gradient: torch.Tensor, blocks: torch.Tensor) -> list[torch.Tensor]:
        size = blocks.shape[-1]
        cut = gradient.unflatten(1, (-1, size)).unflatten(3, (-1, size))
        return [torch.stack([cut[:, i, :, i] for i in range(blocks.shape[1])], 1)]


@pytest.fixture(autouse=True)
def _kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peft.tuners.boft.layer.get_fbd_cuda", lambda: Blocks)


def theirs(technique: str, family: str, model: nn.Module | None = None) -> Any:
    """PEFT's adapter on a tiny model, with random weights."""
    kind, options = THEIRS[technique]
    targets = TARGETS[family]
    if technique == "ia3":
        targets = {"bert": ["query", "output.dense"], "gpt2": ["c_attn", "mlp.c_proj"]}.get(family, targets)
        options = {"feedforward_modules": targets[1:]}
    if technique not in ONLY_LINEAR:
        options = {**options, "fan_in_fan_out": family == "gpt2"}
    task = "SEQ_CLS" if family == "bert" else "CAUSAL_LM"
    config = getattr(peft, kind)(**options, target_modules=targets, task_type=task)
    made = peft.get_peft_model(tiny(family) if model is None else model, config).eval()
    torch.manual_seed(1)
    for name, parameter in made.named_parameters():
        if parameter.requires_grad and "modules_to_save" not in name:
            with torch.no_grad():
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return made


def run(model: Any, family: str) -> torch.Tensor:
    logits: torch.Tensor = model(**batch(family)).logits
    logits.square().mean().backward()
    return logits.detach()


@pytest.mark.parametrize(("technique", "family"), PAIRS)
def test_peft_s_adapter_gives_the_same_outputs_and_gradients(technique: str, family: str, tmp_path: Path) -> None:
    other = theirs(technique, family)
    other.save_pretrained(tmp_path)
    host = Host(tiny(family))
    peft_format.attach(host, tmp_path)
    torch.testing.assert_close(run(host, family), run(other, family), rtol=1e-5, atol=1e-5)
    for path, [(_, adapter)] in host.by_module().items():
        module = other.get_submodule(f"base_model.model.{path}")
        for own, name in adapter.peft_names.items():
            if not hasattr(adapter, own):
                continue
            first, _, rest = name.partition(".")
            parameter = getattr(module, first)["default"]
            gradient = (parameter if isinstance(parameter, nn.Parameter) else parameter.weight).grad
            mine = getattr(adapter, own).grad
            torch.testing.assert_close(mine, gradient.reshape(mine.shape), rtol=1e-4, atol=1e-5)


EXPORTED = {
    "lora": {"rank": 2}, "rslora": {"rank": 2}, "loraplus": {"rank": 2}, "dora": {"rank": 2}, "pissa": {"rank": 2},
    "olora": {"rank": 2}, "loftq": {"rank": 2}, "corda": {"rank": 2}, "eva": {"rank": 2}, "co_lora": {"rank": 2},
    "lorasp": {"rank": 2}, "rose_lora": {"rank": 2}, "chain_of_lora": {"rank": 2}, "incre_lora": {"rank": 2},
    "flora": {"rank": 2, "rank_out": 3}, "mip": {"rank": 2}, "ada_lora": {"rank": 2}, "vera": {"rank": 6}, "loha": {"rank": 2},
    "lokr": {"rank": 1}, "ia3": {}, "oft": {"block": 4},
    "boft": {"block": 4, "factors": 2},
}  # fmt: skip


def test_every_technique_that_peft_can_load_is_tried() -> None:
    assert {n for n, p in parts.of_kind("adapter").items() if p.attributes.get("peft")} == {
        *EXPORTED, "prompt_tuning", "prefix_tuning", "ptuning", "ptuningv2",  # these stand in tests of prompts below
    }  # fmt: skip


@pytest.mark.parametrize("technique", EXPORTED)
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_peft_loads_ours_and_so_do_we(technique: str, family: str, tmp_path: Path) -> None:
    if family == "gpt2" and technique in ONLY_LINEAR:
        pytest.skip("PEFT has it for nn.Linear only")
    fresh = [n for n, _ in tiny(family).named_parameters() if "classifier" in n]
    chosen = parts.find("adapter", technique).choose({**EXPORTED[technique], "targets": TARGETS[family]})
    host = Host(tiny(family), fresh)
    host.attach(chosen)
    torch.manual_seed(2)
    for parameter in host.trainable().values():
        nn.init.normal_(parameter, std=0.3)
    artefacts.save_adapter(host, tmp_path, base="b", revision=None, head=HEADS[family])
    with torch.no_grad():
        expected = host(**batch(family)).logits
        other = peft.PeftModel.from_pretrained(tiny(family), tmp_path).eval()
        torch.testing.assert_close(other(**batch(family)).logits, expected, rtol=2e-5, atol=2e-5)
        again = Host(tiny(family), fresh)
        again.attach(chosen)
        artefacts.load_adapter(again, tmp_path)
        assert torch.equal(again(**batch(family)).logits, expected)


def test_parts_of_a_fused_module_have_no_place_in_peft() -> None:
    host = Host(tiny("gpt2"))
    host.attach(parts.find("adapter", "ia3").choose())
    assert "whole modules" in str(peft_format.why_not(host))


def test_two_techniques_have_no_place_in_peft() -> None:
    host = Host(tiny("bert"))
    host.attach(parts.find("adapter", "lora").choose({"targets": ["attention.query"]}))
    host.attach(parts.find("adapter", "ia3").choose())
    assert "does not mix" in str(peft_format.why_not(host))


def test_different_anchors_of_one_form_join() -> None:
    host = Host(tiny("bert"))
    host.attach(parts.find("adapter", "lora").choose({"rank": 2, "targets": ["attention.query"]}))
    host.attach(parts.find("adapter", "pissa").choose({"rank": 2, "alpha": 4.0, "targets": ["attention.query"]}))
    assert "different scale" in str(peft_format.why_not(host))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"init_lora_weights": "corda"}, "changed the base's weights"),
        ({"bias": "all"}, "trained biases"),
        ({"peft_type": "XLORA"}, "holds XLORA"),
    ],
)
def test_what_cannot_be_loaded_is_refused(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    theirs("lora", "bert").save_pretrained(tmp_path)
    file = tmp_path / peft_format.CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    with pytest.raises(InputError, match=message):
        peft_format.attach(Host(tiny("bert")), tmp_path)


PROMPTS: dict[str, tuple[str, dict[str, Any]]] = {
    "prompt_tuning": ("PromptTuningConfig", {}),
    "ptuning": ("PromptEncoderConfig", {"encoder_hidden_size": 5}),
    "prefix_tuning": ("PrefixTuningConfig", {}),
}


def tensors_of(theirs: Any) -> list[nn.Parameter]:
    return [p for p in theirs.parameters() if p.requires_grad]


@pytest.mark.parametrize(
    ("name", "family", "settings", "options"),
    [
        *((n, f, {}, {}) for n in PROMPTS for f in ("llama", "gpt2", "opt")),
        ("ptuning", "llama", {"encoder": "lstm"}, {"encoder_reparameterization_type": "LSTM"}),
        ("prefix_tuning", "qwen", {}, {}),
        ("prefix_tuning", "llama", {"hidden": 5}, {"prefix_projection": True, "encoder_hidden_size": 5}),
    ],
)
def test_virtual_tokens_have_pefts_outputs_and_gradients(
    name: str, family: str, settings: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    kind, common = PROMPTS[name]
    config = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=3, **{**common, **options})
    theirs = peft.get_peft_model(tiny(family), config).eval()
    torch.manual_seed(2)
    for parameter in tensors_of(theirs):
        nn.init.normal_(parameter, std=0.3)
    host = Host(tiny(family)).eval()
    chosen = {"length": 3, **({"hidden": 5} if name == "ptuning" else {}), **settings}
    host.attach(parts.find("adapter", name).choose(chosen))
    encoder = theirs.prompt_encoder["default"]
    _copy(name, host, encoder)
    wanted = theirs(**batch(family)).logits[:, -7:]
    got = host(**batch(family)).logits
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    artefacts.save_adapter(host, tmp_path, base="b", revision=None, head="causal-lm")
    loaded = peft.PeftModel.from_pretrained(tiny(family), tmp_path).eval()
    torch.testing.assert_close(loaded(**batch(family)).logits[:, -7:], got, rtol=1e-5, atol=1e-5)
    theirs.save_pretrained(tmp_path / "theirs")
    other = Host(tiny(family)).eval()
    peft_format.attach(other, tmp_path / "theirs")
    torch.testing.assert_close(other(**batch(family)).logits, wanted, rtol=1e-5, atol=1e-5)
    wanted.square().mean().backward()
    got.square().mean().backward()
    _same_gradients(name, host, encoder)


def _pairs(name: str, host: Host, encoder: Any) -> list[tuple[nn.Parameter, Any]]:
    """Our tensors, and which rows of which of theirs they are."""
    adapters: list[Any] = list(host.adapters.values())
    one = adapters[0]
    if name == "prompt_tuning":
        return [(one.prompt, encoder.embedding.weight)]
    if name == "ptuning":
        heads = list(zip(one.mlp.parameters(), encoder.mlp_head.parameters(), strict=True))
        lstm = zip(one.lstm.parameters(), encoder.lstm_head.parameters(), strict=True) if one.lstm is not None else ()
        return [(one.prompt, encoder.embedding.weight), *heads, *lstm]
    if one.network is None:
        columns = encoder.embedding.weight.chunk(len(adapters), 1)
        return [(a.prefix, c) for a, c in zip(adapters, columns, strict=True)]
    common, (first, _, second) = one.site.shared, encoder.transform
    pairs = [
        (common.table, encoder.embedding.weight),
        *zip(common.network.parameters(), first.parameters(), strict=True),
    ]
    for theirs in (second.weight, second.bias):
        leaf = "weight" if theirs.ndim == 2 else "bias"
        pairs += [(getattr(a.network, leaf), c) for a, c in zip(adapters, theirs.chunk(len(adapters)), strict=True)]
    return pairs


def _copy(name: str, host: Host, encoder: Any) -> None:
    for ours, theirs in _pairs(name, host, encoder):
        ours.data.copy_(theirs.detach())


def _same_gradients(name: str, host: Host, encoder: Any) -> None:
    for parameter in encoder.parameters():
        parameter.data, parameter.grad = (parameter.grad if parameter.grad is not None else parameter.data * 0), None
    for ours, theirs in _pairs(name, host, encoder):
        torch.testing.assert_close(ours.grad, theirs.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "family", "reason"),
    [
        ("prompt_tuning", "bert", "move the places of an encoder's outputs"),
        ("prefix_tuning", "gemma3", "takes part in sliding windows"),
        ("prompt_bank", "llama", "PEFT has no PromptBank"),
    ],
)
def test_what_peft_would_read_as_something_else_is_not_written_in_its_format(
    name: str, family: str, reason: str
) -> None:
    host = Host(tiny(family))
    host.attach(parts.find("adapter", name).choose())
    assert reason in str(peft_format.why_not(host))
