"""Resolving and loading a base: alias, folder, hub; heads, fresh tensors, seeds; every refusal in one line."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny import tiny
from tunesmith.errors import InputError
from tunesmith.models import folder as folders
from tunesmith.models import packaged
from tunesmith.models.bases import BaseInfo, load, resolve


def real(alias: str) -> BaseInfo:
    try:
        return resolve(alias)
    except InputError as error:
        if "cannot be had" not in str(error):
            raise
        pytest.skip(f"no packages here: {error}")


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """Write a tiny model of a family, with a tokenizer, as a folder."""

    def write(family: str, head: str | None = None, **changes: Any) -> Path:
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from transformers import PreTrainedTokenizerFast

        path = tmp_path / "base"
        tiny(family, head).save_pretrained(path)  # type: ignore[operator]
        words = Tokenizer(WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
        PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(path)
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, **changes}))
        return path

    return write


@pytest.mark.parametrize("alias", ["splade-tiny", "minilm-l6"])
def test_packaged_base(alias: str) -> None:
    info = real(alias)
    entry = packaged.find(alias)
    assert (info.revision, info.architecture, info.max_length) == (entry.version, "encoder", 512)
    assert info.parameters == entry.parameters
    assert info.licence == entry.licence
    assert info.fingerprint == entry.files[0].sha256, "copied as it is"
    assert info.tokenizer()("tides of the sea")["input_ids"][0] == 101
    assert json.loads((info.path / "tokenizer.json").read_text())["truncation"] is None
    packaged.fetch(alias, verify=True)


def test_resolving_imports_no_torch() -> None:
    real("minilm-l6")
    code = "import sys; from tunesmith.models.bases import resolve; resolve('minilm-l6'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout.strip() == b"False"


def test_an_encoder_gets_fresh_heads() -> None:
    info = real("splade-tiny")
    loaded = load(info, "sequence-classification", labels=["ham", "spam"], seed=1)
    pooler = ["bert.pooler.dense.bias", "bert.pooler.dense.weight"]
    assert loaded.fresh == [*pooler, "classifier.bias", "classifier.weight"]
    assert loaded.model.config.id2label == {0: "ham", 1: "spam"}
    assert loaded.model.config.label2id == {"ham": 0, "spam": 1}
    assert loaded.model.config.problem_type == "single_label_classification"
    assert set(loaded.fresh) < set(loaded.model.state_dict())
    number = load(info, "sequence-classification").model
    assert number.config.problem_type == "regression" and number.config.num_labels == 1
    several = load(info, "sequence-classification", labels=["a", "b"], problem="multi_label_classification").model
    assert several.config.problem_type == "multi_label_classification"
    tags = load(info, "token-classification", labels=["O", "B", "I"])
    assert tags.fresh == ["classifier.bias", "classifier.weight"]


def test_the_rest_is_the_base_bit_for_bit(make: Any) -> None:
    from safetensors.torch import load_file

    path = make("bert")
    stored = load_file(path / "model.safetensors")
    loaded = load(resolve(path), "token-classification", labels=["O", "B", "I", "X"])
    for name, tensor in loaded.model.state_dict().items():
        assert name in loaded.fresh or torch.equal(tensor, stored[name])


def test_fresh_weights_come_from_the_seed(make: Any) -> None:
    info = resolve(make("bert"))

    def head(seed: int) -> torch.Tensor:
        model = load(info, "sequence-classification", labels=list("abcd"), seed=seed).model
        return model.get_parameter("classifier.weight")

    first = head(3)
    torch.rand(7)
    assert torch.equal(head(3), first) and not torch.equal(head(4), first)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    head(1)
    assert torch.equal(torch.rand(3), expected), "the caller's random numbers are left alone"


def test_a_head_is_kept_only_for_its_own_labels(make: Any) -> None:
    info = resolve(make("bert", id2label={"0": "x", "1": "y", "2": "z"}, label2id={"x": 0, "y": 1, "z": 2}))
    assert load(info, "sequence-classification", labels=["x", "y", "z"]).fresh == []
    output = ["classifier.bias", "classifier.weight"]
    assert load(info, "sequence-classification", labels=["x", "z", "y"]).fresh == output
    assert load(info, "sequence-classification", labels=["x", "y"]).fresh == output


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "opt", "qwen"])
def test_decoders(make: Any, family: str) -> None:
    info = resolve(make(family))
    assert info.architecture == "decoder"
    assert load(info, "causal-lm").fresh == []
    assert load(info, "sequence-classification", labels=["a", "b"]).fresh == ["score.weight"]


@pytest.mark.parametrize("family", ["roberta", "distilbert", "electra", "deberta-v2", "modernbert"])
def test_encoders(make: Any, family: str) -> None:
    info = resolve(make(family))
    assert info.architecture == "encoder"
    assert info.max_length == {"roberta": 62, "deberta-v2": 64}.get(family, 64)
    assert all("classifier" in name for name in load(info, "token-classification", labels=["a", "b"]).fresh)


def test_encoder_decoder(make: Any) -> None:
    info = resolve(make("t5"))
    assert info.architecture == "encoder-decoder" and info.max_length is None
    assert load(info, "seq2seq-lm").fresh == []
    with pytest.raises(InputError, match="is an encoder-decoder; expected a decoder for causal-lm"):
        load(info, "causal-lm")


def test_a_decoder_without_padding_pads_with_its_end(make: Any) -> None:
    path = make("llama", pad_token_id=None, eos_token_id=[7, 8])
    (path / "generation_config.json").unlink()
    info = resolve(path)
    model: Any = load(info, "causal-lm").model
    assert model.config.pad_token_id == 7 and model.generation_config.pad_token_id == 7
    assert load(info, "sequence-classification", labels=["a", "b"]).model.config.pad_token_id == 7


def test_precision_and_silence(make: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    info = resolve(make("bert"))
    capfd.readouterr()
    with caplog.at_level(logging.INFO):
        model = load(info, "sequence-classification", labels=list("abcd"), dtype=torch.bfloat16).model
    assert model.dtype == torch.bfloat16
    said = capfd.readouterr()
    assert not caplog.records and not said.out and not said.err


def test_shards(make: Any) -> None:
    path = make("bert")
    whole = resolve(path)
    one_file = whole.fingerprint
    tiny("bert").save_pretrained(path, max_shard_size="10KB")  # type: ignore[operator]
    (path / "model.safetensors").unlink(missing_ok=True)
    sharded = resolve(path)
    assert sharded.parameters == whole.parameters and sharded.fingerprint != one_file
    next(path.glob("model-00002*")).unlink()
    with pytest.raises(InputError, match="model-00002.*is missing"):
        resolve(path)


def test_licence_and_length_are_read(make: Any) -> None:
    path = make("gpt2")
    (path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model")
    stored = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps({**stored, "model_max_length": 32}))
    info = resolve(path)
    assert (info.licence, info.max_length, info.revision) == ("apache-2.0", 32, None)


def test_the_fingerprint_is_of_the_weights(make: Any) -> None:
    path = make("bert")
    before = resolve(path).fingerprint
    (path / "README.md").write_text("other words")
    assert resolve(path).fingerprint == before
    tiny("bert", seed=1).save_pretrained(path)  # type: ignore[operator]
    assert resolve(path).fingerprint != before


def _drop(*names: str) -> Any:
    return lambda path: [(path / name).unlink() for name in names]


def _config(**changes: Any) -> Any:
    def change(path: Path) -> None:
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, **changes}))

    return change


def _pickled(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def _adapter(path: Path) -> None:
    (path / "config.json").rename(path / "adapter_config.json")


def _cut(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("harm", "line"),
    [
        (_drop("config.json"), "has no config.json"),
        (_adapter, "holds an adapter, not a model; give the merged model"),
        (_drop("model.safetensors"), "has no weights; expected model.safetensors"),
        (_pickled, "has pytorch_model.bin and no safetensors; .*convert to safetensors"),
        (_drop("tokenizer.json"), "has no tokenizer"),
        (_cut, "is cut short or damaged"),
        (lambda path: (path / "model.safetensors").write_bytes(b"abc"), "is no safetensors file"),
        (lambda path: (path / "config.json").write_text("{"), "config.json: is no JSON"),
        (lambda path: (path / "config.json").write_text("[]"), "holds no JSON object"),
        (_config(model_type=None), "has no model_type"),
        (_config(auto_map={"AutoModel": "modeling_x.X"}, model_type="own-x"), "needs code from its own folder"),
        (_config(quantization_config={"quant_method": "gptq"}), r"the weights are quantized \(gptq\)"),
        (_config(model_type="vit", architectures=["ViTModel"]), "model type 'vit' is no text model"),
    ],
)
def test_folders_that_are_refused(make: Any, harm: Any, line: str) -> None:
    path = make("bert")
    harm(path)
    with pytest.raises(InputError, match=line) as caught:
        resolve(path)
    assert str(path) in str(caught.value) or "model type" in line
    assert "\n" not in str(caught.value)


def test_native_code_beside_auto_map_is_fine(make: Any) -> None:
    assert resolve(make("bert", auto_map={"AutoModel": "modeling_x.X"})).model_type == "bert"


def test_a_model_type_that_transformers_lacks(make: Any) -> None:
    info = resolve(make("llama", model_type="never-heard-of"))
    with pytest.raises(InputError, match="config.json cannot be used"):
        load(info, "causal-lm")


def test_names_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for name, line in {
        "minilm-6": r"unknown base 'minilm-6'; expected one of FOLDER, OWNER/NAME, .*did you mean 'minilm-l6'",
        "./nowhere": "./nowhere: no such folder",
        "/no/such/folder": "no such folder",
        "a/b/c": "no such folder",
        "me-x/model-x": "me-x/model-x is not in the cache and offline mode is on; .*`hf download me-x/model-x`",
    }.items():
        with pytest.raises(InputError, match=line):
            resolve(name)
    file = tmp_path / "f.txt"
    file.write_text("x")
    with pytest.raises(InputError, match="is a file; expected a model folder"):
        resolve(file)


def test_revisions_belong_to_the_hub(make: Any) -> None:
    with pytest.raises(InputError, match="leave it out: it is for a hub model"):
        resolve(make("bert"), revision="main")
    with pytest.raises(InputError, match=r"revision 'v2'; expected 0\.1\.0"):
        resolve("minilm-l6", revision="v2")


def test_a_hub_model_from_the_cache(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "a" * 40
    snapshot = tmp_path / "hub" / "models--me--tiny" / "snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    make("bert").rename(snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TUNESMITH_OFFLINE", "1")
    info = resolve("me/tiny")
    assert info.revision == commit and info.architecture == "encoder"


def test_the_weights_of_another_model_are_refused(make: Any) -> None:
    from safetensors.torch import load_file, save_file

    path = make("bert")
    weights = load_file(path / "model.safetensors")
    save_file({f"other.{name}": tensor for name, tensor in weights.items()}, path / "model.safetensors")
    with pytest.raises(InputError, match=r"the weights lack \d+% of the BertForTokenClassification"):
        load(resolve(path), "token-classification", labels=["a", "b"])


def test_heads_are_named(make: Any) -> None:
    info = resolve(make("bert"))
    with pytest.raises(InputError, match="unknown head 'causal_lm'.*did you mean 'causal-lm'"):
        load(info, "causal_lm")
    with pytest.raises(InputError, match="is an encoder; expected a decoder for causal-lm"):
        load(info, "causal-lm")
    with pytest.raises(InputError, match="a token classifier without labels"):
        load(info, "token-classification")


def test_only_float_weights_are_counted(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(3, 4), "ids": torch.zeros(5, dtype=torch.long)}, tmp_path / "model.safetensors")
    assert folders.count_parameters([tmp_path / "model.safetensors"]) == 12
