from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.anatomy import Site
from ..settings import Count
from . import Adapter


class Connected(Adapter):
    """Adapters that are joined from layer to layer: ``s = f(down(y) + link(s of the layer below))``, ``y + up(s)``.

    The bottlenecks are one trainable path beside the frozen layers, so that no gradient has to cross them to get from
    one adapter to the next. The wiring is ours where the paper's figure leaves it open.

    Source: Ma et al. 2022, arXiv:2208.09847, sec. 4.

    Settings:
        size: width of each bottleneck.
    """

    targets = ["layer"]  # noqa: RUF012
    folds = False
    accepts = ("layer",)
    rate = 2.2e-3

    def __init__(self, site: Site, *, size: Count = 32):
        super().__init__(site)
        self.down, self.up = nn.Linear(site.outputs, size), nn.Linear(size, site.outputs)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.link = nn.Parameter(torch.eye(size)) if site.name in site.shared.below else None

    @classmethod
    def share(cls, sites: Sequence[Site], **settings: Any) -> nn.Module:
        return _Side(sites)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        side: Any = self.site.shared
        hidden = self.down(y)
        if self.link is not None:
            hidden = hidden + F.linear(side.states[side.below[self.site.name]], self.link)
        side.states[self.site.name] = F.gelu(hidden)
        return y + self.up(side.states[self.site.name])


class _Side(nn.Module):
    """What flows beside the layers: the last state at each of them, by the name of its site."""

    def __init__(self, sites: Sequence[Site]):
        super().__init__()
        self.below = {b.name: a.name for a, b in zip(sites, sites[1:], strict=False) if a.stack == b.stack}
        self.states: dict[str, Tensor] = {}
