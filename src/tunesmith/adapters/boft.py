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


class BOFT(Adapter):
    """Rotate the inputs by a product of sparse rotations (a butterfly) and scale the outputs: ``diag(s) W B_1' ... B_m' x``.

    ``B_1`` turns blocks of neighbours; each further factor turns blocks that are put together out of two halves of
    others, so that few numbers reach many inputs. One factor is OFT with a scale. The order of halves is that of the
    authors' code, so that PEFT reads the same; from the third factor on it joins halves that were joined before. PEFT
    itself has more than one factor only where it can build its kernel for a GPU.

    Source: Liu et al. 2024, arXiv:2311.06243, sec. 4.

    Settings:
        block: size of a block; even where there is more than one factor.
        factors: number of sparse rotations; ``block * 2^(factors - 1)`` has to divide the number of inputs.
    """

    rate = 1e-3
    peft = "BOFT"
    peft_names: ClassVar[dict[str, str]] = {"R": "boft_R", "s": "boft_s"}

    def __init__(self, site: Site, *, block: Count = 8, factors: Count = 2):
        super().__init__(site)
        reach = block * 2 ** (factors - 1)
        if site.inputs % reach or (factors > 1 and block % 2):
            raise InputError(
                f"block {block} with {factors} factors does not fit the {site.inputs} inputs of {site.name}",
                expected=f"an even block, and block * {2 ** (factors - 1)} a divisor of them",
            )
        self.R = nn.Parameter(torch.zeros(factors, site.inputs // block, block, block))
        self.s = nn.Parameter(torch.ones(site.outputs, 1))

    def turned(self, x: Tensor) -> Tensor:
        """What all rotations change of inputs (..., inputs)."""
        turns = cayley((self.R - self.R.mT) / 2)
        last = len(turns) - 1
        change = self._factor(x, turns[last], last)
        for number in reversed(range(last)):
            change = change + self._factor(x + change, turns[number], number)
        return change

    def _factor(self, x: Tensor, turn: Tensor, number: int) -> Tensor:
        """What a factor changes of inputs: of ``2^number`` neighbours its blocks take even halves first, then odd ones."""
        if not number:
            return blockwise(x, turn)
        half, groups = self.R.shape[-1] // 2, 2**number
        inner = x.unflatten(-1, (-1, 2, groups, half)).transpose(-3, -2).flatten(-4)
        return blockwise(inner, turn).unflatten(-1, (-1, groups, 2, half)).transpose(-3, -2).flatten(-4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        new = y + F.linear(self.turned(x), self.site.weight)
        bias = self.site.bias
        return new + (self.s[:, 0] - 1) * (new if bias is None else new - bias)

    def to_peft(self) -> dict[str, Any]:
        factors, _, block, _ = self.R.shape
        return {"boft_block_size": block, "boft_block_num": 0, "boft_n_butterfly_factor": factors}

    @classmethod
    def from_peft(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
        factors, _, block, _ = tensors["boft_R"].shape
        return {"block": block, "factors": factors}
