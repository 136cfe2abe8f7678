"""What a run leaves behind for others: PEFT's format, a plain Hugging Face folder, and the proof that it is whole."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from . import peft_format
from .errors import InputError, RunError
from .host import Host
from .storage import write_json

OWN_FILE = "tunesmith_adapter.safetensors"
"""Trained tensors of a technique that PEFT does not have, under their own names."""

TERMS_FILE = "tunesmith_loss.safetensors"
"""Tensors of terms of the loss that are needed in use, such as a tagger's transitions."""

MANIFEST = "manifest.json"
_PEFT_TASK = {
    "sequence-classification": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "causal-lm": "CAUSAL_LM",
    "seq2seq-lm": "SEQ_2_SEQ_LM",
    "masked-lm": None,
    "masked-cloze": None,  # PEFT has no name for it
    "causal-cloze": "CAUSAL_LM",
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


def weights_in(path: Path) -> Path:
    """The file with what an earlier run learned: itself, or in a folder, or in what the run left in its folder.

    Raises:
        InputError: there is none.
    """
    folders = [path, path / "adapter", path / "delta"] if path.is_dir() else []
    files = [f / name for f in folders for name in (OWN_FILE, peft_format.TENSORS)] or [path]
    found = next((f for f in files if f.is_file()), None)
    if found is None:
        raise InputError("holds no adapter and no difference", where=path,
                         expected=f"{OWN_FILE} or {peft_format.TENSORS} in it")  # fmt: skip
    return found


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
    """The metadata that a sparse difference needs: each base tensor's shape and hash, in the file's header.

    Where earlier differences lie below it the hash is that of the base itself, so that all of them add up.
    """
    facts = {}
    with host.off():
        for name, patch in host.patches.items():
            tensor = patch.weight.parameter
            facts[name] = {"shape": list(tensor.shape), "sha256": host.begun.get(name) or digest(tensor)}
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


def begin(host: Host, names: Sequence[str], folder: Path) -> None:
    """Let newly attached adapters begin with what an earlier run made of the same technique, at the same sites.

    Args:
        host: the model with them.
        names: their names, as `Host.attach` gave them.
        folder: the earlier run, or what it saved.

    Raises:
        InputError: there is no such adapter, or it was made with other settings.
    """
    own = weights_in(folder)
    saved = load_file(own)
    if own.name != OWN_FILE:
        saved = peft_format.named(host, names, saved)
    here = host.state()
    found: dict[str, Tensor] = {}
    owners = {name: host.adapters[name.replace(".", "/")] for name in names}
    owners |= {f"shared.{name}": host.shared[name.replace(".", "/")] for name in host.shared_by(names)}
    for owner, module in owners.items():
        for tensor in (t for t in module.state_dict() if f"adapter.{owner}.{t}" in here):
            name, first = f"adapter.{owner}.{tensor}", f"adapter.{re.sub(r'[.][0-9]+$', '', owner)}.{tensor}"
            if name not in saved and first not in saved:
                raise InputError(f"has no {first}", where=own, expected="an adapter of the same technique and targets")
            found[name] = saved[name] if name in saved else saved[first]
    try:
        host.load({**here, **found})
    except RunError as error:
        raise InputError(str(error), where=own, fix="use the settings that it was made with") from None


# ---------------------------------------------------------------------- what terms of the loss own


def save_terms(terms: Sequence[Any], folder: Path) -> None:
    """Write the tensors of the terms that change the model's logits in use; no file where there is none."""
    tensors = {f"{n}.{k}": t for n, term in enumerate(terms) for k, t in term.state_dict().items()}
    if tensors:
        save_file({k: t.detach().contiguous().cpu() for k, t in tensors.items()}, folder / TERMS_FILE)


@torch.no_grad()
def load_terms(terms: Sequence[Any], folder: Path) -> None:
    """Put what `save_terms` wrote into the same terms.

    Raises:
        RunError: a tensor is missing or has another shape.
    """
    saved = load_file(folder / TERMS_FILE)
    for number, term in enumerate(terms):
        for name, tensor in term.state_dict().items():
            found = saved.get(f"{number}.{name}")
            if found is None or found.shape != tensor.shape:
                raise RunError(
                    f"{folder / TERMS_FILE}: {name} of {type(term).__name__} is missing or has another shape"
                )
            tensor.copy_(found)


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
