"""The lower part of a network, where nothing changes while it is trained: what it says of a row can be computed once."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from . import packing
from .anatomy import Anatomy, Site


class _Enough(Exception):
    """The pass has gone as far as it has to."""


class Below:
    """The layers of a network that lie below everything that trains, with the embeddings.

    Args:
        anatomy: of the model.
        trained: name -> tensor of all of the model's own that trains at some time.
        sites: where something is attached.
        inputs: any batch, as the model gets it.

    Attributes:
        count: layers that lie below.
        trunk: the module that has them.

    Raises:
        InputError: something trains in the lowest layer or under it, or the model is not one stack of layers.
    """

    def __init__(
        self, anatomy: Anatomy, trained: Mapping[str, Tensor], sites: Sequence[Site], inputs: Mapping[str, Any]
    ):
        found = {s.layer: s.module for s in anatomy.places if s.kind == "layer" and not s.stack}
        reader = next((s for s in anatomy.places if s.kind == "input"), None)
        name = type(anatomy.model).__name__
        if reader is None or not found or len(found) != anatomy.layers():
            raise InputError(f"{name} is not one stack of layers", where="cache_activations", fix="leave it out")
        self.trunk: Any = reader.module
        self._layers: list[Any] = [found[i] for i in sorted(found, key=lambda i: i or 0)]
        self._shapes: dict[nn.Module, int | None] = {}
        self._first: set[nn.Module] = set()
        self._above: set[nn.Module] = set()
        self._look(inputs)
        stages = {f"{s.role} in {s.path}": self._stage_of_site(s) for s in sites}
        stages |= {n: self._stage(p, anatomy) for n, p in trained.items()}
        lowest = min(stages, key=lambda n: stages[n], default="")
        self.count = stages.get(lowest, len(self._layers))
        if self.count <= 0:
            raise InputError(f"{lowest} trains, and nothing lies below it", where="cache_activations",
                             expected="something that trains in upper layers only, e.g. mask: top_layers",
                             fix="leave it out")  # fmt: skip

    def _look(self, inputs: Mapping[str, Any]) -> None:
        """Which modules come before the first layer, and what each layer gives: a tensor, or a tuple of how many."""
        started = [False]

        def enter(module: nn.Module, given: Any) -> None:
            started[0] = started[0] or module is self._layers[0]
            if module not in self._layers:
                (self._above if started[0] else self._first).add(module)

        def leave(module: nn.Module, given: Any, output: Any) -> None:
            self._shapes[module] = len(output) if isinstance(output, tuple) else None

        handles: list[Any] = [m.register_forward_pre_hook(enter) for m in self.trunk.modules() if m is not self.trunk]
        handles += [layer.register_forward_hook(leave) for layer in self._layers]
        try:
            with torch.no_grad():
                self.trunk(**inputs)
        finally:
            for handle in handles:
                handle.remove()

    def _stage(self, parameter: Tensor, anatomy: Anatomy) -> int:
        """The layer in which a tensor is first used; -1 below all of them, their number above them."""
        if any(parameter is p for m in self._first for p in m.parameters(recurse=False)):
            return -1
        for number, layer in enumerate(self._layers):
            if any(parameter is p for p in layer.parameters()):
                return number
        inside = any(parameter is p for p in self.trunk.parameters())
        seen = any(parameter is p for m in self._above for p in m.parameters(recurse=False))
        return len(self._layers) if seen or not inside else -1

    def _stage_of_site(self, site: Site) -> int:
        if site.layer is not None:
            return site.layer
        return -1 if site.kind == "input" or site.module in self._first else len(self._layers)

    def digest(self) -> str:
        """A hash of every tensor that lies below."""
        total = hashlib.sha256()
        first = [m for m in self.trunk.modules() if m in self._first]
        for module in (*first, *self._layers[: self.count]):
            deep = module in self._layers
            for name, tensor in (*module.named_parameters(recurse=deep), *module.named_buffers(recurse=deep)):
                total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return total.hexdigest()

    # ------------------------------------------------------------------ asked, and left out

    @torch.no_grad()
    def read(self, inputs: Mapping[str, Any]) -> Tensor:
        """What comes out of the highest layer below: (rows, length, size)."""
        found: list[Tensor] = []

        def keep(module: nn.Module, given: Any, output: Any) -> None:
            found.append(packing.spread(output[0] if isinstance(output, tuple) else output))
            raise _Enough

        handle = self._layers[self.count - 1].register_forward_hook(keep)
        try:
            self.trunk(**inputs)
        except _Enough:
            pass
        finally:
            handle.remove()
        return found[0]

    @contextlib.contextmanager
    def skipped(self, states: Tensor) -> Iterator[None]:
        """Inside this block the layers below compute nothing, and the highest of them says ``states``."""

        def given() -> Tensor:
            plan = packing.current()
            return states if plan is None else plan.pack(states)

        mine = self._layers[: self.count]
        for number, layer in enumerate(mine):
            layer.forward = _saying(given if number == self.count - 1 else None, self._shapes[layer])
        try:
            yield
        finally:
            for layer in mine:
                del layer.forward


def _saying(given: Callable[[], Tensor] | None, shape: int | None) -> Callable[..., Any]:
    """A layer that gives what it gets, or something that is known; in the shape in which the layer gives its own."""

    def forward(*inputs: Any, **named: Any) -> Any:
        states = given() if given is not None else inputs[0] if inputs else named["hidden_states"]
        return states if shape is None else (states, *[None] * (shape - 1))

    return forward
