"""Make ``docs/adapters.md``: the whole field of adapters and masks on one page; nothing in it is typed by hand.

    python bench/adapters_page.py [--check]

It reads files only: what was measured of parts (``bench/parts.py``), the learning tests (``bench/presets.py``) and the steps
against PEFT's (``bench/adapters.py``). ``--check`` changes nothing and fails when page or plots are not what the files say.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from render import ROOT

from tunesmith import measured, parts
from tunesmith.claims.evidence import cells
from tunesmith.claims.plots import as_file
from tunesmith.cli.measured import megabytes, trained, verdicts
from tunesmith.comparing.plots import COLORS
from tunesmith.evaluation.drawing import FLOOR, figure, logarithmic, style, svg
from tunesmith.storage import hash_json

PAGE, PLOTS = ROOT / "docs" / "adapters.md", ROOT / "docs" / "adapters"
PRESETS, STEPS = ROOT / "bench" / "presets", ROOT / "bench" / "adapters.json"
COSTS = {
    "trainable": ("trained weights", 1.0),
    "peak_bytes": ("peak memory (GB)", 2.0**30),
    "training_seconds": ("training (s)", 1.0),
}

Tests = Mapping[str, Mapping[str, Any]]


def tests() -> dict[str, dict[str, Any]]:
    """The learning tests by name of the part."""
    files = sorted(PRESETS.glob("*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}


def share(task: Mapping[str, Any]) -> bool:
    """Whether the score is a share, shown times 100."""
    return task["metric"] not in ("loss", "log_loss")


def score(task: Mapping[str, Any] | None) -> str:
    """Mean over the seeds with its interval."""
    if task is None:
        return ""
    found, digits = task["score"], 1 if share(task) else 3
    scale = 100 if share(task) else 1
    least, most = (0.0, 1.0) if share(task) else (-math.inf, math.inf)
    value, low, high = (f"{scale * min(most, max(least, found[k])):.{digits}f}" for k in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def field(found: Tests) -> str:
    """Every adapter and mask: what it trains and takes, and how its learning test went."""
    tasks = sorted({task for test in found.values() for task in test["tasks"]})
    headings = (
        "part",
        "trained",
        "gradients",
        "optimizer state",
        *tasks,
        "against head only",
        "rates",
        "folds",
        "PEFT",
        "claims",
    )
    lines = [cells(*headings), "|---" * len(headings) + "|"]
    for kind in ("adapter", "mask"):
        for name in parts.of_kind(kind):
            known, test = measured.facts(kind, name), found.get(name)
            beats = test["beats_head"] if test else None
            against = (
                f"{100 * beats['value']:+.1f} ({100 * beats['low']:+.1f} to {100 * beats['high']:+.1f})"
                if beats
                else ""
            )
            rates = f"{test['range'][0]:g} to {test['range'][1]:g}" if test else ""
            bytes_ = [megabytes(known[k]) if known else "" for k in ("gradients", "optimizer")]
            can = [("yes" if known[k] else "no") if known and kind == "adapter" else "" for k in ("folds", "exports")]
            scores = [score(test["tasks"].get(task)) if test else "" for task in tasks]
            lines.append(cells(name, trained(known), *bytes_, *scores, against, rates, *can, verdicts(known)))
    return "\n".join(lines)


def field_notes(found: Tests) -> str:
    """On what the table stands."""
    about = measured.everything()["about"]
    count = sum(len(parts.of_kind(kind)) for kind in ("adapter", "mask"))
    text = (
        f"{count} parts, {len(measured.everything()['parts'])} of them measured on {about['base']} ({about['task']}), with a new "
        "head, at their defaults: share of the base's weights that trains, bytes of gradients and of the optimizer's state."
    )
    if not found:
        return text + " No learning test has been run yet: `python bench/presets.py`."
    dead = sorted(name for name, test in found.items() if test["dead"])
    said = f"{', '.join(dead)} learned nothing" if dead else "none of them is dead"
    first = next(iter(found.values()))["environment"]
    return (
        f"{text} {len(found)} have a learning test: scores are means over {next(iter(found.values()))['seeds']} seeds with 95 % "
        f"intervals at the lowest of the part's good rates, which it brings along; {said}. Good rates are those whose validation loss "
        "falls by at least 85 % of what it does at the best one. "
        f"{first['processor']}, commit {first['commit']}."
    )


def steps() -> str:
    """Our steps against PEFT's."""
    if not STEPS.exists():
        return "Not measured yet: `python bench/adapters.py`."
    found = json.loads(STEPS.read_text(encoding="utf-8"))
    headings = (
        "technique",
        "base",
        "time, ours over PEFT's",
        "lowest to highest",
        "memory, ours over PEFT's",
        "ours",
        "PEFT's",
    )
    lines = [cells(*headings), "|---" * len(headings) + "|"]
    for name, facts in found.items():
        time, held = facts["seconds"], facts["bytes"]
        lines.append(
            cells(
                name, facts["base"], f"{time['ratio']:.2f}", f"{time['low']:.2f} to {time['high']:.2f}", f"{held['ratio']:.2f}",
                f"{1000 * time['ours']:.0f} ms, {held['ours'] / 2**20:.0f} MB",
                f"{1000 * time['peft']:.0f} ms, {held['peft'] / 2**20:.0f} MB",
            )
        )  # fmt: skip
    one = next(iter(found.values()))
    packages = ", ".join(f"{k} {v}" for k, v in one["packages"].items())
    note = (
        f"Medians of {one['repetitions']} repetitions in turn, {one['rows']} rows of {one['tokens']} tokens, {one['threads']} "
        f"threads; memory beyond that of the loaded base. {packages}, commit {one['commit']}, {one['date']}."
    )
    return "\n".join([*lines, "", note])


def front(points: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Points ``(cost, score, name)`` that no other one beats at less cost, the cheapest first.

    >>> [name for _, _, name in front([(1, 0.5, "a"), (2, 0.4, "b"), (3, 0.9, "c")])]
    ['a', 'c']
    """
    kept: list[tuple[float, float, str]] = []
    for point in sorted(points, key=lambda p: (p[0], -p[1])):
        if not kept or point[1] > kept[-1][1]:
            kept.append(point)
    return kept


def plotted(found: Tests, task: str, cost: str) -> list[tuple[float, Mapping[str, float], str, str]]:
    """Cost, score, name and kind of each part that was tested on a task."""
    return [
        (test["tasks"][task]["cost"][cost], test["tasks"][task]["score"], name, test["part"].split(".")[0])
        for name, test in found.items()
        if task in test["tasks"] and cost in test["tasks"][task]["cost"]
    ]


def plot(found: Tests, task: str, cost: str) -> str:
    """Score against a cost with intervals, and the front, as an SVG file's text."""
    title, unit = COSTS[cost]
    points = plotted(found, task, cost)
    scale = 100 if share(next(t["tasks"][task] for t in found.values() if task in t["tasks"])) else 1
    with style():
        drawn, axes = figure(6.4, 3.8)
        for number, kind in enumerate(("adapter", "mask")):
            mine = [p for p in points if p[3] == kind]
            x = [p[0] / unit for p in mine]
            axes.vlines(
                x,
                [scale * p[1]["low"] for p in mine],
                [scale * p[1]["high"] for p in mine],
                color=FLOOR,
                alpha=0.5,
                lw=1,
            )
            axes.plot(
                x, [scale * p[1]["value"] for p in mine], "os"[number], color=COLORS[number], markersize=4, label=kind
            )
        line = front([(p[0] / unit, scale * p[1]["value"], p[2]) for p in points])
        axes.step([p[0] for p in line], [p[1] for p in line], where="post", color=FLOOR, lw=1, ls="--")
        for x_, y, name in line:
            axes.annotate(name, (x_, y), fontsize=7, xytext=(3, 4), textcoords="offset points")
        if cost == "trainable":
            logarithmic(axes)
        axes.set(xlabel=title, ylabel=f"score, {task}")
        axes.legend()
        text = svg(drawn, f"{task}-{cost}-", f"{task}: score against {title}")
    return as_file(text, hash_json(points)[:16])


def plots(found: Tests) -> dict[Path, str]:
    """File -> the fingerprint of what it has to be drawn from, for every task and cost."""
    tasks = sorted({task for test in found.values() for task in test["tasks"]})
    wanted = {(t, c): plotted(found, t, c) for t in tasks for c in COSTS}
    return {PLOTS / f"{task}-{cost}.svg": hash_json(points)[:16] for (task, cost), points in wanted.items() if points}


def page(found: Tests) -> str:
    """The whole page."""
    drawn = "\n\n".join(f"![{path.stem.replace('-', ': ')}](adapters/{path.name})" for path in plots(found))
    about = (
        "Score against what it costs. The broken line is the front: no part has a higher mean at less cost. Where intervals "
        "overlap, a step of it may be chance."
    )
    shown = f"## Score against cost\n\n{about}\n\n{drawn}\n\n" if drawn else ""
    return (
        "# Adapters and masks\n\nWritten by `make figures` from `bench/` and the package's own file of measurements.\n\n"
        f"{shown}## The whole field\n\n{field_notes(found)}\n\n{field(found)}\n\n## A step against PEFT's\n\n{steps()}\n"
    )


def main() -> None:
    """Write page and plots, or check them."""
    found = tests()
    text, wanted = page(found), plots(found)
    marks = {p: f'data-drawn-from="{mark}"' for p, mark in wanted.items()}
    stale = [p for p, mark in marks.items() if not p.exists() or mark not in p.read_text(encoding="utf-8")]
    if "--check" in sys.argv:
        if stale or not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
            raise SystemExit(f"{PAGE.name} or a plot of it is not as the files say; run: make figures")
        return
    for path in stale:
        PLOTS.mkdir(exist_ok=True)
        path.write_text(plot(found, *path.stem.split("-", 1)), encoding="utf-8")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
