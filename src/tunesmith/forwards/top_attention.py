from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..models.attention import Asked
from ..settings import Count, Share
from . import Attention

CHUNK = 128
"""Queries whose scores are there at one time."""


class TopAttention(Attention):
    """Each query attends to the keys of its highest scores alone, and only these weights are kept for the backward pass.

    The best keys are found exactly, by all scores of 128 queries at a time; the paper finds them by product-quantised codes in
    kernels of its own. So what is saved is memory where attention weights would be kept, that of plain attention: for each
    query and head six bytes a key that is left. Scaled-dot-product kernels keep none at all and are faster; a saving of
    time needs kernels that are not here. Models that add a bias of their own to the scores (T5) are refused.

    Source: Gui et al. 2023, "SPT: Fine-Tuning Transformer-based Language Models Efficiently with Sparsification", sparse
    multi-head attention.

    Settings:
        share: share of a row's tokens that each query attends to.
        least: that many at least.
    """

    def __init__(self, *, share: Share = 0.125, least: Count = 16):
        self.share, self.least = share, least

    def attend(self, asked: Asked) -> Tensor:
        groups = asked.query.shape[1] // asked.key.shape[1]
        key, value = (t.repeat_interleave(groups, 1) if groups > 1 else t for t in (asked.key, asked.value))
        length = key.shape[2]
        there = asked.sees().any(1).sum(1)
        counts = (self.share * there - 1e-6).ceil().clamp(min=self.least)
        most = min(length, max(self.least, math.ceil(self.share * length - 1e-6)))
        dropped = None
        if asked.dropout:
            dropped = torch.rand(*asked.query.shape[:3], most, device=key.device) < asked.dropout
        said: Tensor = _Top.apply(asked.query, key, value, _Rule(asked, counts, most), dropped)
        return said


class _Rule:
    """Which pairs may be kept."""

    def __init__(self, asked: Asked, counts: Tensor, most: int):
        self.mask, self.causal, self.scale, self.dropout = asked.mask, asked.causal, asked.scale, asked.dropout
        self.counts, self.most = counts, most

    def top(self, query: Tensor, key: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """The weights (rows, heads, queries, most) of some queries, and their keys' places."""
        scores = (self.scale * query[:, :, rows] @ key.mT).float()
        if self.mask is not None:
            mask = self.mask[:, :, rows, : key.shape[2]]
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        elif self.causal:
            length, places = query.shape[2], key.shape[2]
            at = torch.arange(length, device=key.device)[rows, None] + (places - length)
            scores = scores.masked_fill(torch.arange(places, device=key.device) > at, -math.inf)
        values, places_of = scores.topk(self.most, -1)
        beyond = torch.arange(self.most, device=key.device) >= self.counts[:, None]
        values = values.masked_fill(beyond[:, None, None], -math.inf)
        return values.softmax(-1).nan_to_num(0.0), places_of

    def kept(self, weights: Tensor, dropped: Tensor | None, rows: slice) -> Tensor:
        """The weights after drop-out."""
        return weights if dropped is None else weights.masked_fill(dropped[:, :, rows], 0.0) / (1 - self.dropout)


class _Top(torch.autograd.Function):
    """Attention over the best keys; of the scores only those that are left are kept."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, rule: _Rule, dropped: Tensor | None) -> Tensor:
        found = []
        said = torch.empty_like(query)
        for rows in _chunks(query.shape[2]):
            weights, places = rule.top(query, key, rows)
            said[:, :, rows] = _spread(rule.kept(weights, dropped, rows), places, key).to(value.dtype) @ value
            found.append((weights, places.to(torch.int16 if key.shape[2] < 2**15 else torch.int32)))
        weights, places = (torch.cat(each, 2) for each in zip(*found, strict=True))
        ctx.save_for_backward(query, key, value, weights, places, dropped)
        ctx.rule = rule
        return said

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights, places, dropped = ctx.saved_tensors
        rule = ctx.rule
        into_query, into_key, into_value = (torch.zeros_like(t) for t in (query, key, value))
        for rows in _chunks(query.shape[2]):
            w, at, g = weights[:, :, rows], places[:, :, rows].long(), grad[:, :, rows]
            kept = _spread(rule.kept(w, dropped, rows), at, key).to(g.dtype)
            into_value += kept.mT @ g
            into_weights = rule.kept((g @ value.mT).gather(-1, at).float(), dropped, rows)
            into_scores = w * (into_weights - (into_weights * w).sum(-1, keepdim=True))
            wide = rule.scale * _spread(into_scores, at, key).to(g.dtype)
            into_query[:, :, rows] = wide @ key
            into_key += wide.mT @ query[:, :, rows]
        return into_query, into_key, into_value, None, None


def _chunks(length: int) -> list[slice]:
    return [slice(start, min(length, start + CHUNK)) for start in range(0, length, CHUNK)]


def _spread(values: Tensor, places: Tensor, key: Tensor) -> Tensor:
    """Values at their keys' places and 0 elsewhere, (rows, heads, queries, keys)."""
    return values.new_zeros(*values.shape[:3], key.shape[2]).scatter_(-1, places, values)
