"""What a model says of many rows: streamed under a token budget, so that nothing large is ever held."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..host import Host
from ..losses import Loss
from . import chunked, cloze
from .batches import micro_batches, most_tokens
from .loop import Rows
from .memory import is_out_of_memory
from .precision import arithmetic
from .step import Step

Collate = Callable[[list[dict[str, Any]]], dict[str, Tensor]]


@dataclass
class Reading:
    """How to read rows with a model: the same for validation, test and prediction.

    Attributes:
        host: the model with its parts.
        collate: makes a batch of tensors from encoded rows.
        head: kind of the model's head (see `Step`).
        tokens: most tokens in one batch, padding counted.
        dtype: precision of matrix products.
        terms: terms of the loss that own a part of the model and change its logits in use.
    """

    host: Host
    collate: Collate
    head: str
    tokens: int = most_tokens("cpu", writes=True)
    dtype: torch.dtype = torch.float32
    terms: Sequence[Loss] = ()

    @property
    def device(self) -> torch.device:
        return next(self.host.model.parameters()).device


@dataclass
class Outputs:
    """What the model says of each row.

    Attributes:
        logits: (rows, outputs) for a model with one answer a row; else empty.
        tokens: for a tagger, the predicted class and its log-probabilities at each labelled place of each row.
        loss: summed loss of each row in nats, shape (rows,); for a language model or a tagger.
        units: supervised units of each row, shape (rows,).
    """

    logits: np.ndarray
    tokens: list[np.ndarray]
    loss: np.ndarray
    units: np.ndarray


def read(reading: Reading, rows: Rows, indices: np.ndarray | None = None) -> Outputs:
    """The model's outputs for these rows, in their order.

    Args:
        reading: the model and how to run it.
        rows: encoded rows.
        indices: which of them; None takes all.
    """
    chosen = np.arange(len(rows)) if indices is None else np.asarray(indices)
    size = len(chosen)
    found = Outputs(np.empty((0, 0)), [np.empty(0)] * size, np.zeros(size), np.ones(size, dtype=np.int64))
    outputs = partial(_outputs, reading)
    for places, (logits, tokens, loss, units) in _map(reading, rows, chosen, outputs):
        if logits is not None:
            if not len(found.logits):
                found.logits = np.zeros((size, logits.shape[1]), dtype=np.float32)
            found.logits[places] = logits
            continue
        found.loss[places], found.units[places] = loss, units
        for place, value in zip(places, tokens, strict=False):
            found.tokens[place] = value
    return found


def _outputs(reading: Reading, step: Step) -> tuple[np.ndarray | None, list[np.ndarray], np.ndarray, np.ndarray]:
    """Of one batch: a row's logits; or a tagger's log-probabilities, summed loss and number of units of each row."""
    writes = step.head in chunked.WRITES and not reading.terms
    if writes and chunked.too_large(step.host, step.units):
        values, nats = torch.empty(0), chunked.token_losses(step)
    else:
        values = step.logits
        for term in reading.terms:
            values = term.read(values, step)
        values = values.float()
        if step.mask is None:
            return values.cpu().numpy(), [], np.empty(0), np.empty(0)
        nats = F.cross_entropy(values, step.targets, reduction="none")
    assert step.mask is not None
    loss = nats.double().cpu()
    counts = step.mask.sum(1).cpu()
    sums = torch.zeros(len(counts), dtype=torch.float64)
    sums.index_add_(0, torch.repeat_interleave(torch.arange(len(counts)), counts), loss)
    tokens = []
    if "good" in step.batch:
        return None, *_rated(step, sums, counts)
    if step.head == "token-classification":
        tokens = [t.numpy() for t in values.log_softmax(-1).cpu().split(counts.tolist())]
    return None, tokens, sums.numpy(), counts.numpy()


def _rated(step: Step, sums: Tensor, counts: Tensor) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Of rated answers: by how much the chosen one's tokens are likelier in the mean; loss and units of the good ones."""
    good = step.batch["good"].cpu()
    tokens: list[np.ndarray] = []
    if "pairs" in step.batch:
        means = sums / counts.clamp(min=1)
        tokens = [m.numpy()[None] for m in means[~good] - means[good]]
        sums, counts, good = sums[good], counts[good], good[good]
    return tokens, (sums * good).numpy(), (counts * good).numpy()


def features(reading: Reading, rows: Rows, indices: np.ndarray | None = None, *, tuned: bool = False) -> np.ndarray:
    """The mean last hidden state of each row, shape (rows, hidden): what a linear probe sees.

    Args:
        reading: the model and how to run it.
        rows: encoded rows.
        indices: which of them; None takes all.
        tuned: with what is attached; by default it is the base's.
    """
    chosen = np.arange(len(rows)) if indices is None else np.asarray(indices)
    model = reading.host.model
    trunk = model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model.base_model

    def mean(step: Step) -> np.ndarray:
        hidden = trunk(**step.inputs).last_hidden_state.float()
        mask = step.batch["attention_mask"].unsqueeze(-1)
        means = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        return (cloze.row_means(hidden, step.batch) if step.head in cloze.HEADS else means).cpu().numpy()

    found: np.ndarray | None = None
    with contextlib.nullcontext() if tuned else reading.host.off():
        for places, values in _map(reading, rows, chosen, mean):
            if found is None:
                found = np.zeros((len(chosen), values.shape[1]), dtype=np.float32)
            found[places] = values
    return found if found is not None else np.empty((0, 0))


def token_features(reading: Reading, rows: Rows, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The base model's last hidden state at every labelled place: (places, hidden), the labels, the row of each."""

    def at_labels(step: Step) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert step.mask is not None
        hidden = reading.host.model.base_model(**step.inputs).last_hidden_state.float()
        owners = step.mask.nonzero()[:, 0]
        return hidden[step.mask].cpu().numpy(), step.targets.cpu().numpy(), owners.cpu().numpy()

    with reading.host.off():
        parts = [(h, y, places[o]) for places, (h, y, o) in _map(reading, rows, np.asarray(indices), at_labels)]
    hidden, labels, owners = (np.concatenate(p) for p in zip(*parts, strict=True))
    order = np.argsort(owners, kind="stable")
    return hidden[order], labels[order], owners[order]


T = TypeVar("T")


def _map(
    reading: Reading, rows: Rows, chosen: np.ndarray, function: Callable[[Step], T]
) -> Iterator[tuple[np.ndarray, T]]:
    """``function`` of every batch, with the places in ``chosen`` of its rows; rows of like length go together."""
    reading.host.eval()
    ranked = np.argsort(-rows.lengths[chosen], kind="stable")
    for places in micro_batches(ranked, rows.lengths[chosen], reading.tokens, packed=reading.host.packs):
        yield from _apply(reading, rows, chosen, places, function)


def _apply(
    reading: Reading, rows: Rows, chosen: np.ndarray, places: np.ndarray, function: Callable[[Step], T]
) -> Iterator[tuple[np.ndarray, T]]:
    """One batch, cut in two where memory does not hold it."""
    batch = {k: v.to(reading.device) for k, v in reading.collate(rows.take(chosen[places])).items()}
    try:
        with torch.inference_mode(), arithmetic(reading.dtype, reading.device):
            result = function(Step(reading.host, batch, reading.head))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or len(places) == 1:
            raise
        half = len(places) // 2
        yield from _apply(reading, rows, chosen, places[:half], function)
        yield from _apply(reading, rows, chosen, places[half:], function)
    else:
        yield places, result


def mean_loss(reading: Reading, rows: Rows, indices: np.ndarray | None = None) -> float:
    """Mean loss over all supervised units of a language model or tagger."""
    outputs = read(reading, rows, indices)
    return float(outputs.loss.sum() / max(1, outputs.units.sum()))
