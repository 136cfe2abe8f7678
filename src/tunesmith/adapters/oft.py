from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from ..models.anatomy import Site
from ..settings import Count
from . import Adapter
from ._rotation import blockwise, cayley


class OFT(Adapter):
    """Rotate the inputs block by block: ``W R x``, which keeps all lengths of and angles between weights.

    Source: Qiu et al. 2023, arXiv:2306.07280, sec. 3; applied to inputs as in Qiu et al. 2025, arXiv:2506.19847.

    Settings:
        block: size of a block of ``R``; it has to divide the number of inputs.
    """

    rate = 1e-3
    enters = True
    peft = "OFT"
    peft_names: ClassVar[dict[str, str]] = {"skew": "oft_R.weight"}

    def __init__(self, site: Site, *, block: Count = 32):
        super().__init__(site)
        if site.inputs % block:
            raise InputError(
                f"block {block} does not divide the {site.inputs} inputs of {site.name}", expected="a divisor of them"
            )
        self.block = block
        self.skew = nn.Parameter(torch.zeros(site.inputs // block, block * (block - 1) // 2))

    def turn(self) -> Tensor:
        """``R - I`` of each block (blocks, block, block): Cayley's map of a skew-symmetric matrix."""
        above = self.skew.new_zeros(len(self.skew), self.block, self.block)
        rows, columns = torch.triu_indices(self.block, self.block, 1, device=above.device)
        above[:, rows, columns] = self.skew
        return cayley(above - above.mT)

    def turned(self, x: Tensor) -> Tensor:
        """``(R - I) x`` for inputs (..., inputs)."""
        return blockwise(x, self.turn())

    def enter(self, x: Tensor) -> Tensor:
        return x + self.turned(x)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y + F.linear(self.turned(x), self.site.weight)

    def to_peft(self) -> dict[str, Any]:
        return {"oft_block_size": self.block, "r": 0, "use_cayley_neumann": False}

    @classmethod
    def from_peft(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
        if config.get("use_cayley_neumann") or config.get("coft") or config.get("block_share"):
            raise InputError(
                "holds OFT by an approximate or constrained map",
                expected="use_cayley_neumann, coft and block_share to be false",
            )
        count = tensors["oft_R.weight"].shape[1]
        return {"block": round((1 + (1 + 8 * count) ** 0.5) / 2)}
