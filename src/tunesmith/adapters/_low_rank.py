"""What the techniques of the LoRA family have in common: a low-rank update, and its forms."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..models.anatomy import Site
from ..settings import Count, Decay, Positive
from . import Adapter


class LowRank(Adapter):
    """A low-rank update ``y + scale * B A x``: ``A`` (rank, inputs) is random and ``B`` (outputs, rank) zero at birth.

    Settings:
        rank: rank of the added matrix.
        alpha: the update is multiplied by ``alpha`` over the rank, so that the rank can change without a new rate.
        scaling: what ``alpha`` is divided by; the root keeps the outputs' size stable at high ranks (Kalajdzievski 2023).
        dropout: share of the inputs of ``A`` that are dropped while training.
    """

    peft = "LORA"
    peft_names = {"A": "lora_A.weight", "B": "lora_B.weight"}  # noqa: RUF012

    def __init__(
        self,
        site: Site,
        *,
        rank: Count = 8,
        alpha: Positive = 16.0,
        scaling: Literal["alpha/rank", "alpha/sqrt(rank)"] = "alpha/rank",
        dropout: Decay = 0.0,
    ):
        super().__init__(site)
        self.A = nn.Parameter(torch.randn(rank, site.inputs) * site.inputs**-0.5)
        self.B = nn.Parameter(torch.zeros(site.outputs, rank))
        self.dropout = nn.Dropout(dropout)
        self.scale = alpha / (rank if scaling == "alpha/rank" else rank**0.5)

    def factors(self) -> tuple[Tensor, Tensor]:
        """The two matrices as they act now: (rank, inputs) and (outputs, rank)."""
        return self.A, self.B

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        A, B = self.factors()
        return added(y, self.scale * (self.dropout(x) @ A.T), B)

    def low_rank(self) -> tuple[Tensor, Tensor]:
        """The update over ``scale`` as two matrices: plain LoRA's, for those who know no other."""
        return self.factors()


class Anchored(LowRank):
    """A low-rank update that starts from matrices other than zero: ``y + scale * (B A - B0 A0) x``.

    ``A0`` and ``B0`` are the start. The papers take ``scale * B0 A0`` out of the frozen weight; taken out of the output
    it is the same function, the base's weights stay what they are, and the start is the base bit for bit.
    """

    A0: Tensor
    B0: Tensor

    def __init__(self, site: Site, *, rank: Count = 8, **low_rank: Any):
        super().__init__(site, rank=rank, **low_rank)
        if rank > min(site.inputs, site.outputs):
            raise InputError(
                f"rank {rank} is more than {site.name} has",
                expected=f"at most {min(site.inputs, site.outputs)}",
                fix="choose a lower rank",
            )
        self.register_buffer("A0", self.A.detach().clone())
        self.register_buffer("B0", self.B.detach().clone())

    @torch.no_grad()
    def start_from(self, A: Tensor, B: Tensor) -> None:
        """Set the start, and what trains, to these matrices."""
        for values, tensors in ((A, (self.A, self.A0)), (B, (self.B, self.B0))):
            for tensor in tensors:
                tensor.copy_(values)

    def start_from_product(self, U: Tensor, s: Tensor, V: Tensor) -> None:
        """Start so that ``scale * B0 A0 = U diag(s) V``, the singular values shared between the two."""
        root = (s / self.scale).sqrt()
        self.start_from(root[:, None] * V, U * root)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        A, B = self.factors()
        moved, start = self.scale * (self.dropout(x) @ A.T), self.scale * (x @ self.A0.T)
        return y + (moved @ B.T - start @ self.B0.T)

    def low_rank(self) -> tuple[Tensor, Tensor]:
        A, B = self.factors()
        return torch.cat([A, self.A0]), torch.cat([B, -self.B0], dim=1)


def added(y: Tensor, inner: Tensor, B: Tensor) -> Tensor:
    """``y + inner @ B.T`` in one pass over the outputs, which are far more numbers than ``inner``."""
    if y.dtype != inner.dtype:
        return y + inner @ B.T
    return torch.addmm(y.flatten(0, -2), inner.flatten(0, -2), B.T).view(y.shape)


class Together(nn.Module):
    """What sites share that only have to know how many they are."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count


def dense(site: Site) -> Tensor:
    """The site's weight (outputs, inputs) in at least single precision, cut off from the graph."""
    weight = site.weight.detach()
    return weight.float() if weight.dtype.itemsize < 4 else weight
