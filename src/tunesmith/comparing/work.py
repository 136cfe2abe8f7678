"""One job of a comparison: carry out a recipe in this process and give its result. Every executor calls `carry_out`."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import recipe as recipes
from ..errors import TunesmithError
from ..recipe import Recipe
from ..storage import cache_home
from .identity import Identities, Identity
from .result import Result
from .store import Store


def carry_out(values: Mapping[str, Any], what: str, folder: str, threads: int) -> str:
    """Compute a result unless it is there, and store it.

    Args:
        values: the recipe, plain.
        what: ``tuned`` or ``before`` (`Identities.of`).
        folder: of the store.
        threads: of the CPU for this job. The same number gives the same bits.

    Returns:
        ``done``, or ``busy`` when another process computes the same result now.

    Raises:
        InputError: anything that the user can mend.
        RunError: training failed.
    """
    import torch

    torch.set_num_threads(threads)
    recipe = recipes.make(values)
    identity = Identities().of(recipe, what)
    store = Store(folder)
    with store.computing(identity) as mine:
        if not mine:
            return "busy"
        if store.get(identity) is None:
            store.put(_tuned(recipe, identity) if what == "tuned" else _before(recipe, identity))
    return "done"


def _tuned(recipe: Recipe, identity: Identity) -> Result:
    from ..run.carry_out import score

    meter = Meter()
    with tempfile.TemporaryDirectory() as folder:
        scored = score(recipe, Path(folder), listen=lambda event: None)
    cost = {**scored.cost, **meter.read(), **_training(scored.events)}
    cost["flops"] = _flops(scored, cost["tokens"])
    losses = [e["loss"] for e in scored.events if e["event"] == "step"]
    tail = losses[-max(1, len(losses) // 10) :]
    health = {
        "warnings": [e["text"] for e in scored.events if e["event"] == "warning"],
        "stopped": cost.pop("stopped"), "first_loss": losses[0], "last_loss": sum(tail) / len(tail),
        "validation_loss": next((e["best"] for e in reversed(scored.events) if e["event"] == "validation"), None),
    }  # fmt: skip
    return _result(scored.prepared, identity, scored.answers, scored.texts, cost, health, scored.audit)


def _before(recipe: Recipe, identity: Identity) -> Result:
    from ..run.carry_out import untrained

    meter = Meter()
    with tempfile.TemporaryDirectory() as folder:
        prepared, answers = untrained(recipe, Path(folder))
    name = list(answers)[-1]
    return _result(prepared, identity, answers[name], None, {**meter.read(), "trainable": 0}, {"name": name})


def _result(
    prepared: Any, identity: Identity, answers: Any, texts: Any, cost: Any, health: Any, audit: Any = None
) -> Result:
    from ..evaluation.metrics import names_for
    from ..evaluation.scores import scores
    from ..run.carry_out import environment

    names = names_for(prepared.task.name, multi=answers.multi, labels=answers.labels)
    found = {n: m.value for n, m in scores(answers, names).items()}
    if texts is not None:
        found |= {n: m.value for n, m in scores(texts, names_for("text")).items()}
    about = {**environment(prepared), "commit": commit(), "date": time.strftime("%Y-%m-%d", time.gmtime())}
    about.pop("command")
    return Result(
        identity.facts, _nameless(prepared.recipe.to_dict()), prepared.task.name, _nameless(prepared.base.name), names[0],
        found, answers, texts, cost, health, _nameless(about), audit,
    )  # fmt: skip


def _nameless(value: Any) -> Any:
    """Without the place of this machine's cache, where rows in memory and models of a lab are kept."""
    if isinstance(value, Mapping):
        return {k: _nameless(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_nameless(v) for v in value]
    home = str(cache_home())
    return f"cache:{value[len(home) :]}" if isinstance(value, str) and value.startswith(home) else value


def commit() -> str | None:
    """The commit of the source that runs, marked ``-dirty`` where files were changed since; None if it has none."""
    made = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--match="], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parent,
    )  # fmt: skip
    return made.stdout.strip() or None


# ---------------------------------------------------------------------- costs


class Meter:
    """What the process takes from here on: wall time, CPU time, energy; and its peak memory so far."""

    def __init__(self) -> None:
        self._wall, self._cpu, self._energy = time.perf_counter(), time.process_time(), _joules()

    def read(self) -> dict[str, Any]:
        """Seconds, CPU seconds, joules (None where the machine does not tell), peak bytes of the process."""
        import torch

        from ..engine.memory import peak_bytes

        joules = _joules()
        return {
            "seconds": time.perf_counter() - self._wall, "cpu_seconds": time.process_time() - self._cpu,
            "joules": None if joules is None or self._energy is None else joules - self._energy,
            "process_peak_bytes": peak_bytes(torch.device("cpu")),
        }  # fmt: skip


def _joules() -> float | None:
    """What the processor's packages have taken, by Linux' counters (RAPL); None where they cannot be read."""
    total = 0.0
    found = False
    for counter in Path("/sys/class/powercap").glob("intel-rapl:?/energy_uj"):
        try:
            total += int(counter.read_text()) / 1e6
            found = True
        except OSError:
            continue
    return total if found else None


def _training(events: list[dict[str, Any]]) -> dict[str, Any]:
    end = next(e for e in reversed(events) if e["event"] == "end")
    peak = max((e["memory"] for e in events if e["event"] == "step"), default=0)
    return {
        "steps": end["step"], "training_seconds": end["seconds"], "tokens": end["tokens"], "peak_bytes": peak,
        "stopped": end["stopped"],
    }  # fmt: skip


def _flops(scored: Any, tokens: int) -> int | None:
    """Floating-point operations of the training: PyTorch counts a few rows, the rest go by their tokens."""
    from ..engine.loop import flops

    counted, seen = flops(scored.work, trained=True)
    return round(counted * tokens / seen) if seen else None


# ---------------------------------------------------------------------- a process that takes jobs

FORKS = sys.platform == "linux"
"""Whether a process that has loaded the libraries can safely be copied: elsewhere their threads forbid it."""

_PARENT_ENDS = 1
"""Linux' name (PR_SET_PDEATHSIG) of the signal that a process gets when its parent ends."""


def _end_with_parent() -> None:
    """Let no training go on for a driver that was killed."""
    ctypes.CDLL(None).prctl(_PARENT_ENDS, signal.SIGKILL)


def _load() -> None:
    """Load what nearly every job needs, so that its copies need not."""
    import datasets  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    from transformers import AutoModel, AutoTokenizer, PreTrainedModel  # noqa: F401

    from ..run import carry_out  # noqa: F401


def _done(job: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"outcome": carry_out(**job)}
    except TunesmithError as error:
        return {"outcome": "failed", "error": str(error), "code": error.exit_code}


def _in_a_copy(job: Mapping[str, Any]) -> dict[str, Any] | None:
    """Do a job in a copy of this process, so that its peak memory is its own and a crash ends one job only."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _end_with_parent()
            os.write(write, json.dumps(_done(job)).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        reason = f"the process was killed ({signal.Signals(os.WTERMSIG(status)).name}); was there too little memory?"
        return {"outcome": "failed", "error": reason, "code": 1}
    return json.loads(said) if said else None


def main() -> None:
    """``python -m tunesmith.comparing.work``: jobs as JSON lines on stdin, for each its outcome as a line on stdout.

    The outcome of a job that crashed is null, and its last words are on stderr. Where processes cannot be copied, this
    one ends after its first job.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if FORKS:
        _end_with_parent()
        _load()
    for line in sys.stdin:
        outcome = _in_a_copy(json.loads(line)) if FORKS else _done(json.loads(line))
        print(json.dumps(outcome), file=answers, flush=True)
        if not FORKS:
            break


if __name__ == "__main__":
    main()
