"""Forwards: how much of a model a training step computes. One way a file; the folder is the registry.

A way leaves tokens or pairs of tokens out while the model trains. In use the model computes all, as its base does: a way has
no tensors, is not saved, and leaves nothing in the artefact. It says which tokens go through a layer (`Tokens`), or computes
the attentions (`Attention`).
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from ..models.around import Kept, LayerCall
from ..models.attention import Asked
from ..settings import Layers, Whole


class Forward:
    """A way to compute less than all.

    Settings:
        layers: indices of the layers that it acts in.
        ends: layers at the bottom and at the top that stay whole all the same.

    Attributes:
        site: role of the places that it stands at: ``layer`` or ``attention.keys``.
    """

    layers: Layers = "all"
    ends: Whole = 0
    site: ClassVar[str] = ""


class Tokens(Forward):
    """Some tokens go through a layer, the others around it."""

    site = "layer"

    def choose(self, call: LayerCall) -> Kept:
        """The tokens that a layer computes, in one of its calls."""
        raise NotImplementedError


class Attention(Forward):
    """An attention that leaves pairs of tokens out."""

    site = "attention.keys"

    def attend(self, asked: Asked) -> Tensor:
        """The heads' outputs (rows, heads, length, size)."""
        raise NotImplementedError


def best(scores: Tensor, there: Tensor, share: float) -> Kept:
    """A share of each row's tokens, those of the highest score, whatever the width of the batch.

    Args:
        scores: (rows, length).
        there: which places hold a token, bool (rows, length).
        share: above 0; at least one token is kept.
    """
    rows, length = scores.shape
    counts = (share * there.sum(1) - 1e-6).ceil().clamp(min=1)
    order = scores.masked_fill(~there, -math.inf).argsort(dim=1, descending=True, stable=True)
    keep = order.argsort(1) < counts[:, None]
    at = torch.arange(length, device=scores.device).expand(rows, -1)
    most = min(length, max(1, math.ceil(share * length - 1e-6)))
    places = torch.where(keep, at, at + length).argsort(1)[:, :most]
    return Kept(places, keep.gather(1, places))
