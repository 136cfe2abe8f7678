"""From a language model's logits at the places that a cloze asks for to a score for each class."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

HEADS = ("masked-cloze", "causal-cloze")
"""The heads that are a language model's, and tell classes by words."""

PLAN = ("asked", "shares", "mean_words", "sum_words", "prior")
"""What a batch holds of a cloze; see `tunesmith.data.blanks.collate`."""


def places(batch: Mapping[str, Tensor]) -> Tensor:
    """Where anything is asked, bool of the shape of ``input_ids``."""
    asked = batch["asked"]
    mask = torch.zeros_like(batch["attention_mask"], dtype=torch.bool)
    mask[asked[:, 0], asked[:, 1]] = True
    return mask


def class_scores(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Scores (rows, classes): the log-probabilities of what is asked, added up to words, and these to classes.

    Args:
        logits: over the vocabulary at every place that is asked, (places, vocabulary), sequence by sequence.
        batch: says what is asked where.
    """
    sequence, place, token, word, row = batch["asked"].unbind(1)
    order = places(batch).flatten().cumsum(0) - 1
    at = order[sequence * batch["attention_mask"].shape[1] + place]
    said = logits.float().log_softmax(-1)[at, token] * batch["shares"]
    weights = batch["mean_words"] if "mean_words" in batch else batch["sum_words"]
    words = len(weights)
    scores = said.new_zeros(len(batch["labels"]) * words).index_add(0, row * words + word, said).view(-1, words)
    if "mean_words" in batch:
        found = scores @ weights
    else:
        found = (scores[:, :, None] + weights.log()).logsumexp(1)
    return found - batch["prior"] if "prior" in batch else found


def row_means(hidden: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """The mean hidden state of each row's asked places, (rows, size)."""
    mask = places(batch)
    owner = torch.zeros(len(mask), dtype=torch.long, device=hidden.device)
    owner[batch["asked"][:, 0]] = batch["asked"][:, 4]
    owners = owner[mask.nonzero()[:, 0]]
    rows = len(batch["labels"])
    sums = hidden.new_zeros(rows, hidden.shape[-1]).index_add(0, owners, hidden[mask])
    return sums / torch.bincount(owners, minlength=rows)[:, None]
