"""Entries of a weight that move while the others stay: a vector of values in place of the whole tensor.

The weight stays the model's own tensor. Its gradient lives only until it has been accumulated, when the chosen entries
are gathered from it and the rest is let go; the optimizer knows the vector alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .masks import EntryMask
from .models.anatomy import Weight


class Patch:
    """The moving entries of one weight.

    Args:
        weight: the weight; its values now are the base's.
        indices: flat indices of the entries, shape (k,), ascending; None for all of them.
        rule: the mask whose `EntryMask.difference` makes the entries from the values; None adds the values.

    Attributes:
        base: the base's values of the entries, shape (k,).
        values: what trains, shape (k,), float32 at least; zero leaves the base as it is.
        given: what the mask keeps beside each entry, shape (k,), or None.
    """

    def __init__(self, weight: Weight, indices: Tensor | None, rule: EntryMask | None = None):
        self.weight, self.rule = weight, rule
        self.indices = indices if indices is None else indices.to(weight.parameter.device, torch.int64)
        self.base = self._entries[self._at].clone()
        precise = torch.float32 if self.base.dtype.itemsize < 4 else self.base.dtype
        self.values = nn.Parameter(torch.zeros(len(self.base), dtype=precise, device=self.base.device))
        self.given: Tensor | None = None
        self._hook: torch.utils.hooks.RemovableHandle | None = None
        self.listen()

    @property
    def _entries(self) -> Tensor:
        return self.weight.parameter.data.view(-1)

    @property
    def _at(self) -> Tensor | slice:
        return slice(None) if self.indices is None else self.indices

    def listen(self) -> None:
        """Gather the gradient of the values from every gradient of the weight."""
        self.weight.parameter.requires_grad_(True)
        if self._hook is None:
            self._hook = self.weight.parameter.register_post_accumulate_grad_hook(self._gather)

    def deafen(self) -> None:
        """Leave the weight's gradients alone."""
        self.weight.parameter.requires_grad_(False)
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    @torch.no_grad()
    def _gather(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        grad = parameter.grad.reshape(-1)[self._at].to(self.values.dtype)
        parameter.grad = None
        grad = grad if self.rule is None else self.rule.chain(self, grad)
        self.values.grad = grad.clone() if self.values.grad is None else self.values.grad + grad

    @torch.no_grad()
    def difference(self) -> Tensor:
        """What is added to the base's entries, shape (k,)."""
        return self.values.detach() if self.rule is None else self.rule.difference(self)

    @torch.no_grad()
    def write(self) -> None:
        """Put the entries into the weight; the same values always give the same bits."""
        self._entries[self._at] = (self.base + self.difference()).to(self.base.dtype)

    @torch.no_grad()
    def revert(self) -> None:
        """Put the base's entries back."""
        self._entries[self._at] = self.base

    @torch.no_grad()
    def move(self, indices: Tensor) -> Tensor:
        """Let other entries move: those that leave go back to the base, new ones begin there.

        Args:
            indices: flat indices, shape (k,), ascending.

        Returns:
            For each entry its place among the former ones, -1 for a new one: shape (k,).
        """
        assert self.indices is not None
        place = torch.searchsorted(self.indices, indices).clamp(max=len(self.indices) - 1)
        source = torch.where(self.indices[place] == indices, place, -1)
        self.revert()
        kept = source >= 0
        values = torch.zeros(len(indices), dtype=self.values.dtype, device=self.values.device)
        values[kept] = self.values.data[source[kept]]
        self.indices, self.base, self.values.data = indices, self._entries[indices].clone(), values
        self.write()
        return source

    @torch.no_grad()
    def harden(self) -> None:
        """Become a plain difference: what the mask keeps of it, without the entries that it leaves at the base."""
        if self.rule is None:
            return
        difference = self.rule.harden(self)
        self.revert()
        moved = difference != 0
        if type(self.rule).difference is not EntryMask.difference and not moved.all():
            every = torch.arange(len(moved), device=moved.device) if self.indices is None else self.indices
            self.indices, self.base, difference = every[moved], self.base[moved], difference[moved]
        self.values.data, self.values.grad = difference.to(self.values.dtype), None
        self.rule, self.given = None, None
        self.write()

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint or an artefact holds of it."""
        small = torch.int32 if self.weight.parameter.numel() < 2**31 else torch.int64
        found = {"values": self.values, "indices": self.indices, "given": self.given}
        found["indices"] = None if self.indices is None else self.indices.to(small)
        return {name: tensor for name, tensor in found.items() if tensor is not None}
