"""Several processes carry out one recipe, here or on a Ray cluster, and one of them that is gone ends them all."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..engine.processes import GONE, SUPERVISED
from ..errors import InputError, Interrupted, RunError, TunesmithError, unknown
from ..recipe import Recipe, read
from ..storage import atomic_file
from .api import free_folder
from .carry_out import carry_out, check_folder
from .events import listener
from .prepare import on_disk, prepare
from .sharded import check_sharded

HOST = "127.0.0.1"


def launch(
    recipe: Recipe, out: Path, name: str | None, count: int, *, force: bool, resume: bool, style: str, on: str = "here"
) -> Path:
    """Carry out a recipe with several processes; each step's rows are shared between them.

    Args:
        recipe: what to do; ``batch.rows`` are the rows of a step over all processes.
        out: folder of the runs.
        name: of the run; None makes one that is free.
        count: how many processes.
        force: replace a run of this name.
        resume: go on with a run of this name.
        style: how events are shown; see `events.listener`. On a cluster they stand in ``events.jsonl`` only.
        on: ``here`` or ``ray``; the machines of a cluster have to see the same files under the same names.

    Returns:
        The run's folder.

    Raises:
        InputError: anything that the user can mend; no process has been started then.
        RunError: a process was killed or failed; what was saved can be resumed.
        Interrupted: SIGINT or SIGTERM; everything is saved.
    """
    if on not in STARTERS:
        raise unknown("place", on, STARTERS, where="--on")
    folder = out / name if name else free_folder(out, recipe)
    check_folder(folder, force, resume)
    check_sharded(recipe, count)
    if resume and (folder / "report.json").exists():
        return folder
    recipe = on_disk(recipe)
    if count > recipe.batch.rows:
        raise InputError(f"{count} processes for {recipe.batch.rows} rows of a step", where="--processes",
                         expected=f"at most {recipe.batch.rows}")  # fmt: skip
    prepare(recipe)
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as scratch:
        path = Path(scratch) / "recipe.yaml"
        with atomic_file(path) as file:
            file.write(recipe.to_yaml())
        how = "resume" if resume else "force" if force else "begin"
        STARTERS[on]([str(path), str(folder), style, how], count, folder, scratch)
    return folder


def _here(arguments: list[str], count: int, folder: Path, scratch: str) -> None:
    """Start the processes on this machine and wait for them."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std, start_processes

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # `_failed` says it in one line
    store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    shared = {
        "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": HOST, "MASTER_PORT": str(store.port),
        SUPERVISED: "True", "TORCHELASTIC_RESTART_COUNT": "0",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count))),
    }  # fmt: skip
    ranks = range(count)
    context = start_processes(
        name="tunesmith", entrypoint=sys.executable, 
        logs_specs=DefaultLogsSpecs(log_dir=scratch, redirects={rank: Std.ALL for rank in ranks if rank}),
        args={rank: ("-m", "tunesmith.run.launch", *arguments) for rank in ranks},
        envs={rank: {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in ranks},
    )  # fmt: skip
    with _signals() as asked:
        told = False
        while (result := context.wait(timeout=0.2)) is None:
            if asked and not told:
                told = True
                for pid in context.pids().values():
                    os.kill(pid, asked[0])
    if result.failures:
        raise _failed(result, folder, asked, count)


def _failed(result: Any, folder: Path, asked: list[int], count: int) -> TunesmithError | SystemExit:
    """The error that says which process ended the others, and why."""
    again = f"{_again(folder)} --processes {count}"
    if asked:
        return Interrupted(f"stopped; {again}", asked[0])
    ended = (GONE, -signal.SIGTERM)  # because another was gone
    causes = {r: f for r, f in result.failures.items() if f.exitcode not in ended} or result.failures
    rank, failure = min(causes.items(), key=lambda f: (f[1].exitcode >= 0, f[0]))
    if failure.exitcode < 0:
        return RunError(f"process {rank} was killed ({signal.Signals(-failure.exitcode).name}); {again}")
    if rank == 0 and failure.exitcode != GONE:
        return SystemExit(failure.exitcode)  # it has said why
    said = Path(result.stderrs[rank]).read_text(encoding="utf-8").strip().splitlines() if rank else []
    why = said[-1].removeprefix("tunesmith: ") if said else f"exit code {failure.exitcode}"
    return RunError(f"process {rank} failed: {why}")


def _again(folder: Path) -> str:
    return f"go on with: tunesmith tune {folder / 'recipe.yaml'} --out {folder.parent} --name {folder.name} --resume"


def _on_ray(arguments: list[str], count: int, folder: Path, scratch: str) -> None:
    from . import cluster

    path, _, _, how = arguments
    try:
        cluster.start(read(path), folder, count, how)
    except RunError as error:
        raise RunError(f"{error}; {_again(folder)} --processes {count} --on ray") from error.__cause__


STARTERS: dict[str, Callable[[list[str], int, Path, str], None]] = {"here": _here, "ray": _on_ray}


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Signals that the user sent in the meantime; they are passed on, and the processes save what they have."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {s: signal.signal(s, lambda n, frame: asked.append(n)) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: list[str]) -> int:
    """One of the processes: ``RECIPE FOLDER STYLE begin|force|resume``."""
    path, folder, style, how = arguments
    try:
        carry_out(read(path), Path(folder), listen=listener(style), force=how == "force", resume=how == "resume")
    except TunesmithError as error:
        print(f"tunesmith: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
