"""Two processes on one machine learn what one does, and one of them that is gone ends the run, which goes on later."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from conftest import Command
from forked import Forked
from test_engine import work
from tunesmith import parts, recipe
from tunesmith.engine.loop import Loop
from tunesmith.engine.processes import Processes
from tunesmith.errors import InputError, RunError
from tunesmith.run import cluster
from tunesmith.run.events import read_events
from tunesmith.run.launch import launch


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


@pytest.fixture(scope="module")
def alone(rows_file: Path, still: Path, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process learns from the rows of both."""
    out = tmp_path_factory.mktemp("alone")
    given = ("tune", rows_file, *options(still, STEPS), "--out", out, "--name", "one")
    Forked(*given, environment={"TUNESMITH_HOME": str(home)}).done()
    return out / "one"


STEPS = 20


def options(base: Path, steps: int) -> list[str]:
    return ["--base", str(base), "--mask", "everything", "--steps", str(steps), "--set", "precision=fp32",
            "--set", "batch.rows=10", "--quiet"]  # fmt: skip


def losses(folder: Path) -> list[float]:
    return [e["loss"] for e in read_events(folder / "events.jsonl") if e["event"] == "step"]


def children(pid: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def killed(arguments: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command until it has saved, then kill one of its processes."""
    process = Forked(*arguments, environment=environment)
    while not list(folder.glob("checkpoints/step-*")):
        assert process.poll() is None, process.wait()
        time.sleep(0.05)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    return process.wait(200)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_two_processes_learn_what_one_does(
    alone: Path, command: Command, rows_file: Path, still: Path, home: Path, tmp_path: Path
) -> None:
    """One with the rows of both, and two that share them, of which one is killed and that go on."""
    steps = STEPS
    environment = {"TUNESMITH_HOME": str(home), "OMP_NUM_THREADS": "1"}
    begun = [*options(still, steps), "--out", str(tmp_path), "--name", "two", "--processes", "2"]
    cut = killed(["tune", str(rows_file), *begun, "--set", "save.steps=2"], tmp_path / "two", environment)
    assert cut.returncode == 1 and len(cut.stderr.splitlines()) == 1, cut.stderr
    assert "was killed (SIGKILL); go on with: tunesmith tune" in cut.stderr
    again = cut.stderr.split("tunesmith tune ")[1].split()
    two = command("tune", *again, "--quiet")
    assert two.returncode == 0, two.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(alone), abs=1e-5)
    assert len(losses(tmp_path / "two")) == steps
    first, second = (load_file(run / "model" / "model.safetensors") for run in (alone, tmp_path / "two"))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_run_that_is_shared_out_is_the_same_run(
    alone: Path, command: Command, rows_file: Path, still: Path, tmp_path: Path
) -> None:
    given = [*options(still, STEPS), "--out", tmp_path, "--name", "two", "--processes", "2"]
    made = command("tune", rows_file, *given, "--set", "sharded=true", "--set", "batch.tokens=24")
    assert made.returncode == 0, made.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(alone), abs=1e-5)
    first, second = (load_file(run / "model" / "model.safetensors") for run in (alone, tmp_path / "two"))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-4)


def beside(folder: Path, how: str, *adapter: str, count: int) -> list[float]:
    """The losses of so many processes of ``share_out.py``; their micro-batches are small, and not equally many."""
    port, program = str(_free_port()), str(Path(__file__).parent / "share_out.py")
    started = [
        Forked(folder, how, *adapter, program=program,
               environment={"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
                            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"})
        for rank in range(count)
    ]  # fmt: skip
    said = [process.done().stdout for process in started]
    found: list[float] = json.loads(said[0])
    return found


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize("adapter", [[], ["lora"]])
def test_a_checkpoint_of_what_is_shared_out_is_whole(adapter: list[str], tmp_path: Path) -> None:
    """Two processes stop after a checkpoint and go on; one alone goes on from it too."""
    one, two = tmp_path / "one", tmp_path / "two"
    wanted = beside(one, "begin", *adapter, count=1)
    begun = beside(two, "begin", *adapter, count=2)
    saved = load_file(two / "step-00000003" / "weights.safetensors")
    shutil.copytree(two, tmp_path / "single")
    assert begun + beside(two, "resume", *adapter, count=2) == pytest.approx(wanted, abs=1e-5)
    assert beside(tmp_path / "single", "resume", *adapter, count=1) == pytest.approx(wanted[3:], abs=1e-5)
    first, second = (load_file(f / f"trained-{n}.safetensors") for f, n in ((one, 1), (two, 2)))
    assert saved.keys() == first.keys() == second.keys()
    for name, tensor in first.items():
        assert saved[name].shape == tensor.shape
        if name.endswith("key.bias"):  # its gradient is 0 but for rounding, of which Adam makes whole steps
            continue
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--processes", "1"], "one process has nobody to share the model with"),
        (["--processes", "2", "--set", "gradient=sam"], "gradient sam needs whole tensors; expected one of backprop"),
        (["--processes", "2", "--mask", "entries"], "mask entries needs whole tensors"),
    ],
)
def test_what_cannot_be_shared_out_is_named(
    option: list[str], message: str, command: Command, rows_file: Path, still: Path, tmp_path: Path
) -> None:
    given = [*options(still, 2), "--set", "sharded=true", *option, "--out", str(tmp_path), "--name", "x"]
    made = command("tune", rows_file, *given)
    assert made.returncode == 2 and message in made.stderr and len(made.stderr.splitlines()) == 1, made.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_other_launchers_start_them_too(
    launcher: str, alone: Path, rows_file: Path, still: Path, home: Path, tmp_path: Path
) -> None:
    pytest.importorskip({"torchrun": "torch", "accelerate": "accelerate"}[launcher])
    start = {
        "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
        "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
                       "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"],
    }[launcher]  # fmt: skip
    given = ["tune", rows_file, *options(still, STEPS), "--out", tmp_path, "--name", "two"]
    made = subprocess.run(
        [sys.executable, "-m", *start, "-m", "tunesmith", *map(str, given)], capture_output=True, text=True, check=False,
        timeout=240, env={**os.environ, "TUNESMITH_HOME": str(home), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(alone), abs=1e-5)


def test_a_cluster_carries_it_out_too(
    alone: Path, command: Command, rows_file: Path, still: Path, tmp_path: Path
) -> None:
    """Two workers of a Ray Train job; one that fails ends the job with one line."""
    pytest.importorskip("ray")
    begun = ["tune", rows_file, *options(still, STEPS), "--out", tmp_path, "--name", "two"]
    given = [*begun, "--processes", "2", "--on", "ray"]
    environment = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_worker_niceness": "0"}
    made = command(*given, **environment)
    assert made.returncode == 0, made.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(alone), abs=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["two"]
    made = command("tune", rows_file, "--on", "rey", "--processes", "2")
    assert made.returncode == 2 and "did you mean 'ray'" in made.stderr


def test_a_worker_that_fails_ends_the_job_with_one_line(
    rows_file: Path, still: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers where one has found another recipe in the folder of the run."""
    trainers = pytest.importorskip("ray.train.torch")

    class Trainer:
        def __init__(self, work: Any, train_loop_config: dict[str, Any], **more: Any):
            self.work, self.given = work, train_loop_config

        def fit(self) -> None:
            failed = RuntimeError("the job failed")
            with pytest.raises(RuntimeError) as said:
                self.work(self.given)
            lost = RuntimeError("process 0: another process is gone (closed); go on with --resume")
            failed.worker_failures = {0: lost, 1: said.value, 2: RuntimeError()}  # type: ignore[attr-defined]
            raise failed

    monkeypatch.setattr(trainers, "TorchTrainer", Trainer)
    monkeypatch.setattr(cluster, "connect", lambda cpus: ray_of(4, 4))
    given = recipe.make({"base": str(still), "rows": str(rows_file), "task": "classify", "budget": {"steps": 2}})
    (tmp_path / "r" / "checkpoints").mkdir(parents=True)
    (tmp_path / "r" / "recipe.yaml").write_text(given.to_yaml(), encoding="utf-8")
    other = {"splits": {name: {"indices": "", "fingerprint": ""} for name in ("train", "validation", "test")}}
    (tmp_path / "r" / "data.json").write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(
        RunError, match=r"process 1 failed: .*rows are no longer those of the run.*--processes 2 --on ray"
    ):
        launch(given, tmp_path, "r", 2, force=False, resume=True, style="quiet", on="ray")


def ray_of(*cpus: int) -> Any:
    return SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": {"CPU": float(c), "GPU": 1.0}} for c in cpus])


def test_workers_share_the_machines_of_a_cluster() -> None:
    nodes = ray_of(8, 6).nodes()
    assert cluster._resources(nodes, 2) == {"use_gpu": True, "resources_per_worker": {"CPU": 6}}
    assert cluster._resources(nodes, 5) == {"use_gpu": False, "resources_per_worker": {"CPU": 2}}
    assert cluster._resources([*nodes, {"Alive": False, "Resources": {}}], 99)["resources_per_worker"] == {"CPU": 1}


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
