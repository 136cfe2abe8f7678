"""Programs that nobody has read: what they may do, and everything that they may not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tunesmith import confined
from tunesmith.confined import Limits, inside, run
from tunesmith.errors import InputError


def holds() -> bool:
    try:
        return run("pass").done
    except InputError:
        return False


held = pytest.mark.skipif(not holds(), reason="this kernel has not all of the measures")
QUICK = Limits(seconds=0.2, memory=256, written=1)


@held
def test_a_harmless_program_runs_to_its_end() -> None:
    ended = run(
        "import math, json, random\nopen('a.txt', 'w').write('x')\nprint(math.prod([2, 3]), open('a.txt').read())"
    )
    assert ended.done and ended.output == "6 x\n" and set(ended.held) == set(confined.MEASURES)


@held
@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("assert 1 + 1 == 3, 'one and one'", "AssertionError: one and one"),
        ("def f(:", "SyntaxError"),
        ("import sys; sys.exit(0)", "ended before its last line"),
        ("import os; os._exit(0)", "ended before its last line"),
        ("while True: pass", "more than 0.2 seconds"),
        ("import time; time.sleep(60)", "more than 0.2 seconds"),
        ("x = bytearray(10**9)", "MemoryError"),
        ("while True: print('x' * 9999)", "File too large"),
        ("import os; os.fork()", "PermissionError"),
        ("import subprocess; subprocess.run(['/bin/true'])", "PermissionError"),
        ("import os; os.execv('/bin/true', ['true'])", "PermissionError"),
        ("import threading; threading.Thread(target=print).start()", "RuntimeError"),
        ("import socket; socket.socket()", "PermissionError"),
        ("import os; os.kill(os.getppid(), 9)", "PermissionError"),
        ("import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0", "AssertionError"),
        ("open('/etc/hostname').read()", "PermissionError"),
        ("import os; os.listdir('/')", "PermissionError"),
        ("import torch", "ModuleNotFoundError"),
    ],
    ids=lambda value: value[:32],
)  # fmt: skip
def test_what_harms_is_stopped(program: str, says: str) -> None:
    ended = run(program, QUICK)
    assert not ended.done and says in ended.error


@held
def test_nothing_outside_is_written_deleted_or_changed(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine", encoding="utf-8")
    before = mine.stat()
    for deed in (
        "open({!r}, 'w')",
        "os.unlink({!r})",
        "os.chmod({!r}, 0)",
        "os.rename({!r}, 'b')",
        "os.truncate({!r}, 0)",
    ):
        ended = run(f"import os\n{deed.format(str(mine))}", QUICK)
        assert not ended.done and "PermissionError" in ended.error, deed
    assert mine.read_text(encoding="utf-8") == "mine" and mine.stat().st_mode == before.st_mode
    assert not run(f"open({str(tmp_path / 'new')!r}, 'w')", QUICK).done and os.listdir(tmp_path) == ["mine.txt"]


@held
def test_the_folder_is_fresh_and_the_environment_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hush")
    ended = run("import os\nprint('SECRET' in os.environ, os.listdir('.'), os.getcwd())")
    said, _, folder = ended.output.strip().rpartition(" ")
    assert said == "False ['program.py']" and not Path(folder).exists()


def test_where_a_measure_is_lacking_nothing_runs() -> None:
    with pytest.raises(InputError, match="cannot hold a program back from levitation"):
        run("print(1)", must=(*confined.MEASURES, "levitation"))


def test_the_inner_process_names_a_machine_that_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside.platform, "machine", lambda: "pdp11")
    with pytest.raises(KeyError):
        inside.refuse_calls(None)
