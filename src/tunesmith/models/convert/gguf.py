"""A decoder from a GGUF file: its quantized weights as the float32 numbers that they stand for."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import shutil
import tempfile
from pathlib import Path

from ...errors import InputError

_STOPS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<end_of_turn>")


def convert(sources: list[Path], target: Path) -> None:
    """From the file, or its parts in order.

    Raises:
        InputError: the gguf package is not installed.
    """
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise InputError(
            "this base needs the gguf package", expected="the extra `bases`", fix='run `pip install "tunesmith[bases]"`'
        ) from error
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        whole = Path(folder) / "model.gguf"
        with open(whole, "wb") as joined:
            for source in sources:
                with open(source, "rb") as part:
                    shutil.copyfileobj(part, joined, 1 << 24)
        _write(whole, target)


def _write(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    from ..quiet import quiet
    from .write import write_model

    with quiet(), contextlib.redirect_stderr(io.StringIO()):  # its progress bar has no switch
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        read = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    # transformers takes the float model for a quantized one and will not save it: the weights go into a plain twin
    config = copy.deepcopy(read.config)
    for name in ("quantization_config", "_model_name_or_path"):
        config.__dict__.pop(name, None)
    twin = type(read)._from_config(config, dtype=torch.float32)
    vocabulary = tokenizer.get_vocab()
    stops = {vocabulary[stop] for stop in _STOPS if stop in vocabulary} | {tokenizer.eos_token_id}
    twin.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=sorted(stops), pad_token_id=tokenizer.pad_token_id
    )
    write_model(twin, read.state_dict(), target)
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(target)
    _tidy(target / "tokenizer_config.json")


def _tidy(path: Path) -> None:
    """Drop what only describes this machine, and name the class as every version of transformers knows it."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    for name in ("backend", "is_local", "local_files_only"):
        stored.pop(name, None)
    if stored.get("tokenizer_class") == "TokenizersBackend":
        stored["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(stored, indent=2, ensure_ascii=False), encoding="utf-8")
