from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.anatomy import Site
from ..settings import Count
from . import Adapter


class ReFT(Adapter):
    """Edit the hidden states inside a low-rank subspace: ``h + R' (W h + b - R h)`` with orthonormal rows ``R``.

    Every place is edited; the paper also edits only the first and last few. ``W`` starts as ``R`` and ``b`` as 0, so
    that nothing changes at birth. (LoReFT)

    Source: Wu et al. 2024, arXiv:2404.03592, eq. 2.

    Settings:
        rank: dimension of the subspace.
        direct: DiReFT instead: ``h + V' (W h + b)`` with no orthonormality, eq. 3, ``V`` 0 at birth.
    """

    targets = ["layer"]  # noqa: RUF012
    folds = False
    accepts = ("layer",)
    changes_at_birth = "by rounding alone, where the rows are made orthonormal"
    rate = 2e-3

    def __init__(self, site: Site, *, rank: Count = 4, direct: bool = False):
        super().__init__(site)
        width = site.outputs
        turned = torch.linalg.qr(torch.randn(width, rank)).Q.T.contiguous()
        self.R = nn.Parameter(torch.zeros_like(turned) if direct else turned)
        self.W = nn.Parameter(turned.clone())
        self.b = nn.Parameter(torch.zeros(rank))
        self.direct = direct

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        target = F.linear(y, self.W, self.b)
        if self.direct:
            return y + target @ self.R
        Q, triangle = torch.linalg.qr(self.R.float().T)
        R = (Q * triangle.diagonal().sign()).T
        return y + (target - F.linear(y, R)) @ R
