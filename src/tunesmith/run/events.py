"""What happens in a run, as it happens: a file of events that is always kept, and a line for the person who waits."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Listener(Protocol):
    """Hears every event of a run. Trackers are listeners too."""

    def __call__(self, event: Mapping[str, Any]) -> None: ...


class EventLog:
    """Appends every event to ``events.jsonl``, one JSON object a line, flushed at once.

    Args:
        path: the file; a resumed run appends to it.
    """

    def __init__(self, path: Path):
        self._path = path

    def __call__(self, event: Mapping[str, Any]) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps({**event, "time": round(time.time(), 3)}, default=str, allow_nan=False) + "\n")


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a run; steps that were done again after a resumption count once, the last time."""
    events: dict[tuple[str, int], dict[str, Any]] = {}
    if not path.exists():
        return []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        try:
            event = json.loads(line)
        except ValueError:  # the line that a kill cut off
            continue
        key = (event["event"], event["step"]) if "step" in event else (event["event"], -number - 1)
        events.pop(key, None)
        events[key] = event
    return list(events.values())


class Lines:
    """Notes and results as plain lines on stderr: for files, pipes and notebooks."""

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "note":
            print(event["text"], file=sys.stderr)
        elif event["event"] == "validation":
            print(f"step {event['step']}: validation loss {event['loss']:.4f}", file=sys.stderr)


class JsonLines:
    """Every event as a JSON line on stderr: for machines."""

    def __call__(self, event: Mapping[str, Any]) -> None:
        print(json.dumps(event, default=str), file=sys.stderr, flush=True)


class Bar:
    """A progress bar with loss, rate, tokens a second, memory and time left.

    Args:
        total: steps of the run; infinite when only time is limited.
        minutes: the run's limit of time, if it has one.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=28), TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(), TextColumn("{task.fields[left]}"), console=self._console,
        )  # fmt: skip
        self._task: Any = None
        self._smooth: float | None = None
        self._held_out = ""

    def __call__(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "note":
            self._progress.console.print(event["text"], style="dim", highlight=False)
        elif kind == "start":
            self._task = self._progress.add_task("train", total=1.0, figures="", left="")
            self._progress.start()
        elif kind == "step" and self._task is not None:
            self._show(event)
        elif kind == "validation":
            self._held_out = f"  held out {event['loss']:.4f}"
        elif kind == "end":
            self._progress.stop()

    def _show(self, event: Mapping[str, Any]) -> None:
        loss = event["loss"]
        self._smooth = loss if self._smooth is None else 0.95 * self._smooth + 0.05 * loss
        share, seconds = event["progress"], event["seconds"]
        speed = event["tokens_per_second"]
        figures = (
            f"step {event['step']}  loss {self._smooth:.4f}{self._held_out}  rate {event['rate']:.1e}  "
            f"{speed:,.0f} tokens/s  {event['memory'] / 2**30:.1f} GB"
        )
        left = f"{_clock(seconds * (1 - share) / share)} left" if share > 0 else ""
        self._progress.update(self._task, completed=share, figures=figures, left=left)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def listener(style: str | Listener = "auto") -> Listener:
    """The listener that fits where the output goes: a bar on a terminal, plain lines elsewhere.

    Args:
        style: ``auto``, ``bar``, ``lines``, ``json`` or ``quiet``; or a listener, which is taken as it is.
    """
    if not isinstance(style, str):
        return style
    if style == "quiet":
        return lambda event: None
    if style == "json":
        return JsonLines()
    if style == "bar" or (style == "auto" and sys.stderr.isatty()):
        return Bar()
    return Lines()
