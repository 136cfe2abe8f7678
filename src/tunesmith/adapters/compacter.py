from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from ..models.anatomy import Site
from ..settings import Count
from . import Adapter


class Compacter(Adapter):
    """A bottleneck adapter whose matrices are sums of Kronecker products ``sum_i A_i (x) s_i t_i``, with ``A`` shared.

    The ``A_i`` (n, n) are common to all layers; a layer has only the vectors ``s_i`` and ``t_i``.

    Source: Karimi Mahabadi, Henderson and Ruder 2021, arXiv:2106.04647, eq. 4 and 5; Compacter++ has targets
    ``sublayer.mlp`` alone.

    Settings:
        size: width of the bottleneck; a multiple of ``products``.
        products: number ``n`` of Kronecker products; it divides the width of the model.
    """

    targets = ["sublayer.attention", "sublayer.mlp"]  # noqa: RUF012
    folds = False
    accepts = ("sublayer",)
    rate = 6.7e-3

    def __init__(self, site: Site, *, size: Count = 24, products: Count = 4):
        super().__init__(site)
        width = site.outputs
        if width % products or size % products:
            raise InputError(
                f"compacter's products {products} must divide the model's width {width} and the size {size}",
                fix="set products to 4 or 2",
            )
        self.s_down = nn.Parameter(torch.randn(products, size // products) * products**-0.5)
        self.t_down = nn.Parameter(torch.randn(products, width // products) * width**-0.5)
        self.s_up = nn.Parameter(torch.randn(products, width // products) * products**-0.5)
        self.t_up = nn.Parameter(torch.zeros(products, size // products))
        self.b_down, self.b_up = nn.Parameter(torch.zeros(size)), nn.Parameter(torch.zeros(width))

    @classmethod
    def share(cls, sites: Sequence[Site], **settings: Any) -> nn.Module:
        n = settings["products"]
        common = nn.Module()
        common.A_down, common.A_up = (nn.Parameter(torch.randn(n, n, n) * n**-0.5) for _ in range(2))
        return common

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        down = _kronecker(self.site.shared.A_down, self.s_down, self.t_down)
        up = _kronecker(self.site.shared.A_up, self.s_up, self.t_up)
        return y + F.linear(F.gelu(F.linear(y, down, self.b_down)), up, self.b_up)


def _kronecker(A: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """``sum_i kron(A_i, s_i t_i^T)`` of shape (n * |s_i|, n * |t_i|)."""
    return torch.einsum("iab,ic,id->acbd", A, s, t).reshape(A.shape[1] * s.shape[1], A.shape[2] * t.shape[1])
