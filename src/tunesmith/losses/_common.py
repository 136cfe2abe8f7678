"""What several losses share: the task's own likelihood, divergences, and the check that a term fits the head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from . import Step


def full(x: Tensor) -> Tensor:
    """At least single precision."""
    return x.float() if x.dtype.itemsize < 4 else x


def name_of(term: Any) -> str:
    """How a message calls a term."""
    return f"loss {type(term).__name__}"


def kind_of(step: Step) -> str:
    """What is asked at each unit: ``class``, ``labels`` (several, each there or not) or ``number``."""
    if not step.targets.is_floating_point():
        return "class"
    return "labels" if step.targets.ndim == 2 else "number"


def must(fits: bool, term: Any, expected: str, fix: str | None = None) -> None:
    """Stop where a term cannot be what is asked of this model and these rows.

    Raises:
        InputError: it does not fit.
    """
    if not fits:
        raise InputError(f"{name_of(term)} does not fit this task or base", expected=expected, fix=fix)


def must_classify(step: Step, term: Any) -> None:
    """The term needs one right class at each unit.

    Raises:
        InputError: the rows hold numbers or several labels.
    """
    must(kind_of(step) == "class", term, "one right class or token at each unit")


def must_label_rows(step: Step, term: Any) -> None:
    """The term needs one class for each row.

    Raises:
        InputError: the rows hold numbers, several labels, or labels at tokens.
    """
    must(step.mask is None and kind_of(step) == "class", term, "one class a row, as task classify has it")


def likelihoods(logits: Tensor, step: Step) -> Tensor:
    """Negative log-likelihood of each unit, (units,): of the class, of all labels (their mean), or squared error."""
    logits, kind = full(logits), kind_of(step)
    if kind == "class":
        return F.cross_entropy(logits, step.targets, reduction="none")
    targets = step.targets.to(logits.dtype)
    if kind == "labels":
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(-1)
    return (logits.squeeze(-1) - targets) ** 2


def kl(p: Tensor, q: Tensor) -> Tensor:
    """``KL(p || q)`` of two sets of logits, for each unit, (units,)."""
    p, q = full(p).log_softmax(-1), full(q).log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def divergence(p: Tensor, q: Tensor, step: Step) -> Tensor:
    """How far two sets of logits are apart, symmetric, for each unit: KL both ways added, or squared error for numbers."""
    kind = kind_of(step)
    if kind == "number":
        return ((full(p) - full(q)) ** 2).mean(-1)
    if kind == "class":
        return kl(p, q) + kl(q, p)
    a, b = full(p), full(q)  # the same sum for independent yes-or-no answers
    return ((a.sigmoid() - b.sigmoid()) * (a - b)).mean(-1)


def row_sums(values: Tensor, step: Step) -> Tensor:
    """Sums over the units of each row: (units,) -> (rows,)."""
    return values.new_zeros(step.rows).index_add(0, step.owners, values)


def row_counts(step: Step) -> Tensor:
    """Units of each row, (rows,)."""
    return torch.bincount(step.owners, minlength=step.rows)


def token_log_probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each target, (units,)."""
    return -F.cross_entropy(full(logits), targets, reduction="none")


def place_norms(x: Tensor) -> Tensor:
    """Norm over all places and sizes of each row, (rows, 1, 1), never 0."""
    return x.flatten(1).norm(dim=1)[:, None, None].clamp(min=1e-12)


class Averaged(nn.Module):
    """A copy of everything that trains, which follows it slowly; its tensors are saved with the term that owns it.

    Args:
        momentum: share of the copy that stays at each step; 0 is the weights of the step before.
    """

    def __init__(self, momentum: float):
        super().__init__()
        self.momentum = momentum
        self._places: dict[str, str] = {}

    def start(self, parameters: Mapping[str, Tensor]) -> None:
        """Begin as an exact copy."""
        for number, (name, tensor) in enumerate(parameters.items()):
            self._places[name] = f"tensor{number}"
            self.register_buffer(f"tensor{number}", tensor.detach().clone())

    def tensors(self) -> dict[str, Tensor]:
        """The copy, by the names of what trains."""
        return {name: getattr(self, place) for name, place in self._places.items()}

    def follow(self, parameters: Mapping[str, Tensor]) -> None:
        """``copy <- momentum * copy + (1 - momentum) * weights``."""
        for name, tensor in self.tensors().items():
            tensor.lerp_(parameters[name].detach().to(tensor.dtype), 1 - self.momentum)
