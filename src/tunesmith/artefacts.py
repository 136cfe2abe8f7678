"""What a run leaves behind for others: PEFT's format, a plain Hugging Face folder, and the proof that it is whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from . import peft_format
from .errors import RunError
from .host import Host
from .storage import write_json

OWN_FILE = "tunesmith_adapter.safetensors"
"""Trained tensors of a technique that PEFT does not have, under their own names."""

MANIFEST = "manifest.json"
_PEFT_TASK = {
    "sequence-classification": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "causal-lm": "CAUSAL_LM",
    "seq2seq-lm": "SEQ_2_SEQ_LM",
}


# ---------------------------------------------------------------------- the manifest


def digest(tensor: Tensor) -> str:
    """A hash of a tensor's values, type and shape."""
    values = tensor.detach().cpu().reshape(-1)
    data = values.view(torch.uint8).numpy().tobytes() if values.numel() else b""
    return hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode() + data).hexdigest()[:16]


def write_manifest(host: Host, folder: Path) -> None:
    """List every trained tensor with its shape and hash: what must be there when the artefact is loaded."""
    entries = {n: {"shape": list(t.shape), "sha256": digest(t)} for n, t in host.state().items()}
    write_json(folder / MANIFEST, {"tensors": entries})


def check_manifest(host: Host, folder: Path) -> None:
    """Compare the loaded model with the manifest.

    Raises:
        RunError: a trained tensor is missing, newly made, or differs.
    """
    listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["tensors"]
    here = host.state()
    for name, entry in listed.items():
        if name not in here:
            raise RunError(f"{folder}: the trained tensor {name} is missing")
        if digest(here[name]) != entry["sha256"]:
            raise RunError(f"{folder}: {name} is not the tensor that was trained")
    if extra := sorted(here.keys() - listed.keys()):
        raise RunError(f"{folder}: {extra[0]} would be used but was not saved")


# ---------------------------------------------------------------------- adapters


def save_adapter(host: Host, folder: Path, *, base: str, revision: str | None, head: str) -> None:
    """Write the adapters and the trained own tensors: in PEFT's format where PEFT has the technique or can express it.

    Where PEFT's format does not hold all (a start, what was frozen), the tensors are there under their own names too.

    Args:
        host: the model with its adapters.
        folder: an existing folder.
        base: name or path of the base that PEFT will look for.
        revision: the base's revision.
        head: kind of the model's head.
    """
    for_peft = peft_format.why_not(host) is None
    if for_peft:
        tensors, config = peft_format.pack(host)
        config |= {"base_model_name_or_path": base, "revision": revision, "task_type": _PEFT_TASK[head]}
        save_file(tensors, folder / peft_format.TENSORS, metadata={"format": "pt"})
        write_json(folder / peft_format.CONFIG, config)
    if not for_peft or not peft_format.is_whole(host):
        state = {n: t.contiguous().cpu() for n, t in host.state().items()}
        save_file(state, folder / OWN_FILE, metadata=_patch_facts(host, base))
    write_manifest(host, folder)


def _patch_facts(host: Host, base: str) -> dict[str, str]:
    """The metadata that a sparse difference needs: each base tensor's shape and hash, in the file's header."""
    facts = {}
    with host.off():
        for name, patch in host.patches.items():
            tensor = patch.weight.parameter
            facts[name] = {"shape": list(tensor.shape), "sha256": digest(tensor)}
    return {"format": "pt", "base": base, "entries": json.dumps(facts)}


def load_adapter(host: Host, folder: Path) -> None:
    """Load what `save_adapter` wrote into a host with the same adapters, and check it against the manifest.

    Raises:
        RunError: a trained tensor is missing or differs.
    """
    if (folder / OWN_FILE).exists():
        host.load(load_file(folder / OWN_FILE))
    else:
        host.load(peft_format.unpack(host, load_file(folder / peft_format.TENSORS)))
    check_manifest(host, folder)


# ---------------------------------------------------------------------- whole models


def save_model(host: Host, folder: Path) -> None:
    """Write a plain Hugging Face folder: safetensors and a ``config.json`` that is true.

    Raises:
        RunError: adapters are attached; fold them first.
    """
    if len(host.adapters):
        raise RunError("the model still has adapters; fold them before it is saved whole")
    host.model.save_pretrained(folder)
    write_manifest(host, folder)
