from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models.anatomy import Site
from ..settings import Whole
from ._composition import Composition


class Fuse(Composition):
    """Let every token choose among the site's adapters, which stay as they are: attention over what they give (fusion).

    ``sum_i softmax_i(y Q . z_i K) z_i V`` with ``z_i`` what the i-th adapter gives; ``V`` is the identity at birth. The
    paper has whole matrices, 3 for each fused site: at every linear layer of an encoder they are more than twice the base. Here
    ``Q`` and ``K`` give ``dim`` numbers and ``V`` is the identity and a matrix of rank ``dim``.

    Source: Pfeiffer et al. 2021, arXiv:2005.00247, sec. 3.2.2.

    Settings:
        dim: size of queries and keys, and rank of what ``V`` adds; 0 takes the paper's whole matrices. The default is
            twice LoRA's rank, so that the choice stays of the size of what is chosen from.
    """

    folds = False
    freezes = True
    changes_at_birth = "it begins with an even mixture of its adapters"
    rate = 5e-4

    def __init__(self, site: Site, *, dim: Whole = 16):
        super().__init__(site)
        width, size = site.outputs, dim or site.outputs
        self.query, self.key = (nn.Linear(width, size) for _ in range(2))
        for layer in (self.query, self.key):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.value = None if dim else nn.Parameter(torch.eye(width))
        self.down = nn.Parameter(torch.randn(dim, width) * width**-0.5) if dim else None
        self.up = nn.Parameter(torch.zeros(width, dim)) if dim else None

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        given = torch.stack(self.outputs(x, y), dim=-2)
        scores = torch.einsum("...w,...iw->...i", self.query(y), self.key(given))
        chosen = torch.einsum("...i,...iw->...w", scores.softmax(-1).to(given.dtype), given)
        if self.down is None or self.up is None:
            return chosen @ self.value.T if self.value is not None else chosen
        return chosen + chosen @ self.down.T @ self.up.T
