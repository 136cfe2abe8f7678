"""Commands in processes of their own that have the libraries loaded: to start Python with them takes seconds, to fork does not."""

from __future__ import annotations

import contextlib
import importlib
import io
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_CONTEXT = multiprocessing.get_context(_METHOD)
_CONTEXT.set_forkserver_preload([
    "torch", "transformers", "transformers.models.bert.modeling_bert", "sklearn.linear_model", "tunesmith.run.opened",
    "tunesmith.run.api", "tunesmith.comparing.api", "tunesmith.cli.commands",
])  # fmt: skip


class Forked:
    """A command that runs now.

    What a run has saved is checked by the process that runs, not by a fresh one.

    Args:
        arguments: of the program.
        program: a module, as after ``python -m``, or a file.
        folder: where it runs; None takes this process's.
        environment: variables besides this process's. What the libraries read when they are loaded is as it was then.
    """

    def __init__(
        self,
        *arguments: object,
        program: str = "tunesmith",
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ):
        self.arguments = [str(a) for a in arguments]
        self._said = tempfile.TemporaryDirectory()
        self._files = [str(Path(self._said.name) / name) for name in ("out", "err")]
        given = {**os.environ, **(environment or {})}
        plain = (program, self.arguments, str(folder or Path.cwd()), given, *self._files)
        self._process = _CONTEXT.Process(target=_run, args=plain, daemon=False)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, seconds: float = 240) -> subprocess.CompletedProcess[str]:
        """What it said, once it has ended.

        Raises:
            TimeoutError: it takes longer; it is killed.
        """
        self._process.join(seconds)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutError(f"{self.arguments} took more than {seconds} s")
        out, err = (Path(file).read_text(encoding="utf-8") if Path(file).exists() else "" for file in self._files)
        return subprocess.CompletedProcess(self.arguments, self._process.exitcode, out, err)

    def done(self) -> subprocess.CompletedProcess[str]:
        """What it said, once it has ended well."""
        made = self.wait()
        assert made.returncode == 0, made.stderr
        return made


def check_here(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A check that tunesmith makes in a fresh process, made in this one."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = importlib.import_module(module).main(list(arguments))
        except Exception as error:  # what would end a process of its own with a traceback
            print(error, file=err)
            code = 1
    return subprocess.CompletedProcess([module, *arguments], code, out.getvalue(), err.getvalue())


def _run(program: str, arguments: list[str], folder: str, environment: dict[str, str], out: str, err: str) -> None:
    from tunesmith.run import carry_out

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for stream, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    sys.argv = [program, *arguments]
    sys.path[:0] = [p for p in environment.get("PYTHONPATH", "").split(os.pathsep) if p and p not in sys.path]
    carry_out._in_fresh_process = check_here
    if program.endswith(".py"):
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
