"""The laws' lines of the low-rank, rescaling and rotating adapters: each paper's formula, written a second time."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def plain(W, b, a):
    return W + 2 * a.B @ a.A, b


def anchored(W, b, a):
    return (W - 2 * a.B0 @ a.A0) + 2 * a.B @ a.A, b


def dora(W, b, a):
    direction = W + 2 * a.B @ a.A
    return a.length[:, None] * direction / direction.square().sum(1, keepdim=True).sqrt(), b


def increlora(W, b, a):
    weights = torch.tensor([float(a.E[0].detach()), 1e-3])
    return W + 2 * a.B[:, :2] @ torch.diag(weights) @ a.A[:2], b


def half(W, b, a):
    A, B = a.A0.clone(), a.B0.clone()
    for whole, places, values in ((A, a.A_places, a.A_values), (B, a.B_places, a.B_values)):
        for place, value in zip(places.tolist(), values.tolist(), strict=True):
            whole[place // whole.shape[1], place % whole.shape[1]] = value
    return W + 2 * B @ A, b


def vera(W, b, a):
    A, B = a.site.shared.A[:, : W.shape[1]], a.site.shared.B[: W.shape[0]]
    return W + torch.diag(a.b) @ B @ torch.diag(a.d) @ A, b


def dsee(W, b, a):
    single = torch.zeros_like(W)
    for row, column, value in zip(a.rows, a.columns, a.S, strict=True):
        single[row, column] += value
    return W + 2 * a.B @ a.A + single, b


def ia3(W, b, a):
    return (W * a.scale, b) if a.site.role == "mlp.down" else (a.scale[:, None] * W, a.scale * b)


def oft(W, b, a):
    blocks = []
    for entries in a.skew:
        Q = torch.zeros(4, 4)
        for (i, j), value in zip([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)], entries, strict=True):
            Q[i, j], Q[j, i] = value, -value
        blocks.append((torch.eye(4) - Q) @ torch.linalg.inv(torch.eye(4) + Q))
    return W @ torch.block_diag(*blocks).T, b


def boft(W, b, a):
    n, turn = W.shape[1], torch.eye(W.shape[1])
    for number, blocks in enumerate((a.R - a.R.mT) / 2):
        D = torch.block_diag(*[(torch.eye(4) - Q) @ torch.linalg.inv(torch.eye(4) + Q) for Q in blocks])
        P, size = torch.zeros(n, n), 4 * 2**number
        halves = [*range(0, size // 2, 2), *range(1, size // 2, 2)]
        for place in range(n):
            within = place % size
            P[place, place - within + 2 * halves[within // 2] + within % 2] = 1
        turn = P @ D @ P.T @ turn
    return torch.diag(a.s[:, 0]) @ W @ turn.T, b


def mip(W, b, a):
    angle = math.pi / 2 * a.site.layer
    first, _, last = a.site.shared.nets[str(W.shape[0])]
    hidden = first.weight @ torch.tensor([math.cos(angle), math.sin(angle)]) + first.bias
    B: Tensor = a.B + (last.weight @ torch.where(hidden > 0, hidden, 0.01 * hidden)).reshape(W.shape[0], 2)
    return W + 2 * B @ a.A, b


SMALL = {"rank": 2, "alpha": 4.0}

LOW_RANK_LINES = {
    "ada_lora": (SMALL, lambda W, b, a: (W + 4 / 3 * a.B @ torch.diag(a.E) @ a.A, b)),
    "boft": ({"block": 4, "factors": 3}, boft),
    "chain_of_lora": (SMALL, plain),
    "co_lora": (SMALL, plain),
    "corda": (SMALL, anchored),
    "dora": (SMALL, dora),
    "dsee": ({**SMALL, "entries": 5}, dsee),
    "eva": (SMALL, plain),
    "flora": ({**SMALL, "rank_out": 3}, lambda W, b, a: (W + 2 * torch.einsum("oi,ij,jk->ok", a.U, a.G, a.A), b)),
    "ia3": ({}, ia3),
    "incre_lora": (SMALL, increlora),
    "loftq": ({**SMALL, "block": 16}, anchored),
    "loha": (SMALL, lambda W, b, a: (W + 2 * (a.B1 @ a.A1) * (a.B2 @ a.A2), b)),
    "lokr": (SMALL, lambda W, b, a: (W + 2 * torch.kron(a.C, a.B @ a.A if hasattr(a, "B") else a.W), b)),
    "loraplus": (SMALL, plain),
    "lorasp": (SMALL, half),
    "mip": (SMALL, mip),
    "oft": ({"block": 4}, oft),
    "olora": (SMALL, anchored),
    "pissa": (SMALL, anchored),
    "rose_lora": (SMALL, plain),
    "rslora": (SMALL, lambda W, b, a: (W + 4 / math.sqrt(2) * a.B @ a.A, b)),
    "stn": (
        SMALL,
        lambda W, b, a: (W + 2 * (a.B @ a.A + torch.diag(a.V @ (10 * a.site.shared.h[0])) @ a.B_gated @ a.A_gated), b),
    ),
    "vera": ({"rank": 6}, vera),
}
