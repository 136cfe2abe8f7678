"""Gradients that come one after another: each moves its tensor at once, and is gone before the next one comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..adapters import Adapter
from ..errors import InputError, RunError
from ..masks import EntryMask
from ..parts import part_name

if TYPE_CHECKING:
    from .health import Watch
    from .loop import Loop


class Stream:
    """A loop's optimizer, one tensor at a time.

    Args:
        loop: the loop, its optimizer built.

    Attributes:
        moved: whether anything has moved in the step that is under way.
        still: whether gradients are let go of without moving anything.

    Raises:
        InputError: a part of the recipe needs all gradients of a step together.
    """

    def __init__(self, loop: Loop):
        self.loop, self.moved, self.still = loop, False, False
        self.watch: Watch | None = None
        self.names = {p: name for name, p in loop.parameters.items()}
        self._groups = {p: n for n, group in enumerate(loop.optimizer.param_groups) for p in group["params"]}
        self._squares: list[Tensor] = []
        if reason := why_together(loop):
            raise InputError(
                f"gradient {name_of(loop.work.gradient)} gives one gradient after another, and {reason}",
                fix="leave that out, or take gradient backprop",
            )

    def begin(self, watch: Watch | None) -> None:
        """A new step."""
        self.moved, self.watch, self._squares = False, watch, []

    def take(self, parameter: nn.Parameter) -> None:
        """Move a parameter by its gradient and let go of the gradient.

        Raises:
            RunError: one of the watched first gradients is not finite.
        """
        assert parameter.grad is not None
        self._squares.append(torch.linalg.vector_norm(parameter.grad, dtype=torch.float32).square())
        if self.watch and self.watch.see_gradient(self.names[parameter], parameter.grad):
            name = self.names[parameter]
            raise RunError(f"step {self.loop.state.step + 1}: the gradient of {name} is not finite")
        if self.still:
            parameter.grad = None
            return
        self.moved = True
        for transform in self.loop.work.transforms:
            transform([parameter])
        optimizer = self.loop.optimizer
        groups = optimizer.param_groups
        optimizer.param_groups = [{**groups[self._groups[parameter]], "params": [parameter]}]
        try:
            optimizer.step()
        finally:
            optimizer.param_groups = groups
        parameter.grad = None

    def figures(self) -> dict[str, float]:
        """The joint norm of the step's gradients, before any transform."""
        return {"gradient_norm": float(torch.stack(self._squares).sum().sqrt())} if self._squares else {}


def why_together(loop: Loop) -> str:
    """What in a recipe needs all gradients of a step together; empty where nothing does."""
    for transform in loop.work.transforms:
        if not transform.each:
            return f"{name_of(transform)} needs all of them at once"
    mask, host = loop.work.mask, loop.work.host
    pulls = isinstance(mask, EntryMask) and (
        mask.checks or mask.soft or type(mask).pull is not EntryMask.pull or mask.looks > 0
    )
    if mask is not None and (mask.follows or mask.filters or pulls):
        return f"mask {name_of(mask)} reads or changes them all"
    for adapters in host.techniques():
        if getattr(type(adapters[0]).after_step, "__func__", None) is not getattr(Adapter.after_step, "__func__", None):
            return f"adapter {name_of(adapters[0])} acts after the step, while they are there"
    return ""


def name_of(part: object) -> str:
    """A part's name in recipes."""
    return part_name(type(part).__name__)
