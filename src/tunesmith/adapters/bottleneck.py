from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models.anatomy import Site
from ..settings import Activation, Count
from . import Adapter
from ._activation import ACTIVATIONS


class Bottleneck(Adapter):
    """Add a small two-layer network to a sub-layer: ``y + s * up(f(down(y)))``, or of its input ``x`` beside it.

    Source: Houlsby et al. 2019, arXiv:1902.00751, sec. 2.1 (targets ``sublayer.attention`` and ``sublayer.mlp``);
    Pfeiffer et al. 2020, arXiv:2007.07779 (``sublayer.mlp`` alone); parallel, scaled and gated: He et al. 2022,
    arXiv:2110.04366, table 1; in language models: Hu et al. 2023, arXiv:2304.01933.

    Settings:
        size: width of the bottleneck.
        parallel: whether it reads the sub-layer's input, beside it, rather than its output, after it.
        scale: factor of what is added; He et al. take 4 for a parallel one.
        activation: the nonlinearity ``f``; ``identity`` makes a parallel one LoRA around a sub-layer.
        gated: mix ``(1 - g) * y + g * s * up(...)`` by a learned ``g``, 0 at birth, instead of adding.
    """

    targets = ["sublayer.attention", "sublayer.mlp"]  # noqa: RUF012
    folds = False
    accepts = ("sublayer",)
    rate = 2.2e-3

    def __init__(
        self,
        site: Site,
        *,
        size: Count = 32,
        parallel: bool = False,
        scale: float = 1.0,
        activation: Activation = "relu",
        gated: bool = False,
    ):
        super().__init__(site)
        self.down = nn.Linear(site.inputs if parallel else site.outputs, size)
        self.up = nn.Linear(size, site.outputs)
        nn.init.normal_(self.down.weight, std=self.down.in_features**-0.5)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)
        self.gate = nn.Parameter(torch.zeros(())) if gated else None
        self.f = ACTIVATIONS[activation]
        self.parallel, self.scale = parallel, scale

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        change = self.scale * self.up(self.f(self.down(x if self.parallel else y)))
        return y + change if self.gate is None else y + self.gate * (change - y)
