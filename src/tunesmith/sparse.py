"""Sparse differences from a base, as runs with an entry mask leave them: loaded, added, scaled and applied."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .artefacts import OWN_FILE, digest, weights_in
from .errors import InputError
from .storage import atomic_folder


@dataclass(frozen=True)
class Entries:
    """A part of one tensor: flat indices (k,), ascending, and what is added there, (k,); the tensor's shape and hash."""

    indices: Tensor
    values: Tensor
    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True)
class SparseDelta:
    """A sparse difference from a base: it adds, subtracts and scales like a task vector.

    Composing two of them (a task's and a language's) is the use in Ansell et al. 2022, arXiv:2110.07560, eq. 2.

    Attributes:
        entries: name of a tensor -> its entries.
        base: name of the base that it was taken from.

    >>> one = SparseDelta({"w": Entries(torch.tensor([0, 2]), torch.tensor([1.0, 2.0]), (2, 2), "h")})
    >>> two = SparseDelta({"w": Entries(torch.tensor([2, 3]), torch.tensor([1.0, 5.0]), (2, 2), "h")})
    >>> (one + 0.5 * two).dense("w")
    tensor([[1.0000, 0.0000],
            [2.5000, 2.5000]])
    """

    entries: Mapping[str, Entries] = field(default_factory=dict)
    base: str = ""

    # ------------------------------------------------------------------ making

    @classmethod
    def between(cls, tuned: Any, base: Any, *, name: str = "") -> SparseDelta:
        """What has to be added to ``base`` to give ``tuned``: two models of one shape.

        Raises:
            InputError: a tensor is missing or has another shape.
        """
        theirs = dict(base.named_parameters())
        found = {}
        for key, parameter in tuned.named_parameters():
            if key not in theirs or theirs[key].shape != parameter.shape:
                raise InputError(f"{key} is missing or has another shape", where="base", expected="a model of one kind")
            before = theirs[key].detach()
            difference = (parameter.detach() - before).reshape(-1)
            places = torch.nonzero(difference)[:, 0]
            if len(places):
                found[key] = Entries(places, difference[places], tuple(before.shape), digest(before))
        return cls(found, name)

    @classmethod
    def load(cls, path: str | Path) -> SparseDelta:
        """The difference in a file, in a run's folder, or in what the run left there (``delta``, ``adapter``).

        Raises:
            InputError: there is none.
        """
        file = weights_in(Path(path))
        with safe_open(file, "pt") as opened:
            facts = opened.metadata() or {}
            found = {}
            for name, known in json.loads(facts.get("entries", "{}")).items():
                key, names = f"entries.{name}", set(opened.keys())
                values = opened.get_tensor(f"{key}.values")
                given = opened.get_tensor(f"{key}.indices").long() if f"{key}.indices" in names else None
                indices = torch.arange(len(values)) if given is None else given
                found[name] = Entries(indices, values, tuple(known["shape"]), known["sha256"])
        if not found:
            raise InputError("holds no sparse difference", where=file, expected="a run with an entry mask")
        return cls(found, facts.get("base", ""))

    def save(self, folder: str | Path) -> None:
        """Write it into a folder that does not exist yet, in the form that `load` reads.

        Raises:
            InputError: the folder is there already.
        """
        folder = Path(folder)
        if folder.exists():
            raise InputError("is there already", where=folder, fix="name another folder")
        tensors = {}
        for name, mine in self.entries.items():
            tensors[f"entries.{name}.indices"] = mine.indices.contiguous().cpu()
            tensors[f"entries.{name}.values"] = mine.values.contiguous().cpu()
        facts = {n: {"shape": list(m.shape), "sha256": m.sha256} for n, m in self.entries.items()}
        with atomic_folder(folder) as target:
            metadata = {"format": "pt", "base": self.base, "entries": json.dumps(facts)}
            save_file(tensors, target / OWN_FILE, metadata=metadata)

    # ------------------------------------------------------------------ arithmetic

    def __add__(self, other: SparseDelta) -> SparseDelta:
        """Both together, from the same base.

        Raises:
            InputError: they were taken from different bases.
        """
        found = dict(self.entries)
        for name, theirs in other.entries.items():
            found[name] = _joined(name, found[name], theirs) if name in found else theirs
        return SparseDelta(found, self.base or other.base)

    def __sub__(self, other: SparseDelta) -> SparseDelta:
        return self + -1.0 * other

    def __rmul__(self, factor: float) -> SparseDelta:
        return self._map(lambda values: factor * values)

    def __mul__(self, factor: float) -> SparseDelta:
        return factor * self

    def __neg__(self) -> SparseDelta:
        return -1.0 * self

    def _map(self, change: Callable[[Tensor], Tensor]) -> SparseDelta:
        changed = {n: Entries(m.indices, change(m.values), m.shape, m.sha256) for n, m in self.entries.items()}
        return SparseDelta(changed, self.base)

    # ------------------------------------------------------------------ use

    def __len__(self) -> int:
        """How many entries it has."""
        return sum(len(m.indices) for m in self.entries.values())

    def within(self, trunk: str) -> SparseDelta:
        """Without the tensors whose names do not begin with ``trunk``, such as those of a head."""
        return SparseDelta({n: m for n, m in self.entries.items() if n.startswith(trunk)}, self.base)

    def dense(self, name: str) -> Tensor:
        """What is added to one tensor, of its shape."""
        mine = self.entries[name]
        whole = torch.zeros(mine.shape, dtype=mine.values.dtype)
        whole.view(-1)[mine.indices] = mine.values
        return whole

    @torch.no_grad()
    def apply(self, model: Any) -> Callable[[], None]:
        """Add it to a model's tensors in place. Differences that belong together are summed first, then applied.

        Returns:
            What takes it back: the base's own values are put in place again, bit for bit, where subtracting would round.

        Raises:
            InputError: the model lacks a tensor, or one is not the base's; nothing has been changed then.

        >>> model = torch.nn.Linear(2, 1)
        >>> before = model.weight.detach().clone()
        >>> delta = SparseDelta({"weight": Entries(torch.tensor([1]), torch.tensor([0.1]), (1, 2), digest(before))})
        >>> undo = delta.apply(model)
        >>> torch.equal(model.weight, before), undo(), torch.equal(model.weight, before)
        (False, None, True)
        """
        self.check(model)
        parameters = dict(model.named_parameters())
        taken = {}
        for name, mine in self.entries.items():
            flat = parameters[name].data.view(-1)
            places = mine.indices.to(flat.device)
            taken[name] = places, flat[places].clone()
            flat[places] = (flat[places] + mine.values.to(flat.device)).to(flat.dtype)

        def undo() -> None:
            for name, (places, values) in taken.items():
                parameters[name].data.view(-1)[places] = values

        return undo

    def check(self, model: Any, known: Mapping[str, str] = {}) -> None:
        """Whether it was taken from a model's tensors.

        Args:
            model: the model.
            known: name -> hash of the base's tensor, where the model's is not the base's any more.

        Raises:
            InputError: the model lacks a tensor, or one is not the base's.
        """
        parameters = dict(model.named_parameters())
        for name, mine in self.entries.items():
            if name not in parameters or tuple(parameters[name].shape) != mine.shape:
                raise InputError(f"{name} is missing or not {mine.shape}", where=type(model).__name__)
            if (known.get(name) or digest(parameters[name])) != mine.sha256:
                raise InputError(
                    f"{name} is not the tensor that the difference was taken from", where=type(model).__name__,
                    expected=f"the base {self.base}".rstrip(), fix="add differences up before they are applied",
                )  # fmt: skip


def _joined(name: str, one: Entries, two: Entries) -> Entries:
    if one.shape != two.shape or one.sha256 != two.sha256:
        raise InputError(f"{name} comes from two different tensors", expected="differences from one base")
    places, where = torch.cat([one.indices, two.indices]).unique(return_inverse=True)
    values = torch.zeros(len(places), dtype=one.values.dtype)
    values.index_add_(0, where, torch.cat([one.values, two.values.to(one.values.dtype)]))
    return Entries(places, values, one.shape, one.sha256)
