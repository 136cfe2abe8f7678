"""What a plan says: peak by item, time with its spread, disk, and what would make it fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .footprint import Footprint
from .machine import Machine, Speed, told

SPREAD = 1.6
"""Factor by which a run's time may lie above or below the estimate: from the runs of ``bench/plan.py``."""


@dataclass(frozen=True)
class Change:
    """A change of the recipe, and what it would come to.

    Attributes:
        options: dotted options and their new values.
        peak: bytes of the whole process then.
        time: factor of the time of a step.
        learns: whether what is learned stays the same, but for rounding and the draws of drop-out.
    """

    options: Mapping[str, Any]
    peak: int
    time: float
    learns: bool

    def told(self) -> str:
        """As options of the command line."""
        return " ".join(f"--set {name}={_yaml(value)}" for name, value in self.options.items())


@dataclass(frozen=True)
class Plan:
    """What a run will take on a machine.

    Attributes:
        machine: which one.
        footprint: memory of tensors, by phase and item.
        seconds: of training: the estimate, with its lower and upper end; None where the speed is not known.
        disk: bytes by item.
        changes: what would make it fit, the cheapest first; empty where it fits.
        limit: bytes that it is to fit in.
        trainable, parameters: how many numbers train, of how many.
        dtype: of matrix products.
    """

    machine: Machine
    footprint: Footprint
    seconds: tuple[float, float, float] | None
    disk: Mapping[str, int]
    limit: int
    trainable: int
    parameters: int
    dtype: str
    changes: list[Change] = field(default_factory=list)

    @property
    def peak(self) -> int:
        """Bytes of the whole process at its peak."""
        return self.machine.framework + self.footprint.peak

    @property
    def fits(self) -> bool:
        """Whether the peak is within the limit."""
        return self.peak <= self.limit

    def to_dict(self) -> dict[str, Any]:
        """Plain values; sizes in bytes, times in seconds."""
        found = self.footprint
        return {
            "machine": {"name": self.machine.name, "memory": self.machine.memory, "devices": self.machine.devices},
            "limit": self.limit, "peak": self.peak, "fits": self.fits, "at": found.phase,
            "memory": {"framework": self.machine.framework, **found.phases[found.phase]},
            "phases": {name: sum(items.values()) for name, items in found.phases.items()},
            "micro_batch": {"rows": found.rows, "length": found.length},
            "seconds": None if self.seconds is None else dict(zip(("estimate", "low", "high"), self.seconds, strict=True)),
            "flops_per_step": sum(o.flops for o in found.operations), "disk": dict(self.disk),
            "trainable": self.trainable, "parameters": self.parameters, "precision": self.dtype,
            "changes": [
                {"options": dict(c.options), "peak": c.peak, "fits": c.peak <= self.limit, "time": round(c.time, 3),
                 "same_result": c.learns} for c in self.changes
            ],
        }  # fmt: skip

    def lines(self) -> list[str]:
        """The plan for people, a line each."""
        found = self.footprint
        items = sorted(found.phases[found.phase].items(), key=lambda i: -i[1])
        lines = [
            f"{self.trainable:,} of {self.parameters:,} weights train; products in {self.dtype}",
            f"memory: {told(self.peak)} at the peak ({found.phase}; largest micro-batch {found.rows} rows of "
            f"{found.length} tokens)",
            *(f"  {told(size):>9}  {name}" for name, size in [("framework", self.machine.framework), *items]),
            *(f"  {told(sum(i.values()) + self.machine.framework):>9}  in all while {name}"
              for name, i in found.phases.items() if name != found.phase),
            f"disk: {told(sum(self.disk.values()))} (" + ", ".join(f"{n} {told(s)}" for n, s in self.disk.items()) + ")",
            self._time(),
            f"{'fits' if self.fits else 'does not fit'} {self.machine.name}: {told(self.limit)} for it",
        ]  # fmt: skip
        if self.changes:
            lines.append("changes, the cheapest first:")
        for change in self.changes:
            same = "same result" if change.learns else "learns otherwise"
            fits = "fits" if change.peak <= self.limit else "too much"
            lines.append(f"  {told(change.peak):>9}  {fits}, time x{change.time:.2f}, {same}: {change.told()}")
        return lines

    def _time(self) -> str:
        if self.seconds is None:
            return "time: not known for a machine that this is not"
        middle, low, high = self.seconds
        return f"time: about {clock(middle)} of training ({clock(low)} to {clock(high)})"


def clock(seconds: float) -> str:
    """A time for people.

    >>> clock(42), clock(600), clock(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def step_seconds(found: Footprint, speed: Speed) -> float:
    """Seconds of the traced step: each operation takes what its products, its bytes or its call take, the most of them."""
    return sum(
        max(o.flops / (speed.half if o.half else speed.single), o.bytes / speed.bandwidth, speed.overhead)
        for o in found.operations
    )


def run_seconds(found: Footprint, speed: Speed, epochs: float) -> tuple[float, float, float]:
    """Seconds of training: the estimate, its lower and its upper end.

    Args:
        found: the traced step; others take time by their tokens, and each at least its calls.
        speed: of the machine.
        epochs: passes over the rows.
    """
    calls = len(found.operations) * speed.overhead
    work = max(0.0, step_seconds(found, speed) - calls)
    middle = epochs * (work * found.tokens / max(1, found.traced) + calls * found.passes)
    return middle, middle / SPREAD, middle * SPREAD


def disk_items(found: Footprint, *, adapter: bool, whole: int, saves: bool) -> dict[str, int]:
    """Bytes that a run's folder comes to, at its largest.

    Args:
        found: knows what trains and the optimizer's state.
        adapter: whether the adapter alone is kept, not the whole model.
        whole: bytes of the whole model.
        saves: whether it lasts long enough for a checkpoint: two are kept, and a third is written before one goes.
    """
    checkpoints = 3 * (found.trained + found.moments) if saves else 0
    cached = {"hidden states": found.cached} if found.cached else {}
    return {"result": found.trained if adapter else whole, "checkpoints": checkpoints, **cached}


def rounded_down(tokens: float) -> int:
    """A round number of tokens: the power of two below."""
    return 2 ** max(0, math.floor(math.log2(max(1.0, tokens))))


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "'{" + ", ".join(f"{k}: {_yaml(v)}" for k, v in value.items()) + "}'"
    return str(value)
