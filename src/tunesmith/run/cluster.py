"""A Ray cluster: what connects to it, and several of its workers that carry out one recipe."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from .. import recipe as recipes
from ..engine.processes import LOST, PATIENCE
from ..errors import InputError, RunError, TunesmithError
from ..recipe import Recipe
from .carry_out import carry_out


def connect(cpus: int) -> Any:
    """Ray, connected to the cluster that ``RAY_ADDRESS`` names, or else begun on so many of this machine's processors.

    Raises:
        InputError: Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise InputError("--on ray needs Ray", fix="pip install 'tunesmith[ray]'") from None
    if not ray.is_initialized():
        local = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": cpus, "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level="ERROR", **local)
    return ray


def start(recipe: Recipe, folder: Path, count: int, how: str) -> None:
    """Carry out a recipe by a Ray Train job and wait for it. Its events stand in the run's folder only.

    Args:
        recipe: what to do; its files, tunesmith and the folder have to be there on every machine, under the same names.
        folder: of the run.
        count: how many workers.
        how: ``begin``, ``force`` or ``resume``.

    Raises:
        InputError: Ray is not installed.
        RunError: a worker failed or was lost.
    """
    ray = connect(max(count, os.cpu_count() or 1))
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    given = {"recipe": recipe.to_dict(), "folder": str(folder.resolve()), "how": how}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ray-", dir=folder.parent) as shared:
        trainer: Any = TorchTrainer(
            _work, train_loop_config=given, torch_config=TorchConfig(timeout_s=int(PATIENCE.total_seconds())),
            scaling_config=ScalingConfig(num_workers=count, **_resources(ray.nodes(), count)),
            run_config=RunConfig(
                name="run", storage_path=str(Path(shared).resolve()), failure_config=FailureConfig(max_failures=0)
            ),
        )  # fmt: skip
        try:
            trainer.fit()
        except Exception as error:
            failures = getattr(error, "worker_failures", None) or {0: error}
            rank, said = min(failures.items(), key=lambda failure: (LOST in str(failure[1]), failure[0]))
            why = (str(said).strip().splitlines() or [type(said).__name__])[-1]
            raise RunError(f"process {rank} failed: {why}") from error


def _resources(nodes: list[dict[str, Any]], count: int) -> dict[str, Any]:
    """What a worker gets: a GPU where the cluster has one for each, and its share of a machine's processors."""
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    fewest = min(int(machine.get("CPU", 1)) for machine in machines)
    share = max(1, fewest // -(-count // len(machines)))
    return {"use_gpu": sum(m.get("GPU", 0) for m in machines) >= count, "resources_per_worker": {"CPU": share}}


def _work(given: dict[str, Any]) -> None:
    """What each worker does."""
    how = given["how"]
    try:
        carry_out(
            recipes.make(given["recipe"]), Path(given["folder"]), listen=lambda event: None,
            force=how == "force", resume=how == "resume",
        )  # fmt: skip
    except TunesmithError as error:
        raise RuntimeError(str(error)) from error
