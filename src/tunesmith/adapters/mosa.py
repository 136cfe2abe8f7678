from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.anatomy import Site
from ..settings import Activation, Count
from ._activation import ACTIVATIONS
from .bottleneck import Bottleneck


class MoSA(Bottleneck):
    """A bottleneck adapter cut into sparse modules, of which each step trains one drawn at random; their sum is used.

    Source: Zhang et al. 2023, arXiv:2312.02923, sec. 3.2; the weights are dealt to the modules at random at birth.

    Settings:
        modules: number of modules that do not overlap.
        hierarchical: whether the down-projection stays whole and the up-projection alone is cut, for few rows.
    """

    rate = 1.25e-2
    of_down: Tensor
    of_up: Tensor

    def __init__(
        self,
        site: Site,
        *,
        size: Count = 32,
        parallel: bool = False,
        scale: float = 1.0,
        activation: Activation = "relu",
        modules: Count = 4,
        hierarchical: bool = False,
    ):
        super().__init__(site, size=size, parallel=parallel, scale=scale, activation=activation)
        self.count, self.cuts_down, self.f = modules, not hierarchical, ACTIVATIONS[activation]
        for name, layer in (("of_down", self.down), ("of_up", self.up)):
            dealt = torch.arange(layer.weight.numel())[torch.randperm(layer.weight.numel())] % modules
            self.register_buffer(name, dealt.view_as(layer.weight).to(torch.uint8))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        drawn = int(torch.randint(self.count, ())) if self.training else None
        hidden = self._through(self.down, self.of_down, x if self.parallel else y, drawn if self.cuts_down else None)
        return y + self.scale * self._through(self.up, self.of_up, self.f(hidden), drawn)

    @staticmethod
    def _through(layer: nn.Linear, dealt: Tensor, x: Tensor, drawn: int | None) -> Tensor:
        weight = layer.weight if drawn is None else layer.weight * (dealt == drawn)
        return F.linear(x, weight, layer.bias)
