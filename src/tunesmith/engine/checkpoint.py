"""Checkpoints: everything that it takes to go on as if nothing had happened, written whole or not at all."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import RunError
from ..storage import atomic_folder, write_json


class Stateful(Protocol):
    """What has an optimizer's state."""

    def state_dict(self) -> dict[str, Any]: ...


class Restored(Protocol):
    """What takes up an optimizer's state."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None: ...


KEPT = 2
"""Checkpoints kept: the newest, and the one before it."""


def save(
    folder: Path, step: int, tensors: dict[str, Tensor], optimizer: Stateful | None, facts: dict[str, Any]
) -> Path:
    """Write ``folder/step-<n>``, check it by reading it back, then let go of the oldest ones.

    Args:
        folder: of the run's checkpoints.
        step: steps that lie behind.
        tensors: what the run has changed, or what it follows from.
        optimizer: its state is kept beside them; None where it follows from the tensors.
        facts: all else, as JSON.

    Raises:
        RunError: what was written is not what is in memory, or the disk is full.
    """
    final = at(folder, step)
    moments, settings = _flatten(optimizer) if optimizer else ({}, {})
    with atomic_folder(final) as target:
        _save_checked(target / "weights.safetensors", tensors)
        _save_checked(target / "optimizer.safetensors", moments)
        write_json(target / "state.json", {**facts, "step": step, "optimizer": settings})
    for old in sorted(folder.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old)
    return final


def at(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return folder / f"step-{step:08d}"


def newest(folder: Path) -> Path | None:
    """The last complete checkpoint, or None."""
    found = [p for p in sorted(folder.glob("step-*")) if re.fullmatch(r"step-\d+", p.name)]
    return found[-1] if found else None


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and facts of a checkpoint; the optimizer's state comes with `load_optimizer`.

    Raises:
        RunError: a file is missing or damaged.
    """
    try:
        facts = json.loads((path / "state.json").read_text(encoding="utf-8"))
        return load_file(path / "weights.safetensors"), facts
    except Exception as error:
        raise _damaged(path, error) from error


def load_optimizer(path: Path, optimizer: Restored, settings: dict[str, Any]) -> None:
    """Let an optimizer take up its state, with what the facts of the checkpoint hold under ``optimizer``.

    Raises:
        RunError: a file is missing or damaged.
    """
    try:
        _unflatten(optimizer, load_file(path / "optimizer.safetensors"), settings)
    except Exception as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> RunError:
    return RunError(f"{path}: the checkpoint cannot be read ({error}); delete it to go on from the one before")


def _save_checked(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, path)
    written = load_file(path)
    for name, tensor in tensors.items():
        if not torch.equal(written[name], tensor.detach().cpu()):
            raise RunError(f"{path}: {name} was not written as it is in memory")


def _flatten(optimizer: Stateful) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's state as named tensors, and its numbers as JSON."""
    state = optimizer.state_dict()
    tensors, numbers = {}, {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value.clone()
            else:
                numbers[f"{index}.{name}"] = value
    return tensors, {"numbers": numbers, "groups": state["param_groups"]}


def _unflatten(optimizer: Restored, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **settings["numbers"]}.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": settings["groups"]})
