from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.anatomy import Site
from ..settings import Count
from ._prompt import Prompt, embedded


class DiscretePrompt(Prompt):
    """Real tokens in front of the input, each the likeliest of its own categorical distribution over candidates.

    The candidates are the tokens that the first training rows hold most often. What trains are the logits, (length,
    candidates). With gradient ``policy_gradient`` the model is only asked for its loss: it may be a black box; with
    ``backprop`` the slope is that of the mean embedding (straight through). Source: Diao et al. 2023, "Black-box Prompt
    Learning for Pre-trained Language Models", arXiv:2201.08531; without labels, on pseudo-labels with demonstrations:
    Zhang et al. 2024, "On Unsupervised Prompt Learning for Classification with Black-box Language Models", arXiv:2410.03124.

    Settings:
        length: number of tokens.
        candidates: tokens that each may become.
        spread: standard deviation of the logits at the start; the smaller, the evener the choice.
    """

    rate = 2e-2
    observes = 16
    draws = True
    ids: Tensor
    vectors: Tensor

    def __init__(self, site: Site, *, length: Count = 8, candidates: Count = 100, spread: float = 0.01):
        super().__init__(site)
        vocabulary = site.parts["embedding"].inputs
        drawn = torch.randperm(min(5000, vocabulary))[:candidates]
        self.register_buffer("ids", drawn)
        self.register_buffer("vectors", embedded(site, drawn))
        self.logits = nn.Parameter(spread * torch.randn(length, len(drawn)))
        self.counts: dict[int, int] = {}

    def observe(self, x: Tensor, y: Tensor, gradient: Tensor | None) -> None:
        for token in _tokens(self.site, y).tolist():
            self.counts[token] = self.counts.get(token, 0) + 1

    @classmethod
    def settle(cls, adapters: Sequence[Self]) -> None:
        for adapter in adapters:
            wanted = adapter.logits.shape[1]
            seen = sorted(adapter.counts, key=lambda token: (-adapter.counts[token], token))[:wanted]
            ids = list(dict.fromkeys([*seen, *adapter.ids.tolist()]))[:wanted]
            adapter.ids.copy_(torch.tensor(ids))
            adapter.vectors.copy_(embedded(adapter.site, torch.tensor(ids)))
            adapter.counts = {}

    def tokens(self, mask: Tensor, embeddings: Tensor) -> Tensor:
        shares = self.logits.softmax(-1)
        chosen = F.one_hot(self.logits.argmax(-1), self.logits.shape[-1]).to(shares.dtype)
        return (chosen + (shares - shares.detach())) @ self.vectors.to(shares.dtype)

    def prompt_ids(self) -> list[int]:
        """The ids of the prompt as it stands."""
        return [int(i) for i in self.ids[self.logits.argmax(-1)]]


def _tokens(site: Site, embeddings: Tensor) -> Tensor:
    """The ids whose embeddings these are, (places,): the nearest rows of the table, which are the same to rounding."""
    vocabulary = site.parts["embedding"].inputs
    table = embedded(site, torch.arange(vocabulary))
    found, back = torch.unique(embeddings.float().cpu(), dim=0, return_inverse=True)
    squares = table.square().sum(-1)
    return (squares - 2 * found @ table.T).argmin(-1)[back]
