"""Random directions that are drawn again from their seed whenever they are needed, and never kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from . import Loss


def normals(parameters: Sequence[nn.Parameter], seed: int, number: int) -> Iterator[Tensor]:
    """Standard normal numbers of each parameter's shape, one tensor alive at a time.

    Args:
        parameters: in the order in which the numbers are drawn.
        seed: the step's seed.
        number: of the direction within the step.
    """
    generator = torch.Generator(parameters[0].device).manual_seed((seed + 1_000_003 * (number + 1)) % 2**63)
    for p in parameters:
        yield torch.randn(p.shape, generator=generator, device=p.device, dtype=p.dtype)


@torch.no_grad()
def shift(parameters: Sequence[nn.Parameter], seed: int, number: int, by: float) -> None:
    """Move the parameters along a direction, in place."""
    for p, z in zip(parameters, normals(parameters, seed, number), strict=True):
        p.add_(z, alpha=by)


@contextmanager
def shifted(parameters: Sequence[nn.Parameter], seed: int, number: int, by: float) -> Iterator[None]:
    """Inside this block the parameters stand elsewhere; afterwards they are back, up to rounding."""
    shift(parameters, seed, number, by)
    try:
        yield
    finally:
        shift(parameters, seed, number, -by)


@torch.no_grad()
def value(losses: Sequence[Loss]) -> Tensor:
    """The loss of the whole step, with the same drop-out at every call."""
    torch.manual_seed(torch.initial_seed())
    return torch.stack([loss().detach().float() for loss in losses]).sum()


def split(parameters: Sequence[nn.Parameter], blocks: int) -> list[list[nn.Parameter]]:
    """Consecutive groups of about as many numbers each; fewer where there are not as many parameters."""
    total = sum(p.numel() for p in parameters)
    groups: list[list[nn.Parameter]] = [[] for _ in range(blocks)]
    seen = 0
    for p in parameters:
        groups[min(blocks - 1, (2 * seen + p.numel()) * blocks // (2 * total))].append(p)
        seen += p.numel()
    return [g for g in groups if g]
