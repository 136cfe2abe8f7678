"""What a Hugging Face folder says of itself, read from its JSON and safetensors headers without any model library."""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from ..storage import hash_file
from .catalogue import Architecture

_TOKENIZERS = (
    "tokenizer.json", "tokenizer.model", "spiece.model", "spm.model", "sentencepiece.bpe.model", "vocab.txt",
    "vocab.json", "tekken.json",
)  # fmt: skip
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
_WIDTHS = ("hidden_size", "d_model", "n_embd", "dim")
_LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx")
# their position ids begin after the padding id, so that many rows of the position table are never used
_OFFSET = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "mpnet", "esm"})
_DECODER = re.compile(r"(ForCausalLM|LMHeadModel|LMHead)$")
_ENCODER = re.compile(r"(ForMaskedLM|ForPreTraining|ForNextSentencePrediction)$")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that must hold an object.

    Raises:
        InputError: it is no JSON or no object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"is no JSON ({error})", where=path, fix="copy the model folder again") from error
    if not isinstance(found, dict):
        raise InputError("holds no JSON object", where=path, expected="{...}", fix="copy the model folder again")
    return found


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a model folder that tunesmith can use.

    Raises:
        InputError: no model, an adapter, a model that needs its own code, quantized weights, pickled weights, no
            tokenizer.
    """
    path = folder / "config.json"
    if not path.is_file():
        if (folder / "adapter_config.json").is_file():
            raise InputError("holds an adapter, not a model", where=folder, fix="give the merged model or its base")
        raise InputError("has no config.json", where=folder, expected="a Hugging Face model folder")
    config = read_json(path)
    if not config.get("model_type"):
        raise InputError("has no model_type", where=path, expected="a config.json of a transformers model")
    _check_native(config, path)
    if "quantization_config" in config:
        method = (config["quantization_config"] or {}).get("quant_method", "unknown method")
        raise InputError(
            f"the weights are quantized ({method})", where=folder, expected="float weights",
            fix="use the unquantized model",
        )  # fmt: skip
    weights_of(folder)
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise InputError(
            "has no tokenizer", where=folder, expected="tokenizer.json, vocab.txt or a SentencePiece model",
            fix="save it there with tokenizer.save_pretrained(...)",
        )  # fmt: skip
    return config


def weights_of(folder: Path) -> list[Path]:
    """The safetensors files of a model, in order: the shards that the index names, else ``model.safetensors``.

    Raises:
        InputError: there are none, or a shard is missing.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = [folder / name for name in sorted(set(read_json(index).get("weight_map", {}).values()))]
        for shard in shards:
            if not shard.is_file():
                raise InputError("is missing", where=shard, fix="copy the model folder again, with all its shards")
        return shards
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    pickled = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    convert = "convert to safetensors: load it where you trust it and call model.save_pretrained(...)"
    raise InputError(
        f"has {pickled[0]} and no safetensors" if pickled else "has no weights",
        where=folder,
        expected="model.safetensors",
        fix=convert if pickled else None,
    )


def count_parameters(files: list[Path]) -> int:
    """Number of float weights in safetensors files, from their headers; integer buffers are not counted.

    Raises:
        InputError: a file is no safetensors file.
    """
    total = 0
    for path in files:
        for name, tensor in _header(path).items():
            if name != "__metadata__" and tensor["dtype"].startswith(("F", "BF")):
                total += math.prod(tensor["shape"])
    return total


def shapes_of(files: list[Path]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor in safetensors files, from their headers.

    Raises:
        InputError: a file is no safetensors file.
    """
    found = {name: tensor for path in files for name, tensor in _header(path).items() if name != "__metadata__"}
    return {name: tuple(tensor["shape"]) for name, tensor in found.items()}


def _header(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("its header is longer than the file")
            header: dict[str, Any] = json.loads(file.read(length))
    except (struct.error, ValueError) as error:
        raise InputError(f"is no safetensors file ({error})", where=path, fix="copy the file again") from error
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    if 8 + length + max(ends, default=0) != path.stat().st_size:
        raise InputError("is cut short or damaged", where=path, fix="copy the file again")
    return header


def fingerprint(files: list[Path]) -> str:
    """The sha256 of the weights: of the one file, or of its shards' hashes in order."""
    hashes = [hash_file(path) for path in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def architecture_of(config: dict[str, Any]) -> Architecture:
    """``encoder``, ``decoder`` or ``encoder-decoder``.

    The class that was saved usually tells; for a bare one (``BertModel``) transformers' own tables do.

    Raises:
        InputError: it is none of the three.
    """
    if config.get("is_encoder_decoder"):
        return "encoder-decoder"
    saved = (config.get("architectures") or [""])[0]
    if config.get("is_decoder") or _DECODER.search(saved):
        return "decoder"
    if _ENCODER.search(saved):
        return "encoder"
    from transformers.models.auto import modeling_auto as auto

    kind = config["model_type"]
    if kind in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return "encoder-decoder"
    if kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "encoder"
    if kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "decoder"
    raise InputError(f"model type {kind!r} is no text model", expected="an encoder, a decoder or an encoder-decoder")


def max_length_of(folder: Path, config: dict[str, Any]) -> int | None:
    """Number of tokens that the model takes at once: the smaller of its positions and its tokenizer's limit.

    None where neither states one (relative positions).
    """
    text = config.get("text_config") or {}
    known = [value for name in _LENGTHS if isinstance(value := config.get(name, text.get(name)), int) and value > 0]
    limits = known[:1]
    if limits and config["model_type"] in _OFFSET:
        pad = config.get("pad_token_id")
        limits[0] -= (1 if pad is None else pad) + 1
    if (path := folder / "tokenizer_config.json").is_file():
        stated = read_json(path).get("model_max_length")
        # transformers writes int(1e30) where no limit is known
        limits += [int(stated)] if isinstance(stated, int | float) and 0 < stated < 1e9 else []
    return min(limits, default=None)


def width_of(config: dict[str, Any]) -> int | None:
    """Size of the hidden states; None where the config states none."""
    text = config.get("text_config") or {}
    return next((v for n in _WIDTHS if isinstance(v := config.get(n, text.get(n)), int)), None)


def licence_of(folder: Path) -> str | None:
    """The licence in the model card's head (``README.md``), if there is one."""
    path = folder / "README.md"
    if not path.is_file():
        return None
    head = re.match(r"---\s*\n(.*?)\n---", path.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        found = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError:
        return None
    licence = found.get("license") if isinstance(found, dict) else None
    return ", ".join(map(str, licence)) if isinstance(licence, list) else str(licence) if licence else None


def _check_native(config: dict[str, Any], path: Path) -> None:
    if "auto_map" not in config:
        return
    from transformers import CONFIG_MAPPING

    if config["model_type"] not in CONFIG_MAPPING:
        raise InputError(
            f"model type {config['model_type']!r} needs code from its own folder (auto_map)", where=path,
            expected="an architecture that transformers has; code that comes with a model is never run",
            fix="choose another base",
        )  # fmt: skip
