from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..models.anatomy import Site
from ..settings import Share
from ._low_rank import LowRank


class LoRASP(LowRank):
    """LoRA of which a random half of the entries trains and the rest stays as born, and costs no optimizer memory.

    Source: Wu, Y. et al. 2024, arXiv:2403.08822, sec. 3.

    Settings:
        trained: share of the entries of each matrix that trains.
    """

    rate = 2.2e-3
    peft_names = {}  # noqa: RUF012
    A0: Tensor
    B0: Tensor
    A_places: Tensor
    B_places: Tensor
    A_values: Tensor
    B_values: Tensor

    def __init__(self, site: Site, *, trained: Share = 0.5, **low_rank: Any):
        super().__init__(site, **low_rank)
        for name in "AB":
            whole = getattr(self, name).detach()
            delattr(self, name)
            count = max(1, round(trained * whole.numel()))
            places = torch.randperm(whole.numel())[:count].sort().values
            self.register_buffer(f"{name}0", whole)
            self.register_buffer(f"{name}_places", places)
            self.register_parameter(f"{name}_values", nn.Parameter(whole.flatten()[places]))

    def factors(self) -> tuple[Tensor, Tensor]:
        A = self.A0.flatten().scatter(0, self.A_places, self.A_values).view_as(self.A0)
        B = self.B0.flatten().scatter(0, self.B_places, self.B_values).view_as(self.B0)
        return A, B
