"""Whether a model says the same of packed and of padded rows: found out before a run begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import InputError
from .passes import as_in_use
from .step import Step

if TYPE_CHECKING:
    from .loop import Rows
    from .predict import Reading

TOLERANCE = 1e-3
"""Largest difference, as a share of the largest hidden state, that rounding may make in single precision."""


def check(reading: Reading, rows: Rows) -> float:
    """Read the shortest, the middle and the longest row both ways, in single precision and without drop-out.

    Args:
        reading: the model, which packs, and how to run it.
        rows: encoded rows.

    Returns:
        The largest difference of a hidden state, as a share of the largest one.

    Raises:
        InputError: the model says something else of packed rows: it counts places in a way of its own.
    """
    host = reading.host
    assert host.packer is not None
    ranked = np.argsort(rows.lengths, kind="stable")
    chosen = np.unique(ranked[[0, len(ranked) // 2, -1]])
    batch = {k: v.to(reading.device) for k, v in reading.collate(rows.take(chosen)).items()}
    inputs = Step(host, batch, reading.head).inputs
    there = batch["attention_mask"].bool()
    with torch.no_grad(), as_in_use(host):
        try:
            packed = _hidden(host.packer.trunk, inputs)[there]
        except (RuntimeError, ValueError, TypeError) as error:
            raise _unfit(host.model, f"stops at packed rows ({str(error).splitlines()[0][:80]})") from error
        with host.packer.off():
            padded = _hidden(host.packer.trunk, inputs)[there]
    gap = float((packed - padded).abs().max() / padded.abs().max().clamp(min=1e-12))
    if not gap <= TOLERANCE:
        raise _unfit(host.model, f"says something else of packed rows (hidden states differ by {gap:.2g})")
    return gap


def _hidden(trunk: Any, inputs: dict[str, Any]) -> torch.Tensor:
    found: torch.Tensor = trunk(**inputs).last_hidden_state
    return found.float()


def _unfit(model: Any, what: str) -> InputError:
    return InputError(f"{type(model).__name__} {what}", where="packing", fix="leave packing out")
