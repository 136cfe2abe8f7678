from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..models.anatomy import Site
from ..settings import Count, Whole
from . import Adapter


class PrefixTuning(Adapter):
    """Give every attention learned keys and values in front of its own, which all its queries see.

    Source: Li and Liang 2021, arXiv:2101.00190, sec. 4; without the network it is P-Tuning v2's deep prompt
    (Liu et al. 2021, arXiv:2110.07602).

    Settings:
        length: virtual tokens of each attention.
        hidden: width of the network that makes all keys and values from one small matrix; 0 trains them directly.
    """

    targets = ["attention.keys"]  # noqa: RUF012
    folds = False
    accepts = ("attention",)
    changes_at_birth = "every token attends to the prefix from the start"
    rate = 1e-2
    peft = "PREFIX_TUNING"
    peft_names: ClassVar[dict[str, str]] = {"prefix": "prompt_embeddings"}
    peft_prompts = ("PREFIX_TUNING",)

    def __init__(self, site: Site, *, length: Count = 20, hidden: Whole = 0):
        super().__init__(site)
        width = 2 * site.outputs
        self.network = nn.Linear(hidden, width) if hidden else None
        self.prefix = None if hidden else nn.Parameter(torch.randn(length, width))

    @classmethod
    def share(cls, sites: Sequence[Site], **settings: Any) -> nn.Module | None:
        return _Common(settings["length"], sites[0].outputs, settings["hidden"]) if settings["hidden"] else None

    def peft_prompt(self) -> Tensor:
        """Keys and values side by side: (length, 2 * width)."""
        if self.network is None:
            assert self.prefix is not None
            return self.prefix
        return self.network(self.site.shared())

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        keys, values = self.peft_prompt().to(y.dtype).chunk(2, dim=-1)
        return torch.cat([y, torch.stack([keys, values])], dim=-2)


class _Common(nn.Module):
    """The small matrix and the part of the network that all attentions share: (length, hidden)."""

    def __init__(self, length: int, width: int, hidden: int):
        super().__init__()
        self.table = nn.Parameter(torch.randn(length, width))
        self.network = nn.Linear(width, hidden)

    def forward(self) -> Tensor:
        return self.network(self.table).tanh()
