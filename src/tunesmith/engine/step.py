"""One micro-batch as a loss sees it: the batch, and whatever of the model's outputs the loss asks for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ..errors import InputError, RunError
from ..host import Host
from . import cloze
from .passes import (
    ACTIVATIONS,
    STATES,
    Pass,
    as_in_use,
    call,
    embedded,
    embedding,
    last_hidden,
    layer_states,
    mlp_inputs,
)

NEVER = -1e4
"""The logit of a class that a row cannot have: a probability of 0 in every precision."""

IGNORED = -100
"""The label of a place where nothing is supervised."""

NOT_INPUTS = ("labels", "good", "pairs", "controlled", "source", "choices", "rationale", "soft", "below", *cloze.PLAN)
"""What a batch holds for the losses; the model does not see it."""

ROW_HEADS = ("sequence-classification", *cloze.HEADS)
"""The heads that give one answer a row."""


class Words(Protocol):
    """A tokenizer, as far as a loss needs it."""

    @property
    def around(self) -> tuple[list[int], list[int]]: ...

    def ids(self, text: str) -> list[int]: ...


def supervised(labels: Tensor, head: str) -> Tensor | None:
    """Where the logits are supervised: a mask over (rows, places), or None where each row is one unit.

    A causal model predicts the next token, so its mask lies one place to the left of the labels.
    """
    if head in ROW_HEADS:
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
        head: the kind of head: ``sequence-classification``, ``token-classification``, ``causal-lm``, ``seq2seq-lm``,
            ``masked-cloze`` or ``causal-cloze``, whose batch says what is asked where (`cloze`).
        progress: share of the run that lies behind, 0 to 1.
        keep: what the main pass keeps for the losses that ask for it (``states``, ``activations``).
        moved: whether training has begun, so that the model's own weights may not be the base's any more.
        words: makes ids of a text, for terms that put words around rows.
        held_out: gives a batch of validation rows under the same model, for terms that ask for it.
    """

    def __init__(
        self,
        host: Host,
        batch: dict[str, Tensor],
        head: str,
        *,
        progress: float = 0.0,
        keep: Collection[str] = (),
        moved: bool = False,
        words: Words | None = None,
        held_out: Callable[[], Step | None] = lambda: None,
    ):
        self.host = host
        self.batch = batch
        self.head = head
        self.progress = progress
        self.labels = batch["labels"]
        self.mask = supervised(self.labels, head)
        self.moved = moved
        self._words = words
        self._held_out = held_out
        self._keep = frozenset(keep)
        self._draws = 0

    # ------------------------------------------------------------------ what is asked

    @cached_property
    def units(self) -> int:
        """Number of supervised units."""
        return len(self.labels) if self.mask is None else int(self.mask.sum())

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.labels)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What goes into the model: the batch without its labels."""
        return {k: v for k, v in self.batch.items() if k not in NOT_INPUTS}

    @cached_property
    def targets(self) -> Tensor:
        """What is asked at each supervised unit."""
        if self.mask is None:
            return self.labels
        if self.head == "causal-lm":
            return self.labels[:, 1:][self.mask[:, :-1]]
        return self.labels[self.mask]

    @cached_property
    def owners(self) -> Tensor:
        """The row of each supervised unit, shape (units,)."""
        if self.mask is None:
            return torch.arange(self.rows, device=self.labels.device)
        return self.mask.nonzero()[:, 0]

    @property
    def attended(self) -> Tensor:
        """Which input places hold a token rather than padding, bool of shape (rows, length)."""
        return self.batch["attention_mask"].bool()

    # ------------------------------------------------------------------ what the model says

    @cached_property
    def main(self) -> Pass:
        """The one pass that all losses share."""
        with self._above():
            return self.run(keep=self._keep)

    @property
    def logits(self) -> Tensor:
        """The model's logits at each supervised unit."""
        return self.main.logits

    @cached_property
    def states(self) -> list[Tensor]:
        """What each layer says, the embeddings first; another pass where the main one did not keep it."""
        return self.main.states or self.run(keep={STATES}).states

    @cached_property
    def activations(self) -> list[Tensor]:
        """What the last matrix of each MLP reads; another pass where the main one did not keep it."""
        return self.main.activations or self.run(keep={ACTIVATIONS}).activations

    def run(
        self,
        *,
        shift: Tensor | None = None,
        embed: Callable[[Tensor], Tensor] | None = None,
        weights: Mapping[str, Tensor] | None = None,
        keep: Collection[str] = (),
        **changes: Any,
    ) -> Pass:
        """Another pass of the model.

        Args:
            shift: is added to the embeddings of the input tokens, (rows, length, size).
            embed: makes other embeddings of those of the input tokens.
            weights: tensors in place of the model's own, ``model.NAME`` -> tensor.
            keep: what to keep besides logits and hidden states: ``states``, ``activations``.
            changes: what replaces parts of the batch.
        """
        with ExitStack() as stack:
            hidden = stack.enter_context(last_hidden(self.host.model))
            change = embed if shift is None else lambda e: e + shift
            stack.enter_context(embedded(self.host.model, change))
            activations = stack.enter_context(mlp_inputs(self.host, ACTIVATIONS in keep))
            if self._places is not None:
                stack.enter_context(self.host.head_only_at(self._places))
            if STATES in keep:
                changes = {**changes, "output_hidden_states": True}
            output = call(self.host, self._inputs(changes), weights)
        logits = output.logits if self.mask is None or self._writes else output.logits[self.mask]
        if self.head in cloze.HEADS:
            logits = cloze.class_scores(logits, self.batch)
        if "choices" in self.batch:
            logits = logits.masked_fill(~self.batch["choices"], NEVER)
        states = layer_states(output) if STATES in keep else []
        return Pass(logits, hidden[-1], self._features, states, activations)

    def before_head(self) -> tuple[Tensor, Tensor]:
        """What a language model's head reads at each supervised place, (units, size), and the logits at the first of them."""
        assert self.mask is not None
        with self._above(), self.host.head_only_at(self.mask, first=1) as read:
            output = call(self.host, self._inputs({}), None)
        return read[0], output.logits

    def again(self) -> Tensor:
        """The logits at the same units from another forward pass, which differs where there is dropout."""
        return self.run().logits

    def forward(self, **changes: Any) -> Any:
        """A forward pass of the model on the batch, with parts of it replaced."""
        return self.host(**self._inputs(changes))

    @cached_property
    def reference(self) -> Pass:
        """What the base says: everything attached is off, trained tensors are as they were, nothing is dropped out."""
        return self.as_base(self._keep)

    def as_base(self, keep: Collection[str] = ()) -> Pass:
        """Another pass of the base, which keeps what `reference` did not.

        Raises:
            RunError: the base's weights were not kept.
        """
        if self.moved and not self.host.origin and not all(w.fresh for w in self.host.weights().values()):
            raise RunError("the base's weights were not kept; a term that asks for the base has `compares = True`")
        with torch.no_grad(), self.host.off(), as_in_use(self.host):
            return self.run(weights=self.host.origin, keep=keep)

    def base(self) -> Tensor:
        """The base model's logits at the same units."""
        return self.reference.logits

    def other(self, model: Any, keep: Collection[str] = ()) -> Pass:
        """What another model says of the same batch, without gradient and drop-out."""
        if model not in self.host.guests:
            self.host.guests[model] = Host(model)
        guest = self.host.guests[model]
        with torch.no_grad(), as_in_use(guest):
            return Step(guest, self.batch, self.head).run(keep=keep)

    @cached_property
    def held_out(self) -> Step | None:
        """Validation rows, drawn anew at each optimizer step from its seed; None where there are none."""
        return self._held_out()

    def on(self, batch: dict[str, Tensor]) -> Step:
        """Another batch, seen by the same model."""
        return Step(self.host, batch, self.head, progress=self.progress, moved=self.moved, words=self._words)

    # ------------------------------------------------------------------ what else a loss may ask for

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """Name -> tensor of everything of the model and its adapters that trains."""
        return self.host.trainable()

    @property
    def origin(self) -> Mapping[str, Tensor]:
        """Name -> starting value of the model's own tensors that train; see `Host.remember`."""
        return self.host.origin

    @property
    def fresh(self) -> frozenset[str]:
        """Names of the trained tensors that were newly made for the task."""
        return frozenset(name for name, weight in self.host.weights().items() if weight.fresh)

    @property
    def names(self) -> list[str]:
        """The names of the outputs of a head with classes."""
        return list((getattr(self.host.model.config, "id2label", None) or {}).values())

    @property
    def places(self) -> int | None:
        """Most places of a row that the model can read, as far as its configuration says."""
        return getattr(self.host.model.config, "max_position_embeddings", None)

    def tokens(self, text: str) -> list[int]:
        """A text as ids of the base's tokenizer, without special tokens.

        Raises:
            RunError: the step was made without a tokenizer.
        """
        return self._tokenizer.ids(text)

    @property
    def around(self) -> tuple[list[int], list[int]]:
        """The ids that the base's tokenizer puts before and behind every text.

        Raises:
            RunError: the step was made without a tokenizer.
        """
        return self._tokenizer.around

    @property
    def _tokenizer(self) -> Words:
        if self._words is None:
            raise RunError("a term of the loss needs the tokenizer, which this loop was not given")
        return self._words

    @property
    def special(self) -> list[int]:
        """The ids of padding, begin, end and the like, as far as the model's configuration names them."""
        config = self.host.model.config
        found = [getattr(config, f"{what}_token_id", None) for what in ("pad", "bos", "eos", "cls", "sep")]
        return sorted({i for i in found if isinstance(i, int)})

    @cached_property
    def embeddings(self) -> Tensor:
        """The embeddings of the input tokens without gradient, shape (rows, length, size)."""
        with torch.no_grad():
            found: Tensor = embedding(self.host.model)(self.batch["input_ids"])
            return found

    @cached_property
    def table(self) -> Tensor:
        """The embedding of every token, without gradient, shape (vocabulary, size)."""
        module: Any = embedding(self.host.model)
        with torch.no_grad():
            found: Tensor = module(torch.arange(module.num_embeddings, device=self.labels.device))
            return found

    def draw(self, size: int = 1, kind: Literal["normal", "uniform"] = "normal") -> Tensor:
        """Random numbers for each place, (rows, length, size); 0 at padding.

        A row's numbers follow from the step's seed, the row's tokens and how many draws came before, so that
        neither padding nor the cut into micro-batches changes them.
        """
        ids, attended = self.batch["input_ids"].cpu(), self.attended.cpu()
        values = torch.zeros(*ids.shape, size)
        for row, (tokens, there) in enumerate(zip(ids, attended, strict=True)):
            text = f"{torch.initial_seed()} {self._draws} {tokens[there].tolist()}"
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
            generator = torch.Generator().manual_seed(seed)
            make = torch.randn if kind == "normal" else torch.rand
            values[row, there] = make(int(there.sum()), size, generator=generator)
        self._draws += 1
        return values.to(device=self.labels.device, dtype=self.embeddings.dtype)

    # ------------------------------------------------------------------ inside

    @property
    def _writes(self) -> bool:
        """Whether the head is a language model's, whose logits are too many to be held at every place."""
        return self.head in ("causal-lm", "seq2seq-lm", "masked-lm")

    @property
    def _places(self) -> Tensor | None:
        """Where a language model's head is applied; None for any other head, which is applied everywhere."""
        return cloze.places(self.batch) if self.head in cloze.HEADS else self.mask if self._writes else None

    def vocabulary(self, places: Tensor, **changes: Any) -> Tensor:
        """A language model's logits over its vocabulary at other places, from a pass of its own.

        Args:
            places: bool of the shape of ``input_ids``.
            changes: what replaces parts of the batch.

        Returns:
            (places, vocabulary), row by row.
        """
        with self.host.head_only_at(places):
            found: Tensor = self.host(**self._inputs(changes)).logits
        return found

    def _above(self) -> AbstractContextManager[None]:
        """Inside this block the layers are left out whose states the batch brings (`tunesmith.engine.activations`)."""
        if "below" not in self.batch or self.host.below is None:
            return nullcontext()
        return self.host.below.skipped(self.batch["below"])

    def _features(self, hidden: Tensor) -> Tensor:
        if self.head in cloze.HEADS:
            return cloze.row_means(hidden, self.batch)
        if self.mask is not None:
            return hidden[self.mask]
        there = self.attended.unsqueeze(-1).to(hidden.dtype)
        if there.shape[1] != hidden.shape[1]:
            raise InputError("hidden states do not match the input's places", expected="one state a token")
        return (hidden * there).sum(1) / there.sum(1)

    def _inputs(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        inputs = {**self.inputs, **changes}
        if self.host.reads and self.head == "causal-lm" and self.mask is not None:
            inputs["given"] = self.mask.cumsum(1) - self.mask.long() == 0
        if self.head == "seq2seq-lm" and "decoder_input_ids" not in inputs:
            inputs["decoder_input_ids"] = self._shifted_labels()
        return inputs

    def _shifted_labels(self) -> Tensor:
        config = self.host.model.config
        start = config.decoder_start_token_id
        start = getattr(config, "bos_token_id", 0) if start is None else start
        shifted = self.labels.new_full(self.labels.shape, start)
        shifted[:, 1:] = self.labels[:, :-1]
        return shifted.masked_fill(shifted == IGNORED, getattr(config, "pad_token_id", None) or 0)
