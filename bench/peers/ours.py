"""tunesmith, by its public function."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import meter

watch = meter.Meter()
given = meter.job()

import tunesmith as ts  # noqa: E402

watch.imported()


class Marks:
    """Tells the meter what happens."""

    def __init__(self) -> None:
        self.last = time.perf_counter()
        self.tokens = 0

    def __call__(self, event: Mapping[str, Any]) -> None:
        now = time.perf_counter()
        if event["event"] == "start":
            watch.begin()
        elif event["event"] == "step":
            watch.step()
            self.tokens += event["tokens"]
        elif event["event"] == "validation":
            watch.validated(event["loss"], now - self.last)
        self.last = now


def libraries() -> None:
    """What the libraries take that a training loads one by one when it needs them."""
    import pyarrow  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer  # noqa: F401

    import tunesmith.run.carry_out  # noqa: F401

    watch.ready()
    watch.tell()


def main() -> None:
    """Train and report."""
    import torch

    torch.set_num_threads(given["threads"])
    marks = Marks()
    techniques: dict[str, dict[str, Any]] = {
        "lora": {"adapter": ts.LoRA(rank=given["rank"], alpha=given["alpha"])},
        "bottleneck": {"adapter": {"bottleneck": {"size": given["rank"]}}},
        "full": {"adapter": None, "mask": "everything"},
    }
    run = ts.tune(
        {"train": given["train"], "validation": given["valid"], "test": given["test"]}, base=given["base"],
        out=given["out"], name="run", progress=marks, epochs=given["epochs"], task=given["kind"], seed=given["seed"],
        batch={"rows": given["batch"]}, length={"max": given["length"], "over": "truncate"},
        checks={"validations": given["validations"], "generate": 0},
        optimizer=["clip_norm", {"adamw": {"lr": given["rate"], "weight_decay": 0.0}}], **techniques[given["technique"]],
    )  # fmt: skip
    watch.end()
    took = json.loads((Path(given["out"]) / "run" / "environment.json").read_text(encoding="utf-8"))["precision"]
    if given["kind"] == "classify":
        score = run.results["tuned"]["accuracy"]["value"]
    else:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        merged = run.save_pretrained(given["out"] + "/merged", form="merged")
        model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(given["base"])
        score = -meter.judged(model, tokenizer, given["test"], given["length"])
        untuned = AutoModelForCausalLM.from_pretrained(given["base"], dtype=torch.float32)
        own = run.results["before"]["base (zero-shot)"]["loss"]["value"]
        away = abs(own - meter.judged(untuned, tokenizer, given["test"], given["length"]))
        if given["kind"] == "chat" and away > 0.01 * own:
            raise SystemExit(f"our loss of the base, {own:.3f}, is {away:.3f} from what the judge of all peers says")
    watch.tell(score=score, tokens=marks.tokens, dtype={"float32": "fp32", "bfloat16": "bf16"}[took])


libraries() if given.get("only_libraries") else main()
