"""Tensors in 8 bits: blocks with a scale each, and codes that are dense near zero.

Source: Dettmers et al. 2021, arXiv:2110.02861, sec. 2 (block-wise, dynamic).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn


@functools.cache
def _codebook(signed: bool) -> Tensor:
    """256 values from -1 (or 0) to 1: for each power of ten the more the larger it is, evenly spaced within it."""
    values = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (exponent + (0 if signed else 1)) + 1, dtype=torch.float64)
        means = ((edges[:-1] + edges[1:]) / 2 * 10.0 ** (exponent - 6)).tolist()
        values += [*means, *(-m for m in means)] if signed else means
    return torch.tensor(sorted(values), dtype=torch.float32)


def encode(values: Tensor, block: int, *, signed: bool) -> tuple[Tensor, Tensor]:
    """The nearest codes, uint8 (blocks * block,), and the largest size in each block, (blocks,)."""
    flat = values.flatten().float()
    padded = nn.functional.pad(flat, (0, -len(flat) % block)).view(-1, block)
    scales = padded.abs().amax(1)
    book = _codebook(signed).to(values.device)
    codes = torch.bucketize(padded / scales.clamp(min=1e-38)[:, None], (book[1:] + book[:-1]) / 2)
    return codes.to(torch.uint8).flatten(), scales


def decode(codes: Tensor, scales: Tensor, *, signed: bool) -> Tensor:
    """The values that codes stand for, (blocks * block,)."""
    book = _codebook(signed).to(codes.device)
    return (book[codes.int()].view(len(scales), -1) * scales[:, None]).flatten()
