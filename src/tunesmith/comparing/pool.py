"""Who computes the results that a store lacks: processes here, or a Ray cluster. Both call `work.carry_out`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from queue import Queue
from typing import Any

from ..errors import InputError, RunError, unknown
from ..recipe import Recipe
from ..run.cluster import connect
from .identity import Identity
from .result import Result
from .store import Store

PAUSE = 0.5
"""Seconds between looks at a result that another process computes."""


@dataclass(frozen=True)
class Job:
    """A result that is wanted: of a recipe, under a name for people."""

    name: str
    recipe: Recipe
    identity: Identity
    what: str = "tuned"


Hear = Callable[[str], None]


def fill(
    store: Store, jobs: Sequence[Job], *, on: str = "here", workers: int = 1, crew: Crew | None = None,
    hear: Hear = lambda text: None,
) -> None:  # fmt: skip
    """Compute every job that the store lacks.

    Args:
        store: where the results go, each as soon as it is there.
        jobs: what is wanted; doubles are computed once.
        on: ``here`` (a process a job) or ``ray``.
        workers: jobs at a time; the CPU's cores are shared out among them.
        crew: does what is done ``here``, with as many workers as it has; None takes one for this call.
        hear: gets a line for each job that is done.

    Raises:
        InputError: an executor is unknown or not installed, or a recipe has something for the user to mend.
        RunError: a training failed; all others are stored.
    """
    check_executor(on)
    missing = {j.identity.fingerprint: j for j in jobs if store.get(j.identity) is None}
    if not missing:
        return
    if crew is not None and on == "here":
        outcomes = crew.carry_out(store, list(missing.values()))
    else:
        outcomes = EXECUTORS[on](store, list(missing.values()), workers)
    failures: list[tuple[Job, dict[str, Any]]] = []
    for number, (job, outcome) in enumerate(outcomes, 1):
        if outcome["outcome"] == "failed":
            failures.append((job, outcome))
        hear(f"{number}/{len(missing)} {job.name}: {_said(store, job, outcome)}")
    if failures:
        job, outcome = failures[0]
        kind = InputError if outcome["code"] == 2 else RunError
        more = f" ({len(failures)} of {len(missing)} jobs failed)" if len(failures) > 1 else ""
        raise kind(f"{job.name}: {outcome['error']}{more}")


def check_executor(on: str) -> None:
    """Raises ``InputError`` if there is no executor ``on``."""
    if on not in EXECUTORS:
        raise unknown("executor", on, EXECUTORS, where="--on")


def _said(store: Store, job: Job, outcome: dict[str, Any]) -> str:
    result = store.get(job.identity)
    if result is None:
        return str(outcome.get("error", "no result"))
    return f"{result.metric} {result.score:.4f} in {result.cost['seconds']:.0f} s"


def _payload(store: Store, job: Job, threads: int) -> dict[str, Any]:
    return {
        "values": job.recipe.to_dict(),
        "what": job.what,
        "folder": str(store.folder.absolute()),
        "threads": threads,
    }


Outcomes = Iterator[tuple[Job, dict[str, Any]]]


def here(store: Store, jobs: list[Job], workers: int) -> Outcomes:
    """On this machine, by processes for this call alone."""
    with Crew(workers) as crew:
        yield from crew.carry_out(store, jobs)


class Crew:
    """Processes on this machine that do jobs, each in a copy of its own, so that peak memory is its own and a crash ends one.

    Kept from one call of `fill` to the next, they do not load the libraries anew.

    Args:
        workers: jobs at a time; the CPU's cores are shared out among them.
    """

    def __init__(self, workers: int):
        self._workers, self._threads = workers, threads_of(workers)

    def __enter__(self) -> Crew:
        with ExitStack() as stack:
            self._idle: Queue[Worker] = Queue()
            for _ in range(self._workers):
                self._idle.put(stack.enter_context(Worker(self._threads)))
            self._pool = ThreadPoolExecutor(self._workers)  # a process ends with the thread that began it
            stack.callback(self._pool.shutdown, wait=False, cancel_futures=True)
            self._close = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._close.close()

    def carry_out(self, store: Store, jobs: Sequence[Job]) -> Outcomes:
        """Do jobs; gives each with its outcome, as soon as it has one."""
        tasks = {self._pool.submit(_process, self._idle, _payload(store, job, self._threads)): job for job in jobs}
        try:
            for task in as_completed(tasks):
                yield tasks[task], task.result()
        finally:
            for task in tasks:
                task.cancel()


def threads_of(workers: int) -> int:
    """The CPU's threads that each of some workers gets."""
    return max(1, (os.cpu_count() or 1) // workers)


def _process(idle: Queue[Worker], payload: dict[str, Any]) -> dict[str, Any]:
    worker = idle.get()
    try:
        while (outcome := worker.carry_out(payload))["outcome"] == "busy":
            time.sleep(PAUSE)
    finally:
        idle.put(worker)
    return outcome


class Worker:
    """A process that takes jobs one after the other (`work.main`), started when there is one and again after a crash.

    Args:
        threads: of the CPU for each job.
    """

    def __init__(self, threads: int):
        self._threads = threads
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Worker:
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def carry_out(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Do a job; gives its outcome."""
        self._said.truncate(0)
        process = self._process if self._process is not None and self._process.poll() is None else self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(payload) + "\n")
            process.stdin.flush()
            outcome: dict[str, Any] | None = json.loads(process.stdout.readline() or "null")
        except BrokenPipeError:
            outcome = None
        if outcome is None:
            self._said.seek(0)
            reason = (self._said.read().strip("\0 \n").splitlines() or ["the process was killed"])[-1]
            return {"outcome": "failed", "error": reason, "code": 1}
        return outcome

    def _start(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tunesmith.comparing.work"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._said, text=True, env={**os.environ, "OMP_NUM_THREADS": str(self._threads)},
        )  # fmt: skip
        return self._process


def ray(store: Store, jobs: list[Job], workers: int) -> Outcomes:
    """A Ray task for each job: on the cluster that ``RAY_ADDRESS`` names, else on this machine.

    Every result comes back to the driver too, for workers that do not share its disk.
    """
    threads = threads_of(workers)
    library = connect(workers * threads)
    run: Any = library.remote(num_cpus=threads, max_calls=1, max_retries=2)(_task)
    waiting = {run.remote(_payload(store, job, threads)): job for job in jobs}
    while waiting:
        (ready, *_), _ = library.wait(list(waiting), num_returns=1)
        job = waiting.pop(ready)
        try:
            outcome = library.get(ready)
        except library.exceptions.RayError as error:
            outcome = {"outcome": "failed", "error": str(error).strip().splitlines()[-1], "code": 1}
        if result := outcome.pop("result", None):
            store.put(Result.from_dict(result))
        yield job, outcome


def _task(payload: dict[str, Any]) -> dict[str, Any]:
    """One job in a Ray worker, with its result."""
    from pathlib import Path

    from tunesmith import recipe as recipes
    from tunesmith.comparing.identity import Identities
    from tunesmith.comparing.work import carry_out
    from tunesmith.errors import TunesmithError

    try:
        while carry_out(**payload) == "busy":
            time.sleep(PAUSE)
    except TunesmithError as error:
        return {"outcome": "failed", "error": str(error), "code": error.exit_code}
    identity = Identities().of(recipes.make(payload["values"]), payload["what"])
    found = Store(Path(payload["folder"])).get(identity)
    assert found is not None
    return {"outcome": "done", "result": found.to_dict()}


EXECUTORS = {"here": here, "ray": ray}
