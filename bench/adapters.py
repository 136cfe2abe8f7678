"""A training step with our adapters against PEFT's: same base, same batch, same optimizer; time and memory as ratios.

    python bench/adapters.py [--only NAME ...] [--repetitions 7]

For each technique three fresh processes, one after the other. In the first both models take blocks of steps in turn, so that
whatever else the machine does strikes both; the others measure each one's memory alone, beyond that of the loaded base.
Writes ``bench/adapters.json``, one entry a technique; ``python bench/adapters_page.py`` shows it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tunesmith.comparing.work import commit
from tunesmith.storage import write_json

FILE = Path(__file__).parent / "adapters.json"
ROWS, LENGTH, LABELS, STEPS, WARM = 16, 48, 6, 5, 3

TECHNIQUES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "lora": ("minilm-l6", {"rank": 8, "alpha": 16.0}, "LoraConfig", {"r": 8, "lora_alpha": 16}),
    "dora": ("minilm-l6", {"rank": 8, "alpha": 16.0}, "LoraConfig", {"r": 8, "lora_alpha": 16, "use_dora": True}),
    "ia3": ("minilm-l6", {}, "IA3Config", {}),
    "ada_lora": (
        "minilm-l6", {"rank": 8, "alpha": 16.0, "every": 10}, "AdaLoraConfig",
        {"init_r": 12, "target_r": 8, "lora_alpha": 24, "total_step": 1000, "tinit": 1, "tfinal": 300, "deltaT": 10},
    ),
    "oft": ("minilm-l6", {"block": 32}, "OFTConfig", {"oft_block_size": 32, "r": 0, "use_cayley_neumann": False}),
    "prefix_tuning": ("smollm2-135m", {"length": 20}, "PrefixTuningConfig", {"num_virtual_tokens": 20}),
}  # fmt: skip
"""Technique -> base, our settings, PEFT's configuration and its options. PEFT's prefix is measured on a decoder."""

Step = Callable[[], None]


def base(name: str) -> Any:
    """The base with a classifier, or a language model."""
    from tunesmith.models.bases import load, resolve

    if name == "minilm-l6":
        return load(resolve(name), "sequence-classification", labels=[str(i) for i in range(LABELS)]).model
    return load(resolve(name), "causal-lm").model


def batch(name: str) -> dict[str, Any]:
    """Random ids without padding; the labels of a classifier or of a language model."""
    import torch

    torch.manual_seed(0)
    ids = torch.randint(1000, 20_000, (ROWS, LENGTH))
    labels = torch.randint(0, LABELS, (ROWS,)) if name == "minilm-l6" else ids
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def ours(technique: str, model: Any) -> Step:
    """One step with our adapter."""
    from tunesmith import parts
    from tunesmith.host import Host

    name, settings, _, _ = TECHNIQUES[technique]
    host = Host(model, [n for n, _ in model.named_parameters() if n.startswith("classifier")])
    host.attach(parts.find("adapter", technique).choose(settings))
    host.train_only()
    host.train()
    rows, optimizer = batch(name), fused(host.trainable().values())

    def step() -> None:
        loss = host(**rows).loss
        extra = host.penalty()
        (loss if extra is None else loss + extra).backward()
        optimizer.step()
        host.after_step(0.2)
        optimizer.zero_grad(set_to_none=True)

    return step


def theirs(technique: str, model: Any) -> Step:
    """One step with PEFT's, on the same modules."""
    import peft

    name, settings, kind, options = TECHNIQUES[technique]
    options = {**options, "task_type": "SEQ_CLS" if name == "minilm-l6" else "CAUSAL_LM"}
    if technique != "prefix_tuning":
        paths = places(technique, model, settings)
        options["target_modules"] = paths
        if technique == "ia3":
            options["feedforward_modules"] = [p for p in paths if p.endswith("output.dense")]
    tuned = peft.get_peft_model(model, getattr(peft, kind)(**options))
    tuned.train()
    rows, optimizer = batch(name), fused(p for p in tuned.parameters() if p.requires_grad)
    count = iter(range(2, 10**9))

    def step() -> None:
        tuned(**rows).loss.backward()
        optimizer.step()
        if technique == "ada_lora":
            tuned.base_model.update_and_allocate(next(count))
        optimizer.zero_grad(set_to_none=True)

    return step


def places(technique: str, model: Any, settings: dict[str, Any]) -> list[str]:
    """Paths of the modules that our adapter acts on at its defaults."""
    from tunesmith import parts
    from tunesmith.models.anatomy import Anatomy

    chosen = parts.find("adapter", technique).choose(settings).settings
    return [site.path for site in Anatomy(model, ()).select(chosen["targets"], chosen["layers"])]


def fused(parameters: Any) -> Any:
    """The optimizer of both."""
    import torch

    return torch.optim.AdamW(list(parameters), lr=1e-4, fused=True)


SIDES = {"ours": ours, "peft": theirs}


def times(technique: str, repetitions: int) -> dict[str, list[float]]:
    """Median seconds of a step of each side, in each repetition."""
    name = TECHNIQUES[technique][0]
    steps = {side: make(technique, base(name)) for side, make in SIDES.items()}
    for step in steps.values():
        for _ in range(WARM):
            step()
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(repetitions):
        for side in SIDES if number % 2 else reversed(SIDES):
            found[side].append(statistics.median(seconds(steps[side]) for _ in range(STEPS)))
    return found


def seconds(step: Step) -> float:
    """Wall time of a step."""
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def memory(technique: str, side: str, repetitions: int) -> list[int]:
    """Peak bytes of the process in a block of steps, beyond what it held with the base alone, in each repetition."""
    import peft  # noqa: F401  # both sides hold the same code

    from tunesmith import host  # noqa: F401

    model = base(TECHNIQUES[technique][0])
    loaded = kilobytes("VmRSS")
    step = SIDES[side](technique, model)
    for _ in range(WARM):
        step()
    found = []
    for _ in range(repetitions):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        for _ in range(STEPS):
            step()
        found.append(1024 * (kilobytes("VmHWM") - loaded))
    return found


def kilobytes(what: str) -> int:
    """A line of Linux' account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))


def fresh(*arguments: str) -> Any:
    """What this file prints in a process of its own."""
    made = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if made.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{made.stderr[-3000:]}")
    return json.loads(made.stdout.strip().splitlines()[-1])


def measured(technique: str, repetitions: int, source: str) -> dict[str, Any]:
    """Medians, and the ratio ours over PEFT's with the lowest and the highest of the repetitions."""
    took = fresh("--times", technique, "--repetitions", str(repetitions))
    held = {side: fresh("--memory", technique, side, "--repetitions", str(repetitions)) for side in SIDES}
    facts: dict[str, Any] = {"base": TECHNIQUES[technique][0], "repetitions": repetitions}
    for name, both in (("seconds", took), ("bytes", held)):
        ratios = [a / b for a, b in zip(both["ours"], both["peft"], strict=True)]
        facts[name] = {side: statistics.median(values) for side, values in both.items()}
        facts[name] |= {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
    packages = {name: version(name) for name in ("torch", "transformers", "peft")}
    return {
        **facts, "rows": ROWS, "tokens": LENGTH, "packages": packages, "platform": platform.platform(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)), "commit": source,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }  # fmt: skip


def main() -> None:
    """Measure the techniques that were asked for, and write the file after each."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--only", nargs="*", choices=TECHNIQUES, default=list(TECHNIQUES))
    asked.add_argument("--repetitions", type=int, default=7)
    asked.add_argument("--times", help=argparse.SUPPRESS)
    asked.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    given = asked.parse_args()
    if given.times:
        print(json.dumps(times(given.times, given.repetitions)))
    elif given.memory:
        print(json.dumps(memory(*given.memory, given.repetitions)))
    else:
        source = commit()  # before the file is written, which is part of it
        for technique in given.only:
            known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
            found = measured(technique, given.repetitions, source)
            write_json(FILE, {**known, technique: found})
            print(
                f"{technique}: time {found['seconds']['ratio']:.2f}, memory {found['bytes']['ratio']:.2f}", flush=True
            )


if __name__ == "__main__":
    main()
