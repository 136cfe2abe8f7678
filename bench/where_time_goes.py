"""Where the time of our own training goes, by kind of operation: what stands beside a target that is missed.

    python bench/where_time_goes.py [--only CASE ...]

Traces a few steps of every case of ``bench/engine.py`` with PyTorch's profiler and writes ``bench/engine/CASE.trace.json``:
seconds by kind, of which ``outside operators`` is Python and whatever else is between them. The profiler itself costs time with
every operator, so that shares of small ones are too high.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from engine import CASES, FOLDER, begun, prepare, processor
from torch.profiler import ProfilerActivity, profile

from tunesmith.comparing.work import commit
from tunesmith.engine.loop import Loop
from tunesmith.engine.memory import reuse
from tunesmith.run.build import device
from tunesmith.run.carry_out import _work

STEPS = 8
KINDS = {
    "products of matrices": ("addmm", "mm", "linear", "matmul", "mkldnn_linear"),
    "attention": ("bmm", "baddbmm", "_softmax", "_softmax_backward_data", "_scaled_dot_product", "_flash_attention"),
    "activations and norms": ("gelu", "silu", "native_layer_norm", "rsqrt", "mean", "pow", "tanh", "sigmoid", "relu"),
    "drop-out": ("random_", "ge", "bernoulli_", "native_dropout"),
    "copies and gathers": (
        "copy_",
        "cat",
        "index_select",
        "index",
        "embedding",
        "clone",
        "gather",
        "index_put_",
        "fill_",
    ),
    "loss": ("_log_softmax", "nll_loss", "logsumexp", "exp", "cross_entropy"),
    "optimizer and clipping": ("_fused_adamw_", "linalg_vector_norm", "_foreach", "clamp", "Optimizer"),
}


def kind(operator: str) -> str:
    """Which of `KINDS` an operator is of."""
    name = operator.removeprefix("aten::").removesuffix("_backward")
    for said, names in KINDS.items():
        if any(name == n or (len(n) > 6 and name.startswith(n)) for n in names):
            return said
    return "other operators"


def trace(name: str, source: str | None) -> dict[str, Any]:
    """Seconds of a few steps by kind."""
    with tempfile.TemporaryDirectory() as folder:
        made = begun(prepare(name, Path(folder)), Path(folder))
        loop = iter(Loop(replace(_work(made), validate=None, folder=None), device()))
        _steps(loop, 2)
        start = time.perf_counter()
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            _steps(loop, STEPS)
        whole = time.perf_counter() - start
    found: dict[str, float] = {}
    for event in seen.key_averages():
        found[kind(event.key)] = found.get(kind(event.key), 0.0) + event.self_cpu_time_total / 1e6
    found["outside operators"] = max(0.0, whole - sum(found.values()))
    return {"seconds": found, "steps": STEPS, "processor": processor(), "commit": source}


def _steps(loop: Any, count: int) -> None:
    for event in loop:
        count -= event["event"] == "step"
        if not count:
            return


def main() -> None:
    """Trace and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES), help="cases")
    reuse()
    torch.set_num_threads(os.cpu_count() or 1)
    FOLDER.mkdir(exist_ok=True)
    source = commit()  # before a file is written, which is part of it
    for name in parser.parse_args().only:
        found = trace(name, source)
        (FOLDER / f"{name}.trace.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(name, {k: round(v, 2) for k, v in found["seconds"].items()}, flush=True)


if __name__ == "__main__":
    main()
