"""The laws' lines of adapters beside whole sub-layers, of prompts, prefixes, edits and compositions.

Where an adapter folds: weight, bias, adapter -> new weight, new bias. Where it does not: input, output, adapter -> new output.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor


def bottleneck(x: Tensor, y: Tensor, a) -> Tensor:
    change = 4 * ((x @ a.down.weight.T + a.down.bias).clamp(min=0) @ a.up.weight.T + a.up.bias)
    return (1 - a.gate) * y + a.gate * change


def compacter(x: Tensor, y: Tensor, a) -> Tensor:
    def matrix(A: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return sum(torch.kron(A[i], torch.outer(s[i], t[i])) for i in range(len(A)))

    down, up = matrix(a.site.shared.A_down, a.s_down, a.t_down), matrix(a.site.shared.A_up, a.s_up, a.t_up)
    return y + torch.nn.functional.gelu(y @ down.T + a.b_down) @ up.T + a.b_up


def mosa(x: Tensor, y: Tensor, a) -> Tensor:
    down, up = (sum(m.weight * (d == i) for i in range(3)) for m, d in ((a.down, a.of_down), (a.up, a.of_up)))
    return y + (y @ down.T + a.down.bias).clamp(min=0) @ up.T + a.up.bias


def connected(x: Tensor, y: Tensor, a) -> Tensor:
    below = a.site.shared.below.get(a.site.name)
    before = 0 if below is None else a.site.shared.states[below] @ a.link.T
    return y + torch.nn.functional.gelu(y @ a.down.weight.T + a.down.bias + before) @ a.up.weight.T + a.up.bias


def in_front(prompt: Tensor, y: Tensor) -> Tensor:
    return torch.stack([torch.cat([prompt, row]) for row in y])


def mlp(a) -> Tensor:
    first, _, second, _, third = a.mlp
    hidden = (a.prompt @ first.weight.T + first.bias).clamp(min=0)
    return (hidden @ second.weight.T + second.bias).clamp(min=0) @ third.weight.T + third.bias


def bank(x: Tensor, y: Tensor, a) -> Tensor:
    rows = []
    for mask, row in zip(x, y, strict=True):
        question = row[mask.bool()][:3].mean(0)
        best = sorted(range(len(a.memory)), key=lambda i: -float(a.memory[i].detach() @ question))[: a.length]
        rows.append(torch.cat([a.memory[best], row]))
    return torch.stack(rows)


def ept(x: Tensor, y: Tensor, a) -> Tensor:
    U = a.B @ a.A
    own, y = y, y.clone()
    y[:, :4] += U
    P = a.prompt + torch.softmax(a.prompt @ U.T / math.sqrt(U.shape[1]), -1) @ U
    rows = []
    for mask, before, row in zip(x, own, y, strict=True):
        g = torch.softmax(a.gate.weight @ before[mask.bool()][:2].mean(0) + a.gate.bias, 0)
        mixed = sum(g[s] * (P + (P @ a.down[s]).clamp(min=0) @ a.up[s]) for s in range(len(g)))
        rows.append(torch.cat([mixed, row]))
    return torch.stack(rows)


def prefix(x: Tensor, y: Tensor, a) -> Tensor:
    made = torch.tanh(a.site.shared.table @ a.site.shared.network.weight.T + a.site.shared.network.bias)
    made = made @ a.network.weight.T + a.network.bias
    return torch.stack([made[:, : a.site.outputs], made[:, a.site.outputs :]])


def apt(x: Tensor, y: Tensor, a) -> Tensor:
    parts, P, heads = a.site.parts, a.U @ a.V, []
    for rows in torch.arange(a.site.outputs).chunk(a.site.heads):
        q = x @ parts["query"].weight[rows].T + parts["query"].bias[rows]
        k, v = P @ parts["key"].weight[rows].T, P @ parts["value"].weight[rows].T
        heads.append(torch.softmax(q @ k.T / math.sqrt(len(rows)), -1) @ v)
    return y + a.w * torch.cat(heads, -1) @ parts["output"].weight.T


def reft(x: Tensor, y: Tensor, a) -> Tensor:
    R: list[Tensor] = []
    for row in a.R:  # Gram and Schmidt
        row = row - sum((row @ r) * r for r in R)
        R.append(row / row.norm())
    stacked, edited = torch.stack(R), y.clone()
    for place in (0, -2, -1):
        h = y[:, place]
        edited[:, place] = h + (h @ a.W.T + a.b - h @ stacked.T) @ stacked
    return edited


def lofit(x: Tensor, y: Tensor, a) -> Tensor:
    return y * (1 + a.a.flatten())


def routed(x: Tensor, y: Tensor, a) -> Tensor:
    up, down = a.site.parts["up"], a.site.parts["down"]
    said = torch.zeros_like(y)
    for row, place in itertools.product(*map(range, x.shape[:2])):
        t = x[row, place]
        scores = a.R @ t + a.c
        taken = sorted(range(4), key=lambda b: -float(scores[b]))[:2]
        weights = 2 * scores[taken].softmax(0)
        for b, w in zip(taken, weights, strict=True):
            units = torch.arange(up.outputs).chunk(4)[b]
            hidden = torch.nn.functional.gelu(up.weight[units] @ t + up.bias[units])
            said[row, place] += w * down.weight[:, units] @ hidden
    return said + down.bias


def fuse(x: Tensor, y: Tensor, a) -> Tensor:
    z = [m(x, y) for m in a.members]
    q = y @ a.query.weight.T + a.query.bias
    scores = torch.stack([(q * (one @ a.key.weight.T + a.key.bias)).sum(-1) for one in z], -1).softmax(-1)
    V = torch.eye(len(a.up)) + a.up @ a.down
    return sum(scores[..., i, None] * z[i] for i in range(len(z))) @ V.T


PLACE_LINES = {
    "bottleneck": ({"size": 4, "parallel": True, "scale": 4.0, "gated": True}, bottleneck),
    "compacter": ({"size": 4, "products": 2}, compacter),
    "mosa": ({"size": 4, "modules": 3}, mosa),
    "connected": ({"size": 4}, connected),
    "prompt_tuning": ({"length": 3}, lambda x, y, a: in_front(a.prompt, y)),
    "scaled_prompt": ({"length": 3}, lambda x, y, a: in_front(torch.diag(a.scale[:, 0]) @ a.prompt, y)),
    "ptuning": ({"length": 3, "hidden": 5}, lambda x, y, a: in_front(mlp(a), y)),
    "prompt_bank": ({"length": 2, "memories": 5, "asking": 3}, bank),
    "ept": ({"length": 3, "places": 4, "rank": 2, "spaces": 2, "size": 3, "asking": 2}, ept),
    "cpt": ({"context": [7, 8, 9], "fixed": [2]}, lambda x, y, a: in_front(a.base + a.move, y)),
    "bayes_prompt": ({"length": 3, "particles": 2}, lambda x, y, a: in_front(a.prompt, y)),
    "discrete_prompt": ({"length": 3, "candidates": 7}, lambda x, y, a: in_front(
        torch.stack([a.vectors[max(range(7), key=row.tolist().__getitem__)] for row in a.logits]), y)),
    "prefix_tuning": ({"length": 3, "hidden": 5}, prefix),
    "ptuningv2": ({"length": 3}, lambda x, y, a: torch.stack(a.prefix.split(a.site.outputs, 1))),
    "apt": ({"length": 5, "rank": 2}, apt),
    "reft": ({"rank": 2, "places": [1, 2]}, reft),
    "lofit": ({}, lofit),
    "routed": ({"blocks": 4, "active": 2}, routed),
    "average": ({"weights": [1.0, 3.0]}, lambda W, b, a: (
        W + sum(w * 8 * m.B @ m.A for w, m in zip((0.25, 0.75), a.members, strict=True)), b)),
    "fuse": ({"dim": 3}, fuse),
    "split": ({"along": "places", "sizes": [2]}, lambda x, y, a: torch.cat(
        [a.members[0](x[:, :2], y[:, :2]), a.members[1](x[:, 2:], y[:, 2:])], 1)),
}  # fmt: skip
