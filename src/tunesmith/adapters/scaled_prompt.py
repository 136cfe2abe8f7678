from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..models.anatomy import Site
from ..settings import Count, Start
from ._prompt import Prompt, born


class ScaledPrompt(Prompt):
    """Prompt tuning whose vectors pass through a learned scale, ``s * P``, so that their size moves fast.

    Source: Hu et al. 2023, arXiv:2309.06759, sec. 3.

    Settings:
        length: number of virtual tokens.
        start: where the vectors begin: embeddings of frequent words, or noise.
        by: whether each virtual token has a scale, or each feature.
    """

    def __init__(
        self,
        site: Site,
        *,
        length: Count = 20,
        start: Start = "vocabulary",
        by: Literal["token", "feature"] = "token",
    ):
        super().__init__(site)
        self.prompt = nn.Parameter(born(site, length, start))
        self.scale = nn.Parameter(torch.ones((length, 1) if by == "token" else (1, site.outputs)))

    def tokens(self, mask: Tensor, embeddings: Tensor) -> Tensor:
        return self.scale * self.prompt
