"""The log of a run whose steps follow from a seed and a few numbers: a checkpoint of some bytes a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import RunError
from ..gradients import Replayable
from ..losses import Loss
from ..masks import Mask
from .streaming import name_of

if TYPE_CHECKING:
    from .loop import Loop

PREFIX = "log."


@dataclass
class StepLog:
    """What every step was.

    Attributes:
        seeds: of the step's directions.
        rates: the learning rate, before any group's factor.
        scalars: the numbers of `gradients.Replayable`, as many in each step.
    """

    seeds: list[int] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    scalars: list[tuple[float, ...]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.seeds)

    def __iter__(self) -> Iterator[tuple[int, float, tuple[float, ...]]]:
        return iter(zip(self.seeds, self.rates, self.scalars, strict=True))

    def add(self, seed: int, rate: float, scalars: Sequence[float]) -> None:
        """Note a step."""
        self.seeds.append(seed)
        self.rates.append(rate)
        self.scalars.append(tuple(scalars))

    def first(self, steps: int) -> StepLog:
        """The log of so many steps."""
        return StepLog(self.seeds[:steps], self.rates[:steps], self.scalars[:steps])

    def tensors(self) -> dict[str, Tensor]:
        """The log as tensors: 16 bytes and 8 a number for each step."""
        return {
            f"{PREFIX}seeds": torch.tensor(self.seeds, dtype=torch.int64),
            f"{PREFIX}rates": torch.tensor(self.rates, dtype=torch.float64),
            f"{PREFIX}scalars": torch.tensor(self.scalars, dtype=torch.float64),
        }

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> StepLog | None:
        """The log that `tensors` gave, or None."""
        if f"{PREFIX}seeds" not in tensors:
            return None
        seeds, rates, scalars = (tensors[f"{PREFIX}{n}"].tolist() for n in ("seeds", "rates", "scalars"))
        return cls(seeds, rates, [tuple(s) for s in scalars])

    def save(self, path: Path) -> None:
        """Write the log, whole or not at all."""
        beside = path.with_suffix(".part")
        save_file(self.tensors(), beside)
        beside.replace(path)

    @classmethod
    def load(cls, path: Path) -> StepLog:
        """Read a log.

        Raises:
            RunError: the file is missing, damaged, or no log.
        """
        try:
            log = cls.of(load_file(path))
        except Exception as error:
            raise RunError(f"{path}: the log of the run's steps cannot be read ({error})") from error
        if log is None:
            raise RunError(f"{path}: holds no log of a run's steps")
        return log


def why_no_log(loop: Loop) -> str:
    """Why the weights do not follow from the base and the log of the steps alone; empty where they do.

    Any optimizer will do, since it is carried out again; what else changes weights or chooses them will not.
    """
    work = loop.work
    if not isinstance(work.gradient, Replayable):
        return f"gradient {name_of(work.gradient)} is more than a seed and some numbers a step"
    if work.mask is not None and (work.mask.sparse or work.mask.samples or type(work.mask).now is not Mask.now):
        return f"mask {name_of(work.mask)} chooses what moves during the run"
    for adapters in work.host.techniques():
        if adapters[0].observes:
            return f"adapter {name_of(adapters[0])} begins from what it sees of the rows"
    for term in work.losses:
        if isinstance(term, nn.Module) or type(term).end_step is not Loss.end_step:
            return f"loss {name_of(term)} has something of its own that changes"
    return ""


def replay(loop: Loop, log: StepLog) -> None:
    """Bring the loop's weights and optimizer from where a run begins to where the log ends, bit for bit."""
    gradient, stream = loop.work.gradient, loop.stream
    assert isinstance(gradient, Replayable) and stream is not None
    for number, (seed, rate, scalars) in enumerate(log, 1):
        loop.set_rate(rate)
        stream.begin(None)
        if scalars and all(torch.isfinite(torch.tensor(scalars))):
            gradient.replay(seed, scalars, list(loop.parameters.values()), stream.take)
        loop.log.add(seed, rate, scalars)
        if number == loop.state.best_step and loop.work.budget.patience is not None:
            loop.keep_best()
