"""What a newcomer waits for: `make demo` and `make test` in a fresh clone without caches, and commands that only look.

    python bench/setup.py
    python bench/setup.py --looks    # the commands that only look; the other times stay

Writes ``bench/setup.json``; ``python bench/render.py`` puts the times into the README and the docs.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILE = ROOT / "bench" / "setup.json"
RUNS = 9


def timed(command: list[str], folder: Path, environment: dict[str, str], code: int = 0) -> float:
    """Seconds that a command takes; another exit code than the expected one ends this script."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != code:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    print(
        " ".join(command),
        f"{time.perf_counter() - start:.1f} s",
        (done.stdout.strip().splitlines() or [""])[-1],
        flush=True,
    )
    return time.perf_counter() - start


def main() -> None:
    """Clone, make, look; write the file."""
    with tempfile.TemporaryDirectory() as made:
        home, clone = Path(made) / "home", Path(made) / "tunesmith"
        home.mkdir()
        dropped = ("TUNESMITH_HOME", "XDG_CACHE_HOME", "PYTHONPATH", "OMP_NUM_THREADS", "HF_HOME")
        environment = {k: v for k, v in os.environ.items() if k not in dropped} | {"HOME": str(home)}
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=clone, capture_output=True, text=True, check=True
        )
        if sys.argv[1:] == ["--looks"]:
            timed(["make", ".venv/.ready"], clone, environment)
            facts = json.loads(FILE.read_text(encoding="utf-8"))
        else:
            facts = {
                "commit": commit.stdout.strip(), "python": platform.python_version(), "cores": os.cpu_count(),
                "platform": platform.platform(),
                "demo_seconds": timed(["make", "demo"], clone, environment),
                "test_seconds": timed(["make", "test"], clone, environment),
            }  # fmt: skip
        facts |= {"looks_commit": commit.stdout.strip(), "fastest": {}}
        rows = clone / "rows.csv"
        rows.write_text("text,label\n" + "".join(f"a text {i},{i % 2}\n" for i in range(1000)), encoding="utf-8")
        (clone / "recipe.yaml").write_text("rows: rows.csv\nadaptor: lora\n", encoding="utf-8")
        program = str(clone / ".venv" / "bin" / "tunesmith")
        looks = {
            "--help": ["--help"],
            "parts": ["parts"],
            "show lora": ["show", "lora"],
            "data FILE": ["data", "rows.csv"],
            "tune RECIPE": ["tune", "recipe.yaml"],
        }
        for name, arguments in looks.items():
            code = 2 if name == "tune RECIPE" else 0
            taken = [timed([program, *arguments], clone, environment, code) for _ in range(RUNS)]
            facts[name], facts["fastest"][name] = statistics.median(taken), min(taken)
    FILE.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
