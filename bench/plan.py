"""Predicted against measured peak memory: the plan of each recipe, then the same recipe trained in a fresh process.

    python bench/plan.py [--only NAME ...] [--steps 2]

What is there is not measured again. Results go to ``bench/planned/peaks.json``; ``bench/planning_page.py`` draws them.

Measured is the highest resident memory of the process from where the base is loaded to the last of a few steps, less
what it held when everything was imported and warm; as in a run with ``--memory``, what is let go is given back. Predicted is the plan's peak, less its framework, over the same
phases. The rows are cut so that the steps hold the longest ones.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "planned" / "peaks.json"
STEPS = 2

ENCODER, DECODER = {"rows": "packaged:bbc-news"}, {"rows": "packaged:chatterbot", "base": "smollm2-135m"}
FULL, LORA = {"mask": "everything"}, {"adapter": "lora"}


def _points() -> dict[str, dict[str, Any]]:
    """Name -> options of a recipe: encoder and decoder, technique, length, tokens of a micro-batch."""
    found: dict[str, dict[str, Any]] = {}
    for technique, parts in {"lora": LORA, "full": FULL, "head": {"mask": "head"}}.items():
        for length, tokens in ((128, 1024), (128, 4096), (256, 4096), (256, 8192)):
            found[f"encoder {technique} {length} x {tokens}"] = {
                **ENCODER,
                **parts,
                "length.max": length,
                "batch.tokens": tokens,
            }
    for technique, parts in {"lora": LORA, "full": FULL}.items():
        for length, tokens in ((64, 512), (64, 1024), (64, 2048)):
            found[f"decoder {technique} {length} x {tokens}"] = {
                **DECODER,
                **parts,
                "length.max": length,
                "batch.tokens": tokens,
            }
    recomputed = {"gradient_checkpointing": True, "batch.tokens": 4096}
    found["encoder full recomputed"] = {**ENCODER, **FULL, **recomputed, "length.max": 256}
    found["decoder lora recomputed"] = {**DECODER, **LORA, **recomputed, "length.max": 64}
    found["encoder biases"] = {**ENCODER, "mask": "biases", "length.max": 256}
    found["encoder bottleneck"] = {**ENCODER, "adapter": "bottleneck", "length.max": 256}
    found["encoder full sgd"] = {**ENCODER, **FULL, "optimizer": "sgd", "length.max": 256}
    found["encoder lora bf16"] = {**ENCODER, **LORA, "precision": "bf16", "length.max": 256}
    found["encoder top layers"] = {**ENCODER, "mask": "top_layers", "length.max": 256}
    same = {"precision": "fp32", "batch.rows": 64, "length.over": "truncate"}
    return {name: {**same, **_two_micro_batches(options), **options} for name, options in found.items()}


def _two_micro_batches(options: dict[str, Any]) -> dict[str, int]:
    """Rows of a step that are no more than it takes: the second micro-batch of a step finds gradients there already."""
    return {"batch.rows": 2 * options["batch.tokens"] // options["length.max"]} if "batch.tokens" in options else {}


POINTS = _points()


# ---------------------------------------------------------------------- one point, in a process of its own


def recipe_of(name: str) -> Any:
    """The point's recipe."""
    from tunesmith import recipe

    options = dict(POINTS[name])
    return recipe.make(recipe.override({"rows": {"train": options.pop("rows")}}, options))


def predict(name: str) -> dict[str, Any]:
    """What the plan says of loading and training."""
    from tunesmith.run.planned import plan

    started = time.perf_counter()
    made = plan(recipe_of(name))
    phases = {n: p for n, p in made.footprint.phases.items() if n in ("loading", "training")}
    chief = max(phases, key=lambda n: sum(phases[n].values()))
    found = made.footprint
    return {"predicted": sum(phases[chief].values()), "at": chief, "items": phases[chief], "took": time.perf_counter() - started,
            "rows": found.rows, "length": found.length}  # fmt: skip


def measure(name: str, steps: int) -> dict[str, Any]:
    """Load and train; the highest resident memory above what the process held before."""
    import gc

    import numpy as np
    import torch
    from transformers import AutoConfig

    from tunesmith.engine.batches import micro_batches
    from tunesmith.engine.loop import Loop
    from tunesmith.engine.memory import give_back
    from tunesmith.run.carry_out import _begin, _work
    from tunesmith.run.prepare import on_disk, prepare

    give_back()  # as a run with a limit of memory does
    prepared = prepare(on_disk(recipe_of(name)))
    warm_up(AutoConfig.from_pretrained(prepared.base.path))
    gc.collect()
    before = high_water(reset=True)
    with tempfile.TemporaryDirectory() as folder:
        made = _begin(prepared, Path(folder))
        loaded = high_water()
        work = _work(made)
        loop = Loop(work, torch.device("cpu"))
        for _ in loop.choose():
            pass
        made.host.train()
        started = time.perf_counter()
        lengths = work.rows.lengths
        longest = np.argsort(-lengths, kind="stable")[: steps * work.rows_per_step]
        largest = sorted(
            np.split(longest, range(work.rows_per_step, len(longest), work.rows_per_step)),
            key=lambda s: -max(len(g) * int(lengths[g].max()) for g in micro_batches(s, lengths, work.tokens)),
        )
        loop.chooser.before_step(loop.moment)
        for step in largest:
            loop._step(step, None)
        seconds = time.perf_counter() - started
        peak = high_water()
    return {"measured": peak - before, "loaded": loaded - before, "baseline": before, "seconds": seconds}


def warm_up(config: Any) -> None:
    """Import the model's code and let the libraries make what they make once, with a model of a few weights."""
    import torch
    from transformers import AutoModel

    for name, value in (("num_hidden_layers", 1), ("vocab_size", 99), ("pad_token_id", 0)):
        setattr(config, name, value)
    model = AutoModel.from_config(config)
    ids = torch.ones(2, 8, dtype=torch.long)
    model(input_ids=ids, attention_mask=ids).last_hidden_state.sum().backward()
    torch.optim.AdamW(model.parameters(), fused=True).step()


def high_water(*, reset: bool = False) -> int:
    """The highest resident memory since the last reset, in bytes (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


# ---------------------------------------------------------------------- all points


def apart(name: str, what: str, steps: int) -> dict[str, Any]:
    """One half of a point in a process of its own."""
    command = [sys.executable, __file__, "--one", name, "--what", what, "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure what is not there yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=POINTS, default=list(POINTS))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--what", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(predict(given.one) if given.what == "predict" else measure(given.one, given.steps)))
        return
    from tunesmith.comparing.work import commit

    source = commit()  # before the file is written, which is part of it
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name in given.only:
        if name not in results:
            both = {**apart(name, "predict", given.steps), **apart(name, "measure", given.steps)}
            results[name] = {**both, "commit": source}
            RESULTS.parent.mkdir(parents=True, exist_ok=True)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        found = results[name]
        print(f"{name:32} predicted {found['predicted'] / 2**20:7.0f} MiB, measured {found['measured'] / 2**20:7.0f} MiB, "
              f"{found['predicted'] / found['measured'] - 1:+.0%}", flush=True)  # fmt: skip
    within = sum(abs(r["predicted"] / r["measured"] - 1) <= 0.15 for r in results.values())
    print(f"{within} of {len(results)} within 15 %")


if __name__ == "__main__":
    main()
