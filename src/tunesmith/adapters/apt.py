from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from ..models.anatomy import Site
from ..settings import Count
from . import Adapter


class APT(Adapter):
    """Let each token look at prompts apart from the attention: ``y + w * softmax(x Wq (P Wk)' / sqrt(d)) P Wv Wo``.

    The prompts never join the attention, so their cost does not multiply with the length. They are low-rank,
    ``P = U V``; ``w`` is 0 at birth.

    Source: Wu et al. 2023, arXiv:2306.15706, eq. 6 to 9.

    Settings:
        length: prompts of each attention.
        rank: rank of the matrix of prompts.
    """

    targets = ["sublayer.attention"]  # noqa: RUF012
    folds = False
    accepts = ("sublayer",)
    rate = 2.5e-2

    def __init__(self, site: Site, *, length: Count = 100, rank: Count = 8):
        super().__init__(site)
        if not {"query", "key", "value", "output"} <= site.parts.keys():
            raise InputError(f"apt cannot act on {site.role}", expected="an attention with query, key and value apart")
        self.U = nn.Parameter(torch.randn(length, rank))
        self.V = nn.Parameter(torch.randn(rank, site.inputs) * rank**-0.5)
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        query, key, value, output = (self.site.parts[n] for n in ("query", "key", "value", "output"))
        prompts = self.U @ self.V
        size = query.outputs // self.site.heads
        q = F.linear(x, query.weight, query.bias).unflatten(-1, (-1, size)).transpose(-2, -3)
        k, v = (F.linear(prompts, s.weight).unflatten(-1, (-1, size)).transpose(-2, -3) for s in (key, value))
        groups = q.shape[-3] // k.shape[-3]
        k, v = k.repeat_interleave(groups, -3), v.repeat_interleave(groups, -3)
        seen = (q @ k.transpose(-1, -2) * size**-0.5).softmax(-1).to(v.dtype) @ v
        return y + self.w * F.linear(seen.transpose(-2, -3).flatten(-2), output.weight)
