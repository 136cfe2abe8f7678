from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from ..models.anatomy import Site
from ..settings import Count, NonNegative, Positive
from ._prompt import Prompt, born

MOST = 2000
"""Embeddings that the domain is described by, at most."""


class BayesPrompt(Prompt):
    """Prompt tuning whose vectors begin as samples of the domain: of a mixture that is fitted to the few rows.

    ``particles`` vectors are moved by Stein variational gradient descent towards the density of the first rows' token
    embeddings, which keeps them apart from each other; they are the means of a Gaussian mixture with even shares, and
    each virtual token is a sample of it. The paper describes the domain by hidden states; virtual tokens live among
    embeddings. Source: Li et al. 2024, "BayesPrompt", ICLR 2024; the descent: Liu and Wang 2016, arXiv:1608.04471, eq. 8.

    Settings:
        length: number of virtual tokens.
        particles: means of the mixture.
        steps: of the descent.
        step_size: length of each step, as a share of the typical distance between embeddings.
        spread: standard deviation of a sample about its mean, as a share of the typical distance.
    """

    rate = 1e-2
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


def typical_distance(points: Tensor) -> Tensor:
    """Median distance between different points (n, width), a scalar; never 0."""
    apart = torch.pdist(points[:500])
    apart = apart[apart > 0]
    return apart.median() if len(apart) else points.new_ones(())


def descend(particles: Tensor, domain: Tensor, width: Tensor, steps: int, size: float) -> Tensor:
    """Stein variational gradient descent towards an even mixture of Gaussians about the domain's points.

    Args:
        particles: where they begin, (particles, size).
        domain: the centres of the density, (points, size).
        width: the Gaussians' distance scale; their variance is ``width^2 / 4``.
        steps: how often they move.
        size: of a step, as a share of ``width``.
    """
    scale = torch.zeros_like(particles)
    for _ in range(steps):
        way = stein(particles, score(particles, domain, width / 2), width)
        scale = 0.9 * scale + 0.1 * way.square() if scale.any() else way.square()
        particles = particles + size * width * particles.shape[1] ** -0.5 * way / (scale.sqrt() + 1e-8)
    return particles


def score(particles: Tensor, domain: Tensor, deviation: Tensor) -> Tensor:
    """The gradient of the log-density of the mixture at each particle, (particles, size)."""
    nearness = (-torch.cdist(particles, domain).square() / (2 * deviation**2)).softmax(-1)
    return (nearness @ domain - particles) / deviation**2


def stein(particles: Tensor, scores: Tensor, width: Tensor) -> Tensor:
    """``1/n sum_j k(x_j, x_i) s(x_j) + d/dx_j k(x_j, x_i)`` with ``k = exp(-|x_j - x_i|^2 / h)``, (particles, size)."""
    bandwidth = width**2 / max(1.0, float(torch.tensor(float(len(particles))).log()))
    kernel = (-torch.cdist(particles, particles).square() / bandwidth).exp()
    pushed = 2 / bandwidth * (kernel.sum(1, keepdim=True) * particles - kernel @ particles)
    return (kernel @ scores + pushed) / len(particles)
