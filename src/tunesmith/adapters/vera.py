from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..models.anatomy import Site
from ..settings import Count, Decay, Positive
from . import Adapter


class VeRA(Adapter):
    """Train two vectors a site around one pair of random matrices that all sites share: ``y + b * B (d * A x)``.

    Source: Kopiczko, Blankevoort and Asano 2023, arXiv:2310.11454, eq. 2.

    Settings:
        rank: rank of the shared matrices; they cost no training, so it can be high.
        start: value of ``d`` at birth.
        dropout: share of the inputs of ``A`` that are dropped while training.
    """

    rate = 2.2e-2
    peft = "VERA"
    peft_names: ClassVar[dict[str, str]] = {"b": "vera_lambda_b", "d": "vera_lambda_d"}
    peft_shared: ClassVar[dict[str, str]] = {"A": "vera_A", "B": "vera_B"}

    def __init__(self, site: Site, *, rank: Count = 256, start: Positive = 0.1, dropout: Decay = 0.0):
        super().__init__(site)
        self.b = nn.Parameter(torch.zeros(site.outputs))
        self.d = nn.Parameter(torch.full((rank,), start))
        self.dropout = nn.Dropout(dropout)
        self.start = start

    @classmethod
    def share(cls, sites: Sequence[Site], **settings: Any) -> nn.Module:
        common = nn.Module()
        for name, shape in {
            "A": (settings["rank"], max(s.inputs for s in sites)),
            "B": (max(s.outputs for s in sites), settings["rank"]),
        }.items():
            common.register_buffer(name, nn.init.kaiming_uniform_(torch.empty(shape)))
        return common

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        A, B = self.site.shared.A[:, : self.site.inputs], self.site.shared.B[: self.site.outputs]
        return y + self.b * ((self.d * (self.dropout(x) @ A.T)) @ B.T)

    def to_peft(self) -> dict[str, Any]:
        return {"r": len(self.d), "d_initial": self.start, "vera_dropout": self.dropout.p, "save_projection": True}

    @classmethod
    def from_peft(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
        return {"rank": len(tensors["vera_lambda_d"])}
