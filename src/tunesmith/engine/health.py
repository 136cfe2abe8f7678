"""Does everything that should learn learn? Watches the first steps of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .sharding import whole

WATCHED = 10
"""Steps that are watched: enough for a tensor whose gradient is zero at birth (LoRA's ``A``) to get one."""

_PIECE = 2**20
"""Entries that are summed up at a time, so that nothing of a tensor's size is made."""

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Watch:
    """Follows every trainable tensor over the first steps: a finite gradient, other than zero, and a change of value.

    Args:
        trainable: name -> tensor.
    """

    def __init__(self, trainable: Mapping[str, nn.Parameter]):
        self._trainable = trainable
        self._before = {name: _fingerprint(p) for name, p in trainable.items()}
        self._without_gradient = set(trainable)

    def see_gradients(self) -> list[str]:
        """Take note of the gradients before a step; returns the names of tensors whose gradient is not finite."""
        broken = []
        for name, parameter in self._trainable.items():
            if parameter.grad is not None and self.see_gradient(name, parameter.grad):
                broken.append(name)
        return broken

    def see_gradient(self, name: str, gradient: Tensor) -> bool:
        """Take note of one gradient before it moves its tensor; whether it is not finite."""
        size = _size(whole(gradient))
        if 0 < size < math.inf:
            self._without_gradient.discard(name)
        return not size < math.inf

    def asleep(self) -> dict[str, str]:
        """Name -> why, for each tensor that has not learned so far."""
        found = {}
        for name, parameter in self._trainable.items():
            if name in self._without_gradient:
                found[name] = "no gradient"
            elif torch.equal(self._before[name], _fingerprint(parameter)):
                found[name] = "a gradient, but no change"
        return found


def _fingerprint(parameter: nn.Parameter) -> Tensor:
    """Two sums over all entries' bits, plain and by place: a change of any entry changes them, and no copy has to be kept.

    Two entries that move by as much one up, one down, as those of two classes do, leave the plain sum as it was.
    """
    values = whole(parameter.detach()).flatten()
    bits = values.view(_BITS[values.element_size()])
    places = torch.arange(1, min(len(bits), _PIECE) + 1, device=bits.device)
    sums = [torch.stack([piece.sum(), (piece * places[: len(piece)]).sum()]) for piece in bits.split(_PIECE)]
    return torch.stack(sums).sum(0)


def _size(gradient: Tensor) -> float:
    """Its norm, or its largest entry where the norm says nothing: squares leave single precision's range sooner."""
    norm = float(torch.linalg.vector_norm(gradient)) if gradient.numel() else 0.0
    if 0 < norm < math.inf or not gradient.numel():
        return norm
    return float(torch.linalg.vector_norm(gradient, math.inf))
