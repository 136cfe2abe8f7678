from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..models.anatomy import Site
from ._low_rank import LowRank, added, dense


class DoRA(LowRank):
    """Learn the length of each output's weights apart from their direction: ``m * (W + sBA) / |W + sBA|``.

    Source: Liu et al. 2024, arXiv:2402.09353, eq. 5; the norm is a constant for the gradient (sec. 4.3).
    """

    rate = 1e-3
    peft_names = {"A": "lora_A.weight", "B": "lora_B.weight", "length": "lora_magnitude_vector"}  # noqa: RUF012

    def __init__(self, site: Site, **low_rank: Any):
        super().__init__(site, **low_rank)
        self.length = nn.Parameter(dense(site).norm(dim=1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        norm = (dense(self.site) + self.scale * (self.B @ self.A).detach()).norm(dim=1)
        ratio = self.length / norm
        turned = y * ratio if self.site.bias is None else torch.addcmul((1 - ratio) * self.site.bias, y, ratio)
        return added(turned, self.scale * (self.dropout(x) @ self.A.T), ratio[:, None] * self.B)

    def to_peft(self) -> dict[str, bool]:
        return {"use_dora": True}
