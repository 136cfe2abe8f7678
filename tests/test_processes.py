"""Two processes on one machine learn what one does, and one of them that is gone ends the run, which goes on later."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from conftest import Command
from test_engine import work
from tunesmith import parts
from tunesmith.engine.loop import Loop
from tunesmith.engine.processes import Processes
from tunesmith.errors import InputError
from tunesmith.run.events import read_events


@pytest.fixture(scope="module")
def still(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base without drop-out, which draws by micro-batch."""
    folder = tmp_path_factory.mktemp("still")
    for file in bases["bert"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def options(base: Path, steps: int) -> list[str]:
    return ["--base", str(base), "--mask", "everything", "--steps", str(steps), "--set", "precision=fp32",
            "--set", "batch.rows=10", "--quiet"]  # fmt: skip


def losses(folder: Path) -> list[float]:
    return [e["loss"] for e in read_events(folder / "events.jsonl") if e["event"] == "step"]


def children(pid: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def killed(arguments: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command until it has saved, then kill one of its processes."""
    with subprocess.Popen(
        [sys.executable, "-m", "tunesmith", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
    ) as process:  # fmt: skip
        while not list(folder.glob("checkpoints/step-*")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        os.kill(children(process.pid)[-1], signal.SIGKILL)
        out, err = process.communicate(timeout=200)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_two_processes_learn_what_one_does(
    command: Command, rows_file: Path, still: Path, home: Path, tmp_path: Path
) -> None:
    """One with the rows of both, two that share them, and two of which one is killed and that go on."""
    steps = 20
    one = command("tune", rows_file, *options(still, steps), "--out", tmp_path, "--name", "one")
    assert one.returncode == 0, one.stderr
    environment = {"TUNESMITH_HOME": str(home), "OMP_NUM_THREADS": "1"}
    begun = [*options(still, steps), "--out", str(tmp_path), "--name", "two", "--processes", "2"]
    cut = killed(["tune", str(rows_file), *begun, "--set", "save.steps=2"], tmp_path / "two", environment)
    assert cut.returncode == 1 and len(cut.stderr.splitlines()) == 1, cut.stderr
    assert "was killed (SIGKILL); go on with: tunesmith tune" in cut.stderr
    again = cut.stderr.split("tunesmith tune ")[1].split()
    two = command("tune", *again, "--quiet")
    assert two.returncode == 0, two.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    assert len(losses(tmp_path / "two")) == steps
    first, second = (load_file(tmp_path / n / "model" / "model.safetensors") for n in ("one", "two"))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-4)


class Pretended(Processes):
    """Says that there are two."""

    count = 2


@pytest.mark.parametrize("change", ["loss", "gradient"])
def test_what_needs_all_rows_of_a_step_says_so(change: str) -> None:
    made: Any = work(together=Pretended())
    if change == "loss":
        made.losses = [parts.find("loss", "cross_entropy").choose().build()]
        made.losses[0].whole = "compares rows"
    else:
        made.gradient.adds = False
    with pytest.raises(InputError, match="needs all rows of a step in one process; train with one process"):
        Loop(made)
