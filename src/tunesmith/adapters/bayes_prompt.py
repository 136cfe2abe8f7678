from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from ..models.anatomy import Site
from ..settings import Count, NonNegative, Positive
from ._prompt import Prompt, born
from ._stein import descend, typical_distance

MOST = 2000
"""Embeddings that the domain is described by, at most."""


class BayesPrompt(Prompt):
    """Prompt tuning whose vectors begin as samples of the domain: of a mixture that is fitted to the few rows.

    ``particles`` vectors are moved by Stein variational gradient descent towards the density of the first rows' token
    embeddings, which keeps them apart from each other; they are the means of a Gaussian mixture with even shares, and
    each virtual token is a sample of it. The paper describes the domain by hidden states; virtual tokens live among
    embeddings. Source: Li et al. 2024, "BayesPrompt", arXiv:2401.14166; the descent: Liu and Wang 2016,
    arXiv:1608.04471, eq. 8.

    Settings:
        length: number of virtual tokens.
        particles: means of the mixture.
        steps: of the descent.
        step_size: length of each step, as a share of the typical distance between embeddings.
        spread: standard deviation of a sample about its mean, as a share of the typical distance.
    """

    rate = 1.25e-1
    observes = 16

    def __init__(
        self,
        site: Site,
        *,
        length: Count = 20,
        particles: Count = 10,
        steps: Count = 200,
        step_size: Positive = 0.1,
        spread: NonNegative = 0.1,
    ):
        super().__init__(site)
        self.prompt = nn.Parameter(born(site, length, "vocabulary"))
        self.particles, self.steps, self.step_size, self.spread = particles, steps, step_size, spread
        self.seen: list[Tensor] = []

    def observe(self, x: Tensor, y: Tensor, gradient: Tensor | None) -> None:
        self.seen.append(y.detach().float().cpu())

    @classmethod
    def settle(cls, adapters: Sequence[Self]) -> None:
        for adapter in adapters:
            domain = torch.cat(adapter.seen)
            domain = domain[torch.randperm(len(domain))[:MOST]]
            width = typical_distance(domain)
            begun = domain[torch.randint(len(domain), (adapter.particles,))]
            begun = begun + 0.1 * width * domain.shape[1] ** -0.5 * torch.randn_like(begun)
            means = descend(begun, domain, width, adapter.steps, adapter.step_size)
            drawn = means[torch.randint(len(means), (len(adapter.prompt),))]
            noise = adapter.spread * width * domain.shape[1] ** -0.5 * torch.randn_like(drawn)
            adapter.prompt.data = (drawn + noise).to(adapter.prompt)
            adapter.seen = []

    def tokens(self, mask: Tensor, embeddings: Tensor) -> Tensor:
        return self.prompt
