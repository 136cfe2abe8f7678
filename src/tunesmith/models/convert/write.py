"""Writing a converted model: strictly every tensor, or none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.utils import logging


def write_model(model: PreTrainedModel, weights: Mapping[str, torch.Tensor], target: Path) -> None:
    """Give ``model`` exactly ``weights`` and save it in ``target`` as config.json and model.safetensors.

    Raises:
        RuntimeError: a weight is missing, superfluous or of another shape: the converter is wrong.
    """
    model.load_state_dict(dict(weights), strict=True)
    with quiet():
        model.save_pretrained(target)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' log and progress bars."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
