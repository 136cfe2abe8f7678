"""What a run leaves behind for others: PEFT's format, a plain Hugging Face folder, and the proof that it is whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from . import parts
from .errors import InputError, RunError
from .host import Host
from .storage import write_json

OWN_FILE = "tunesmith_adapter.safetensors"
"""Trained tensors of a technique that PEFT does not have, under their own names."""

TERMS_FILE = "tunesmith_loss.safetensors"
"""Tensors of terms of the loss that are needed in use, such as a tagger's transitions."""

PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
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
    values = tensor.detach().cpu().contiguous()
    data = values.view(torch.uint8).numpy().tobytes() if values.numel() else b""
    return hashlib.sha256(f"{values.dtype}{tuple(values.shape)}".encode() + data).hexdigest()[:16]


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
    """Write the adapters and the trained own tensors: in PEFT's format where PEFT has the technique.

    Args:
        host: the model with its adapters.
        folder: an existing folder.
        base: name or path of the base that PEFT will look for.
        revision: the base's revision.
        head: kind of the model's head.
    """
    if why_not_peft(host) is None:
        tensors, config = _to_peft(host)
        config |= {"base_model_name_or_path": base, "revision": revision, "task_type": _PEFT_TASK[head]}
        save_file(tensors, folder / PEFT_FILE, metadata={"format": "pt"})
        write_json(folder / PEFT_CONFIG, config)
    else:
        save_file({n: t.contiguous().cpu() for n, t in host.state().items()}, folder / OWN_FILE)
    write_manifest(host, folder)


def load_adapter(host: Host, folder: Path) -> None:
    """Load what `save_adapter` wrote into a host with the same adapters, and check it against the manifest.

    Raises:
        RunError: a trained tensor is missing or differs.
    """
    if (folder / OWN_FILE).exists():
        host.load(load_file(folder / OWN_FILE))
    else:
        host.load(_from_peft(host, load_file(folder / PEFT_FILE)))
    check_manifest(host, folder)


def why_not_peft(host: Host) -> str | None:
    """The reason why PEFT could not load these adapters, or None."""
    kinds = {type(a).__name__ for a in host.adapters.values() if getattr(a, "peft", "") != "LORA"}
    if not len(host.adapters):
        return "there is no adapter"
    if kinds:
        return f"PEFT has no {', '.join(sorted(kinds))}"
    if any(w.tied for w in host.weights().values()):
        return "a tensor that is shared with the head was trained"
    if any(len({lora.scale for _, lora in members}) > 1 for members in host.by_module().values()):
        return "adapters of different scale are stacked on one module"
    return None


def _to_peft(host: Host) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and configuration in PEFT's format; adapters that share a module become one of the joint rank."""
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for path, members in host.by_module().items():
        if len(members) == 1 and members[0][0].rows is None:
            lora = members[0][1]
            down, up, scale = lora.A, lora.B, lora.scale
        else:
            down, up, scale = _joined(members)
        ranks[path], alphas[path] = len(down), scale * len(down)
        tensors[f"base_model.model.{path}.lora_A.weight"] = down.detach().cpu().contiguous()
        tensors[f"base_model.model.{path}.lora_B.weight"] = up.detach().cpu().contiguous()
    owners = sorted({name.rpartition(".")[0] for name in (w.name for w in host.weights().values())})
    for owner in owners:
        for name, tensor in host.anatomy.modules[owner].state_dict().items():
            tensors[f"base_model.model.{owner}.{name}"] = tensor.detach().cpu().contiguous().clone()
    first = next(iter(ranks))
    adapter: Any = next(iter(host.adapters.values()))
    config = {
        "peft_type": "LORA", "r": ranks[first], "lora_alpha": alphas[first], "lora_dropout": adapter.dropout.p, "bias": "none",
        "target_modules": sorted(ranks), "rank_pattern": {p: r for p, r in ranks.items() if r != ranks[first]},
        "alpha_pattern": {p: a for p, a in alphas.items() if a != alphas[first]},
        "modules_to_save": owners or None, "inference_mode": True,
        "fan_in_fan_out": any(type(host.anatomy.modules[p]).__name__ == "Conv1D" for p in ranks),
    }  # fmt: skip
    return tensors, config


def _joined(members: list[tuple[Any, Any]]) -> tuple[Tensor, Tensor, float]:
    """Several low-rank updates of one scale, of one module or of some of its rows, as one of the joint rank."""
    outputs = members[0][0].module.weight
    size = outputs.shape[1] if type(members[0][0].module).__name__ == "Conv1D" else outputs.shape[0]
    ups = []
    for site, lora in members:
        up = lora.B.new_zeros(size, lora.B.shape[1])
        up[site.rows or slice(None)] = lora.B
        ups.append(up)
    return torch.cat([lora.A for _, lora in members]), torch.cat(ups, dim=1), members[0][1].scale


def _from_peft(host: Host, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The host's own names for what `_to_peft` wrote; joint updates are cut into the adapters they were made from."""
    own = {name: f"base_model.model.{w.name}" for name, w in host.weights().items()}
    state = {name: saved[theirs] for name, theirs in own.items() if theirs in saved}
    for path, members in host.by_module().items():
        down, up = (saved.get(f"base_model.model.{path}.lora_{x}.weight") for x in "AB")
        if down is None or up is None:
            raise RunError(f"the saved adapter has nothing for {path}")
        start = 0
        for site, lora in members:
            stop, key = start + len(lora.A), host.name_of(lora)
            state[f"adapter.{key}.A"] = down[start:stop]
            state[f"adapter.{key}.B"] = up[site.rows or slice(None), start:stop]
            start = stop
    return state


def attach_peft(host: Host, folder: Path) -> None:
    """Attach an adapter that PEFT saved: LoRA, with per-module ranks and a trained head.

    Raises:
        InputError: another technique, a pickle, or modules that this model does not have.
    """
    try:
        config = json.loads((folder / PEFT_CONFIG).read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"has no {PEFT_CONFIG}", where=folder, expected="an adapter that PEFT saved") from None
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("bias", "none") != "none":
        raise InputError(f"holds {config.get('peft_type')}", where=folder, expected="plain LoRA without bias")
    if not (folder / PEFT_FILE).exists():
        raise InputError(f"has no {PEFT_FILE}", where=folder, fix="save it again with safe_serialization=True")
    saved = load_file(folder / PEFT_FILE)
    state: dict[str, Tensor] = {}
    for name in [n for n in saved if n.endswith(".lora_A.weight")]:
        path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        rank = len(saved[name])
        alpha = _pattern(config.get("alpha_pattern"), path, config["lora_alpha"])
        scale = alpha / rank**0.5 if config.get("use_rslora") else alpha / rank
        chosen = parts.find("adapter", "lora").choose({"rank": rank, "alpha": scale * rank, "targets": [path]})
        (key,) = host.attach(chosen)
        state[f"adapter.{key}.A"] = saved[name]
        state[f"adapter.{key}.B"] = saved[name.replace("lora_A", "lora_B")]
    trained = {n.removeprefix("base_model.model."): t for n, t in saved.items() if ".lora_" not in n}
    for weight in host.anatomy.weights:
        if weight.name in trained:
            weight.parameter.requires_grad_(True)
            state[f"model.{weight.name}"] = trained[weight.name]
    host.load(state)


def _pattern(pattern: Mapping[str, float] | None, path: str, default: float) -> float:
    """PEFT's rule: a pattern matches the end of a module's path."""
    return next((v for k, v in (pattern or {}).items() if path == k or path.endswith("." + k)), default)


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
