from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.anatomy import Site
from . import Adapter


class IA3(Adapter):
    """Rescale each output of a layer, ``s * y``; of the layer that leads down from an MLP, each input, ``W (s * x)``.

    Source: Liu et al. 2022, arXiv:2205.05638, sec. 3.3.

    Settings:
        side: what is rescaled: ``role`` decides as above, ``inputs`` or ``outputs`` say so for every site.
    """

    targets = ["attention.key", "attention.value", "mlp.down"]  # noqa: RUF012
    rate = 2.5e-2
    peft = "IA3"
    peft_names: ClassVar[dict[str, str]] = {"scale": "ia3_l"}

    def __init__(self, site: Site, *, side: Literal["role", "inputs", "outputs"] = "role"):
        super().__init__(site)
        self.of_inputs = side == "inputs" or (side == "role" and site.role == "mlp.down")
        self.enters = self.of_inputs
        self.scale = nn.Parameter(torch.ones(site.inputs if self.of_inputs else site.outputs))

    def enter(self, x: Tensor) -> Tensor:
        return self.scale * x

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.of_inputs:
            return y + F.linear((self.scale - 1) * x, self.site.weight)
        return self.scale * y

    def to_peft(self) -> dict[str, Any]:
        return {"feedforward_modules": [self.site.path] if self.of_inputs else []}

    def peft_tensors(self) -> dict[str, Tensor]:
        # PEFT keeps a factor of inputs as a row and one of outputs as a column
        return {"ia3_l": self.scale[None] if self.of_inputs else self.scale[:, None]}

    @classmethod
    def from_peft(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
        return {"side": "inputs" if len(tensors["ia3_l"]) == 1 else "outputs"}
