"""Readers of files: each gives chunks of rows with the line that every row came from, and never holds a whole file."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError

CHUNK = 5000
"""Rows that are held at a time."""

LINE = "__line__"
"""The hidden column that says which line of the file a row came from."""

Chunk = list[dict[str, Any]]


@contextmanager
def open_text(path: Path) -> Iterator[io.TextIOWrapper]:
    """Open a text file, compressed or not, as UTF-8 with or without a byte order mark.

    Raises:
        InputError: the file cannot be read, or is not UTF-8.
    """
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open}
    try:
        with openers.get(path.suffix, open)(path, "rt", encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise InputError(
            f"is not UTF-8 (byte {error.object[error.start]:#04x})", where=path,
            fix=f"convert it, e.g. iconv -f latin1 -t utf-8 {path.name}",
        ) from None  # fmt: skip
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", where=path) from None


def suffix(path: Path) -> str:
    """The suffix that says the format: ``.csv`` for ``rows.csv.gz``."""
    suffixes = [s.lower() for s in path.suffixes]
    return suffixes[-2] if len(suffixes) > 1 and suffixes[-1] in (".gz", ".bz2") else (suffixes or [""])[-1]


def read_csv(path: Path) -> Iterator[Chunk]:
    """Rows of a csv or tsv file; empty fields stay empty text, types are settled afterwards."""
    with open_text(path) as file:
        delimiter = "\t" if suffix(path) == ".tsv" else _delimiter(file)
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next(reader, None)
            if header is None or not any(header):
                raise InputError("is empty", where=path, expected="a header line and rows")
            _check_header(header, path)
            yield from _chunks(_csv_rows(reader, header, path))
        except csv.Error as error:
            raise InputError(f"{error}", where=f"{path} line {reader.line_num}", expected="quoted fields") from None


def _csv_rows(reader: Any, header: list[str], path: Path) -> Iterator[dict[str, Any]]:
    last = reader.line_num
    for fields in reader:
        line, last = last + 1, reader.line_num
        if not fields:
            continue
        if len(fields) != len(header):
            raise InputError(
                f"{len(fields)} fields", where=f"{path} line {line}", expected=f"{len(header)} as in the header",
                fix="quote fields that contain the delimiter",
            )  # fmt: skip
        yield {**dict(zip(header, fields, strict=True)), LINE: line}


def _delimiter(file: io.TextIOWrapper) -> str:
    first = file.readline()
    file.seek(0)
    return max(",;\t|", key=first.count) if first else ","


def _check_header(header: list[str], path: Path) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise InputError(f"column {twice[0]!r} stands twice in the header", where=path, expected="different names")


def read_jsonl(path: Path) -> Iterator[Chunk]:
    """Rows of a file with one JSON object a line."""

    def rows() -> Iterator[dict[str, Any]]:
        with open_text(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield {**_object(line, f"{path} line {number}"), LINE: number}

    yield from _chunks(rows())


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"not valid JSON ({error.msg} at column {error.colno})", where=where) from None
    if not isinstance(value, dict):
        raise InputError(f"a {type(value).__name__}", where=where, expected="a JSON object: {...}")
    return value


def read_json(path: Path) -> Iterator[Chunk]:
    """Rows of a JSON file: a list of objects, or an object with one list of them."""
    with open_text(path) as file:
        try:
            value = json.load(file)
        except json.JSONDecodeError as error:
            raise InputError(f"not valid JSON ({error.msg})", where=f"{path} line {error.lineno}") from None
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        value = lists[0] if len(lists) == 1 else value
    if not isinstance(value, list):
        raise InputError("holds no list of rows", where=path, expected="a JSON list of objects")
    for number, row in enumerate(value, 1):
        if not isinstance(row, dict):
            raise InputError(f"row {number} is a {type(row).__name__}", where=path, expected="an object")
    yield from _chunks({**row, LINE: number} for number, row in enumerate(value, 1))


def read_lines(path: Path) -> Iterator[Chunk]:
    """Rows of a text file: every line that is not blank, as column ``text``."""
    with open_text(path) as file:
        rows = ({"text": line.strip(), LINE: n} for n, line in enumerate(file, 1) if line.strip())
        yield from _chunks(rows)


def _chunks(rows: Iterator[dict[str, Any]]) -> Iterator[Chunk]:
    chunk: Chunk = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


READERS = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".txt": read_lines,
    ".text": read_lines,
}
"""Suffix -> reader of formats that have lines. Parquet and Arrow are read by pyarrow."""
