"""One micro-batch as a loss sees it: the batch, and whatever of the model's outputs the loss asks for."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..host import Host

IGNORED = -100
"""The label of a place where nothing is supervised."""


def supervised(labels: Tensor, head: str) -> Tensor | None:
    """Where the logits are supervised: a mask over (rows, places), or None where each row is one unit.

    A causal model predicts the next token, so its mask lies one place to the left of the labels.
    """
    if head == "sequence-classification":
        return None
    if head != "causal-lm":
        return labels != IGNORED
    mask = torch.zeros_like(labels, dtype=torch.bool)
    mask[:, :-1] = labels[:, 1:] != IGNORED
    return mask


def count_units(labels: Tensor, head: str) -> int:
    """Number of supervised units in a batch: rows, or tokens."""
    mask = supervised(labels, head)
    return len(labels) if mask is None else int(mask.sum())


class Step:
    """A micro-batch, the model, and what follows from them, each computed when first asked for.

    Args:
        host: the model with its parts.
        batch: tensors on the model's device; ``labels`` among them.
        head: the kind of head: ``sequence-classification``, ``token-classification``, ``causal-lm``, ``seq2seq-lm``.
    """

    def __init__(self, host: Host, batch: dict[str, Tensor], head: str):
        self.host = host
        self.batch = batch
        self.head = head
        self.labels = batch["labels"]
        self.mask = supervised(self.labels, head)

    @cached_property
    def units(self) -> int:
        """Number of supervised units."""
        return len(self.labels) if self.mask is None else int(self.mask.sum())

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What goes into the model: the batch without its labels."""
        return {k: v for k, v in self.batch.items() if k != "labels"}

    @cached_property
    def targets(self) -> Tensor:
        """What is asked at each supervised unit."""
        if self.mask is None:
            return self.labels
        if self.head == "causal-lm":
            return self.labels[:, 1:][self.mask[:, :-1]]
        return self.labels[self.mask]

    @cached_property
    def logits(self) -> Tensor:
        """The model's logits at each supervised unit."""
        return self._at_units(self.forward)

    def again(self) -> Tensor:
        """The logits at the same units from another forward pass, which differs where there is dropout."""
        return self._at_units(self.forward)

    def forward(self, **changes: Any) -> Any:
        """A forward pass of the model on the batch, with parts of it replaced."""
        inputs = self.inputs | changes
        if self.head == "seq2seq-lm" and "decoder_input_ids" not in inputs:
            inputs["decoder_input_ids"] = self._shifted_labels()
        return self.host(**inputs)

    @torch.no_grad()
    def base(self) -> Tensor:
        """The base model's logits at the same units: everything attached is switched off."""
        with self.host.off():
            return self._at_units(self.forward)

    def _shifted_labels(self) -> Tensor:
        config = self.host.model.config
        start = config.decoder_start_token_id
        start = getattr(config, "bos_token_id", 0) if start is None else start
        shifted = self.labels.new_full(self.labels.shape, start)
        shifted[:, 1:] = self.labels[:, :-1]
        return shifted.masked_fill(shifted == IGNORED, getattr(config, "pad_token_id", None) or 0)

    def _at_units(self, forward: Any) -> Tensor:
        """Logits at the supervised places only: a language model's head never sees the others.

        A vocabulary is large; logits for every place of a prompt would cost more memory than the rest of the model.
        """
        if self.mask is None:
            return forward().logits
        if self.head == "token-classification":
            return forward().logits[self.mask]
        with self.host.head_only_at(self.mask):
            return forward().logits
