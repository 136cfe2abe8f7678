"""Where tunesmith keeps things, and how it writes them so that nothing is ever half written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .errors import InputError, RunError


def cache_home() -> Path:
    """The folder for everything that can be made again: converted bases, encoded rows.

    ``TUNESMITH_HOME`` overrides; else the platform's cache home (``XDG_CACHE_HOME``, ``~/Library/Caches``,
    ``%LOCALAPPDATA%``).
    """
    if override := os.environ.get("TUNESMITH_HOME"):
        return Path(override).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "tunesmith"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "tunesmith"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunesmith"


_UMASK = os.umask(0o022)
os.umask(_UMASK)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal to write ``path`` into one clear line.

    Raises:
        InputError: the folder is read-only, or a part of the path is not a folder.
        RunError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == 28:
            raise RunError(f"{path}: the disk is full; free some space and resume the run") from error
        raise InputError(
            f"cannot be written ({reason})", where=path, fix="choose another folder or change its permissions"
        ) from error


@contextlib.contextmanager
def atomic_file(path: Path | str, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` that replaces it only when the block ends without an error."""
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with writing(path):
            os.chmod(temporary, 0o666 & ~_UMASK)  # as any new file; a temporary one is its owner's alone
            with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Give a temporary folder that becomes ``path`` (replacing it) only when the block ends without an error."""
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        with writing(path):
            yield temporary
            if path.exists():
                old = temporary.with_name(temporary.name + ".old")
                os.replace(path, old)
                os.replace(temporary, path)
                shutil.rmtree(old)
            else:
                os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_json(path: Path | str, value: object) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with atomic_file(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False, default=str)
        file.write("\n")


def hash_file(path: Path | str) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_bytes(value: bytes) -> str:
    """The sha256 of some bytes, in hexadecimal."""
    return hashlib.sha256(value).hexdigest()


def hash_json(value: object) -> str:
    """The sha256 of a value's canonical JSON: the same for dictionaries that differ only in their order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
