from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from ..models.anatomy import Site
from ..settings import Count, Whole
from . import Adapter


class ReFT(Adapter):
    """Edit the hidden states inside a low-rank subspace: ``h + R' (W h + b - R h)`` with orthonormal rows ``R``.

    ``W`` starts as ``R`` and ``b`` as 0, so that nothing changes at birth. (LoReFT)

    Source: Wu et al. 2024, arXiv:2404.03592, eq. 2.

    Settings:
        rank: dimension of the subspace.
        direct: DiReFT instead: ``h + V' (W h + b)`` with no orthonormality, eq. 3, ``V`` 0 at birth.
        places: how many of the text's first and of its last places are edited, e.g. [7, 7] as in the paper; none edits
            every place. A language model's text is the prompt; what it writes is not edited. What a decoder behind an
            encoder reads is its own writing, which has no last place: there every place is edited.
    """

    targets = ["layer"]  # noqa: RUF012
    folds = False
    accepts = ("layer",)
    changes_at_birth = "by rounding alone, where the rows are made orthonormal"
    rate = 4.5e-3

    def __init__(self, site: Site, *, rank: Count = 4, direct: bool = False, places: list[Whole] = []):  # noqa: B006
        super().__init__(site)
        if places and (len(places) != 2 or not any(places)):
            raise InputError(
                f"reft's places are {places}", expected="how many first and how many last ones, e.g. [7, 7]"
            )
        width = site.outputs
        turned = torch.linalg.qr(torch.randn(width, rank)).Q.T.contiguous()
        self.R = nn.Parameter(torch.zeros_like(turned) if direct else turned)
        self.W = nn.Parameter(turned.clone())
        self.b = nn.Parameter(torch.zeros(rank))
        self.direct, self.places = direct, places
        self.reads = bool(places) and site.stack != "decoder"

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.where(self.edited(y), self.edit(y).to(y.dtype), y) if self.reads else self.edit(y)

    def edit(self, y: Tensor) -> Tensor:
        """The edited states of every place, (rows, length, width)."""
        target = F.linear(y, self.W, self.b)
        if self.direct:
            return y + target @ self.R
        Q, triangle = torch.linalg.qr(self.R.float().T)
        R = (Q * triangle.diagonal().sign()).T
        return y + (target - F.linear(y, R)) @ R

    def edited(self, y: Tensor) -> Tensor:
        """Which places are edited, bool (rows, length, 1); virtual tokens in front of the text are none of its."""
        text = y.new_ones(y.shape[:2], dtype=torch.bool) if self.text is None else self.text
        text = F.pad(text, (y.shape[1] - text.shape[1], 0))
        number, (first, last) = text.cumsum(1), self.places
        return (text & ((number <= first) | (number > text.sum(1, keepdim=True) - last))).unsqueeze(-1)
