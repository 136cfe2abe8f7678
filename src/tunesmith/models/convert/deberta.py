"""DeBERTa-v3-xsmall with a classifier of two labels, from a dynamically quantized (int8) ONNX graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

from . import onnx
from .copy import copy_tokenizer
from .write import write_model

_CONFIG = DebertaV2Config.from_dict({
    "vocab_size": 128100, "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6,
    "intermediate_size": 1536, "max_position_embeddings": 512, "type_vocab_size": 0, "relative_attention": True,
    "max_relative_positions": -1, "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "layer_norm_eps": 1e-7, "pooler_hidden_size": 384,
    "pooler_dropout": 0, "num_labels": 2,
})  # fmt: skip


def convert(sources: list[Path], target: Path) -> None:
    """From the graph and a tokenizer.json."""
    constants, nodes = onnx.read(sources[0])
    ours, coded = ("m.deberta.", "m.pooler.", "m.classifier."), ("_scale", "_zero_point", "_quantized")
    weights = {
        name[2:]: array for name, array in constants.items() if name.startswith(ours) and not name.endswith(coded)
    }
    for name in ("deberta.embeddings.word_embeddings.weight", "pooler.dense.weight", "classifier.weight"):
        matrix = _dequantized(constants, f"m.{name}")
        weights[name] = matrix if "embeddings" in name else matrix.T
    for node in nodes:
        if node.kind == "MatMulInteger" and not node.inputs[1].startswith("m."):
            # "/m/deberta/.../dense/MatMul_output_0_quantized" is the product of the module deberta. ... .dense
            module = node.outputs[0].split("/MatMul_output")[0].removeprefix("/m/").replace("/", ".")
            name = node.inputs[1].removesuffix("_quantized")
            weights[f"{module}.weight"] = (constants[name] if name in constants else _dequantized(constants, name)).T
    model = DebertaV2ForSequenceClassification(_CONFIG)
    write_model(model, {name: torch.from_numpy(array.copy()) for name, array in weights.items()}, target)
    copy_tokenizer(sources[1], target)


def _dequantized(constants: dict[str, np.ndarray], name: str) -> np.ndarray:
    levels = constants[f"{name}_quantized"].astype(np.float32)
    array: np.ndarray = (levels - constants[f"{name}_zero_point"].astype(np.float32)) * constants[f"{name}_scale"]
    return array
