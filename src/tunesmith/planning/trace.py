"""Every operation of a training step, carried out on shapes alone: what is held at one time, and what is computed."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten

_CPU_ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu
_CPU_ATTENTION_BACKWARD = aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        flops: floating-point operations of matrix products.
        bytes: read and written.
        half: whether it multiplies in 16 bits.
    """

    flops: int
    bytes: int
    half: bool


@dataclass
class _Held:
    """A piece of memory: its size, when it came and went (in allocations), and what it is where that is known."""

    bytes: int
    born: int
    gone: float = float("inf")
    what: str = ""


class Trace(TorchDispatchMode):
    """Follows operations on fake tensors, and answers what only data could tell.

    Args:
        units: supervised units of the batch: the number of true entries of ``places``.
        places: shape of the mask of supervised places.
        vocabulary: number of logits at each place; memory of that width is called ``logits``.

    Attributes:
        peak: most bytes that were held at one time since `begin`.
        operations: every operation since `begin`.
    """

    def __init__(self, units: int, places: tuple[int, ...], vocabulary: int):
        super().__init__()
        self.units, self.places, self.vocabulary = units, places, vocabulary
        self.peak = 0
        self.operations: list[Operation] = []
        self._pieces: list[_Held] = []
        self._known: dict[int, _Held] = {}
        self._clock, self._now, self._peak_at, self._mark = 0, 0, 0, 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to import the compiler takes seconds

    # ------------------------------------------------------------------ what a caller does

    def hold(self, tensors: Iterable[Tensor], what: str) -> None:
        """These are there already, or are from now on known to be this."""
        for tensor in tensors:
            self._see(tensor).what = what

    def begin(self) -> None:
        """Forget the peak and the operations so far, not what is held."""
        self.peak, self._peak_at, self.operations = self._now, self._clock, []

    def mark(self) -> None:
        """Here the forward pass ends: what is held now is kept for the backward pass."""
        self._mark = self._clock

    def items(self) -> dict[str, int]:
        """Bytes at the peak, by what they are."""
        found: dict[str, int] = {}
        for piece in self._pieces:
            if piece.born <= self._peak_at < piece.gone:
                kept = piece.born <= self._mark < piece.gone
                what = piece.what or ("activations" if kept else "temporary")
                found[what] = found.get(what, 0) + piece.bytes
        return found

    # ------------------------------------------------------------------ what PyTorch calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet is aten._local_scalar_dense:
            return self._value(args[0])
        if packet is aten.nonzero:
            return torch.zeros(self._true(args[0]), args[0].ndim, dtype=torch.int64)
        if packet is aten.masked_select:
            return args[0].new_empty(self._true(args[1]))
        if packet is aten.bincount:
            return torch.empty(kwargs.get("minlength", args[2] if len(args) > 2 else 0), dtype=torch.int64)
        if packet in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_):
            args = (args[0], list(self._plain(args[1])), *args[2:])
        out = func(*args, **kwargs)
        self._note(packet, args, kwargs, out)
        return out

    # ------------------------------------------------------------------ answers

    def _value(self, tensor: Tensor) -> bool | int | float:
        """What a number is taken to be: a count is the number of units, and no condition over all rows holds."""
        if tensor.dtype == torch.bool:
            return False
        return 1.0 if tensor.is_floating_point() else self.units

    def _true(self, mask: Tensor) -> int:
        return self.units if mask.shape[0] == self.places[0] else mask.numel()

    def _plain(self, indices: Iterable[Tensor | None]) -> Iterator[Tensor | None]:
        """Masks as the indices of as many places as are true."""
        for index in indices:
            if index is not None and index.dtype == torch.bool:
                yield from (torch.zeros(self._true(index), dtype=torch.int64) for _ in range(index.ndim))
            else:
                yield index

    # ------------------------------------------------------------------ accounts

    def _note(self, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        known = {t.untyped_storage()._cdata for t in given}
        if made and not packet.__name__.endswith("_") and all(t.untyped_storage()._cdata in known for t in made):
            return  # a view
        cast = packet is aten._to_copy and self._see(given[0]).what == "weights"
        for tensor in made:
            piece = self._see(tensor)
            if cast:
                piece.what = "weights in low precision"
            elif not piece.what and tensor.ndim and tensor.shape[-1] == self.vocabulary:
                piece.what = "logits"
        flops = _flops(packet, args, kwargs, out)
        half = bool(flops) and given[-1].dtype.itemsize == 2
        size = sum(t.numel() * t.element_size() for t in (*given, *made))
        self.operations.append(Operation(flops, size, half))

    def _see(self, tensor: Tensor) -> _Held:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            piece = self._known[key] = _Held(storage.nbytes(), self._tick())
            self._pieces.append(piece)
            self._now += piece.bytes
            if self._now > self.peak:
                self.peak, self._peak_at = self._now, self._clock
            weakref.finalize(storage, self._gone, key, piece).atexit = False
        return self._known[key]

    def _gone(self, key: int, piece: _Held) -> None:
        piece.gone = self._tick()
        self._now -= piece.bytes
        if self._known.get(key) is piece:
            del self._known[key]

    def _tick(self) -> int:
        self._clock += 1
        return self._clock


def _flops(packet: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Floating-point operations as PyTorch's own formulae count them; attention on a CPU is in none of its tables."""
    if packet is _CPU_ATTENTION:
        return int(sdpa_flop_count(*(t.shape for t in args[:3])))
    if packet is _CPU_ATTENTION_BACKWARD:
        return int(sdpa_backward_flop_count(*(t.shape for t in args[:4])))
    count: Any = flop_registry.get(packet)
    return int(count(*args, **kwargs, out_val=out)) if count else 0
