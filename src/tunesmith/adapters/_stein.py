"""Stein variational gradient descent: points that are moved to stand for a density, and keep apart from each other.

Source: Liu and Wang 2016, arXiv:1608.04471.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
        size: of the first step, as a share of ``width``; later ones shrink to nothing.
    """
    scale = torch.zeros_like(particles)
    for number in range(steps):
        way = stein(particles, score(particles, domain, width / 2), width)
        scale = 0.9 * scale + 0.1 * way.square() if scale.any() else way.square()
        reach = size * (1 - number / steps) * width * particles.shape[1] ** -0.5
        particles = particles + reach * way / (scale.sqrt() + 1e-8)
    return particles


def score(particles: Tensor, domain: Tensor, deviation: Tensor) -> Tensor:
    """The gradient of the log-density of the mixture at each particle, (particles, size)."""
    nearness = (-torch.cdist(particles, domain).square() / (2 * deviation**2)).softmax(-1)
    return (nearness @ domain - particles) / deviation**2


def stein(particles: Tensor, scores: Tensor, width: Tensor) -> Tensor:
    """``1/n sum_j k(x_j, x_i) s(x_j) + d/dx_j k(x_j, x_i)`` with ``k = exp(-|x_j - x_i|^2 / h)``, (particles, size)."""
    bandwidth = width**2 / max(1.0, math.log(len(particles)))
    kernel = (-torch.cdist(particles, particles).square() / bandwidth).exp()
    pushed = 2 / bandwidth * (kernel.sum(1, keepdim=True) * particles - kernel @ particles)
    return (kernel @ scores + pushed) / len(particles)
