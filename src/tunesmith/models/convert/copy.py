"""A folder that is one already: its weights, configuration and tokenizer are copied."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

_TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def convert(sources: list[Path], target: Path) -> None:
    """Copy the model of ``sources[0]`` (a safetensors file) and what lies beside it into ``target``."""
    weights = sources[0]
    shutil.copyfile(weights, target / "model.safetensors")
    shutil.copyfile(weights.with_name("config.json"), target / "config.json")
    copy_tokenizer(weights.with_name("tokenizer.json"), target)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy ``source`` (a tokenizer.json) and its companions into ``target``, without a stored cut and padding.

    Some tokenizers were saved with their last call's truncation and padding, which would silently apply to
    every text that the tokenizers library reads.
    """
    stored = json.loads(source.read_text(encoding="utf-8"))
    stored["truncation"] = stored["padding"] = None
    (target / "tokenizer.json").write_text(json.dumps(stored, ensure_ascii=False), encoding="utf-8")
    for name in _TOKENIZER:
        if (beside := source.with_name(name)).is_file():
            shutil.copyfile(beside, target / name)
