"""How many tokens should go through the model at a time: time and memory of training and of reading, by size of the micro-batch.

    python bench/micro_batches.py

Sizes are timed in turn, in one process; the memory is what the tensors of a step hold above the weights, counted as they are
made. Writes ``bench/micro_batches.json``, which `tunesmith.engine.batches.most_tokens` rests on.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine import processor

from tunesmith import recipe as recipes
from tunesmith.comparing.work import commit
from tunesmith.engine.loop import Loop
from tunesmith.engine.memory import reuse
from tunesmith.engine.predict import read
from tunesmith.planning.machine import this
from tunesmith.run.build import device
from tunesmith.run.carry_out import _begin, _work
from tunesmith.run.planned import plan_prepared
from tunesmith.run.prepare import on_disk, prepare

OUT = Path(__file__).parent / "micro_batches.json"
SIZES, ROUNDS, READ = (256, 512, 1024, 2048, 4096), 3, 48
RECIPES: dict[str, dict[str, Any]] = {
    "encoder, LoRA": {"rows": "packaged:bbc-news", "base": "minilm-l6", "adapter": "lora", "batch": 32, "length": {"max": 128}},
    "encoder, all weights": {
        "rows": "packaged:bbc-news", "base": "minilm-l6", "mask": "everything", "batch": 32, "length": {"max": 128},
    },
    "language model, LoRA": {
        "rows": "packaged:movie-dialogue", "base": "smollm2-135m", "adapter": "lora", "batch": 16, "length": {"max": 128},
    },
}  # fmt: skip


def made(options: dict[str, Any], size: int, folder: Path) -> tuple[Any, Any]:
    """A recipe's model and what its plan is made of, with micro-batches of this size."""
    length = {**options["length"], "over": "truncate"}
    recipe = recipes.make(
        {**options, "length": length, "batch": {"rows": options["batch"], "tokens": size}, "budget": {"epochs": 9}}
    )
    prepared = prepare(on_disk(recipe))
    return _begin(prepared, folder), prepared


def steps(begun: Any) -> Iterator[int]:
    """Tokens of every step, each trained when it is asked for."""
    work = replace(_work(begun), validate=None, folder=None)
    for event in Loop(work, device()):
        if event["event"] == "step":
            yield event["tokens"]


def measure(options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Milliseconds a token and planned bytes, by size."""
    found: dict[str, Any] = {}
    trained: dict[int, list[float]] = {size: [] for size in SIZES}
    seen: dict[int, list[float]] = {size: [] for size in SIZES}
    begun = {size: made(options, size, folder) for size in SIZES}
    loops = {size: steps(b) for size, (b, _) in begun.items()}
    for loop in loops.values():
        next(loop)
    for _ in range(ROUNDS):
        for size, loop in loops.items():
            start = time.perf_counter()
            tokens = next(loop)
            trained[size].append(1e3 * (time.perf_counter() - start) / tokens)
        for size, (model, prepared) in begun.items():
            rows = prepared.encoded["test"]
            chosen = np.arange(min(READ, len(rows)))
            start = time.perf_counter()
            read(model.reading, rows, chosen)
            seen[size].append(1e3 * (time.perf_counter() - start) / int(rows.lengths[chosen].sum()))
    for size, (_, prepared) in begun.items():
        planned = plan_prepared(prepared, this()).footprint
        held = {name: sum(v for k, v in items.items() if k != "weights") for name, items in planned.phases.items()}
        found[str(size)] = {"train": trained[size], "read": seen[size], "bytes": held}
        print(
            size,
            f"{statistics.median(trained[size]):.3f} {statistics.median(seen[size]):.3f} ms/token",
            held,
            flush=True,
        )
    return found


def main() -> None:
    """Measure and write."""
    reuse()
    known: dict[str, Any] = {
        "commit": commit(),
        "processor": processor(),
        "threads": os.cpu_count(),
        "recipes": RECIPES,
        "results": {},
    }
    torch.set_num_threads(os.cpu_count() or 1)
    for name, options in RECIPES.items():
        print(name, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            known["results"][name] = measure(options, Path(folder))
        OUT.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
