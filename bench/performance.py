"""docs/performance.md out of ``bench/engine/*.json``: every ratio is a median over rounds of two runs made in turn.

python bench/performance.py [--check]

``--check`` changes nothing and fails when page or plot is not what the files say.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Mapping
from typing import Any

from engine import CASES, FOLDER, ROOT, turns

from tunesmith.claims.evidence import cells
from tunesmith.claims.plots import as_file
from tunesmith.comparing.plots import COLORS
from tunesmith.engine.batches import most_tokens
from tunesmith.evaluation.drawing import figure, style, svg
from tunesmith.storage import hash_json

PAGE, PLOT = ROOT / "docs" / "performance.md", ROOT / "docs" / "performance" / "time.svg"
SIZES, TRIED = ROOT / "bench" / "micro_batches.json", ROOT / "bench" / "tried.json"
NAMES = {
    "trainer": "transformers Trainer + PEFT",
    "adapters": "adapters",
    "trl": "TRL SFTTrainer",
    "plain": "plain PyTorch, no padding",
    "tunesmith": "tunesmith",
}
TARGETS = {
    "train_seconds": {"defaults": 1 / 3, "best": 2 / 3},
    "memory": {"defaults": 1 / 2, "best": 2 / 3},
    "first_step_seconds": {"defaults": 1 / 2, "best": 1 / 2},
}
SHARE_OF_PEAK, HELP_SECONDS = 0.6, 0.3


def memory(run: dict[str, Any], weights: float) -> float:
    """Peak bytes above the libraries and the weights in fp32."""
    return max(1.0, float(run["peak_bytes"] - run["libraries_bytes"]) - weights)


def reached(run: dict[str, Any], loss: float) -> float:
    """Seconds of training until the validation loss was first at or under ``loss``, between two validations by a line.

    Infinite where it never was.
    """
    before = (0.0, math.inf)
    for seconds, value in run["curve"]:
        if value <= loss:
            if math.isinf(before[1]):
                return float(seconds)
            share = (before[1] - loss) / max(1e-12, before[1] - value)
            return float(before[0] + share * (seconds - before[0]))
        before = (seconds, value)
    return math.inf


def end(run: dict[str, Any], known: dict[str, Any]) -> float | None:
    """Seconds from the start of a process until the model is trained, tested and saved.

    Older runs kept the whole of the process, which is the same where no judge of losses took part.
    """
    whole = run.get("whole_seconds") if known["case"]["kind"] == "classify" else None
    found: float | None = run.get("end_seconds", whole)
    return found


def ratios(known: dict[str, Any], peer: str, settings: str, weights: float) -> dict[str, float]:
    """Ours over theirs, the median over rounds."""
    ours = {r["seed"]: r for r in known["runs"] if r["peer"] == "tunesmith"}
    theirs = {r["seed"]: r for r in known["runs"] if (r["peer"], r["settings"]) == (peer, settings)}
    pairs = [(ours[s], theirs[s]) for s in sorted(ours.keys() & theirs.keys())]
    found: dict[str, list[float]] = {}
    for a, b in pairs:
        found.setdefault("train_seconds", []).append(a["train_seconds"] / b["train_seconds"])
        found.setdefault("first_step_seconds", []).append(a["first_step_seconds"] / b["first_step_seconds"])
        if peer != "plain" and (here := end(a, known)) and (there := end(b, known)):
            found.setdefault("end", []).append(here / there)
        found.setdefault("memory", []).append(memory(a, weights) / memory(b, weights))
        if b["curve"]:
            goal = b["curve"][-1][1]
            found.setdefault("to_loss", []).append(reached(a, goal) / reached(b, goal))
            found.setdefault("above", []).append(a["curve"][-1][1] - goal)
        if b["score"] is not None:
            found.setdefault("score", []).append(a["score"] - b["score"])
    return {name: statistics.median(values) for name, values in found.items() if values}


def table(known: dict[str, Any], weights: float) -> list[str]:
    """A line for each peer."""
    kind = known["case"]["kind"]
    score = "accuracy" if kind == "classify" else "loss"
    lines = [
        f"| | training | to the peer's last loss | memory above weights | start to first step | start to end | tokens/s | share of peak | training at {SHARE_OF_PEAK:.0%} | {score} |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for peer, settings in turns(known["case"]):
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
            ends = [whole for r in runs if (whole := end(r, known)) is not None]
            shown = [f"{seconds:.1f} s", "", f"{statistics.median(memory(r, weights) for r in runs) / 2**20:.0f} MB",
                     f"{statistics.median(r['first_step_seconds'] for r in runs):.1f} s",
                     f"{statistics.median(ends):.1f} s" if ends else ""]  # fmt: skip
        else:
            found = ratios(known, peer, settings, weights)
            shown = [
                cell(found, name, "" if peer == "plain" else settings)
                for name in ("train_seconds", "to_loss", "memory", "first_step_seconds", "end")
            ]
        who = NAMES[peer] if peer in ("tunesmith", "plain") else f"ours / {NAMES[peer]}, {settings}"
        goal = (
            f" ({'met' if share >= SHARE_OF_PEAK else f'target {SHARE_OF_PEAK:.0%} missed'})"
            if peer == "tunesmith"
            else ""
        )
        best = "" if peer == "tunesmith" else f"{share / SHARE_OF_PEAK:.2f}×"
        lines.append(f"| {who} | {' | '.join(shown)} | {rate:,.0f} | {share:.0%}{goal} | {best} | {said} |")
    return lines


def cell(found: dict[str, float], name: str, settings: str) -> str:
    """A ratio, and whether it meets its target."""
    if name not in found:
        return ""
    if math.isinf(found[name]):
        return f"not reached, {found['above']:.3f} above"
    goal = TARGETS.get(name, {}).get(settings)
    met = "" if goal is None else " (met)" if found[name] <= goal else f" (target {goal:.2f} missed)"
    return f"{found[name]:.2f}×{met}"


def _read(name: str) -> dict[str, Any] | None:
    path = FOLDER / f"{name}.json"
    found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return found


def traces() -> dict[str, dict[str, float]]:
    """Shares of our training's time by kind of operation, of every case that was traced."""
    found = {name: known["seconds"] for name in CASES if (known := _read(f"{name}.trace"))}
    return {name: {k: v / sum(seconds.values()) for k, v in seconds.items()} for name, seconds in found.items()}


def plot(found: Mapping[str, Mapping[str, float]]) -> str:
    """The shares as bars, as an SVG file's text."""
    kinds = sorted(
        {k for shares in found.values() for k in shares}, key=lambda k: -sum(s.get(k, 0) for s in found.values())
    )
    with style():
        drawn, axes = figure(6.4, 1.6 + 0.32 * len(found))
        left = dict.fromkeys(found, 0.0)
        for number, kind in enumerate(kinds):
            widths = [100 * shares.get(kind, 0.0) for shares in found.values()]
            color, shade = COLORS[number % len(COLORS)], 0.9 if number < len(COLORS) else 0.45
            axes.barh(list(found), widths, left=list(left.values()), color=color, alpha=shade, label=kind)
            left = {name: left[name] + width for name, width in zip(found, widths, strict=True)}
        axes.invert_yaxis()
        axes.set(xlabel="share of the time of a step (%)", xlim=(0, 100))
        drawn.legend(loc="outside lower center", ncols=3)
        text = svg(drawn, "time-", "where the time of a training step goes")
    return as_file(text, mark(found))


def mark(found: Mapping[str, Mapping[str, float]]) -> str:
    """What the plot has to be drawn from."""
    return hash_json({name: {k: round(v, 6) for k, v in shares.items()} for name, shares in found.items()})[:16]


def case_parts(name: str, known: dict[str, Any]) -> list[str]:
    """A case's heading and setting, and a table for each kind of processor that it ran on."""
    from tunesmith.models.bases import resolve

    case = known["case"]
    parts = [
        f"### {name}",
        f"{case['base']} on packaged:{case['rows']}, {case['count']:,} rows, at most {case['length']} tokens, steps of "
        f"{case.get('batch', known['shared']['batch'])} rows.",
    ]
    for processor in sorted({r["processor"] for r in known["runs"]}):
        here = {**known, "runs": [r for r in known["runs"] if r["processor"] == processor]}
        commits = ", ".join(sorted({r["commit"] for r in here["runs"]}))
        rounds = len({r["seed"] for r in here["runs"]})
        precisions = sorted(  # older runs of ours kept what was asked for, not what was taken
            {f"{NAMES[r['peer']]} {r['settings']} {r['dtype']}" for r in here["runs"] if r["dtype"] != "auto"}
        )
        parts += [
            f"**{known['cores']} cores of {processor}.** Rounds: {rounds}; commit {commits}. Precision: {', '.join(precisions)}.",
            "\n".join(table(here, 4.0 * resolve(case["base"]).parameters)),
        ]
    return parts


def start_parts() -> list[str]:
    """How long ``tunesmith --help`` takes, and what of the time to the first step nobody can leave out."""
    known = _read("startup")
    if known is None:
        return []
    seconds = statistics.median(known["help_seconds"])
    met = "met" if seconds <= HELP_SECONDS else "missed"
    imports = [f"{name} {statistics.median(taken):.1f} s" for name, taken in known.get("import_seconds", {}).items()]
    return [
        "## Start",
        f"`tunesmith --help` takes {seconds:.2f} s (median of {len(known['help_seconds'])}; target {HELP_SECONDS} s {met}; "
        f"{known['processor']}, commit {known['commit']}). The column *start to first step* counts from the start of the process. Importing alone "
        f"takes, in a process that does nothing else: {', '.join(imports)} (median of 3).",
    ]


def trace_parts() -> list[str]:
    """Where the time goes."""
    found = traces()
    if not found:
        return []
    return [
        "## Where the time goes",
        "Steps of our own training under PyTorch's profiler (`python bench/where_time_goes.py`), which costs a little with every operator. "
        "*Outside operators* is Python. On a CPU the ceiling is *products of matrices*: what else is computed is what a target below it can gain.",
        f"![where the time of a step goes](performance/{PLOT.name})",
    ]


def size_parts() -> list[str]:
    """What the size of a micro-batch costs."""
    if not SIZES.exists():
        return []
    known = json.loads(SIZES.read_text(encoding="utf-8"))
    sizes = list(next(iter(known["results"].values())))
    lines = [cells("", *(f"{int(size):,} tokens" for size in sizes)), "|---" * (len(sizes) + 1) + "|"]
    for name, found in known["results"].items():
        for what, said in (("train", "training"), ("read", "reading")):
            middles = [statistics.median(found[size][what]) for size in sizes]
            lines.append(cells(f"{name}: {said}", *(f"{m:.2f} ms" for m in middles)))
        held = [found[size]["bytes"]["training"] / 2**20 for size in sizes]
        lines.append(cells(f"{name}: memory", *(f"{h:,.0f} MB" for h in held)))
    return [
        "## The size of a micro-batch",
        "Milliseconds a token, and what the plan says that a training step holds above the weights, by the most tokens that go through the model at "
        f"a time (`python bench/micro_batches.py`; {known['processor']}, {known['threads']} threads, commit {known['commit']}). A recipe that "
        f"leaves `batch.tokens` open has {most_tokens('cpu', writes=False):,} on a CPU, and {most_tokens('cpu', writes=True):,} where the model writes.",
        "\n".join(lines),
    ]


def tried(found: Mapping[str, list[dict[str, Any]]], label: str) -> tuple[str, str]:
    """Memory of a variant, and its time against the first one's."""
    runs = found.get(label)
    if not runs:
        return "", ""
    if "failed" in runs[0]:
        return "fails", runs[0]["failed"].replace("|", " ")
    pairs = zip(runs, next(iter(found.values())), strict=False)
    times = statistics.median(a["seconds_per_token"] / b["seconds_per_token"] for a, b in pairs)
    return f"{statistics.median(r['bytes'] for r in runs) / 2**20:,.0f} MB", f"{times:.2f}×"


def tried_parts() -> list[str]:
    """What else was tried against time and memory of a step."""
    if not TRIED.exists():
        return []
    known = json.loads(TRIED.read_text(encoding="utf-8"))
    results = {name: found for name, found in known["results"].items() if next(iter(found.values()))}
    head = cells("", *(f"{name}: {what}" for name in results for what in ("memory", "time")))
    lines = [head, "|---" * (2 * len(results) + 1) + "|"]
    for label in dict.fromkeys(label for found in results.values() for label in found):
        lines.append(cells(label, *(cell for found in results.values() for cell in tried(found, label))))
    first = {name: next(iter(found.values())) for name, found in results.items()}
    rounds = ", ".join(f"{name} {len(runs)}" for name, runs in first.items())
    tokens = ", ".join(f"{name} {runs[0]['tokens']:,}" for name, runs in first.items())
    commits = ", ".join(sorted(set(known["commits"].values())))
    return [
        "## What was tried",
        "The first steps of our own training, each variant in processes of its own (`python bench/tried.py`): the highest resident memory above "
        "that before the first step, weights that are first touched then among it, and the time a token against the first line (median of rounds: "
        f"{rounds}; {known['processor']}, {known['threads']} threads, commit {commits}; tokens of a micro-batch "
        f"then: {tokens}). Of the memory that is missing to the targets "
        "much is not of tensors: a CPU's allocator (here glibc's) keeps what is let go, in pieces that the next tensors do not fit. *Everything given back* "
        "is close to what tensors alone take; a recipe with a limit (`memory`) trains so. *Frozen weights in int8*, where they were tried, are those of linear layers, kept by torchao.",
        "\n".join(lines),
    ]


def page() -> str:
    """The whole page."""
    parts = [
        "# Performance",
        "Written by `python bench/performance.py` from the results of `python bench/engine.py`. The same technique, base, rows, effective batch and "
        "number of epochs; every figure of a peer is *ours divided by theirs*, the median over rounds of runs made in turn in one process tree. "
        "Training is the time of the steps without validations. *To the peer's last loss* is the time until the validation loss is at the peer's "
        "last one; a round in which ours never is counts as infinitely long, and how far above it ours ends is the median over rounds. In chats, of whose template each counts other tokens, one judge "
        "gives both losses. Memory is the highest resident memory of the process up to the last step, less its "
        "libraries and the weights in fp32. *Start to end* is from the start of the process until the model is trained, tested and saved; ours also "
        "measures the untuned base and proves in a process of its own that what was saved answers as what was trained. "
        "*Plain PyTorch* is the limit: the same number of tokens as whole rectangles, "
        "without padding, validation or checkpoints, so a ratio over 1 against it is what a real run costs on top. The share of peak is useful tokens × "
        "counted FLOPs over the fastest matrix product measured between the runs; *training at 60%* is what our ratio would be if that share of "
        "the peak were ours: where it is above a target, even that share would miss it. On a processor whose bf16 products are slower than "
        "those of fp32, peers that would take bf16 are given fp32.",
        "## Side by side",
    ]
    for name in CASES:
        if known := _read(name):
            parts += case_parts(name, known)
    return "\n\n".join([*parts, *start_parts(), *trace_parts(), *size_parts(), *tried_parts()]) + "\n"


def main() -> None:
    """Write page and plot, or check them."""
    text, found = page(), traces()
    drawn = not found or PLOT.exists() and f'data-drawn-from="{mark(found)}"' in PLOT.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        if not drawn or not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
            raise SystemExit(
                "docs/performance.md or its plot is not as the files say; run: python bench/performance.py"
            )
        return
    if not drawn:
        PLOT.parent.mkdir(exist_ok=True)
        PLOT.write_text(plot(found), encoding="utf-8")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
