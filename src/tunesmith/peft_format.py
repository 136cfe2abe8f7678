"""PEFT's format: what its loader expects of an adapter, and what an adapter of its says to us.

A technique states PEFT's names and options itself (`Adapter.peft_names`, `to_peft`, `from_peft`). What can be written as
one low-rank matrix a module (`low_rank`) becomes plain LoRA, whichever technique it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from . import parts
from .errors import InputError, RunError
from .host import Host

TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."
_TAKES_CONV1D = ("LORA", "ADALORA", "IA3", "VERA")
_DOWN, _UP = "lora_A.weight", "lora_B.weight"
_PROMPT = "prompt_embeddings"
_BY_START = {"pissa": "pissa", "olora": "olora"}


def why_not(host: Host) -> str | None:
    """The reason why PEFT could not load these adapters, or None."""
    adapters: list[Any] = list(host.adapters.values())
    if not adapters:
        return "there is no adapter"
    if host.patches or host.begun:
        return "entries inside of tensors were trained"
    if unknown := {type(a).__name__ for a in adapters if not getattr(a, "peft", "")}:
        return f"PEFT has no {', '.join(sorted(unknown))}"
    if len({a.peft for a in adapters}) > 1:
        return "PEFT does not mix techniques in one adapter"
    if any(a.peft_prompt() is not None for a in adapters):
        return _why_no_prompt(host)
    if any(w.tied for w in host.weights().values()):
        return "a tensor that is shared with the head was trained"
    modules = host.by_module()
    conv = any(type(members[0][0].module).__name__ == "Conv1D" for members in modules.values())
    if conv and adapters[0].peft not in _TAKES_CONV1D:
        return f"PEFT's {adapters[0].peft} cannot act on a Conv1D"
    if adapters[0].peft == "LORA":
        if any(len({lora.scale for _, lora in members}) > 1 for members in modules.values()):
            return "adapters of different scale are stacked on one module"
        if len({json.dumps(a.to_peft()) for a in adapters}) > 1:
            return "PEFT does not mix techniques in one adapter"
        own = any(a.peft_names.keys() - {"A", "B"} for a in adapters)
    else:
        own = True
    if own and any(len(m) > 1 or m[0][0].rows is not None for m in modules.values()):
        return f"PEFT's {type(adapters[0]).__name__} acts on whole modules, once on each"
    return None


def is_whole(host: Host) -> bool:
    """Whether PEFT's format holds all that the adapters are, so that they can be loaded from it as they were."""
    adapters = [a for technique in host.techniques() for a in technique]
    return all(not a.observes and a.state_dict().keys() - set(a.scratch) <= a.peft_names.keys() for a in adapters)


# ---------------------------------------------------------------------- to PEFT


def pack(host: Host) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and configuration in PEFT's format; low-rank adapters that share a module become one of the joint rank."""
    one: Any = next(iter(host.adapters.values()))
    if one.peft_prompt() is not None:
        return _pack_prompt(host)
    tensors, config = _pack_low_rank(host) if one.peft == "LORA" else _pack_named(host)
    owners = sorted({w.name.rpartition(".")[0] for w in host.weights().values()})
    for owner in owners:
        tensors |= {f"{_PREFIX}{owner}.{n}": t for n, t in host.anatomy.modules[owner].state_dict().items()}
    modules = list(host.by_module())
    config |= {"peft_type": one.peft, "target_modules": sorted(modules), "modules_to_save": owners or None}
    config |= {"inference_mode": True}
    if one.peft in _TAKES_CONV1D:
        config["fan_in_fan_out"] = any(type(host.anatomy.modules[p]).__name__ == "Conv1D" for p in modules)
    return {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, config


def _pack_low_rank(host: Host) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for path, members in host.by_module().items():
        lora = members[0][1]
        down, up = lora.low_rank() if len(members) == 1 and members[0][0].rows is None else _joined(members)
        ranks[path], alphas[path] = len(down), lora.scale * len(down)
        tensors |= {f"{_PREFIX}{path}.{_DOWN}": down, f"{_PREFIX}{path}.{_UP}": up}
        tensors |= {f"{_PREFIX}{path}.{n}": t for n, t in lora.peft_tensors().items() if n not in (_DOWN, _UP)}
    first = next(iter(ranks))
    config = {
        "r": ranks[first], "lora_alpha": alphas[first], "lora_dropout": lora.dropout.p, "bias": "none",
        "rank_pattern": {p: r for p, r in ranks.items() if r != ranks[first]},
        "alpha_pattern": {p: a for p, a in alphas.items() if a != alphas[first]}, **lora.to_peft(),
    }  # fmt: skip
    return tensors, config


def _joined(members: list[tuple[Any, Any]]) -> tuple[Tensor, Tensor]:
    """Several low-rank updates of one scale, of one module or of some of its rows, as one of the joint rank."""
    outputs = members[0][0].module.weight
    size = outputs.shape[1] if type(members[0][0].module).__name__ == "Conv1D" else outputs.shape[0]
    downs, ups = [], []
    for site, lora in members:
        A, B = lora.low_rank()
        up = B.new_zeros(size, B.shape[1])
        up[site.rows or slice(None)] = B
        downs.append(A)
        ups.append(up)
    return torch.cat(downs), torch.cat(ups, dim=1)


def _pack_named(host: Host) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors: dict[str, Tensor] = {}
    config: dict[str, Any] = {}
    for path, [(site, adapter)] in host.by_module().items():
        tensors |= {f"{_PREFIX}{path}.{n}": t for n, t in adapter.peft_tensors().items()}
        tensors |= {f"base_model.{theirs}": getattr(site.shared, own) for own, theirs in adapter.peft_shared.items()}
        for option, value in adapter.to_peft().items():
            config[option] = config.get(option, []) + value if isinstance(value, list) else value
    return tensors, config


# ---------------------------------------------------------------------- from PEFT


def unpack(host: Host, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The host's own names for what `pack` wrote; joint updates are cut into the adapters they were made from.

    Raises:
        RunError: a module's tensors are missing.
    """
    if _PROMPT in saved:
        return _unpack_prompt(host, list(host.adapters.values()), saved[_PROMPT])
    own = {name: f"{_PREFIX}{w.name}" for name, w in host.weights().items()}
    state = {name: saved[theirs] for name, theirs in own.items() if theirs in saved}
    for path, members in host.by_module().items():
        joint = len(members) > 1 or members[0][0].rows is not None
        state |= _cut(host, path, members, saved) if joint else _named(host, path, *members[0], saved)
    for key, module in host.shared.items():
        names = next(a.peft_shared for m in host.by_module().values() for site, a in m if site.shared is module)
        state |= {f"adapter.shared.{key.replace('/', '.')}.{o}": saved[f"base_model.{t}"] for o, t in names.items()}
    return state


def named(host: Host, names: Iterable[str], saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The host's own names for what PEFT's format holds of some of its adapters, each alone on its module.

    Raises:
        RunError: a module's tensors are missing.
    """
    adapters: list[Any] = [host.adapters[name.replace(".", "/")] for name in names]
    if _PROMPT in saved:
        return _unpack_prompt(host, adapters, saved[_PROMPT])
    return {k: t for a in adapters for k, t in _named(host, a.site.path, a.site, a, saved).items()}


def _named(host: Host, path: str, site: Any, adapter: Any, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    key, state = host.name_of(adapter), {}
    for own, theirs in adapter.peft_names.items():
        if not hasattr(adapter, own):
            continue
        if f"{_PREFIX}{path}.{theirs}" not in saved:
            raise RunError(f"the saved adapter has no {theirs} for {path}")
        tensor = saved[f"{_PREFIX}{path}.{theirs}"]
        shape = getattr(adapter, own).shape
        state[f"adapter.{key}.{own}"] = tensor.reshape(shape) if tensor.numel() == shape.numel() else tensor
    return state


def _cut(host: Host, path: str, members: list[tuple[Any, Any]], saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    down, up = (saved.get(f"{_PREFIX}{path}.{name}") for name in (_DOWN, _UP))
    if down is None or up is None:
        raise RunError(f"the saved adapter has nothing for {path}")
    state, start = {}, 0
    for site, lora in members:
        stop, key = start + len(lora.A), host.name_of(lora)
        state[f"adapter.{key}.A"] = down[start:stop]
        state[f"adapter.{key}.B"] = up[site.rows or slice(None), start:stop]
        start = stop
    return state


def attach(host: Host, folder: Path) -> None:
    """Attach an adapter that PEFT saved, of any technique that both have, with a trained head.

    Raises:
        InputError: another technique, a pickle, or modules that this model does not have.
    """
    config, saved = _read(folder)
    if _PROMPT in saved:
        _attach_prompt(host, config, saved[_PROMPT], folder)
        return
    if config["peft_type"] == "LORA":
        modules = _modules(saved, [_DOWN])
        for path, tensors in modules.items():
            host.attach(_low_rank_part(config, path, tensors, folder))
    else:
        name = {p.attributes.get("peft"): n for n, p in parts.of_kind("adapter").items()}.get(config["peft_type"])
        if name is None:
            raise InputError(f"holds {config['peft_type']}", where=folder, expected="a technique that tunesmith has")
        modules = _attach_named(host, name, config, saved)
    for path, [(_, adapter)] in ((p, host.by_module()[p]) for p in modules):
        for theirs, tensor in adapter.peft_tensors().items():
            if tensor.shape != modules[path].get(theirs, tensor).shape:
                raise InputError(f"{path} is adapted in a way that {type(adapter).__name__} here is not", where=folder)
    trained = {n.removeprefix(_PREFIX): t for n, t in saved.items()}
    for weight in host.anatomy.weights:
        if weight.name in trained:
            weight.parameter.requires_grad_(True)
    host.load({**host.state(), **unpack(host, saved)})


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"has no {CONFIG}", where=folder, expected="an adapter that PEFT saved") from None
    if not (folder / TENSORS).exists():
        raise InputError(f"has no {TENSORS}", where=folder, fix="save it again with safe_serialization=True")
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        raise InputError("holds trained biases", where=folder, expected="bias to be none")
    return config, load_file(folder / TENSORS)


def _modules(saved: Mapping[str, Tensor], names: list[str]) -> dict[str, dict[str, Tensor]]:
    """Path of each module that has one of these tensors -> all of its tensors, by the end of their names."""
    ends = [f".{name}" for name in names]
    paths = dict.fromkeys(n.removesuffix(end).removeprefix(_PREFIX) for n in saved for end in ends if n.endswith(end))
    return {
        path: {n.removeprefix(f"{_PREFIX}{path}."): t for n, t in saved.items() if n.startswith(f"{_PREFIX}{path}.")}
        for path in paths
    }


def _low_rank_part(config: Mapping[str, Any], path: str, tensors: Mapping[str, Tensor], folder: Path) -> parts.Chosen:
    start = config.get("init_lora_weights", True)
    changed = isinstance(start, str) and start.split("_")[0] not in (*_BY_START, "gaussian", "eva", "orthogonal")
    if changed or (isinstance(start, str) and "niter" in start):
        raise InputError(f"starts from {start}, which changed the base's weights", where=folder,
                         expected="plain LoRA", fix="save it with path_initial_model_for_weight_conversion")  # fmt: skip
    name = "dora" if config.get("use_dora") else _BY_START.get(str(start), "lora")
    rank = len(tensors[_DOWN])
    alpha = _pattern(config.get("alpha_pattern"), path, config["lora_alpha"])
    nominal = _pattern(config.get("rank_pattern"), path, config["r"])
    scale = alpha / nominal**0.5 if config.get("use_rslora") else alpha / nominal
    return parts.find("adapter", name).choose({"rank": rank, "alpha": scale * rank, "targets": [path]})


def _attach_named(
    host: Host, name: str, config: dict[str, Any], saved: Mapping[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    part = parts.find("adapter", name)
    kind = part.load()
    if missing := [t for t in kind.peft_shared.values() if f"base_model.{t}" not in saved]:
        raise InputError(f"{missing[0]} is missing", expected="an adapter saved with save_projection=True")
    modules = _modules(saved, list(kind.peft_names.values()))
    groups: dict[str, list[str]] = {}
    for path, tensors in modules.items():
        groups.setdefault(json.dumps(kind.from_peft(config, tensors)), []).append(path)
    for settings, paths in groups.items():
        host.attach(part.choose({**json.loads(settings), "targets": paths}))
    return modules


def _pattern(pattern: Mapping[str, float] | None, path: str, default: float) -> float:
    """PEFT's rule: a pattern matches the end of a module's path."""
    return next((v for k, v in (pattern or {}).items() if path == k or path.endswith("." + k)), default)


# ---------------------------------------------------------------------- virtual tokens


def _why_no_prompt(host: Host) -> str | None:
    """The reason why PEFT's virtual tokens would not be ours, or None."""
    config = host.model.config
    sites: list[Any] = [a.site for a in host.adapters.values()]
    if len(host.techniques()) > 1:
        return "PEFT does not stack prompts"
    if config.is_encoder_decoder or not host.model.can_generate():
        return "PEFT's virtual tokens move the places of an encoder's outputs"
    if host.weights():
        return "PEFT trains nothing of a language model's own beside a prompt"
    if sites[0].kind == "attention":
        if getattr(config, "sliding_window", None):
            return "PEFT's prefix takes part in sliding windows"
        if len(sites) != host.anatomy.layers():
            return "PEFT's prefix stands in every layer"
    return None


def _pack_prompt(host: Host) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All virtual tokens as one matrix, layer beside layer."""
    adapters: list[Any] = list(host.adapters.values())
    matrix = torch.cat([a.peft_prompt() for a in adapters], dim=1).detach().cpu()
    site, model = adapters[0].site, host.model.config
    size = getattr(model, "head_dim", None) or model.hidden_size // site.heads
    config = {
        "peft_type": adapters[0].peft, "num_virtual_tokens": len(matrix), "token_dim": site.outputs,
        "num_layers": model.num_hidden_layers, "num_attention_heads": site.outputs // size,
        "num_transformer_submodules": 1, "inference_mode": True, **adapters[0].to_peft(),
    }  # fmt: skip
    return {_PROMPT: matrix.contiguous()}, config


def _unpack_prompt(host: Host, adapters: list[Any], matrix: Tensor) -> dict[str, Tensor]:
    columns = matrix.chunk(len(adapters), dim=1)
    names = [f"adapter.{host.name_of(a)}.{next(iter(a.peft_names))}" for a in adapters]
    return dict(zip(names, columns, strict=True))


def _attach_prompt(host: Host, config: dict[str, Any], matrix: Tensor, folder: Path) -> None:
    kind = config["peft_type"]
    name = next((n for n, p in parts.of_kind("adapter").items() if kind in p.attributes["peft_prompts"]), None)
    if name is None:
        raise InputError(f"holds {kind}", where=folder, expected="a technique that tunesmith has")
    host.attach(parts.find("adapter", name).choose({"length": len(matrix)}))
    if reason := _why_no_prompt(host):
        raise InputError(f"holds {kind}, which means something else here: {reason}", where=folder)
    host.load({**host.state(), **_unpack_prompt(host, list(host.adapters.values()), matrix)})
