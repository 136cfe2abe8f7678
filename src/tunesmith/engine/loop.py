"""THE loop: every technique is trained by it."""

from __future__ import annotations

import gc
import itertools
import math
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError, RunError
from ..gradients import Gradient, Plan, Replayable
from ..host import Host
from ..losses import Loss
from ..masks import Mask, Moment
from ..optimizers import Stepper, Transform
from ..schedules import Schedule
from . import checkpoint, chunked
from .batches import epoch_steps, micro_batches
from .choosing import Chooser
from .components import components, layers_above
from .health import WATCHED, Watch
from .memory import is_out_of_memory, peak_bytes
from .passes import as_in_use
from .precision import arithmetic
from .processes import ALONE, Processes
from .sharding import Gathered, Parting, own, parted, whole, wholes
from .step import Step, Words, count_units
from .step_log import StepLog, replay, why_no_log
from .streaming import Stream
from .tuning import Tuner


class Rows(Protocol):
    """Encoded rows: ready for the model, on disk."""

    @property
    def lengths(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def take(self, indices: np.ndarray) -> list[dict[str, Any]]: ...

    def where(self, index: int) -> str: ...


@dataclass(frozen=True)
class Budget:
    """When a run ends: at the first limit that it meets.

    Attributes:
        epochs: passes over the training rows.
        steps: optimizer steps.
        minutes: wall time of training.
        rows: training rows seen, counted once each time.
        patience: validations in a row without a lower loss; the best weights are kept then.
    """

    epochs: float | None = 3.0
    steps: int | None = None
    minutes: float | None = None
    rows: int | None = None
    patience: int | None = None

    def total_steps(self, rows: int, rows_per_step: int) -> float:
        """Steps that the counted limits allow; infinite when only time is limited."""
        limits = [math.inf]
        if self.epochs is not None:
            limits.append(max(1, round(self.epochs * math.ceil(rows / rows_per_step))))
        if self.steps is not None:
            limits.append(self.steps)
        if self.rows is not None:
            limits.append(math.ceil(self.rows / rows_per_step))
        return min(limits)


@dataclass
class Work:
    """What the loop needs of a run.

    Attributes:
        host: the model with its parts; what trains is chosen already.
        rows: the encoded training rows.
        collate: makes a batch of tensors from encoded rows.
        head: kind of the model's head (see `Step`).
        losses: the terms of what is asked; they add up with their weights.
        gradient: how the gradient is got.
        transforms: rules that change the gradients, in order.
        stepper: the rule that moves the weights.
        schedule: the learning rate over the run.
        budget: when the run ends.
        rows_per_step: rows of one optimizer step, the effective batch.
        tokens: most tokens in one micro-batch, padding counted.
        dtype: precision of matrix products.
        seed: every random choice comes from it.
        folder: where checkpoints go; None writes none.
        save_minutes: wall time between checkpoints.
        save_steps: steps between checkpoints, on top.
        validate: gives the loss on held-out rows; None validates never.
        validations: validations in each epoch.
        validation_rows: how many rows one reads. Unless ``patience`` looks at them, a validation before the last waits until as
            many rows have been trained on since the one before: it shall not take longer than the training.
        mask: which of the model's own weights move, where the choice is made or changes in training.
        together: the processes that share every step's rows.
        words: makes ids of a text, for terms that put words around rows.
        held_out: encoded validation rows, for terms that ask what a step does to them and adapters that tune values on them.
        sharded: whether the model has been shared out between the processes (`sharding`).
    """

    host: Host
    rows: Rows
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]]
    head: str
    losses: Sequence[Loss]
    gradient: Gradient
    transforms: Sequence[Transform]
    stepper: Stepper
    schedule: Schedule
    budget: Budget
    rows_per_step: int = 32
    tokens: int = 4096
    dtype: torch.dtype = torch.float32
    seed: int = 0
    folder: Path | None = None
    save_minutes: float = 5.0
    save_steps: int | None = None
    validate: Callable[[], float] | None = None
    validations: int = 1
    validation_rows: int = 0
    mask: Mask | None = None
    together: Processes = ALONE
    words: Words | None = None
    held_out: Rows | None = None
    sharded: bool = False


@dataclass
class State:
    """What changes while the loop runs, the weights and the optimizer's state apart; a checkpoint holds it whole."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    units: int = 0
    rows: int = 0
    micro_tokens: int = 0
    best_loss: float | None = None
    best_step: int = -1
    waited: int = 0
    validated: int = 0
    stopped: str = ""
    asleep: dict[str, str] = field(default_factory=dict)
    refreshes: int = 0


class Loop:
    """The loop over optimizer steps. Iterating it trains; each step, validation, save and warning is an event.

    Args:
        work: what to do.
        device: where the model is.

    Raises:
        RunError: the loss or a gradient is not finite, no tensor learns, or one row alone does not fit in memory.
    """

    def __init__(self, work: Work, device: torch.device | None = None):
        self.work = work
        self.device = device or next(work.host.parameters()).device
        self.state = State(micro_tokens=work.tokens)
        self.total_steps = work.budget.total_steps(len(work.rows), work.rows_per_step)
        self.interrupt: int | None = None
        self._best: dict[str, Tensor] = {}
        self.notes: list[str] = []
        self.log = StepLog()
        self.logged = False
        self.stream: Stream | None = None
        self._stopping = False
        self.chooser = Chooser(self)
        self.tuner = Tuner(self)
        if work.together.count > 1:
            self._check_together()
        if self.chooser.settled:
            self._build()
        self.observed = False
        self.chunks = self._may_chunk()
        self._saved_at = 0.0

    def _check_together(self) -> None:
        """What cannot be cut into the shares of several processes.

        Raises:
            InputError: a part needs all rows of a step in one place.
        """
        work, entries = self.work, self.chooser.entries
        whole = [f"loss {type(t).__name__} ({t.whole})" for t in work.losses if t.whole]
        whole += (
            [] if work.gradient.adds and not work.gradient.streams else [f"gradient {type(work.gradient).__name__}"]
        )
        whole += [f"mask {type(entries).__name__}"] if entries is not None and entries.checks else []
        if whole:
            raise InputError(
                f"{whole[0]} needs all rows of a step in one process", where="--processes", fix="train with one process"
            )

    def _build(self) -> None:
        """The terms' own tensors, and the optimizer over everything that trains."""
        self._start_terms()
        self.parameters = {**self.work.host.trainable(), **self._terms("parameters")}
        parts = components(self.work.host, self.parameters)
        for transform in self.work.transforms:
            transform.begin(parts)
        self.work.stepper.begin(parts)
        self.optimizer = self.work.stepper.build(self._groups())
        self.stream = Stream(self) if self.work.gradient.streams else None
        self._begin_gradient()

    def _begin_gradient(self) -> None:
        """Let the way to a gradient see the model; one that cannot work with this recipe says so here."""
        work, gradient = self.work, self.work.gradient
        own = self._terms("parameters")
        if gradient.sums and (own or work.host.penalty() is not None or any(t.whole for t in work.losses)):
            raise InputError("gradient private needs a loss that is a sum over rows",
                             fix="leave out terms and adapters that add something else to the loss")  # fmt: skip
        if gradient.entries and work.host.patches:
            raise InputError(f"the mask moves single entries, and for this gradient {gradient.entries}",
                             fix="choose a mask of whole tensors, or gradient backprop")  # fmt: skip
        if gradient.sums and work.host.packs:
            raise InputError("gradient private needs each row apart, and packing lays them end to end",
                             fix="leave packing out")  # fmt: skip
        plan = Plan(len(work.rows), work.rows_per_step, self.total_steps, _reversible(self.optimizer))
        self.notes = gradient.begin(work.host, plan)
        reason = why_no_log(self)
        self.logged = not reason
        if reason and isinstance(gradient, Replayable):
            self.notes.append(f"checkpoints hold the weights and no log of steps: {reason}")

    # ------------------------------------------------------------------ the terms of the loss

    def _start_terms(self) -> None:
        """Let terms that own tensors make them, from the first rows and the run's seed, before anything moves."""
        if any(term.compares for term in self.work.losses) and not self.work.host.origin:
            self.work.host.remember()
        waiting = [t for t in self.work.losses if not t.started and type(t).start is not Loss.start]
        if not waiting:
            return
        batch = self.work.collate(self.work.rows.take(np.arange(min(2, len(self.work.rows)))))
        with torch.random.fork_rng(devices=[]), torch.no_grad(), arithmetic(self.work.dtype, self.device):
            torch.manual_seed(self.work.seed)
            for term in waiting:
                term.start(self._seen(batch))
                term.started = True
                if isinstance(term, nn.Module):
                    term.to(self.device)

    def _terms(self, what: str) -> dict[str, Any]:
        """Parameters or tensors (``state_dict``) of the terms that own some, by name."""
        found: dict[str, Any] = {}
        for number, term in enumerate(self.work.losses):
            if isinstance(term, nn.Module):
                tensors = dict(term.named_parameters()) if what == "parameters" else term.state_dict()
                found |= {f"loss.{number}.{name}": tensor for name, tensor in tensors.items()}
        return found

    def _tensors(self, *, training: bool = False) -> dict[str, Tensor]:
        """Everything that the run has changed: the host's, and the terms' own."""
        return {**self.work.host.state(training=training), **{n: t.detach() for n, t in self._terms("state").items()}}

    @torch.no_grad()
    def _load(self, tensors: Mapping[str, Tensor], *, training: bool = False) -> None:
        own = self._terms("state")
        if own.keys() != {n for n in tensors if n.startswith("loss.")}:
            raise RunError("the saved state has other tensors of the loss's terms than this recipe")
        self.work.host.load({n: t for n, t in tensors.items() if n not in own}, training=training)
        for name, tensor in own.items():
            tensor.copy_(tensors[name])

    def _seen(self, batch: dict[str, Tensor]) -> Step:
        moved = {k: v.to(self.device, non_blocking=True) for k, v in batch.items()}
        keep = {what for term in self.work.losses for what in term.keeps}
        return Step(
            self.work.host, moved, self.work.head, progress=self._progress(), keep=keep, moved=self.state.step > 0,
            words=self.work.words, held_out=self._held_out,
        )  # fmt: skip

    def _held_out(self) -> Step | None:
        """As many validation rows as a step has, the same for all micro-batches of a step."""
        rows = self.work.held_out
        if rows is None or not len(rows):
            return None
        draw = torch.Generator().manual_seed(torch.initial_seed() % 2**63)
        chosen = torch.randperm(len(rows), generator=draw)[: self.work.rows_per_step]
        return self._seen(self.work.collate(rows.take(chosen.numpy())))

    # ------------------------------------------------------------------ the loop

    def choose(self) -> Iterator[dict[str, Any]]:
        """Let the mask choose what trains, once, from gradients or from a tuning where it needs them."""
        if self.chunks and not self.state.step:
            self._see_head()
        self._observe()
        if self.chooser.settled:
            return
        yield from self.chooser.choose()
        if self.chooser.settled:
            self._build()

    def take_up(self) -> None:
        """Stay with what an earlier training of the same work observed and chose."""
        self.observed = True
        if not self.chooser.settled:
            self.chooser.settled = True
            for patch in self.work.host.patches.values():
                patch.listen()
            self._build()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from self.choose()
        yield from ({"event": "note", "text": text} for text in self.notes)
        if not self.state.stopped:
            yield from self._train()
        self._finish()
        yield {"event": "end", **asdict(self.state)}

    def _train(self) -> Iterator[dict[str, Any]]:
        self.chooser.before_step(self.moment)
        awake = {n: p for n, p in self.parameters.items() if p.requires_grad}
        watch = Watch(awake) if self.state.step < WATCHED else None
        self.work.host.train()
        start = time.perf_counter() - self.state.seconds
        for indices in self._remaining_steps():
            event = self._step(indices, watch)
            self.state.seconds = self.work.together.agree(time.perf_counter() - start)
            yield {
                "event": "step", **event, "seconds": self.state.seconds, "memory": peak_bytes(self.device),
                "tokens_per_second": self.state.tokens / max(self.state.seconds, 1e-9), "progress": self._progress(),
            }  # fmt: skip
            if watch and self.state.step in (1, WATCHED):
                yield from self._report_sleepers(watch, event["loss"])
                watch = watch if self.state.step < WATCHED else None
            self._hear_interrupt()
            if self._validation_due():
                yield self._validate()
            self.state.stopped = self._why_stop()
            if self._save_due():
                yield self._save()
            if self.state.stopped:
                break

    def _observe(self) -> None:
        """Show the adapters that ask for it their sites on the first rows, once; a resumed run has done it."""
        count, gradients = self.work.host.observes()
        if self.observed or self.state.step or not count:
            return
        self.observed = True
        torch.manual_seed(self.work.seed)
        self.work.host.eval()
        for indices in itertools.islice(self._micro_batches(), count):
            batch = self.work.collate(self.work.rows.take(indices))
            loss = self.closure(batch, count_units(batch["labels"], self.work.head))
            with self.work.host.observing(batch.get("attention_mask")), torch.set_grad_enabled(gradients):
                value = loss()
                if gradients:
                    value.backward()
                del value
        del loss
        for parameter in self.work.host.trainable().values():
            parameter.grad = None
        gc.collect()  # a graph that is still alive would keep a tensor's old size in mind
        self.work.host.settle()

    def _micro_batches(self) -> Iterator[np.ndarray]:
        """The micro-batches of the first epoch."""
        lengths = self.work.rows.lengths
        for indices in epoch_steps(lengths, self.work.rows_per_step, seed=self.work.seed, epoch=0):
            yield from self._cut(indices)

    def _cut(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """A step's rows as micro-batches."""
        work = self.work
        return micro_batches(indices, work.rows.lengths, self.state.micro_tokens, packed=work.host.packs)

    def _remaining_steps(self) -> Iterator[np.ndarray]:
        """The rows of every step from here on, epoch after epoch; a resumed run goes on where it was."""
        per_epoch = math.ceil(len(self.work.rows) / self.work.rows_per_step)
        first, done = divmod(self.state.step, per_epoch)
        for epoch in itertools.count(first):
            if self.state.stopped:
                return
            steps = epoch_steps(self.work.rows.lengths, self.work.rows_per_step, seed=self.work.seed, epoch=epoch)
            yield from steps[done if epoch == first else 0 :]

    def _step(self, indices: np.ndarray, watch: Watch | None) -> dict[str, Any]:
        seed = hash((self.work.seed, self.state.step)) % 2**63
        torch.manual_seed(seed)
        rate = self.work.stepper.lr * self.work.schedule(self._progress())
        self.set_rate(rate)
        self.chooser.before_step(self.moment)
        if self.stream:
            self.stream.begin(watch)
        self.work.together.spread()
        loss, units, tokens = self._gradient(indices)
        if self.work.together.count > 1:
            torch.manual_seed(seed)  # what is drawn from here on must be the same everywhere
        self.chooser.after_backward()
        self.tuner.after_backward()
        value = float(loss)
        if not math.isfinite(value):
            raise RunError(self._blame(indices, value))
        broken = watch.see_gradients() if watch else []
        if broken:
            raise RunError(f"step {self.state.step + 1}: the gradient of {broken[0]} is not finite (loss {value:.4g})")
        figures: dict[str, Any] = self.stream.figures() if self.stream else {}
        for transform in () if self.stream else self.work.transforms:
            figures |= {k: float(whole(v)) for k, v in transform(list(self.parameters.values())).items()}
        if odd := [name for name, figure in figures.items() if not math.isfinite(figure)]:
            raise RunError(
                f"step {self.state.step + 1}: {odd[0]} is {figures[odd[0]]} at loss {value:.4g}; lower the rate"
            )
        self.chooser.hold()
        if not self.stream:
            self.optimizer.step()
        elif self.logged:
            assert isinstance(self.work.gradient, Replayable)
            self.log.add(seed, rate, self.work.gradient.scalars)
        self.chooser.after_step()
        for parameter in self.work.host.after_step(self._progress()):
            self.optimizer.state.pop(parameter, None)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for term in self.work.losses:
                term.end_step(self.work.host.trainable())
        self.state.step += 1
        self.state.rows += len(indices)
        self.state.tokens += tokens
        self.state.units += units
        return {
            "step": self.state.step, "loss": value, "rate": rate, "rows": len(indices), "tokens": tokens,
            "units": units, **figures,
        }  # fmt: skip

    # ------------------------------------------------------------------ one step's gradient

    def _gradient(self, indices: np.ndarray) -> tuple[Tensor | float, int, int]:
        """Fill the gradients for a step's rows, of which each process takes its share."""
        together, parameters = self.work.together, list(self.parameters.values())
        mine = together.share(indices, self.work.rows.lengths)
        units, rows = self._count(mine) if together.count > 1 else (None, None)
        loss, units = self._own_gradient(mine, units, rows)
        tokens = int(self.work.rows.lengths[indices].sum())
        if together.count == 1:
            return loss, units, tokens
        together.add(own(parameters))
        return together.sum(loss), units, tokens

    def _count(self, mine: np.ndarray) -> tuple[int, int]:
        """Supervised units and rows of the whole step, over all processes."""
        labels = self.work.collate(self.work.rows.take(mine))["labels"] if len(mine) else None
        units, rows = (0, 0) if labels is None else (count_units(labels, self.work.head), len(labels))
        return int(self.work.together.sum(units)), int(self.work.together.sum(rows))

    def _own_gradient(self, indices: np.ndarray, units: int | None, rows: int | None) -> tuple[Tensor, int]:
        """Fill the gradients for this process's rows; when memory runs out, again in smaller micro-batches."""
        while True:
            try:
                batches = [self.work.collate(self.work.rows.take(group)) for group in self._cut(indices)]
                units = sum(count_units(b["labels"], self.work.head) for b in batches) if units is None else units
                rows = sum(len(b["labels"]) for b in batches) if rows is None else rows
                self.chooser.compare(batches, units)
                if self.work.gradient.sums:
                    _check_single(batches)
                over = (1, 1) if self.work.gradient.sums else (units, rows)
                losses = [self.closure(batch, over[0], rows=over[1]) for batch in batches]
                losses += self._fillers(len(losses))
                return self._ask(losses) / (units / over[0]), units
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.work.sharded:
                    raise RunError(f"step {self.state.step + 1}: memory ran out, and the others wait for this process; "
                                   "lower batch.tokens") from error  # fmt: skip
                if self.stream and self.stream.moved:
                    raise RunError(f"step {self.state.step + 1}: memory ran out when some weights had moved already; "
                                   "lower batch.rows or length.max") from error  # fmt: skip
                self._shrink(indices)

    def _fillers(self, count: int) -> list[Callable[[], Tensor]]:
        """Passes without weight, where the model is shared out and another process has more micro-batches: all have to
        take part in each."""
        missing = self.work.together.most(count) - count if self.work.sharded else 0
        if not missing:
            return []
        filler = self.closure(self.work.collate(self.work.rows.take(np.arange(1))), 1, rows=1)
        return [lambda: 0.0 * filler()] * missing

    def _ask(self, losses: list[Callable[[], Tensor]]) -> Tensor:
        parameters = list(self.parameters.values())
        if self.stream:
            return self.work.gradient.stream(losses, parameters, self.stream.take)
        return self.work.gradient(losses, parameters)

    def closure(
        self,
        batch: dict[str, Tensor],
        units: int,
        asks: Callable[[Step], Tensor] | None = None,
        *,
        rows: int | None = None,
    ) -> Callable[[], Tensor]:
        """The share of one micro-batch in the mean over the step's supervised units (or rows); ``asks`` replaces the losses."""

        def loss() -> Tensor:
            self.work.host.write()
            with arithmetic(self.work.dtype, self.device):
                step = self._seen(batch)
                share = {"units": step.units / max(1, units), "rows": step.rows / (rows or step.rows)}
                if asks is not None:
                    return asks(step) * share["units"]
                terms = [term.weight * share[term.mean_over] * self._value(term, step) for term in self.work.losses]
                if (penalty := self.work.host.penalty()) is not None:
                    terms.append(penalty * share["units"])
                return torch.stack(terms).sum()

        return loss

    def _may_chunk(self) -> bool:
        """Whether the loss asks for nothing but cross-entropy, and its logits are to be made in chunks."""
        work = self.work
        if work.gradient.sums or not chunked.fits(work.losses, work.head):
            return False
        longest = int(work.rows.lengths.max()) if len(work.rows) else 0
        return chunked.too_large(work.host, max(work.tokens, longest))

    def _see_head(self) -> None:
        """Go back to whole logits where the model does more with them than its head says."""
        batch = self.work.collate(self.work.rows.take(np.arange(1)))
        with arithmetic(self.work.dtype, self.device), as_in_use(self.work.host):
            self.chunks = chunked.is_plain(self._seen(batch))

    def _value(self, term: Loss, step: Step) -> Tensor:
        """What a term says of a step; in chunks of its places where whole logits are large."""
        if self.chunks and chunked.too_large(self.work.host, step.units):
            return chunked.mean_loss(step, term)
        return term(step)

    def _shrink(self, indices: np.ndarray) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        longest = int(self.work.rows.lengths[indices].max())
        if self.state.micro_tokens <= longest:
            raise RunError(
                f"step {self.state.step + 1}: memory does not hold a single row of {longest} tokens; "
                "lower length.max, choose a smaller base, or train fewer weights"
            )
        self.state.micro_tokens = max(longest, min(self.state.micro_tokens, longest * len(indices)) // 2)

    def _blame(self, indices: np.ndarray, value: float) -> str:
        """The message for a loss that is not finite, with the rows that make it so."""
        culprits = []
        for index in indices:
            batch = self.work.collate(self.work.rows.take(np.array([index])))
            with torch.no_grad():
                if not math.isfinite(float(self.closure(batch, count_units(batch["labels"], self.work.head))())):
                    culprits.append(self.work.rows.where(int(index)))
        named = ", ".join(culprits[:5]) or ", ".join(self.work.rows.where(int(i)) for i in indices[:5])
        return (
            f"step {self.state.step + 1}: the loss is {value}; it comes from {named}; lower the rate or mend the rows"
        )

    # ------------------------------------------------------------------ rates

    def _groups(self) -> list[dict[str, Any]]:
        """Parameters by what is asked of them: matrices decay, biases and gains do not; some have a rate of their own."""
        factors = self.work.host.rates()
        decay = self.work.stepper.layer_decay
        above = layers_above(self.work.host, self.parameters) if decay is not None else {}
        groups: dict[tuple[bool, float], list[Any]] = {}
        for name, parameter in self.parameters.items():
            factor = factors.get(name, self.chooser.rate_of(name))
            factor = factor if decay is None else factor * decay ** above[parameter]
            groups.setdefault((parameter.ndim > 1, factor), []).append(parameter)
        ordered = sorted(groups.items(), key=lambda item: (not item[0][0], item[0][1]))
        return [{"params": g, "decays": decays, "factor": factor} for (decays, factor), g in ordered]

    def set_rate(self, rate: float) -> None:
        """Let the coming step have this rate, times each group's factor."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """Inside this block the weights are those to be used, which some optimizers keep apart from what they train."""
        apart = getattr(self.optimizer, "eval", None)
        if apart is None:
            yield
            return
        apart()
        self.work.host.write()
        yield
        self.optimizer.train()  # type: ignore[attr-defined]
        self.work.host.write()

    @property
    def moment(self) -> Moment:
        """Where in the run the coming step is."""
        return Moment(self.state.step, self.total_steps, self._progress())

    def _progress(self) -> float:
        """Share of the budget that lies behind the middle of the coming step, 0 to 1.

        Where time is limited, the first step is taken to last a second, or a hundredth of the time: at 0 a warm-up would
        leave its rate at 0.
        """
        shares = [(self.state.step + 0.5) / self.total_steps]
        if self.work.budget.minutes is not None:
            seconds = 60 * self.work.budget.minutes
            a_step = self.state.seconds / self.state.step if self.state.step else min(1.0, seconds / 100)
            shares.append(a_step * (self.state.step + 0.5) / seconds)
        return min(1.0, max(shares))

    # ------------------------------------------------------------------ stopping, validating, saving

    def _hear_interrupt(self) -> None:
        """Whether any process was asked to stop by now; all of them hear it after the same step."""
        self._stopping = self.work.together.sum(self.interrupt is not None) > 0
        if self._stopping and self.interrupt is None:
            self.interrupt = signal.SIGTERM

    def _why_stop(self) -> str:
        budget = self.work.budget
        if self._stopping:
            return "interrupted"
        if self.state.step >= self.total_steps:
            return "budget"
        if budget.minutes is not None and self.state.seconds >= 60 * budget.minutes:
            return "minutes"
        if budget.patience is not None and self.state.waited >= budget.patience:
            return "patience"
        return ""

    def _validation_due(self) -> bool:
        if self.work.validate is None or self._stopping:
            return False
        per_epoch = math.ceil(len(self.work.rows) / self.work.rows_per_step)
        every = max(1, per_epoch // self.work.validations)
        if self.state.step >= self.total_steps:
            return True
        enough = self.work.budget.patience is not None or (
            self.state.rows - self.state.validated >= self.work.validation_rows
        )
        return enough and self.state.step % every == 0

    def _validate(self) -> dict[str, Any]:
        assert self.work.validate is not None
        self.work.host.eval()
        with self._in_use():
            loss = self.work.together.agree(self.work.validate())
            if self.state.best_loss is None or loss < self.state.best_loss:
                self.state.best_loss, self.state.best_step, self.state.waited = loss, self.state.step, 0
                if self.work.budget.patience is not None:
                    self.keep_best()
            else:
                self.state.waited += 1
        self.work.host.train()
        self.state.validated = self.state.rows
        return {"event": "validation", "step": self.state.step, "loss": loss, "best": self.state.best_loss}

    def keep_best(self) -> None:
        """Keep the weights of now as the best so far."""
        self._best = {name: tensor.clone() for name, tensor in self._tensors().items()}

    def _report_sleepers(self, watch: Watch, loss: float) -> Iterator[dict[str, Any]]:
        """After the first and the last watched step: which trainable tensors have not learned.

        A first step without a loss had nothing to teach, such as one whose rows all weigh nothing.
        """
        asleep = watch.asleep()
        if len(asleep) == len(self.parameters) and (loss != 0 or self.state.step == WATCHED):
            name, why = next(iter(asleep.items()))
            raise RunError(f"after {self.state.step} steps nothing has learned: {name} got {why}")
        if self.state.step == WATCHED:
            self.state.asleep = asleep
        yield {"event": "health", "step": self.state.step, "tensors": len(self.parameters), "asleep": asleep}

    def _save_due(self) -> bool:
        if self.work.folder is None:
            return False
        by_steps = self.work.save_steps is not None and self.state.step % self.work.save_steps == 0
        by_time = self.state.seconds - self._saved_at >= 60 * self.work.save_minutes
        return by_steps or by_time or self.state.stopped == "interrupted"

    def _save(self) -> dict[str, Any]:
        assert self.work.folder is not None
        tensors = {
            **self._tensors(training=True),
            **{f"best.{k}": v for k, v in self._best.items()},
            **self.chooser.state(),
        }
        if self.logged:
            tensors = self.log.tensors()
        optimizer: checkpoint.Stateful | None = None if self.logged else self.optimizer
        path = checkpoint.at(self.work.folder, self.state.step)
        if self.work.sharded:
            tensors, optimizer = wholes(tensors), Gathered(self.optimizer)
        if self.work.together.first:
            checkpoint.save(self.work.folder, self.state.step, tensors, optimizer, asdict(self.state))
        self.work.together.wait()
        self._saved_at = self.state.seconds
        return {"event": "save", "step": self.state.step, "path": str(path)}

    def resume(self) -> bool:
        """Take up the newest checkpoint of the folder; False when there is none.

        A log of steps is carried out again, on the model as it was when the run began.
        """
        path = checkpoint.newest(self.work.folder) if self.work.folder else None
        if path is None:
            return False
        tensors, facts = checkpoint.load(path)
        self.chooser.load(tensors)
        self._start_terms()
        known: Mapping[str, Any] = {k: v for k, v in facts.items() if k in State.__dataclass_fields__}
        if log := StepLog.of(tensors):
            self._build()
            self.state = State(**{**known, "stopped": ""})
            replay(self, log)
        else:
            here = self._tensors(training=True)
            kept = {k: v for k, v in tensors.items() if not k.startswith(("best.", "mask."))}
            self._load({k: parted(v, here[k]) if k in here else v for k, v in kept.items()}, training=True)
            self._build()
            optimizer = Parting(self.optimizer) if self.work.sharded else self.optimizer
            checkpoint.load_optimizer(path, optimizer, facts["optimizer"])
            self._best = {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}
            self.state = State(**{**known, "stopped": ""})
        self._saved_at = self.state.seconds
        return True

    def kept_log(self) -> StepLog | None:
        """The log of the steps that the result follows from, or None where it does not follow from a log."""
        return None if not self.logged else self.log.first(self.state.best_step) if self._best else self.log

    def _finish(self) -> None:
        """The weights become those to be used; with early stopping the best ones are the result."""
        if self.state.stopped != "interrupted" and hasattr(self.optimizer, "eval"):
            self.optimizer.eval()
            self.work.host.write()
        if self._best and self.state.stopped != "interrupted":
            self._load(self._best)
        if self.state.stopped != "interrupted":
            self.chooser.harden()
        self.work.host.eval()


def _check_single(batches: Sequence[dict[str, Tensor]]) -> None:
    """A row of several sequences would be clipped and accounted for as several rows."""
    if any("pairs" in b or len(b["labels"]) != len(b["input_ids"]) for b in batches):
        raise InputError("gradient private needs one sequence a row, and here a row has several",
                         fix="choose another task, or words of one token for a cloze")  # fmt: skip


def _reversible(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step with the negative gradient takes back the step before it."""
    plain = all(not g.get("momentum") and not g["weight_decay"] for g in optimizer.param_groups)
    return isinstance(optimizer, torch.optim.SGD) and plain


def flops(work: Work, rows: int = 4, *, trained: bool = False) -> tuple[int, int]:
    """Floating-point operations and tokens of the gradient of a few rows of a step, as PyTorch's own counter sees them.

    After a training in which weights rested in turn, of several such gradients, each with what rested then.

    Nothing moves. Counting slows a step down, so it is not done while training.

    Args:
        work: before its training, or after.
        rows: how many; a whole step where values are tuned on validation rows beside it.
        trained: whether it is after: then a mask has chosen already.
    """
    from torch.utils.flop_counter import FlopCounterMode

    loop = Loop(work)
    if trained:
        loop.take_up()
    for _ in loop.choose():
        pass
    if loop.stream:
        loop.stream.still = True
    step = usual_step(epoch_steps(work.rows.lengths, work.rows_per_step, seed=work.seed, epoch=0), work.rows.lengths)
    if not loop.tuner.techniques:  # else as many validation rows come to it as a whole step has
        step = step[:: max(1, len(step) // rows)]
    counted = tokens = 0
    for resting, times in _resting(work.host).items() if trained else [(None, 1)]:
        if resting is not None:
            work.host.rest(resting)
        with FlopCounterMode(display=False) as counter:
            tokens += times * loop._gradient(step)[2]
            loop.tuner.after_backward()
        loop.optimizer.zero_grad(set_to_none=True)
        counted += times * counter.get_total_flops()
    return counted, tokens


def usual_step(steps: Sequence[np.ndarray], lengths: np.ndarray) -> np.ndarray:
    """The step of middle length: operations a token grow with the length, and the first step has the longest row."""
    return sorted(steps, key=lambda step: float(lengths[step].mean()))[len(steps) // 2]


def _resting(host: Host, most: int = 8) -> Counter[frozenset[str] | None]:
    """Which weights rested in a training that is over, at a few of its steps, evenly spread, and how many of these."""
    steps = list(host.rested.elements())
    return Counter(steps[:: -(-len(steps) // most)]) if steps else Counter([None])
