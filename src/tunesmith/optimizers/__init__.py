"""Optimizers: how weights move. One rule a file; rules chain; the folder is the registry.

A chain is any number of transforms, which change the gradients in place, and then one stepper, which moves the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn, optim

from ..settings import Share

Components = Mapping[nn.Parameter, str]
"""What each parameter that trains is part of: the role of its place in the model (``attention.query``, ``embedding``,
``head``), with ``.bias`` for a bias; for an adapter's the role of its site and the tensor's own name."""


class Transform:
    """A rule that changes the gradients before the step.

    Attributes:
        each: whether it looks at one tensor at a time, so that it fits gradients that come one after another.
    """

    each: ClassVar[bool] = False

    def begin(self, components: Components) -> None:
        """See what trains, before the first step."""

    def __call__(self, parameters: Sequence[nn.Parameter]) -> dict[str, Tensor | float]:
        """Change ``parameter.grad`` in place; return figures for the run's log, each a scalar."""
        raise NotImplementedError


class Stepper:
    """A rule that moves the weights: one of PyTorch's optimizers, or a class with its interface.

    An optimizer that trains other values than those to be used has ``eval()`` and ``train()``, which put the one and
    the other into the weights, as the package schedulefree has it.

    Settings:
        layer_decay: factor of the rate for each layer below the top, embeddings lowest of all; None for none
            (Clark et al. 2020, arXiv:2003.10555).

    Attributes:
        lr: the highest learning rate of the run, which the schedule scales; None in a recipe takes the rate that the
            chosen adapter or mask was tested with.
    """

    lr: float
    layer_decay: Share | None = None

    def begin(self, components: Components) -> None:
        """See what trains, before the optimizer is built."""

    def build(self, groups: list[dict[str, Any]]) -> optim.Optimizer:
        """The optimizer over these groups, each ``{"params": [...], "decays": bool, "factor": of the rate}``."""
        raise NotImplementedError
