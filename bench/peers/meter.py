"""What every peer of the bench is measured by, in its own environment: time, memory, loss. Imports no peer."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

STARTED = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + float(
    int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
)  # fmt: skip
"""When this process was started, in seconds since the epoch: what importing takes counts."""


def job() -> dict[str, Any]:
    """The job that the bench hands over on stdin."""
    given: dict[str, Any] = json.loads(sys.stdin.read())
    return given


def rows(path: str) -> list[dict[str, Any]]:
    """A JSONL file."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def _memory(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def _versions() -> dict[str, str]:
    found = {}
    for package in ("torch", "transformers", "peft", "trl", "adapters", "accelerate", "tunesmith"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def judged(model: Any, tokenizer: Any, path: str, length: int) -> float:
    """Nats a token of the answers, each up to its end mark, or of texts: one judge for all, as each peer counts otherwise."""
    import torch

    nats, count = 0.0, 0
    model.eval()
    for row in rows(path):
        text, start = row.get("text", ""), 1
        if "messages" in row:
            asked = tokenizer.apply_chat_template(row["messages"][:-1], add_generation_prompt=True, tokenize=False)
            text = tokenizer.apply_chat_template(row["messages"], tokenize=False).rstrip()
            start = len(tokenizer(asked, add_special_tokens=False)["input_ids"])
        ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"][:length])
        if len(ids) > start:
            with torch.no_grad():
                said = model(input_ids=ids[None]).logits[0, start - 1 : -1].float()
            nats += float(torch.nn.functional.cross_entropy(said, ids[start:], reduction="sum"))
            count += len(ids) - start
    return nats / count


class Meter:
    """Marks of a training: libraries imported, first step done, validations, end."""

    def __init__(self) -> None:
        self.said: dict[str, Any] = {"curve": []}
        self._aside = self._judging = self._begun = 0.0

    def imported(self) -> None:
        """Everything is imported."""
        self.said["import_seconds"] = time.time() - STARTED

    def ready(self) -> None:
        """The libraries are in memory, and no weight: what comes on top from here on is the work's."""
        Path("/proc/self/clear_refs").write_text("5")
        self.said["libraries_bytes"] = _memory("VmRSS")

    def begin(self) -> None:
        """The first step begins."""
        self._begun = time.perf_counter()

    def step(self) -> None:
        """A step is done."""
        self.said.setdefault("first_step_seconds", time.time() - STARTED)
        self.said["train_seconds"] = self.seconds
        self.said["peak_bytes"] = _memory("VmHWM")

    @property
    def seconds(self) -> float:
        """Of training, validations not counted."""
        return time.perf_counter() - self._begun - self._aside

    def validated(self, loss: float, seconds: float) -> None:
        """A validation took so long and gave this loss."""
        self._aside += seconds
        self.said["curve"].append([self.seconds, loss])

    def judging(self, seconds: float) -> None:
        """A judge that only this comparison needs took so long."""
        self._judging += seconds

    def end(self) -> None:
        """What a user waits for is done: trained, tested and saved."""
        self.said.setdefault("end_seconds", time.time() - STARTED - self._judging)

    def tell(self, **more: Any) -> None:
        """Hand the figures back on stdout's last line."""
        self.end()
        self.said |= {"versions": _versions(), **more}
        print("\n" + json.dumps(self.said), flush=True)
