"""Hidden states below everything that trains, computed once for each row and kept on disk.

They are made before training, of rows of like length together and in the precision of the run, into one memory-mapped file
in the cache. Its name is made of all that they depend on: the encoded rows, every tensor below, the model's
configuration, precision and versions. So runs with other seeds, rates or heads share it, and nothing is ever taken from a
file that something else made. In training the lower layers are left out; the same batch gives the same bits as without.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ..cache import kept
from ..errors import InputError
from ..host import Host
from ..models.below import Below
from ..storage import cache_home, hash_json
from .batches import micro_batches
from .loop import Rows, Work
from .passes import as_in_use
from .precision import arithmetic
from .step import Step

FORM = 1
"""Raised when what is kept, or how it is made, changes."""

KEPT = 16 * 2**30
"""Bytes of earlier states that stay in the cache when new ones are made; the oldest go first."""

_FILE = "states.bin"
_WHERE = "cache_activations"


class States:
    """Hidden states of encoded rows.

    Args:
        lengths: tokens of each row.
        values: of all rows end to end, (tokens, size); None stands for zeros.
        size: numbers of each.
        dtype: of each.
    """

    def __init__(self, lengths: np.ndarray, values: Tensor | None, size: int, dtype: torch.dtype):
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self._values, self.size, self.dtype = values, size, dtype

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return int(self._starts[-1]) * self.size * self.dtype.itemsize

    def padded(self, indices: list[int], width: int) -> Tensor:
        """Of these rows, (rows, width, size), 0 at padding."""
        found = torch.zeros(len(indices), width, self.size, dtype=self.dtype)
        if self._values is not None:
            for place, index in enumerate(indices):
                first, last = self._starts[index], self._starts[index + 1]
                found[place, : last - first] = self._values[first:last]
        return found


class WithStates:
    """Encoded rows that know their number, so that a batch of them can be given its states."""

    def __init__(self, rows: Rows, states: States):
        self._rows, self.states = rows, states

    @property
    def lengths(self) -> np.ndarray:
        return self._rows.lengths

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, indices: np.ndarray) -> list[dict[str, Any]]:
        """These encoded rows, each with its number as ``below``."""
        found = self._rows.take(indices)
        return [{**row, "below": int(index)} for row, index in zip(found, indices, strict=True)]

    def where(self, index: int) -> str:
        return self._rows.where(index)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)


def without_lower(
    work: Work, asked: Literal[True, "no_dropout"], say: Callable[[str], None] = lambda text: None
) -> Work:
    """The same work with the layers below everything that trains left out, and what they say computed once.

    Args:
        work: as the loop would get it; its rows are on disk and have a ``key``.
        asked: ``no_dropout`` where nothing shall be dropped out below; otherwise a model that does so is refused.
        say: hears what is left out.

    Raises:
        InputError: it would not be the same, nothing lies below, or the disk is full.
    """
    _check(work)
    host = work.host
    inputs = _inputs(work, work.rows, np.argsort(work.rows.lengths, kind="stable")[:2])
    sites = [site for pairs in host.by_module().values() for site, _ in pairs]
    padded = host.packer.off() if host.packer else nullcontext()
    with arithmetic(work.dtype, _device(host)), as_in_use(host), padded:
        below = host.below = Below(host.anatomy, host.trainable(), sites, inputs)
        example = below.read(inputs)
    size, dtype = example.shape[-1], example.dtype
    if isinstance(example, FakeTensor):
        states = States(work.rows.lengths, None, size, dtype)
    else:
        if asked is True:
            _check_drop_out(work, below, inputs, example)
        states = States(work.rows.lengths, _values(work, below, size, dtype), size, dtype)
    say(
        f"{below.count} of {host.anatomy.layers()} layers lie below all that trains: computed once, {states.bytes:,} bytes"
    )
    return replace(work, rows=WithStates(work.rows, states), collate=_collate(work, states))


def _check(work: Work) -> None:
    """What is known without the model.

    Raises:
        InputError: it would not be the same.
    """
    row = work.rows.take(np.arange(1))[0]
    mask = work.mask
    looks = [what for term in work.losses for what in term.keeps]
    reason = ""
    if any(row.get(name) is not None for name in ("views", "other_ids")):
        reason = "this task makes several sequences of a row"
    elif mask is not None and (mask.sparse or mask.samples):
        reason = f"mask {type(mask).__name__} chooses during the run what trains"
    elif looks:
        reason = f"the loss looks at {looks[0]} of every layer"
    elif work.host.observes()[0]:
        reason = "an adapter looks at rows before it trains"
    if reason:
        raise InputError(reason, where=_WHERE, expected="the same hidden states throughout", fix="leave it out")


def _check_drop_out(work: Work, below: Below, inputs: Mapping[str, Any], example: Tensor) -> None:
    """Whether training would see the same states.

    Raises:
        InputError: something is dropped out below.
    """
    host = work.host
    was = host.training
    host.train()
    padded = host.packer.off() if host.packer else nullcontext()
    with torch.random.fork_rng(), arithmetic(work.dtype, _device(host)), padded:
        seen = below.read(inputs)
    host.train(was)
    if not torch.allclose(seen.float(), example.float(), rtol=1e-4, atol=1e-5 * float(example.abs().max())):
        raise InputError(
            f"{type(host.model).__name__} drops out below what trains, so that no two epochs see the same", where=_WHERE,
            expected="a base without drop-out", fix="set cache_activations: no_dropout to train without it there",
        )  # fmt: skip


def _values(work: Work, below: Below, size: int, dtype: torch.dtype) -> Tensor:
    """The states of all rows, from the cache or made now."""
    folder = cache_home() / "activations" / _key(work, below, dtype)
    total = int(work.rows.lengths.sum())

    def make(target: Path) -> None:
        _make_room(folder.parent, total * size * dtype.itemsize)
        _fill(
            work,
            below,
            torch.from_file(str(target / _FILE), shared=True, size=total * size, dtype=dtype).view(-1, size),
        )

    path = kept(folder, make, form=FORM, about={"tokens": total, "size": size, "dtype": str(dtype)})
    os.utime(path)
    return torch.from_file(str(path / _FILE), shared=False, size=total * size, dtype=dtype).view(-1, size)


def _key(work: Work, below: Below, dtype: torch.dtype) -> str:
    model = work.host.model
    rows: Any = work.rows
    versions = [version(name) for name in ("torch", "transformers")]
    facts = [FORM, rows.key, below.count, below.digest(), model.config.to_json_string(), str(dtype), str(work.dtype),
             work.tokens, work.host.packs, str(_device(work.host)), versions]  # fmt: skip
    return hash_json(facts)[:32]


def _fill(work: Work, below: Below, values: Tensor) -> None:
    """Ask the lower layers of every row, rows of like length together."""
    rows, host = work.rows, work.host
    starts = np.concatenate([[0], np.cumsum(rows.lengths)])
    ranked = np.argsort(-rows.lengths, kind="stable")
    with arithmetic(work.dtype, _device(host)), as_in_use(host):
        for group in micro_batches(ranked, rows.lengths, work.tokens, packed=host.packs):
            said = below.read(_inputs(work, rows, group))
            for place, index in enumerate(group):
                length = int(rows.lengths[index])
                values[starts[index] : starts[index] + length] = said[place, :length].cpu()


def _inputs(work: Work, rows: Rows, indices: np.ndarray) -> dict[str, Any]:
    batch = {k: v.to(_device(work.host)) for k, v in work.collate(rows.take(indices)).items()}
    return Step(work.host, batch, work.head).inputs


def _device(host: Host) -> torch.device:
    found: torch.device = next(host.model.parameters()).device
    return found


def _collate(work: Work, states: States) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
    def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        batch = work.collate(rows)
        if "below" not in rows[0]:
            return batch  # held-out rows have none
        return {**batch, "below": states.padded([row["below"] for row in rows], batch["input_ids"].shape[1])}

    return collate


def _make_room(folder: Path, size: int) -> None:
    """Let the oldest states go beyond what is kept.

    Raises:
        InputError: the disk does not hold the new ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    others = sorted((f for f in folder.iterdir() if (f / _FILE).exists()), key=lambda f: -f.stat().st_mtime)
    total = 0
    for other in others:
        total += (other / _FILE).stat().st_size
        if total > KEPT:
            shutil.rmtree(other, ignore_errors=True)
    free = shutil.disk_usage(folder).free
    if size > 0.9 * free:
        raise InputError(f"hidden states of the rows take {size:,} bytes, and {free:,} are free", where=_WHERE,
                         fix=f"make room in {folder}, or leave it out")  # fmt: skip
