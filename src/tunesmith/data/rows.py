"""Rows of any format as one memory-mapped Arrow table: a million need no more memory than ten thousand."""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from ..errors import InputError
from ..storage import atomic_file, cache_home, hash_file
from .files import LINE, READERS, Chunk, suffix
from .mixture import mix

VERSION = 1
"""Raised when the reading of files changes, so that tables of an older reading are not taken from the cache."""


class Rows:
    """A table of rows and where it came from.

    Attributes:
        table: the memory-mapped Arrow table.
        source: printable name of where the rows came from.
        fingerprint: hash of the content, in order.
    """

    def __init__(self, table: pa.Table, source: str, fingerprint: str):
        self.table = table
        self.source = source
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One row as a dictionary, without the hidden column."""
        row = self.table.slice(int(index), 1).to_pylist()[0]
        row.pop(LINE, None)
        return row

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return [name for name in self.table.column_names if name != LINE]

    def where(self, index: int) -> str:
        """Where a row stands, for messages: ``reviews.csv line 7``."""
        if LINE in self.table.column_names:
            return f"{self.source} line {self.table.column(LINE)[int(index)].as_py()}"
        return f"{self.source} row {int(index) + 1}"

    def column(self, name: str) -> pa.ChunkedArray:
        """One column.

        Raises:
            InputError: there is none of this name.
        """
        if name not in self.columns:
            near = difflib.get_close_matches(name, self.columns, n=1, cutoff=0.4)
            raise InputError(
                f"column {name!r} is missing", where=self.source, expected=f"one of {', '.join(self.columns)}",
                fix=f"did you mean {near[0]!r}?" if near else None,
            )  # fmt: skip
        return self.table.column(name)

    def batches(self, columns: Sequence[str] | None = None, size: int = 1000) -> Iterator[list[dict[str, Any]]]:
        """The rows in lists of dictionaries, in order; only one list is held at a time."""
        table = self.table.select(list(columns) if columns is not None else self.columns)
        for start in range(0, len(self), size):
            yield table.slice(start, size).to_pylist()

    def take(self, indices: Sequence[int] | np.ndarray) -> Rows:
        """These rows, in this order."""
        chosen = np.asarray(indices, dtype=np.int64)
        mark = hashlib.sha256(chosen.tobytes()).hexdigest()[:16]
        return Rows(self.table.take(pa.array(chosen)), self.source, f"{self.fingerprint}-{mark}")


def read(source: Any) -> Rows:
    """The rows of a file, a folder, a packaged set, a data set of the hub, or a table in memory.

    Args:
        source: a path (csv, tsv, jsonl, json, parquet, arrow, feather, txt; text formats also as .gz or .bz2), a
            folder made by ``datasets.save_to_disk``, ``packaged:NAME``, ``hub:OWNER/NAME[@REVISION][:CONFIG][#SPLIT]``,
            several of these by name with templates (`mixture.mix`), or in Python a list of dictionaries, a pandas DataFrame,
            a pyarrow Table or a Hugging Face Dataset.

    Raises:
        InputError: it cannot be read; the message names file, line and column.
    """
    if isinstance(source, Rows):
        return source
    if isinstance(source, Mapping):
        return _from_memory(mix(source))
    if not isinstance(source, str | Path):
        return _from_memory(source)
    text = str(source)
    if text.startswith("packaged:"):
        from .packaged import open_rows

        rows = read(open_rows(text.removeprefix("packaged:")))
        return Rows(rows.table, text, rows.fingerprint)
    if text.startswith("hub:"):
        return _from_hub(text)
    return _from_path(Path(source))


def _from_path(path: Path) -> Rows:
    if not path.exists():
        near = difflib.get_close_matches(path.name, _siblings(path), n=1, cutoff=0.4)
        raise InputError("no such file", where=path, fix=f"did you mean {near[0]!r}?" if near else None)
    if path.is_dir():
        return _from_saved_dataset(path)
    kind = suffix(path)
    if kind not in READERS and kind not in (".parquet", ".arrow", ".feather", ".ipc"):
        known = ", ".join([*READERS, ".parquet", ".arrow", ".feather"])
        raise InputError(f"has the unknown suffix {kind or 'none'}", where=path, expected=f"one of {known}")
    try:
        if path.stat().st_size == 0:
            raise InputError("is empty", where=path, expected="rows")
        key = f"{hash_file(path)[:32]}-{kind[1:]}-{VERSION}"
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path) from None
    target = cache_home() / "rows" / f"{key}.arrow"
    if not target.exists():
        if kind in READERS:
            _convert(path, kind, target)
        else:
            _copy_columnar(path, kind, target)
    rows = Rows(_open(target), path.name, key)
    if not len(rows):
        raise InputError("holds no rows", where=path, expected="a header line and rows")
    return rows


def _siblings(path: Path) -> list[str]:
    return [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []


def _open(target: Path) -> pa.Table:
    """Memory-mapped: the system reads what is asked for, and nothing is copied."""
    return pa.ipc.open_file(pa.memory_map(str(target))).read_all()


def _convert(path: Path, kind: str, target: Path) -> None:
    """Two passes over a text file: the first settles each column's type, the second writes Arrow chunk by chunk."""
    schema = _settle(READERS[kind](path), path, text_only=kind in (".csv", ".tsv"))
    with atomic_file(target, "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for chunk in READERS[kind](path):
            writer.write_batch(_record_batch(chunk, schema, path))


def _settle(chunks: Iterator[Chunk], path: Path, *, text_only: bool) -> pa.Schema:
    types: dict[str, pa.DataType] = {}
    for chunk in chunks:
        for name in dict.fromkeys(key for row in chunk for key in row):
            values = [row.get(name) for row in chunk]
            if text_only and name != LINE:
                found = _text_type(values)
            else:
                found = _json_type(values, name, chunk, path)
            types[name] = found if name not in types else _unify(types[name], found, name, path)
    return pa.schema([(name, pa.string() if pa.types.is_null(t) else t) for name, t in types.items()])


def _text_type(values: list[Any]) -> pa.DataType:
    """The narrowest type of text fields: whole numbers, numbers, or text; nothing but empty fields says nothing."""
    filled = [v for v in values if v and v.strip()]
    if not filled:
        return pa.null()
    if all(_is_int(v) for v in filled):
        return pa.int64()
    return pa.float64() if all(_is_float(v) for v in filled) else pa.string()


def _is_int(value: str) -> bool:
    digits = value.strip().removeprefix("-")
    plain = digits.isascii() and digits.isdigit() and len(digits) < 19
    return plain and not (len(digits) > 1 and digits[0] == "0")


def _is_float(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return not value.strip().startswith(("0x", "_")) and "_" not in value


def _json_type(values: list[Any], name: str, chunk: Chunk, path: Path) -> pa.DataType:
    try:
        return pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        kinds = {type(v).__name__ for v in values if v is not None}
        if kinds <= {"int", "float"}:
            return pa.float64()
        first = next(v for v in values if v is not None)
        odd = next((r for r in chunk if r.get(name) is not None and type(r[name]) is not type(first)), chunk[0])
        raise InputError(
            f"column {name!r} is a {type(odd[name]).__name__} here and a {type(first).__name__} elsewhere",
            where=f"{path} line {odd[LINE]}", expected="one type for all rows",
        ) from None  # fmt: skip


def _unify(known: pa.DataType, found: pa.DataType, name: str, path: Path) -> pa.DataType:
    """One type for what two chunks hold; text takes in numbers, as in a column of codes."""
    if known == found or pa.types.is_null(found):
        return known
    if pa.types.is_null(known):
        return found
    try:
        schemas = [pa.schema([(name, t)]) for t in (known, found)]
        return pa.unify_schemas(schemas, promote_options="permissive").field(name).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        if suffix(path) in (".csv", ".tsv"):
            return pa.string()
        raise InputError(
            f"column {name!r} is {known} in some rows and {found} in others", where=path, expected="one type"
        ) from None


def _record_batch(chunk: Chunk, schema: pa.Schema, path: Path) -> pa.RecordBatch:
    arrays = []
    for entry in schema:
        values = [row.get(entry.name) for row in chunk]
        if isinstance(next((v for v in values if v is not None), None), str) and not pa.types.is_string(entry.type):
            convert = int if pa.types.is_integer(entry.type) else float
            values = [convert(v) if v is not None and v.strip() else None for v in values]
            values = [None if isinstance(v, float) and math.isnan(v) else v for v in values]
        try:
            arrays.append(pa.array(values, entry.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InputError(f"column {entry.name!r}: {error}", where=path) from None
    return pa.record_batch(arrays, schema=schema)


def _copy_columnar(path: Path, kind: str, target: Path) -> None:
    """Parquet, or Arrow of any flavour, batch by batch."""
    import pyarrow.parquet as parquet

    try:
        if kind == ".parquet":
            source = parquet.ParquetFile(path)
            schema, batches = source.schema_arrow, source.iter_batches(batch_size=5000)
        else:
            schema, batches = _open_arrow(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"is not a {kind[1:]} file ({error})", where=path) from None
    with atomic_file(target, "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _open_arrow(path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    mapped = pa.memory_map(str(path))
    try:
        reader = pa.ipc.open_file(mapped)
        return reader.schema, (reader.get_batch(i) for i in range(reader.num_record_batches))
    except pa.ArrowInvalid:
        stream = pa.ipc.open_stream(pa.memory_map(str(path)))
        return stream.schema, iter(stream)


def _from_saved_dataset(folder: Path) -> Rows:
    if not (folder / "dataset_info.json").exists():
        raise InputError("is a folder", where=folder, expected="a file of rows, or a data set that datasets saved")
    files = sorted(folder.glob("*.arrow"))
    tables = [pa.ipc.open_stream(pa.memory_map(str(f))).read_all() for f in files]
    key = hashlib.sha256("".join(hash_file(f) for f in files).encode()).hexdigest()[:32]
    return Rows(pa.concat_tables(tables), folder.name, key)


def _from_hub(text: str) -> Rows:
    """``hub:OWNER/NAME[@REVISION][:CONFIG][#SPLIT]`` by the datasets library, which keeps its own cache."""
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"{text} needs the datasets library", fix="pip install 'tunesmith[hub]', or use a file"
        ) from None
    name, _, part = text.removeprefix("hub:").partition("#")
    name, _, config = name.partition(":")
    name, _, revision = name.partition("@")
    try:
        found = datasets.load_dataset(name, config or None, split=part or "train", revision=revision or None)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"cannot be loaded ({reason})", where=text, fix="check name, split and network") from error
    return _from_dataset(found, text)


def _from_dataset(dataset: Any, source: str) -> Rows:
    if getattr(dataset, "_indices", None) is not None:
        dataset = dataset.flatten_indices()
    return Rows(dataset.data.table, source, f"{dataset._fingerprint}-{VERSION}")


def _from_memory(source: Any) -> Rows:
    if isinstance(source, pa.Table):
        table = source
    elif type(source).__module__.startswith("datasets."):
        return _from_dataset(source, "dataset")
    elif type(source).__name__ == "DataFrame":
        table = pa.Table.from_pandas(source, preserve_index=False)
    elif isinstance(source, list) and source and all(isinstance(row, dict) for row in source):
        chunk = [{**row, LINE: number} for number, row in enumerate(source, 1)]
        schema = _settle(iter([chunk]), Path("list"), text_only=False)
        table = pa.Table.from_batches([_record_batch(chunk, schema, Path("list"))]).drop_columns([LINE])
    else:
        raise InputError(
            f"a {type(source).__name__} holds no rows",
            expected="a path, a DataFrame, a Table or a list of dictionaries",
        )
    if not table.num_rows:
        raise InputError("the table in memory holds no rows")
    digest = hashlib.sha256(str(table.schema).encode())
    for batch in table.to_batches(max_chunksize=10_000):
        digest.update(repr(batch.to_pylist()).encode())
    return Rows(table, "table", digest.hexdigest()[:32])
