"""Writing a converted model: strictly every tensor, or none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel

from ..quiet import quiet


def write_model(model: PreTrainedModel, weights: Mapping[str, torch.Tensor], target: Path) -> None:
    """Give ``model`` exactly ``weights`` and save it in ``target`` as config.json and model.safetensors.

    Raises:
        RuntimeError: a weight is missing, superfluous or of another shape: the converter is wrong.
    """
    model.load_state_dict(dict(weights), strict=True)
    with quiet():
        model.save_pretrained(target)
