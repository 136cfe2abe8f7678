"""What the loop does for a mask: lets it observe before it chooses, and asks it around every step."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..masks import EntryMask, Mask, Moment
from ..models.anatomy import Weight
from ..sparse import SparseDelta
from .batches import epoch_steps
from .step import count_units

if TYPE_CHECKING:
    from .loop import Loop

_OBSERVING = 1 << 40
"""Beyond every epoch's number, so that observed rows come in another order than trained ones."""


class Chooser:
    """A loop's mask at work. With no mask, or with one that never changes, there is nothing to do.

    Args:
        loop: the loop whose mask this is.
    """

    def __init__(self, loop: Loop):
        self.loop, self.work, self.host = loop, loop.work, loop.work.host
        self.mask = loop.work.mask
        self.entries = self.mask if isinstance(self.mask, EntryMask) else None
        self.settled = self.mask is None or not (self.mask.sparse or self.mask.samples)
        self._weights = {w.name: w for w in self.host.anatomy.weights}
        self._held: dict[str, Tensor] = {}
        self._other: dict[str, Tensor | None] = {}
        if self.mask is not None:
            self.host.train_only(self.mask)
            self.mask.begin(self.host.choosable(self.mask), self.work.seed)
            self.host.train_only(self.mask)

    # ------------------------------------------------------------------ before training

    def choose(self) -> Iterator[dict[str, Any]]:
        """Observe or scout as the mask wishes, then let it choose."""
        assert self.mask is not None
        if self.entries is not None and self.entries.scout:
            yield from self._scout(self.entries)
        elif self.entries is not None and self.entries.found:
            self._recall(self.entries)
        elif self.mask.samples:
            yield {"event": "note", "text": f"the mask observes {self.mask.samples} rows"}
            self.observe(self.mask.samples, 0)
        if self.loop.interrupt is not None:
            self.loop.state.stopped = "interrupted"
            return
        self.mask.settle()
        self.settled = True
        if self.entries is None:
            self.host.train_only(self.mask)
            return
        self.host.place(self.entries.choose())
        for patch in self.host.patches.values():
            patch.given = self.entries.prepare(patch)
            patch.write()
        moving = sum(len(p.base) for p in self.host.patches.values())
        yield {"event": "note", "text": f"{moving:,} entries of {len(self.host.patches)} tensors move"}

    def observe(self, samples: int, salt: int) -> None:
        """Show the mask the gradients of some training rows; nothing moves, and each gradient is let go at once."""
        assert self.mask is not None
        candidates = self.host.choosable(self.mask)
        flags = {p: p.requires_grad for p in self.host.parameters()}
        training = self.host.training
        for patch in self.host.patches.values():
            patch.deafen()
        for parameter in flags:
            parameter.requires_grad_(False)
        hooks = []
        for weight in candidates:
            weight.parameter.requires_grad_(True)
            hooks.append(weight.parameter.register_post_accumulate_grad_hook(partial(_show, self.mask, weight)))
        self.host.eval()
        try:
            for number, rows in enumerate(self._observed(samples, salt)):
                torch.manual_seed(hash((self.work.seed, salt, number)) % 2**63)
                batch = self.work.collate(self.work.rows.take(rows))
                asks = self.mask.asks if type(self.mask).asks is not Mask.asks else None
                self.loop.closure(batch, count_units(batch["labels"], self.work.head), asks)().backward()
        finally:
            for hook in hooks:
                hook.remove()
            for parameter, flag in flags.items():
                parameter.requires_grad_(flag)
            for patch in self.host.patches.values():
                patch.listen()
            self.host.train(training)

    def _observed(self, samples: int, salt: int) -> Iterator[np.ndarray]:
        """Groups of training rows, as many as the mask takes together, in an order of their own."""
        assert self.mask is not None
        lengths = self.work.rows.lengths
        epochs = (
            epoch_steps(lengths, self.mask.together, seed=self.work.seed, epoch=_OBSERVING + salt + i)
            for i in itertools.count()
        )
        groups = itertools.chain.from_iterable(epochs)
        return itertools.islice(groups, -(-samples // self.mask.together))

    def _scout(self, mask: EntryMask) -> Iterator[dict[str, Any]]:
        """A full tuning, after which the weights are taken back; the mask sees what it changed."""
        if not np.isfinite(self.loop.total_steps):
            raise InputError("the mask tunes everything first, for a share of the budget", where="budget",
                             expected="epochs, steps or rows")  # fmt: skip
        steps = max(1, round(mask.scout * self.loop.total_steps))
        yield {"event": "note", "text": f"the mask tunes everything for {steps} steps, to choose by what changes"}
        candidates = self.host.choosable(mask)
        before = {w.name: w.parameter.detach().clone() for w in candidates}
        others = {n: t.clone() for n, t in self.host.state(training=True).items()}
        for weight in candidates:
            weight.parameter.requires_grad_(True)
        yield from self._train(mask, steps)
        with torch.no_grad():
            for weight in candidates:
                mask.compare(weight, before[weight.name])
                weight.parameter.copy_(before[weight.name])
                weight.parameter.requires_grad_(False)
        if not mask.keeps_head:
            self.host.load(others, training=True)

    @torch.no_grad()
    def _recall(self, mask: EntryMask) -> None:
        """Show the mask what an earlier full tuning changed; what the difference does not name has not changed."""
        delta = SparseDelta.load(mask.found).within(self.host.trunk)
        delta.check(self.host.model, self.host.begun)
        for weight in self.host.choosable(mask):
            values = weight.parameter.detach()
            change = delta.dense(weight.name).to(values) if weight.name in delta.entries else torch.zeros_like(values)
            mask.weigh(weight, values, change)

    def _train(self, mask: EntryMask, steps: int) -> Iterator[dict[str, Any]]:
        from .loop import Budget, Loop

        stepper = copy.copy(self.work.stepper)
        stepper.lr = mask.scout_rate
        budget = Budget(epochs=None, steps=steps)
        inner = Loop(replace(self.work, mask=None, folder=None, validate=None, budget=budget, stepper=stepper),
                     self.loop.device)  # fmt: skip
        inner.observed = True
        for event in inner:
            inner.interrupt = self.loop.interrupt
            if event["event"] == "step":
                yield {"event": "scout", "scouted": event["step"], "steps": steps, "loss": event["loss"]}

    # ------------------------------------------------------------------ around a step

    def rate_of(self, name: str) -> float:
        """The factor of the learning rate for a trained tensor, by its name at the host."""
        weight = self._weights.get(name.removeprefix("model."))
        return 1.0 if self.mask is None or weight is None or weight.fresh else self.mask.rate_of(weight)

    def before_step(self, moment: Moment) -> None:
        """Wake and rest what the mask says, and look at the choice of entries again when it is time."""
        if self.entries is not None:
            self._refresh(self.entries, moment)
        elif self.mask is not None:
            own = [w for w in self.host.weights().values() if not w.fresh]
            resting = [w for w in own if not self.mask.now(w, moment)]
            self.host.rest(w.name for w in resting)
            if self.mask.forgets:
                for weight in resting:
                    self.loop.optimizer.state.pop(weight.parameter, None)

    def _refresh(self, mask: EntryMask, moment: Moment) -> None:
        due = min(mask.refreshes, int(moment.progress * (mask.refreshes + 1)))
        if due <= self.loop.state.refreshes:
            return
        self.loop.state.refreshes = due
        if mask.looks:
            self.observe(mask.looks, 1 + moment.step)
        for patch in self.host.patches.values():
            indices = mask.renew(patch, moment)
            if indices is not None:
                _carry_over(self.loop.optimizer.state, patch.values, patch.move(indices))
                patch.given = mask.prepare(patch)

    def compare(self, batches: list[dict[str, Tensor]], units: int) -> None:
        """Before a step's own gradient, get that of the loss which the mask compares it with."""
        if self.entries is None or not self.entries.checks:
            return
        for batch in batches:
            self.loop.closure(batch, units, self.entries.against)().backward()
        self._other = {n: p.values.grad for n, p in self.host.patches.items()}
        for parameter in self.loop.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def after_backward(self) -> None:
        """Let the mask change the gradients of the whole step."""
        if self.mask is not None and self.mask.filters:
            for weight in self._moving():
                weight.parameter.grad = self.mask.filter(weight, _grad(weight))
        for name, patch in self.host.patches.items() if self.entries else ():
            assert self.entries is not None
            other = self._other.get(name)
            if other is not None and patch.values.grad is not None:
                patch.values.grad = self.entries.reconcile(patch, patch.values.grad, other)
            if patch.values.grad is not None:
                self.entries.watch(patch, patch.values.grad)
            pull = self.entries.pull(patch, self.loop.state.step)
            if pull is not None:
                patch.values.grad = pull if patch.values.grad is None else patch.values.grad + pull

    @torch.no_grad()
    def hold(self) -> None:
        """Before the weights move: keep what has to be compared with afterwards."""
        if self.mask is not None and self.mask.follows:
            self._held = {w.name: w.parameter.detach().clone() for w in self._moving()}
        if self.entries is not None and self.entries.soft:
            self._held = {n: p.values.detach().clone() for n, p in self.host.patches.items()}

    @torch.no_grad()
    def after_step(self) -> None:
        """After the weights have moved, while their gradients are still there."""
        for name, patch in self.host.patches.items():
            if self.entries is not None and self.entries.soft and patch.given is not None:
                patch.values.copy_(torch.lerp(self._held[name], patch.values, patch.given))
            patch.write()
        if self.mask is not None and self.mask.follows:
            for weight in self._moving():
                self.mask.follow(weight, self._held[weight.name], _grad(weight))
        self._held = {}

    def _moving(self) -> list[Weight]:
        """The model's own pretrained weights that have a gradient."""
        return [w for w in self.host.weights().values() if not w.fresh and w.parameter.grad is not None]

    # ------------------------------------------------------------------ afterwards

    def harden(self) -> None:
        """At the end, let every choice of entries become a plain difference."""
        if self.entries is not None:
            self.entries.conclude(list(self.host.patches.values()))
        for patch in self.host.patches.values():
            patch.harden()

    def state(self) -> dict[str, Tensor]:
        """What the mask remembers, for a checkpoint."""
        return {} if self.mask is None else {f"mask.{name}": tensor for name, tensor in self.mask.state().items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up a checkpoint's choice."""
        if self.mask is None:
            return
        self.mask.load({n.removeprefix("mask."): t for n, t in tensors.items() if n.startswith("mask.")})
        self.host.train_only(self.mask)
        self.settled = True


def _grad(weight: Weight) -> Tensor:
    assert weight.parameter.grad is not None
    return weight.parameter.grad


def _show(mask: Any, weight: Weight, parameter: Tensor) -> None:
    mask.observe(weight, parameter.grad)
    parameter.grad = None


def _carry_over(state: Any, values: Tensor, source: Tensor) -> None:
    """The optimizer's state of entries that go on moving; that of new ones begins at zero."""
    kept = source >= 0
    for name, tensor in state.get(values, {}).items():
        if isinstance(tensor, Tensor) and tensor.ndim:
            moved = torch.zeros(len(source), dtype=tensor.dtype, device=tensor.device)
            moved[kept] = tensor[source[kept]]
            state[values][name] = moved
