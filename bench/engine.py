"""The same technique on the same rows and base, here and with what a user would pick instead: time, memory, score.

    python bench/engine.py                  # every case, three rounds; what is done already is not done again
    python bench/engine.py --only film-lora --rounds 1

Every peer runs in an environment of its own, ``.venv-peers/NAME``, which the first call makes. All runs are children of
this one process, one after the other and in turn, so that a slow minute of the machine meets all of them. Writes
``bench/engine/CASE.json``, which holds the runs of every kind of processor that it was called on;
``python bench/performance.py`` makes docs/performance.md of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PEERS = ROOT / "bench" / "peers"
FOLDER = ROOT / "bench" / "engine"
ENVIRONMENTS = Path(os.environ.get("TUNESMITH_PEERS", ROOT / ".venv-peers"))

FILM = {"kind": "classify", "base": "minilm-l6", "rows": "rotten-tomatoes", "count": 960, "length": 128}
CHAT = {
    "kind": "chat",
    "base": "smollm2-135m",
    "rows": "movie-dialogue",
    "count": 48,
    "length": 128,
    "batch": 12,
    "validations": 2,
}
TEXT = {
    "kind": "lm",
    "base": "smollm2-135m",
    "rows": "news-articles",
    "count": 16,
    "length": 256,
    "batch": 4,
    "validations": 2,
}
WORDS = 140
"""Words of a text: as many as have fewer tokens than a row may have."""
CASES: dict[str, dict[str, Any]] = {
    "film-lora": {**FILM, "technique": "lora", "rate": 1e-3},
    "film-full": {**FILM, "technique": "full", "rate": 1e-4},
    "film-bottleneck": {**FILM, "technique": "bottleneck", "rate": 1e-3, "rank": 32, "epochs": 2},
    "chat-lora": {**CHAT, "technique": "lora", "rate": 5e-4},
    "chat-full": {**CHAT, "technique": "full", "rate": 2e-5},
    "lm-lora": {**TEXT, "technique": "lora", "rate": 5e-4},
    "lm-full": {**TEXT, "technique": "full", "rate": 2e-5},
}
SHARED = {"rank": 8, "alpha": 16, "batch": 16, "epochs": 1, "validations": 3}
RUNS = {
    "classify": [("tunesmith", "defaults"), ("trainer", "defaults"), ("trainer", "best"), ("plain", "best")],
    "chat": [("tunesmith", "defaults"), ("trl", "defaults"), ("trl", "best"), ("plain", "best")],
    "lm": [("tunesmith", "defaults"), ("trl", "defaults"), ("trl", "best"), ("plain", "best")],
}
SCRIPTS = {
    "tunesmith": "ours.py",
    "trainer": "trainer.py",
    "adapters": "adapter_trainer.py",
    "trl": "trl_sft.py",
    "plain": "plain.py",
}


def turns(case: dict[str, Any]) -> list[tuple[str, str]]:
    """Who takes part in a case, with which settings: PEFT has no bottlenecks, ``adapters`` is what its users pick."""
    chosen = RUNS[case["kind"]]
    if case["technique"] == "bottleneck":
        return [("adapters" if peer == "trainer" else peer, settings) for peer, settings in chosen]
    return chosen


def environment(peer: str) -> str:
    """The Python of a peer; made where there is none yet."""
    if peer == "tunesmith":
        return sys.executable
    name = "trainer" if peer == "plain" else peer
    python = ENVIRONMENTS / name / "bin" / "python"
    if not python.exists():
        torch = f"torch=={_version('torch')}"
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENTS / name)], check=True)
        wanted = str(PEERS / f"requirements-{name}.txt")
        subprocess.run([str(python), "-m", "pip", "install", "-q", torch, "-r", wanted], check=True)
    return str(python)


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package).partition("+")[0]


def prepare(name: str, folder: Path) -> dict[str, Any]:
    """Rows of a case as files that every peer reads, and the base's folder."""
    import random

    from tunesmith.data.packaged import open_rows
    from tunesmith.models.bases import resolve

    case = {**SHARED, **CASES[name]}
    rows = [json.loads(line) for line in open_rows(case["rows"]).read_text(encoding="utf-8").split("\n") if line]
    random.Random(0).shuffle(rows)
    if case["kind"] == "lm":  # of a longer text we train every piece, others the first alone
        rows = [{"text": " ".join(r["text"].split()[:WORDS])} for r in rows]
    held = 200 if case["kind"] == "classify" else 12
    parts = {
        "train": rows[: case["count"]],
        "valid": rows[case["count"] :][:held],
        "test": rows[case["count"] + held :][: 2 * held],
    }
    kept = ("text", "label") if case["kind"] == "classify" else ("messages",) if case["kind"] == "chat" else ("text",)
    for part, found in parts.items():
        path = folder / f"{part}.jsonl"
        path.write_text("".join(json.dumps({k: r[k] for k in kept}) + "\n" for r in found), encoding="utf-8")
        case[part] = str(path)
    if case["kind"] == "classify":
        case["labels"] = sorted({r["label"] for found in parts.values() for r in found})
    products = peak()
    return {
        **case,
        "base": str(resolve(case["base"]).path),
        "threads": os.cpu_count(),
        "bf16": products["bfloat16"] > products["float32"],
    }


def one(peer: str, settings: str, case: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """One run in its own process; what our libraries take, which load one by one, is measured in another."""
    given = {**case, "settings": settings, "seed": seed, "out": str(folder / f"{peer}-{settings}-{seed}")}
    said = {"peer": peer, "settings": settings, "seed": seed, **_said(peer, given, folder)}
    if peer == "tunesmith":
        said["libraries_bytes"] = _said(peer, {**given, "only_libraries": True}, folder)["libraries_bytes"]
    return said


def _said(peer: str, given: dict[str, Any], folder: Path) -> dict[str, Any]:
    hidden = ("PYTHONPATH",) if peer != "tunesmith" else ()
    clean = {k: v for k, v in os.environ.items() if k not in hidden}
    clean |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(given["threads"])}
    made = subprocess.run(
        [environment(peer), str(PEERS / SCRIPTS[peer])], input=json.dumps(given), capture_output=True, text=True,
        check=False, env=clean, cwd=folder,
    )  # fmt: skip
    if made.returncode:
        raise SystemExit(f"{peer} {given['settings']}: {made.stderr[-3000:]}")
    said: dict[str, Any] = json.loads(made.stdout.strip().splitlines()[-1])
    return said


IMPORTS = {
    "PyTorch": "import torch",
    "PyTorch and a model's code of transformers": "import torch; from transformers import AutoTokenizer; "
    "from transformers.models.bert import modeling_bert",
}
"""What everything that trains a model of transformers imports before its first step."""


def startup(source: str | None) -> None:
    """Seconds of ``tunesmith --help`` and of `IMPORTS` in new processes, several times; writes ``startup.json``."""
    said = {
        "help_seconds": _seconds(["-m", "tunesmith", "--help"], 9),
        "import_seconds": {name: _seconds(["-c", code], 3) for name, code in IMPORTS.items()},
        "processor": processor(),
        "commit": source,
    }
    (FOLDER / "startup.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def _seconds(arguments: list[str], times: int) -> list[float]:
    found = []
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        found.append(time.perf_counter() - start)
    return found


def peak(seconds: float = 2.0) -> dict[str, float]:
    """The machine's matrix products in FLOP/s, in fp32 and bf16: the best of a few sizes."""
    import torch

    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        best = 0.0
        for size in (384, 768, 1536, 3072):
            a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
            a @ b
            count, start = 0, time.perf_counter()
            while (taken := time.perf_counter() - start) < seconds / 8:
                a @ b
                count += 1
            best = max(best, 2 * size**3 * count / taken)
            if count == 1:  # a larger product would take minutes where a processor has no units for this type
                break
        found[str(dtype).removeprefix("torch.")] = best
    return found


def begun(case: dict[str, Any], folder: Path) -> Any:
    """Our own run of a case as training begins."""
    from tunesmith import recipe as recipes
    from tunesmith.run.carry_out import _begin
    from tunesmith.run.prepare import on_disk, prepare

    techniques = {
        "lora": {"adapter": {"lora": {"rank": case["rank"]}}},
        "bottleneck": {"adapter": {"bottleneck": {"size": case["rank"]}}},
        "full": {"mask": "everything"},
    }
    rows = {"train": case["train"], "validation": case["valid"], "test": case["test"]}
    recipe = recipes.make({
        "rows": rows, "base": case["base"], "task": case["kind"], "length": {"max": case["length"], "over": "truncate"},
        "batch": {"rows": case["batch"]}, **techniques[case["technique"]],
    })  # fmt: skip
    return _begin(prepare(on_disk(recipe)), folder)


def flops(case: dict[str, Any]) -> float:
    """Floating-point operations a useful token, as PyTorch's counter sees them in our own run."""
    from tunesmith.engine.loop import flops as count
    from tunesmith.run.carry_out import _work

    with tempfile.TemporaryDirectory() as folder:
        counted, tokens = count(_work(begun(case, Path(folder))))
    return counted / tokens


def run(name: str, rounds: int, source: str | None) -> None:
    """All runs of a case, in turn; appends to its file."""
    from tunesmith.storage import write_json

    path = FOLDER / f"{name}.json"
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"case": CASES[name], "runs": []}
    here = processor()
    done = {(r["peer"], r["settings"], r["seed"]) for r in known["runs"] if r["processor"] == here}
    with tempfile.TemporaryDirectory() as made:
        case = prepare(name, Path(made))
        known |= {
            "shared": SHARED,
            "cores": os.cpu_count(),
            "platform": platform.platform(),
            "flops_per_token": flops(case),
        }
        write_json(path, known)
        for seed in range(rounds):
            for peer, settings in turns(case):
                if (peer, settings, seed) in done:
                    continue
                said = {
                    **one(peer, settings, case, seed, Path(made)),
                    "peak": peak(),
                    "processor": here,
                    "commit": source,
                }
                known["runs"].append(said)
                write_json(path, known)
                print(
                    f"{name} {peer} {settings} {seed}: {said['train_seconds']:.1f} s, score {said['score']}", flush=True
                )


def processor() -> str:
    """What multiplies here, and the widest instructions that PyTorch uses of it."""
    import torch

    from tunesmith.run.carry_out import _processor

    return f"{_processor()} {torch.backends.cpu.get_cpu_capability().lower()}"


def main() -> None:
    """Read the options and run."""
    from tunesmith.comparing.work import commit

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=[*CASES, "startup"], help="cases")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, each with a seed of its own")
    chosen = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    source = commit()  # before a file is written, which is part of it
    startup(source)
    for name in chosen.only:
        if name != "startup":  # measured with every call
            run(name, chosen.rounds, source)


if __name__ == "__main__":
    main()
