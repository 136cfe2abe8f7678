"""One pass of the model over a batch, and what of it is kept for a loss that looks inside."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..host import Host
from ..models.packing import spread

STATES, ACTIVATIONS = "states", "activations"
"""What a pass keeps only when it is asked for."""


@dataclass
class Pass:
    """What a pass of the model gave.

    Attributes:
        logits: at every supervised unit, shape (units, classes).
        hidden: what the last layer says at every place, shape (rows, length, size); a decoder's where there are two.
        pool: from ``hidden`` to ``features``.
        states: the embeddings and what each layer says, shape (rows, length, size) each; empty unless kept.
        activations: what goes into the last matrix of each MLP, shape (rows, length, size) each; empty unless kept.
    """

    logits: Tensor
    hidden: Tensor
    pool: Callable[[Tensor], Tensor]
    states: list[Tensor] = field(default_factory=list)
    activations: list[Tensor] = field(default_factory=list)

    @cached_property
    def features(self) -> Tensor:
        """``hidden`` at the supervised places, or its mean over a row's places, shape (units, size)."""
        return self.pool(self.hidden)


@contextlib.contextmanager
def last_hidden(model: Any) -> Iterator[list[Tensor]]:
    """Inside this block the last layer's output of every pass is put into the list."""
    found: list[Tensor] = []
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    trunk = decoder if isinstance(decoder, nn.Module) else model.base_model

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output.last_hidden_state)

    handle = trunk.register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


@contextlib.contextmanager
def mlp_inputs(host: Host, wanted: bool) -> Iterator[list[Tensor]]:
    """Inside this block what each MLP's last matrix reads is put into the list, layer by layer."""
    found: list[Tensor] = []
    sites = [s for s in host.anatomy.sites if s.role == "mlp.down" and s.rows is None] if wanted else []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(spread(inputs[0]))

    handles = [s.module.register_forward_pre_hook(keep) for s in sites]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def embedding(model: Any) -> nn.Module:
    """The table that turns the batch's ``input_ids`` into vectors; the encoder's where there are two."""
    two = getattr(model.config, "is_encoder_decoder", False)
    table: nn.Module = (model.get_encoder() if two else model).get_input_embeddings()
    return table


@contextlib.contextmanager
def embedded(model: Any, change: Callable[[Tensor], Tensor] | None) -> Iterator[None]:
    """Inside this block the embeddings of the input tokens, (rows, length, size), are what ``change`` makes of them."""
    if change is None:
        yield
        return
    handle = embedding(model).register_forward_hook(lambda module, inputs, output: change(output).to(output.dtype))
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def as_in_use(module: nn.Module) -> Iterator[None]:
    """Inside this block nothing is dropped out."""
    were = [m for m in module.modules() if m.training]
    module.eval()
    try:
        yield
    finally:
        for m in were:
            m.training = True


def call(host: Host, inputs: Mapping[str, Any], weights: Mapping[str, Tensor] | None) -> Any:
    """The model's output, with other tensors in place of some that train, by the names of `Host.trainable`.

    Raises:
        InputError: only some entries of a weight train, which cannot be swapped.
    """
    if not weights:
        return host(**inputs)
    own, paths = host.trainable(), {id(p): path for path, p in host.named_parameters()}
    if strangers := [name for name in weights if id(own.get(name)) not in paths]:
        raise InputError(
            f"a term of the loss swaps whole weights, and {strangers[0]} is not one", fix="choose another mask or term"
        )
    swapped = {paths[id(own[name])]: tensor for name, tensor in weights.items()}
    return torch.func.functional_call(host, swapped, (), dict(inputs))


def layer_states(output: Any) -> list[Tensor]:
    """The states of each layer in a model's output; the decoder's where there are two."""
    states: Sequence[Tensor] | None = getattr(output, "hidden_states", None)
    return list(states if states is not None else output.decoder_hidden_states)
