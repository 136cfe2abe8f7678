"""Make the tables of the docs and the README from the result files; no figure in them is typed by hand.

    python bench/render.py [--check]

``--check`` changes nothing and fails when a page does not say what the files say.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

ROOT = Path(__file__).parent.parent
SETUP = ROOT / "bench" / "setup.json"
PERCENT = ("accuracy", "span_f1")


def results() -> dict[tuple[str, str], list[dict[str, Any]]]:
    """All result files, grouped by base and rows."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for path in sorted((ROOT / "bench" / "results").glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        found[result["base"], result["rows"]].append(result)
    return found


def over_seeds(values: list[float]) -> tuple[float, float]:
    """Mean and half width of the 95 % t interval over the seeds."""
    if len(values) < 2:
        return values[0], float("nan")
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return float(np.mean(values)), float(half)


def table() -> str:
    """The table of base against tuned, in Markdown."""
    lines = [
        "| base | rows | figure | before | tuned | difference (95 %, seeds) | | minutes | peak memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (base, rows), runs in sorted(results().items(), key=lambda item: _order(item[1])):
        metric, scale = runs[0]["metric"], 100 if runs[0]["metric"] in PERCENT else 1
        unit, digits = (" points", 1) if scale == 100 else ("", 3)
        before, tuned = (over_seeds([scale * r[k]["value"] for r in runs])[0] for k in ("before", "tuned"))
        change, half = over_seeds([scale * r["difference"]["value"] for r in runs])
        sure = abs(change) > half
        good = (change > 0) == runs[0]["tuned"]["greater"]
        verdict = ("better" if good else "worse") if sure else "no difference seen"
        minutes = np.median([r["cost"]["seconds"] for r in runs]) / 60
        peak = max(r["cost"].get("peak_bytes", 0) for r in runs) / 2**30
        share = " %" if scale == 100 else ""
        lines.append(
            f"| {base} | {rows} ({runs[0]['train_rows']:,}) | {metric} | {before:.{digits}f}{share} ({_who(runs[0])}) "
            f"| {tuned:.{digits}f}{share} | {change:+.{digits}f}{unit} ± {half:.{digits}f} | {verdict} | {minutes:.1f} | {peak:.1f} GB |"
        )
    return "\n".join(lines)


def _who(run: dict[str, Any]) -> str:
    return run["before_name"].removeprefix("base (").removesuffix(")")


def _order(runs: list[dict[str, Any]]) -> tuple[int, str]:
    return ["minilm-l6", "e5-small", "smollm2-135m"].index(runs[0]["base"]), runs[0]["rows"]


def provenance() -> str:
    """Seeds, versions, machine and commit of the figures."""
    runs = [r for group in results().values() for r in group]
    environment = runs[0]["environment"]
    seeds = sorted({r["seed"] for r in runs})
    commits = sorted({r["commit"] for r in runs})
    packages = ", ".join(f"{k} {environment['packages'][k]}" for k in ("torch", "transformers"))
    return (
        f"LoRA of rank 8 at its preset on every linear layer, {len(seeds)} seeds on one split, "
        f"{environment['processor']}, {environment['threads']} thread{'s' if environment['threads'] != 1 else ''}, {environment['precision']}, Python "
        f"{environment['python']}, {packages}, commits {', '.join(commits)}. The number behind the rows is that of training rows. "
        "Before tuning a language model is scored as it is (zero-shot), an encoder by a linear probe on its frozen features; "
        "minutes are those of a whole run, the probe, the scoring and the proof of the saved model among them."
    )


def times() -> str:
    """How long the two commands take, in a sentence; nothing where it was not measured."""
    if not SETUP.exists():
        return ""
    facts = json.loads(SETUP.read_text(encoding="utf-8"))
    return (
        f"In a fresh clone without caches, on {facts['cores']} cores, `make demo` takes {facts['demo_seconds'] / 60:.0f} minutes, "
        f"most of them to install PyTorch and to fetch the base, and `make test` {facts['test_seconds'] / 60:.0f} more "
        f"(measured at commit {facts['commit']})."
    )


def looks() -> str:
    """How fast the commands answer that only look; nothing where it was not measured."""
    if not SETUP.exists():
        return ""
    facts = json.loads(SETUP.read_text(encoding="utf-8"))
    names = {"--help": "--help", "parts": "parts", "show lora": "show lora", "data FILE": "data FILE",
             "tune RECIPE": "tune RECIPE` with an unknown option, up to the error `exit 2"}  # fmt: skip
    lines = "\n".join(
        f"| `tunesmith {said}` | {facts[n]:.2f} s | {facts['fastest'][n]:.2f} s |" for n, said in names.items()
    )
    return (
        f"## Commands that only look\n\n9 runs of each in a fresh clone, commit {facts['looks_commit']}. What else a machine "
        "does only adds to a time, so the fastest run tells what a command takes.\n\n"
        f"| command | median | fastest |\n|---|---|---|\n{lines}\n"
    )


def between(text: str, mark: str, body: str) -> str:
    """``text`` with what stands between two marks replaced."""
    begin, end = f"<!-- {mark}:begin -->", f"<!-- {mark}:end -->"
    before, rest = text.split(begin)
    return f"{before}{begin}\n{body.strip()}\n{end}{rest.split(end)[1]}"


def pages() -> dict[Path, str]:
    """What every page that holds figures should say."""
    docs = ROOT / "docs" / "results.md"
    readme = ROOT / "README.md"
    body = f"{table()}\n\n{provenance()}\n" if results() else "No result file is there yet: `make figures` makes them."
    text = between(readme.read_text(encoding="utf-8"), "figures", body)
    return {
        docs: f"# What tuning did\n\nWritten by `make figures` from `bench/`.\n\n{body}\n{looks()}",
        readme: between(text, "times", times()),
    }


def main() -> None:
    """Write the pages, or check them."""
    for path, text in pages().items():
        if "--check" in sys.argv:
            if path.read_text(encoding="utf-8") != text:
                raise SystemExit(f"{path.name} does not say what bench/results say; run: make figures")
        else:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
