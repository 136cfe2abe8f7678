from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..models.anatomy import Site
from ..settings import Count
from ._low_rank import LowRank


class MIP(LowRank):
    """LoRA whose ``B`` comes from a small network that all sites of one shape share, asked with the site's depth.

    The depth ``g`` from 0 to 1 goes in as ``[cos(g pi/2), sin(g pi/2)]``, of length 1 whatever it is, and what comes out is
    added to a learned ``B0``. Source: Gonzalez Ortiz, Guttag and Dalca 2023, arXiv:2304.07645, sec. 4.

    Settings:
        hidden: width of the network.
        encoding: ``angle`` as above, or the ``raw`` depth, for comparison.
        residual: add what the network gives to a ``B0``; without, it gives ``B`` itself.
    """

    rate = 1e-3
    peft_names = {}  # noqa: RUF012
    code: Tensor

    def __init__(
        self,
        site: Site,
        *,
        rank: Count = 8,
        hidden: Count = 16,
        encoding: Literal["angle", "raw"] = "angle",
        residual: bool = True,
        **low_rank: Any,
    ):
        super().__init__(site, rank=rank, **low_rank)
        self.rank = rank
        depth = (site.layer or 0) / max(1, site.shared.depth - 1)
        angle = depth * math.pi / 2
        self.register_buffer(
            "code", torch.tensor([math.cos(angle), math.sin(angle)] if encoding == "angle" else [depth])
        )
        if not residual:
            del self.B
        self.residual = residual

    @classmethod
    def share(cls, sites: Sequence[Site], **settings: Any) -> nn.Module:
        return _Nets(sites, 2 if settings["encoding"] == "angle" else 1, settings["hidden"], settings["rank"])

    def factors(self) -> tuple[Tensor, Tensor]:
        B = self.site.shared.nets[str(self.site.outputs)](self.code).view(-1, self.rank)
        return self.A, self.B + B if self.residual else B


class _Nets(nn.Module):
    """A network for each number of outputs that the sites have: a code in, the entries of ``B`` out, zero at birth."""

    def __init__(self, sites: Sequence[Site], inputs: int, hidden: int, rank: int):
        super().__init__()
        self.depth = 1 + max(s.layer or 0 for s in sites)
        self.nets = nn.ModuleDict()
        for size in sorted({s.outputs for s in sites}):
            last = nn.Linear(hidden, size * rank, bias=False)
            nn.init.zeros_(last.weight)
            self.nets[str(size)] = nn.Sequential(nn.Linear(inputs, hidden), nn.LeakyReLU(), last)
