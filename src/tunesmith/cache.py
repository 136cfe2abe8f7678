"""Folders that can be made again from their sources: made once, whole, by one process, and checked at each use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .errors import InputError
from .storage import atomic_folder, hash_file, write_json, writing

MANIFEST = "tunesmith.json"


def kept(
    folder: Path, make: Callable[[Path], None], *, form: int, about: Mapping[str, Any], verify: bool = False
) -> Path:
    """``folder``, filled by ``make`` (which gets a temporary folder) unless it is there already in this ``form``.

    ``form`` is the version of what ``make`` writes; a folder of another one is made again. The manifest
    ``tunesmith.json`` holds ``about`` and every file's hash. Each call compares sizes and a sample of the bytes with
    it; ``verify`` compares every byte. Two processes may call at once: the second waits and uses what the first made.

    Raises:
        InputError: a file is missing or changed, or the cache cannot be written.
    """
    from filelock import FileLock  # 20 ms that `--help` need not pay

    with writing(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
    if _form(folder) != form:
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if _form(folder) != form:
                _fill(folder, make, {**about, "form": form})
    _check(folder, verify)
    return folder


def _fill(folder: Path, make: Callable[[Path], None], about: Mapping[str, Any]) -> None:
    with atomic_folder(folder) as target:
        make(target)
        made = sorted(path for path in target.rglob("*") if path.is_file())
        written = {
            path.relative_to(target).as_posix(): {"sha256": hash_file(path), "sample": _sample(path)} for path in made
        }
        write_json(target / MANIFEST, {**about, "written": written})


def _form(folder: Path) -> int | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return manifest.get("form") if isinstance(manifest.get("written"), dict) else None
    except (OSError, ValueError, AttributeError):
        return None


def _check(folder: Path, verify: bool) -> None:
    written = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["written"]
    for name, known in written.items():
        path = folder / name
        if not path.is_file() or _sample(path) != known["sample"] or (verify and hash_file(path) != known["sha256"]):
            raise InputError(
                "is damaged" if path.is_file() else "is missing",
                where=path,
                expected="the bytes that tunesmith wrote",
                fix=f"delete {folder} and it is made again",
            )


def _sample(path: Path, blocks: int = 64, size: int = 4096) -> str:
    """A hash of the file's size and of evenly spaced blocks: milliseconds for gigabytes; finds cuts and overwrites."""
    length = path.stat().st_size
    total = hashlib.sha256(str(length).encode())
    with open(path, "rb") as file:
        for block in range(blocks):
            file.seek(max(0, length - size) * block // (blocks - 1))
            total.update(file.read(size))
    return total.hexdigest()
