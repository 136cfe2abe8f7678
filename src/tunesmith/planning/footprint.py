"""The most memory that a run holds at one time, and what it computes: its own loop, traced on shapes alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)
from torch.nn import functional as F

from ..engine import chunked
from ..engine.activations import WithStates
from ..engine.batches import epoch_steps, micro_batches
from ..engine.loop import Loop, Rows, Work
from ..engine.precision import arithmetic
from ..engine.step import Step, count_units, supervised
from ..errors import RunError
from ..masks import EntryMask
from ..models import packing
from .trace import Operation, Trace

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Shape:
    """The shape of a micro-batch.

    Attributes:
        indices: its rows.
        length: tokens of the longest of them.
        alone: whether it is the whole step, so that no gradients are there yet when it begins.
        tokens: that go through the layers: with padding, where rows are not packed.
    """

    indices: np.ndarray
    length: int
    alone: bool
    tokens: int


@dataclass
class Footprint:
    """What a run takes.

    Attributes:
        phases: for each phase, the bytes held at its peak, by item.
        operations: of the training step that was traced.
        traced: tokens of that step, padding counted.
        tokens: tokens of an epoch, padding counted.
        passes: micro-batches of an epoch.
        trained: bytes of what the run changes.
        moments: bytes of the optimizer's state.
        rows, length: of the largest micro-batch.
        cached: bytes of hidden states that are kept on disk.
    """

    phases: dict[str, dict[str, int]] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    traced: int = 0
    tokens: int = 0
    passes: int = 0
    trained: int = 0
    moments: int = 0
    rows: int = 0
    length: int = 0
    cached: int = 0

    @property
    def phase(self) -> str:
        """The phase with the highest peak."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def peak(self) -> int:
        """Bytes of tensors at the highest peak."""
        return sum(self.phases[self.phase].values())


@contextlib.contextmanager
def shapes_only() -> Iterator[FakeTensorMode]:
    """Inside this block tensors have shapes and no values.

    Raises:
        RunError: something asks for a value that nothing here can tell.
    """
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            yield mode
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException) as error:
        asked = getattr(error, "func", None) or error
        raise RunError(f"the plan cannot follow this recipe: {asked} depends on values, not on shapes alone") from error


def footprint(work: Work, held_out: Sequence[Rows], mode: FakeTensorMode, *, reads: int) -> Footprint:
    """Trace a run's largest micro-batches.

    Args:
        work: as the loop gets it; its host has fake tensors.
        held_out: rows that are read without training.
        mode: of the fake tensors.
        reads: most tokens that are read at a time.

    Raises:
        RunError: a part asks for values that only data could tell.
    """
    shapes = _shapes(work)
    cached = work.rows.states.bytes if isinstance(work.rows, WithStates) else 0
    found = Footprint(tokens=sum(s.tokens for s in shapes), passes=len(shapes), cached=cached)
    found.phases["loading"] = {"weights": _bytes(_weights(work).values())}
    for shape in _largest(shapes, work.rows):
        _train(found, work, shape, mode)
    if held_out:
        _read(found, work, held_out, mode, reads)
    return found


def _shapes(work: Work) -> list[Shape]:
    """The micro-batches of the first epoch."""
    lengths, packed = work.rows.lengths, work.host.packs
    found = []
    for step in epoch_steps(lengths, work.rows_per_step, seed=work.seed, epoch=0):
        groups = list(micro_batches(step, lengths, work.tokens, packed=packed))
        for group in groups:
            longest = int(lengths[group].max())
            tokens = int(lengths[group].sum()) if packed else len(group) * longest
            found.append(Shape(group, longest, len(groups) == 1, tokens))
    return found


def _largest(shapes: list[Shape], rows: Rows) -> list[Shape]:
    """Those that may hold the most: by tokens with padding, by pairs of tokens, by supervised units."""
    units = getattr(rows, "units", None)
    orders: list[Callable[[Shape], float]] = [lambda s: s.tokens, lambda s: s.tokens * s.length]
    if units is not None:
        orders.append(lambda s: float(units[s.indices].sum()))
    chosen: dict[tuple[int, int, int, bool], Shape] = {}
    for order in orders:
        best = max(order(s) for s in shapes)
        shape = next((s for s in shapes if order(s) == best and not s.alone), None)
        shape = shape or next(s for s in shapes if order(s) == best)
        chosen[len(shape.indices), shape.length, shape.tokens, shape.alone] = shape
    return list(chosen.values())


def _train(found: Footprint, work: Work, shape: Shape, mode: FakeTensorMode) -> None:
    """One optimizer step over one micro-batch, as a later step of a run has it."""
    batch, trace, lengths = _batch(work, work.rows, shape.indices, mode)
    seen: dict[str, Tensor] = {k: mode.from_tensor(v) for k, v in batch.items()}
    with trace, lengths:
        trace.hold(_weights(work).values(), "weights")
        loop = _loop(work)
        parameters = list(loop.parameters.values())
        trace.hold(parameters, "weights")
        _remember(trace, work, loop)
        work.host.train()
        loop.chooser.before_step(loop.moment)
        moving = [p for p in parameters if p.requires_grad]
        with torch.no_grad():
            for parameter in moving:
                parameter.grad = torch.zeros_like(parameter)
        trace.hold([p.grad for p in moving if p.grad is not None], "gradients")
        loop.optimizer.step()
        state = [t for s in loop.optimizer.state.values() for t in s.values() if isinstance(t, Tensor)]
        trace.hold(state, "optimizer state")
        if shape.alone:
            loop.optimizer.zero_grad(set_to_none=True)
        trace.begin()
        _step(loop, seen, trace.units, parameters, trace)
    items = trace.items()
    if sum(items.values()) > sum(found.phases.get("training", {}).values()):
        found.phases["training"] = items
        found.rows, found.length = len(shape.indices), shape.length
    if shape.tokens > found.traced:
        found.operations, found.traced = trace.operations, shape.tokens
    found.trained, found.moments = _bytes(loop._tensors(training=True).values()), _bytes(state)
    loop.optimizer.zero_grad(set_to_none=True)
    work.host.origin = {}


def _loop(work: Work) -> Loop:
    """The run's loop, with entries in place where a mask would choose them."""
    mask = work.mask
    if isinstance(mask, EntryMask):
        candidates = work.host.choosable(mask)
        share = mask.count(candidates) / max(1, sum(w.parameter.numel() for w in candidates))
        counts = {w.name: max(1, round(share * w.parameter.numel())) for w in candidates}
        work.host.place({name: torch.empty(count, dtype=torch.int64) for name, count in counts.items()})
    chooses = mask is None or mask.sparse or mask.samples
    settled = Work(**{**vars(work), "mask": None if chooses else mask, "folder": None, "validate": None})
    return Loop(settled, CPU)


def _remember(trace: Trace, work: Work, loop: Loop) -> None:
    """Name what is kept of the base, and what the terms of the loss own."""
    trace.hold(work.host.origin.values(), "copy of the base")
    trace.hold(loop._terms("state").values(), "weights")
    for patch in work.host.patches.values():
        trace.hold([t for t in (patch.base, patch.indices) if t is not None], "copy of the base")


def _step(loop: Loop, batch: dict[str, Tensor], units: int, parameters: list[Any], trace: Trace) -> None:
    """Forward, backward and the optimizer's step."""
    closure = loop.closure(batch, units, rows=len(batch["labels"]))

    def marked() -> Tensor:
        value = closure()
        trace.mark()
        return value

    def name(parameter: Tensor) -> None:
        if parameter.grad is not None:
            trace.hold([parameter.grad], "gradients")

    handles = [p.register_post_accumulate_grad_hook(name) for p in parameters if p.requires_grad]
    try:
        loop.work.gradient([marked], parameters)
        for transform in loop.work.transforms:
            transform(parameters)
        loop.optimizer.step()
    finally:
        for handle in handles:
            handle.remove()


def _read(found: Footprint, work: Work, held_out: Sequence[Rows], mode: FakeTensorMode, reads: int) -> None:
    """The largest batch of rows that are only read, while the optimizer waits."""
    packed = work.host.packs
    groups = [(rows, group) for rows in held_out for group in _reading(rows, reads, packed)]
    rows, chosen = max(groups, key=lambda g: len(g[1]) * int(g[0].lengths[g[1]].max()))
    batch, trace, lengths = _batch(work, rows, chosen, mode)
    seen: dict[str, Tensor] = {k: mode.from_tensor(v) for k, v in batch.items()}
    work.host.eval()
    with trace, lengths, torch.no_grad(), arithmetic(work.dtype, CPU):
        trace.hold(_weights(work).values(), "weights")
        trace.hold(work.host.trainable().values(), "weights")
        trace.begin()
        _say(Step(work.host, seen, work.head))
        trace.mark()
    training: dict[str, int] = found.phases["training"]
    waiting: dict[str, int] = {
        kept: training[kept] for kept in ("optimizer state", "copy of the base") if kept in training
    }
    found.phases["reading held-out rows"] = {**trace.items(), **waiting}


def _say(step: Step) -> None:
    """What is asked of rows that are only read (`tunesmith.engine.predict`)."""
    if step.head in chunked.WRITES and chunked.too_large(step.host, step.units):
        chunked.token_losses(step)
        return
    values = step.logits.float()
    if step.mask is not None:
        F.cross_entropy(values, step.targets, reduction="none")


def _reading(rows: Rows, tokens: int, packed: bool) -> list[np.ndarray]:
    """The batches in which rows are read."""
    return list(micro_batches(np.argsort(-rows.lengths, kind="stable"), rows.lengths, tokens, packed=packed))


def _batch(
    work: Work, rows: Rows, indices: np.ndarray, mode: FakeTensorMode
) -> tuple[dict[str, Tensor], Trace, contextlib.AbstractContextManager[None]]:
    """A batch with its values, a trace that knows what only they can tell, and a block in which lengths are known."""
    with torch.utils._python_dispatch._disable_current_modes():
        batch = work.collate(rows.take(indices))
        places = supervised(batch["labels"], work.head)
        units = count_units(batch["labels"], work.head)
        mask = batch["attention_mask"]
        lengths = packing.told(mask.sum(1).tolist(), mask.shape[1])
    shape = tuple(places.shape) if places is not None else tuple(batch["labels"].shape)
    writes = "classification" not in work.head
    vocabulary = work.host.model.config.get_text_config(decoder=True).vocab_size if writes else -1
    return batch, Trace(units, shape, vocabulary), lengths


def _weights(work: Work) -> dict[str, Tensor]:
    """Everything of the model and its adapters."""
    host = work.host
    return {**dict(host.named_parameters()), **dict(host.named_buffers())}


def _bytes(tensors: Any) -> int:
    """Bytes of tensors, what they share counted once."""
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())
