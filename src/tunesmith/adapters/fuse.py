from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models.anatomy import Site
from ._composition import Composition


class Fuse(Composition):
    """Let every token choose among the site's adapters, which stay as they are: attention over what they give (fusion).

    ``sum_i softmax_i(y Q . z_i K) z_i V`` with ``z_i`` what the i-th adapter gives; ``V`` is the identity at birth.

    Source: Pfeiffer et al. 2021, arXiv:2005.00247, sec. 3.2.2.
    """

    folds = False
    freezes = True
    changes_at_birth = "it begins with an even mixture of its adapters"
    rate = 5e-4

    def __init__(self, site: Site):
        super().__init__(site)
        width = site.outputs
        self.query, self.key = (nn.Linear(width, width) for _ in range(2))
        for layer in (self.query, self.key):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.value = nn.Parameter(torch.eye(width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        given = torch.stack(self.outputs(x, y), dim=-2)
        scores = torch.einsum("...w,...iw->...i", self.query(y), self.key(given))
        chosen = torch.einsum("...i,...iw->...w", scores.softmax(-1).to(given.dtype), given)
        return chosen @ self.value.T
