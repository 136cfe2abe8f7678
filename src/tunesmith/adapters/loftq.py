from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.anatomy import Site
from ..settings import Count
from ._low_rank import Anchored, dense

NF4 = (
    -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0,
)  # fmt: skip
"""The 16 levels of 4-bit NormalFloat (Dettmers et al. 2023, arXiv:2305.14314, appendix E)."""


class LoftQ(Anchored):
    """LoRA that starts from what a 4-bit quantisation of the weight loses, so that ``Q + s B A`` is near ``W``.

    The base stays in full precision here, and the start is the base; what was trained then goes with the quantised base.
    Source: Li et al. 2023, arXiv:2310.08659, algorithm 1.

    Settings:
        iterations: alternations of quantising the rest and decomposing what that loses.
        block: weights that share one scale of the quantisation.
    """

    rate = 2.5e-3

    def __init__(self, site: Site, *, iterations: Count = 5, block: Count = 64, **low_rank: Any):
        super().__init__(site, **low_rank)
        self.iterations, self.block = iterations, block

    def begin(self) -> None:
        rank, weight = len(self.A), dense(self.site)
        kept = torch.zeros_like(weight)
        for _ in range(self.iterations):
            lost = weight - _quantised(weight - kept, self.block)
            U, s, V = torch.linalg.svd(lost, full_matrices=False)
            U, s, V = U[:, :rank], s[:rank], V[:rank]
            kept = U * s @ V
        self.start_from_product(U, s, V)


def _quantised(weight: Tensor, block: int) -> Tensor:
    """The weight (outputs, inputs) after 4-bit NormalFloat quantisation in blocks of its flattened entries."""
    flat = F.pad(weight.flatten(), (0, -weight.numel() % block)).view(-1, block)
    largest = flat.abs().amax(1, keepdim=True).clamp(min=1e-12)
    levels = torch.tensor(NF4, dtype=weight.dtype, device=weight.device)
    edges = (levels[1:] + levels[:-1]) / 2
    nearest = levels[torch.bucketize((flat / largest).contiguous(), edges)] * largest
    return nearest.flatten()[: weight.numel()].view_as(weight)
