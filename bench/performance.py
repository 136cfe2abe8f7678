"""docs/performance.md out of ``bench/engine/*.json``: every ratio is a median over rounds of two runs made in turn.

python bench/performance.py [--check]
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from typing import Any

from engine import CASES, FOLDER, ROOT, RUNS

PAGE = ROOT / "docs" / "performance.md"
NAMES = {
    "trainer": "transformers Trainer + PEFT",
    "trl": "TRL SFTTrainer",
    "plain": "plain PyTorch, no padding",
    "tunesmith": "tunesmith",
}
TARGETS = {"train_seconds": {"defaults": 1 / 3, "best": 2 / 3}, "memory": {"defaults": 1 / 2, "best": 2 / 3}}


def memory(run: dict[str, Any], weights: float) -> float:
    """Peak bytes above the libraries and the weights in fp32."""
    return max(1.0, float(run["peak_bytes"] - run["libraries_bytes"]) - weights)


def reached(run: dict[str, Any], loss: float) -> float:
    """Seconds of training until the validation loss was first at or under ``loss``, between two validations by a line."""
    before = (0.0, math.inf)
    for seconds, value in run["curve"]:
        if value <= loss:
            if math.isinf(before[1]):
                return float(seconds)
            share = (before[1] - loss) / max(1e-12, before[1] - value)
            return float(before[0] + share * (seconds - before[0]))
        before = (seconds, value)
    return math.nan


def ratios(known: dict[str, Any], peer: str, settings: str, weights: float) -> dict[str, float]:
    """Ours over theirs, the median over rounds."""
    ours = {r["seed"]: r for r in known["runs"] if r["peer"] == "tunesmith"}
    theirs = {r["seed"]: r for r in known["runs"] if (r["peer"], r["settings"]) == (peer, settings)}
    pairs = [(ours[s], theirs[s]) for s in sorted(ours.keys() & theirs.keys())]
    found: dict[str, list[float]] = {}
    for a, b in pairs:
        found.setdefault("train_seconds", []).append(a["train_seconds"] / b["train_seconds"])
        found.setdefault("first_step_seconds", []).append(a["first_step_seconds"] / b["first_step_seconds"])
        found.setdefault("memory", []).append(memory(a, weights) / memory(b, weights))
        if b["curve"]:
            goal = b["curve"][-1][1]
            found.setdefault("to_loss", []).append(reached(a, goal) / reached(b, goal))
        if b["score"] is not None:
            found.setdefault("score", []).append(a["score"] - b["score"])
    return {name: statistics.median(values) for name, values in found.items() if values}


def table(known: dict[str, Any], weights: float) -> list[str]:
    """A line for each peer."""
    kind = known["case"]["kind"]
    score = "accuracy" if kind == "classify" else "loss"
    lines = [
        f"| | training | to the peer's last loss | memory above weights | start to first step | tokens/s | share of peak | {score} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for peer, settings in RUNS[kind]:
        runs = [r for r in known["runs"] if (r["peer"], r["settings"]) == (peer, settings)]
        if not runs:
            continue
        rate = statistics.median(r["tokens"] / r["train_seconds"] for r in runs)
        share = statistics.median(
            known["flops_per_token"] * r["tokens"] / r["train_seconds"] / max(r["peak"].values()) for r in runs
        )
        scores = [abs(r["score"]) for r in runs if r["score"] is not None]
        said = f"{statistics.mean(scores):.3f} ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
        if peer == "tunesmith":
            seconds = statistics.median(r["train_seconds"] for r in runs)
            cells = [f"{seconds:.1f} s", "", f"{statistics.median(memory(r, weights) for r in runs) / 2**20:.0f} MB",
                     f"{statistics.median(r['first_step_seconds'] for r in runs):.1f} s"]  # fmt: skip
        else:
            found = ratios(known, peer, settings, weights)
            cells = [
                cell(found, name, settings) for name in ("train_seconds", "to_loss", "memory", "first_step_seconds")
            ]
        who = NAMES[peer] if peer in ("tunesmith", "plain") else f"ours / {NAMES[peer]}, {settings}"
        lines.append(f"| {who} | {' | '.join(cells)} | {rate:,.0f} | {share:.0%} | {said} |")
    return lines


def cell(found: dict[str, float], name: str, settings: str) -> str:
    """A ratio, and whether it meets its target."""
    if name not in found or math.isnan(found[name]):
        return ""
    goal = TARGETS.get(name, {}).get(settings)
    met = "" if goal is None else " (met)" if found[name] <= goal else f" (target {goal:.2f} missed)"
    return f"{found[name]:.2f}×{met}"


def page() -> str:
    """The whole page."""
    from tunesmith.models.bases import resolve

    parts = [
        "# Performance",
        "Written by `python bench/performance.py` from the results of `python bench/engine.py`. The same technique, base, rows, effective batch and "
        "number of epochs; every figure of a peer is *ours divided by theirs*, the median over rounds of runs made in turn in one process tree. "
        "Training is the time of the steps without validations. *Plain PyTorch* is the limit: the same number of tokens as whole rectangles, "
        "without padding, validation or checkpoints, so a ratio over 1 against it is what a real run costs on top. The share of peak is useful tokens × "
        "counted FLOPs over the fastest matrix product measured between the runs.",
    ]
    for name in CASES:
        path = FOLDER / f"{name}.json"
        if not path.exists():
            continue
        known = json.loads(path.read_text(encoding="utf-8"))
        case = known["case"]
        weights = 4.0 * resolve(case["base"]).parameters
        commits = ", ".join(sorted({r["commit"] for r in known["runs"]}))
        rounds = len({r["seed"] for r in known["runs"]})
        parts += [
            f"## {name}",
            f"{case['base']} on packaged:{case['rows']}, {case['count']:,} rows, at most {case['length']} tokens, steps of {known['shared']['batch']} rows; "
            f"{rounds} rounds, {known['cores']} cores, commits {commits}.",
            "\n".join(table(known, weights)),
        ]
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Write the page, or say whether it is what the files say."""
    text = page()
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
            print("docs/performance.md is not as the files say; run: python bench/performance.py")
            return 1
        return 0
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
