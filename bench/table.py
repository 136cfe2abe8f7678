"""Base against tuned on real rows: every (base, rows, seed) of the table is one run in a process of its own.

    python bench/table.py [--only minilm-l6]

A result file is written for each run, with versions, machine and commit; what is there already is not run again.
``python bench/render.py`` makes the table in the docs and the README from these files.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tunesmith.comparing.work import commit

RESULTS = Path(__file__).parent / "results"
SEEDS = (0, 1, 2)

ENCODER = {"rows.limit": 1000, "checks.rows": 500, "budget.epochs": 4}
WRITER = {"rows.limit": 64, "checks.rows": 24, "budget.epochs": 1, "batch.rows": 8, "checks.generate": 0,
          "length.max": 128, "length.over": "truncate", "adapter.lora.rank": 8}  # fmt: skip

TABLE: list[tuple[str, str, dict[str, Any]]] = [
    ("minilm-l6", "trec", ENCODER),
    ("minilm-l6", "rotten-tomatoes", ENCODER),
    ("minilm-l6", "movie-ratings", ENCODER),
    ("minilm-l6", "privacy-pairs", {**ENCODER, "length.max": 96, "budget.epochs": 3}),
    ("minilm-l6", "us-addresses", ENCODER),
    (
        "e5-small",
        "chinese-reviews",
        {**ENCODER, "rows.limit": 600, "checks.rows": 300, "length.max": 48},
    ),
    ("smollm2-135m", "alpaca-demo", WRITER),
]
"""Base, packaged rows, and the options that make one run fit into a minute or two on two cores."""


def one(base: str, rows: str, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """Carry out one run in a fresh process and take its figures."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [x for k, v in options.items() for x in ("--set", f"{k}={v}")]
        command = [
            "tune",
            f"packaged:{rows}",
            "--base",
            base,
            "--seed",
            str(seed),
            "--out",
            folder,
            "--name",
            "r",
            *settings,
        ]
        made = subprocess.run(
            [sys.executable, "-m", "tunesmith", *command, "--json"], capture_output=True, text=True, check=False
        )
        if made.returncode:
            raise SystemExit(f"{base} {rows} {seed}: {made.stderr.strip().splitlines()[-1]}")
        report = json.loads(made.stdout)
        environment = json.loads((Path(folder) / "r" / "environment.json").read_text(encoding="utf-8"))
    before = list(report["before"])[-1]
    metric = report["metric"]
    environment.pop("command")
    return {
        "base": base, "rows": rows, "seed": seed, "options": options, "technique": report["technique"], "metric": metric,
        "before_name": before, "before": report["before"][before][metric], "tuned": report["tuned"][metric],
        "difference": report["difference"][before][metric], "cost": report["cost"],
        "train_rows": report["data"]["splits"]["train"]["rows"], "environment": environment, "commit": commit(),
        "command": f"tunesmith {' '.join(command[:6])}",
    }  # fmt: skip


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="one base")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="number of seeds")
    given = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    for seed in SEEDS[: given.seeds]:
        for base, rows, options in TABLE:
            path = RESULTS / f"{base}.{rows}.{seed}.json"
            if path.exists() or given.only not in (None, base):
                continue
            result = one(base, rows, seed, options)
            path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            print(path.name, result["metric"], round(result["before"]["value"], 4), "->", round(result["tuned"]["value"], 4),
                  f"{result['cost']['seconds']:.0f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
