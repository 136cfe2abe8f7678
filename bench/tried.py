"""What was tried to make a step take less time and the process less memory, and what each comes to.

    python bench/tried.py [--only film-lora]

The first steps of two cases of ``bench/engine.py``, each variant in processes of its own, in turn: the highest resident memory
above what the process held before the first step, and the time a token. What the tensors alone take is close to what the
process holds where every piece goes back to the system at once (``everything given back``). Frozen weights in int8 take the
library torchao, which the project does not need otherwise. Writes ``bench/tried.json``; of a case that is not asked for
nothing changes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine import begun, prepare, processor
from plan import high_water

from tunesmith.comparing.work import commit
from tunesmith.engine import memory
from tunesmith.engine.loop import Loop
from tunesmith.models import quick
from tunesmith.run.build import device
from tunesmith.run.carry_out import _work

OUT = Path(__file__).parent / "tried.json"
STEPS, ROUNDS = {"film-lora": 40, "chat-lora": 4}, {"film-lora": 2, "chat-lora": 1}
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "longest row not first": {"later": True},
    "glibc's own limits": {"keep": "glibc's"},
    "pieces under 1 MB kept": {
        "keep": "glibc's",
        "tunables": f"glibc.malloc.mmap_threshold={2**20}:glibc.malloc.trim_threshold={2**29}",
    },
    "everything given back": {"keep": "nothing"},
    "micro-batches of 512 tokens": {"tokens": 512},
    "micro-batches of 1,024 tokens": {"tokens": 1024},
    "frozen weights in int8": {"int8": True},
    "no cache of small pieces": {"tunables": "glibc.malloc.tcache_count=0"},
    "huge pages": {"tunables": "glibc.malloc.hugetlb=1"},
    "attention by PyTorch alone": {"attention": False},
    "oneDNN's own limit of kernels": {
        "variables": {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024", "LRU_CACHE_CAPACITY": "1024"}
    },
    "torch.compile": {"compiled": True},
}


class Later(Loop):
    """The step with the longest row as the fourth, not as the first."""

    def _remaining_steps(self) -> Iterator[np.ndarray]:
        steps = super()._remaining_steps()
        first, *others = itertools.islice(steps, 4)
        yield from [*others, first]
        yield from steps


def one(name: str, variant: dict[str, Any]) -> dict[str, float]:
    """Train a few steps in this process."""
    torch.set_num_threads(os.cpu_count() or 1)
    memory.few_kernels()  # as a run does before its first product; here the machine's peak is measured before it
    {"all": memory.reuse, "nothing": memory.give_back, "glibc's": bool}[variant.get("keep", "all")]()
    if variant.get("attention") is False:
        quick.attends = lambda *_: False
    with tempfile.TemporaryDirectory() as folder:
        work = replace(_work(begun(prepare(name, Path(folder)), Path(folder))), validate=None, folder=None)
        work = replace(work, tokens=variant.get("tokens", work.tokens))
        if variant.get("compiled"):
            work.host.model.compile(dynamic=True)
        if variant.get("int8"):
            rest_in_int8(work.host.model)
        loop = (Later if variant.get("later") else Loop)(work, device())
        before, start, tokens = high_water(reset=True), 0.0, 0
        for event in itertools.islice((e for e in loop if e["event"] == "step"), STEPS[name]):
            tokens += event["tokens"] if start else 0
            start = start or time.perf_counter()  # the first step makes what is made once
        seconds = (time.perf_counter() - start) / tokens
        return {"bytes": high_water() - before, "seconds_per_token": seconds, "tokens": work.tokens}


def rest_in_int8(model: torch.nn.Module) -> None:
    """Keep what does not train of the linear layers in 8 bits, a scale a row, as torchao does it."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(model, Int8WeightOnlyConfig(), lambda m, _: isinstance(m, torch.nn.Linear) and not m.weight.requires_grad)


LIMIT = 240
"""Seconds after which a variant has failed; all others take a fifth of it."""


def apart(name: str, label: str) -> dict[str, Any]:
    """The same in a process of its own; what failed, where it did."""
    variant = VARIANTS[label]
    more = {"GLIBC_TUNABLES": variant["tunables"]} if "tunables" in variant else variant.get("variables", {})
    command = [sys.executable, __file__, "--one", name, label]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, **more}, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {LIMIT} s"}
    except subprocess.CalledProcessError as error:
        return {"failed": error.stderr.strip().splitlines()[-1][:200]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure every variant in turn and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="*", default=list(STEPS), choices=STEPS, help="cases")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one[0], VARIANTS[given.one[1]])))
        return
    known = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {"commits": {}, "results": {}}
    known |= {"processor": processor(), "threads": os.cpu_count(), "steps": STEPS}
    for name in given.only:
        results: dict[str, list[dict[str, Any]]] = {label: [] for label in VARIANTS}
        for _ in range(ROUNDS[name]):
            for label, runs in results.items():
                if runs and "failed" in runs[0]:
                    continue
                runs.append(found := apart(name, label))
                print(f"{name:10} {label:28} {found}", flush=True)
        known["results"][name] = results
        known["commits"][name] = commit()
        OUT.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
