"""What rules ask of a weight: its role, its layer, its module, how deep it lies, and which way round it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

from torch import Tensor

from ..errors import unknown
from ..models.anatomy import Weight


def has_role(weight: Weight, roles: Sequence[str]) -> bool:
    """Whether a weight's module has one of these roles; ``linear`` is every matrix inside the layers."""
    inside = weight.layer is not None and weight.parameter.ndim == 2
    return any(inside if role == "linear" else fnmatchcase(weight.role, role) for role in roles)


def in_layers(weight: Weight, layers: Sequence[int] | Literal["all"]) -> bool:
    """Whether a weight is in one of these layers, of which negative ones count from the top."""
    return layers == "all" or (
        weight.layer is not None and {weight.layer, weight.layer - weight.layers} & {*layers} != set()
    )


def module_of(weight: Weight) -> str:
    """Path of the module that holds a weight."""
    return weight.name.rpartition(".")[0]


def depth_of(weight: Weight, decoder_layers: int = 0) -> int:
    """How far down a weight lies: 0 above the layers, 1 in the top layer, one more than the layers in the embeddings.

    Args:
        weight: the weight.
        decoder_layers: layers of the decoder, in a model with two stacks; the encoder's lie below them.
    """
    below = decoder_layers if weight.stack == "encoder" else 0
    if weight.from_top is not None:
        return 1 + weight.from_top + below
    return 1 + weight.layers + below if is_embedding(weight) else 0


def is_embedding(weight: Weight) -> bool:
    """Whether a weight lies below the layers: a table, or a norm or projection of what is looked up."""
    return weight.layer is None and (weight.role.startswith("embedding") or "embed" in weight.name)


def check_roles(weights: Sequence[Weight], roles: Sequence[str]) -> None:
    """Raises:
    InputError: a role that no weight has.
    """
    for role in roles:
        if not any(has_role(w, [role]) for w in weights):
            raise unknown("role", role, {"linear", *(w.role for w in weights)}, where="mask")


def oriented(weight: Weight, tensor: Tensor) -> Tensor:
    """A tensor of the weight's shape as (outputs, inputs), whatever its layout in the module."""
    return tensor.T if weight.transposed else tensor


def flat_indices(indices: Tensor, weight: Weight) -> Tensor:
    """Flat indices of the (outputs, inputs) view as those of the weight's own layout, ascending."""
    if not weight.transposed:
        return indices
    inputs, outputs = weight.parameter.shape
    return (indices % inputs * outputs + indices // inputs).sort().values
