"""paraphrase-MiniLM-L3-v2 from its float ONNX graph; its tokenizer is that of MiniLM-L6."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import BertConfig, BertModel

from . import onnx
from .copy import copy_tokenizer
from .write import write_model

_PREFIX = "model.0.auto_model."


def convert(sources: list[Path], target: Path) -> None:
    """From the graph and a tokenizer.json.

    Embeddings, norms and biases keep their names in the graph. The matrices have lost theirs: each is named after
    the bias that is added to its product.
    """
    constants, nodes = onnx.read(sources[0])
    weights = {name.removeprefix(_PREFIX): array for name, array in constants.items() if name.startswith(_PREFIX)}
    bias_added_to = {
        product: name for node in nodes if node.kind == "Add" for name in node.inputs if name in constants
        for product in node.inputs if product != name
    }  # fmt: skip
    for node in nodes:
        if node.kind == "MatMul" and node.inputs[1] in constants:
            bias = bias_added_to[node.outputs[0]].removeprefix(_PREFIX)
            weights[bias.removesuffix("bias") + "weight"] = constants[node.inputs[1]].T
    weights.pop("embeddings.position_ids", None)
    config = BertConfig(
        vocab_size=30522, hidden_size=384, num_hidden_layers=3, num_attention_heads=12, intermediate_size=1536
    )
    model = BertModel(config, add_pooling_layer=False)
    write_model(model, {name: torch.from_numpy(array.copy()) for name, array in weights.items()}, target)
    copy_tokenizer(sources[1], target)
