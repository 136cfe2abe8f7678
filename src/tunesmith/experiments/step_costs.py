from __future__ import annotations

import gc
import itertools
import math
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

from . import Figure, Lab, Outcome
from ._figures import over_seeds, times_over_seeds

COUNTED = 2
"""Steps whose memory is counted, after a first one, in which the optimizer's state is made."""


def step_costs(
    lab: Lab,
    *,
    technique: dict[str, Any] = {},  # noqa: B006
    others: dict[str, Any] = {},  # noqa: B006
    task: str = "intent",
    steps: int = 6,
    options: dict[str, Any] = {},  # noqa: B006
) -> Outcome:
    """What a training step takes in memory above the weights and in time, of a technique and of others.

    All of them train in this process, in turn, step by step on the same rows, so that whatever else the machine does
    strikes all. Memory is counted by the tensors that the first steps make (activations, gradients, the optimizer's
    state); the model's own weights and the adapters' are there before and do not count. Nothing is scored.

    Figures: ``memory``, the technique's peak in bytes; for each other one ``NAME.memory``, the technique's peak over that of
    the other, ``NAME.whole``, the same with the weights counted too, and ``NAME.time``, seconds of a step, median over
    median.

    Source: Bouthillier et al. 2021, arXiv:2103.03098 (paired comparison over seeds).

    Settings:
        technique: options of a recipe.
        others: name -> options of a recipe.
        task: name of an arena task.
        steps: steps that are timed, for each seed.
        options: of all recipes, e.g. ``{batch.rows: 8}``.
    """
    ends = {"budget": {"epochs": None, "steps": 1 + COUNTED + steps}}
    recipes = {n: lab.recipe(task, side, **options).updated(ends) for n, side in {"": technique, **others}.items()}
    peaks: dict[str, list[float]] = {name: [] for name in recipes}
    wholes: dict[str, list[float]] = {name: [] for name in recipes}
    times: dict[str, list[float]] = {name: [] for name in recipes}
    for seed in lab.seeds:
        loops = {name: lab.loop(recipe.updated({"seed": seed})) for name, recipe in recipes.items()}
        running = {name: iter(loop) for name, loop in loops.items()}
        for name, loop in loops.items():
            peak = _peak(running[name])
            peaks[name].append(peak)
            wholes[name].append(peak + _weights(loop))
        for name, seconds in _in_turn(running, steps).items():
            times[name].append(seconds)
    figures = {"memory": over_seeds(peaks[""], "", "bytes above the weights")}
    for name in others:
        for figure, values, about in (
            ("memory", peaks, "memory above the weights"),
            ("whole", wholes, "memory with the weights"),
            ("time", times, "seconds of a step"),
        ):
            figures[f"{name}.{figure}"] = _times(values[""], values[name], f"{about}, technique over {name}")
    series = {name or "technique": [[i, v] for i, v in enumerate(values)] for name, values in peaks.items()}
    return Outcome(figures, series, ("seed", "bytes above the weights"))


def _peak(events: Iterator[Mapping[str, Any]]) -> float:
    """Bytes at the peak of a step, the optimizer's state among them."""
    from ._held import Held

    with Held() as held:
        _step(events)
        gc.collect()  # what only a cycle holds goes whenever the collector comes
        held.peak = held.now
        for _ in range(COUNTED):
            _step(events)
            gc.collect()
    return float(held.peak)


def _weights(loop: Any) -> int:
    """Bytes of everything that the host holds."""
    host = loop.work.host
    held = {t.untyped_storage()._cdata: t.untyped_storage() for t in (*host.parameters(), *host.buffers())}
    return sum(storage.nbytes() for storage in held.values())


def _in_turn(running: Mapping[str, Iterator[Mapping[str, Any]]], steps: int) -> dict[str, float]:
    """Median seconds of a step of each, every one taking a step in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in running}
    for _, (name, events) in itertools.product(range(steps), running.items()):
        seconds[name].append(_step(events))
    return {name: statistics.median(values) for name, values in seconds.items()}


def _step(events: Iterator[Mapping[str, Any]]) -> float:
    """Go on to the end of the next step; the seconds since the event before it."""
    while True:
        started = time.perf_counter()
        if next(events)["event"] == "step":
            return time.perf_counter() - started


def _times(ours: list[float], theirs: list[float], about: str) -> Figure:
    return times_over_seeds([math.log(a / b) for a, b in zip(ours, theirs, strict=True)], about)
