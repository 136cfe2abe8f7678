"""What was measured of adapters and masks, as it ships with the package. ``bench/parts.py`` writes it, nobody else."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "parts.json"


@functools.cache
def everything() -> Mapping[str, Any]:
    """``about``: on what it was measured; ``parts``: ``kind.name`` -> facts (`facts`)."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def facts(kind: str, name: str) -> Mapping[str, Any]:
    """What was measured of a part at its defaults; empty for one that was not measured.

    Returns:
        ``trained``: numbers that train, with the task's head, and ``share`` of all of the base's; ``weights``,
        ``gradients``, ``optimizer``: bytes that they take while training, and ``scout`` those of a full tuning before
        the choice; ``folds``; ``exports`` (to PEFT's format); ``preset``: what the learning test said, or None;
        ``claims``: id and name -> verdict, or None for one that was not run.

    >>> facts("adapter", "lora")["folds"], facts("adapter", "no such part")
    (True, {})
    """
    known: dict[str, Any] = everything()["parts"].get(f"{kind}.{name}", {})
    return known
