"""One run by the workers of a Ray cluster: Ray Train starts them and joins them to one process group."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import InputError, RunError, TunesmithError
from ..recipe import Recipe, make
from .api import free_folder
from .carry_out import carry_out, check_folder
from .events import listener
from .prepare import on_disk, prepare
from .sharded import check_sharded


def launch_on_ray(
    recipe: Recipe, out: Path, name: str | None, count: int, *, force: bool, resume: bool, style: str
) -> Path:
    """Carry out a recipe with workers of a cluster, which share every step's rows; a GPU each where this machine has one.

    The cluster is the one that ``RAY_ADDRESS`` names, or this machine. On several machines the folder of the runs has to be
    one that all of them see.

    Args:
        recipe, out, name, count, force, resume, style: as for `launch.launch`.

    Returns:
        The run's folder.

    Raises:
        InputError: anything that the user can mend, or Ray is not installed.
        RunError: a worker failed; what was saved can be resumed.
    """
    try:
        import ray
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError:
        raise InputError("--on ray needs Ray Train", fix="pip install 'tunesmith[ray]'") from None
    import torch

    folder = (out / name if name else free_folder(out, recipe)).absolute()
    check_folder(folder, force, resume)
    check_sharded(recipe, count)
    if resume and (folder / "report.json").exists():
        return folder
    recipe = on_disk(recipe)
    prepare(recipe)
    if not ray.is_initialized():
        ray.init(log_to_driver=style != "quiet", logging_level="ERROR", configure_logging=False)
    gpus = torch.cuda.is_available()
    told = {"recipe": recipe.to_dict(), "folder": str(folder), "force": force, "resume": resume, "style": style,
            "home": os.environ.get("TUNESMITH_HOME")}  # fmt: skip
    trainer = TorchTrainer(
        _worker, train_loop_config=told, scaling_config=ScalingConfig(num_workers=count, use_gpu=gpus),
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        run_config=RunConfig(storage_path=str(folder.parent / ".ray"), name=folder.name),
    )  # fmt: skip
    try:
        trainer.fit()
    except Exception as error:
        raise _told(error) from error
    if not (folder / "report.json").exists():
        raise RunError(f"{folder}: the workers ended without a report")
    return folder


def _worker(told: dict[str, Any]) -> None:
    """One of the workers; Ray has set its rank and made the process group."""
    if told["home"]:
        os.environ["TUNESMITH_HOME"] = told["home"]
    hear = listener(told["style"]) if os.environ.get("RANK", "0") == "0" else lambda event: None
    carry_out(make(told["recipe"]), Path(told["folder"]), listen=hear, force=told["force"], resume=told["resume"])


def _told(error: BaseException) -> TunesmithError:
    """The worker's own error where it has one, else Ray's in one line."""
    seen: BaseException | None = error
    while seen is not None:
        cause = getattr(seen, "cause", None)
        if isinstance(cause, TunesmithError):
            return cause
        seen = cause if isinstance(cause, BaseException) else seen.__cause__
    return RunError(
        f"a worker failed: {(str(error).strip().splitlines() or [type(error).__name__])[-1]}; go on with --resume"
    )
