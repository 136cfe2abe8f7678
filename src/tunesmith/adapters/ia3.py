from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.anatomy import Site
from . import Adapter


class IA3(Adapter):
    """Rescale each output of a layer, ``s * y``; of the layer that leads down from an MLP, each input, ``W (s * x)``.

    Source: Liu et al. 2022, arXiv:2205.05638, sec. 3.3.
    """

    targets = ["attention.key", "attention.value", "mlp.down"]  # noqa: RUF012
    rate = 5e-3
    peft = "IA3"
    peft_names: ClassVar[dict[str, str]] = {"scale": "ia3_l"}

    def __init__(self, site: Site):
        super().__init__(site)
        self.scale = nn.Parameter(torch.ones(site.inputs if self.of_inputs(site) else site.outputs))

    @staticmethod
    def of_inputs(site: Site) -> bool:
        """Whether the site's inputs are rescaled rather than its outputs."""
        return site.role == "mlp.down"

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.of_inputs(self.site):
            return y + F.linear((self.scale - 1) * x, self.site.weight)
        return self.scale * y

    def to_peft(self) -> dict[str, Any]:
        return {"feedforward_modules": [self.site.path] if self.of_inputs(self.site) else []}

    def peft_tensors(self) -> dict[str, Tensor]:
        # PEFT keeps a factor of inputs as a row and one of outputs as a column
        return {"ia3_l": self.scale[None] if self.of_inputs(self.site) else self.scale[:, None]}
