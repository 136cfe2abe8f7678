"""Encoded rows: token ids on disk, memory-mapped, made once for the same rows, task and reader."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..errors import InputError
from ..storage import atomic_file, cache_home, hash_json
from . import blanks
from .reader import Reader
from .rows import Rows
from .tasks import IGNORED, Encoding, Task
from .tasks.classify import Classify

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 4
"""Raised when encoding changes, so that an older one is not taken from the cache."""

_CHUNK = 1000


class Encoded:
    """Encoded rows on disk.

    Attributes:
        lengths: tokens of each encoded row that count for batches, shape (n,).
        units: supervised units of each.
        rows: index of the original row of each; a long text can give several.
        counts: how many original rows were cut (``rows_cut``), dropped (``rows_dropped``) or lost supervised tokens
            (``rows_that_lost_answers``), and how many of those (``answer_tokens_lost``).
        key: name of the file in the cache.
    """

    def __init__(self, table: pa.Table, source: Rows, key: str):
        self._table = table
        self.key = key
        self._source = source
        self.counts: dict[str, int] = {
            k.decode(): int(v) for k, v in (table.schema.metadata or {}).items() if not k.startswith(b"ARROW")
        }

    def __len__(self) -> int:
        return self._table.num_rows

    @cached_property
    def lengths(self) -> np.ndarray:
        return self._table.column("length").to_numpy()

    @cached_property
    def units(self) -> np.ndarray:
        return self._table.column("units").to_numpy()

    @cached_property
    def rows(self) -> np.ndarray:
        return self._table.column("row").to_numpy()

    def take(self, indices: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """These encoded rows, ready to be collated."""
        return [self._table.slice(int(i), 1).to_pylist()[0] for i in indices]

    def where(self, index: int) -> str:
        """Where the original row stands, for messages."""
        return self._source.where(int(self.rows[int(index)]))

    def original(self, index: int) -> dict[str, Any]:
        """The original row."""
        return self._source[int(self.rows[int(index)])]


def encode(rows: Rows, indices: np.ndarray, task: Task, reader: Reader, *, cache: Path | None = None) -> Encoded:
    """Encode rows, or open them where the same ones were encoded before.

    The key of the cache is made of everything that the result depends on: content, indices, task, tokenizer,
    template, length, policy.

    Args:
        rows: the rows.
        indices: which of them, ascending, shape (n,).
        task: what their columns mean.
        reader: turns text into token ids.
        cache: folder for the result; None takes ``encoded`` in tunesmith's cache.

    Raises:
        InputError: a row cannot be encoded, has nothing that is supervised, or is too long for the policy.
    """
    chosen = np.ascontiguousarray(indices, dtype=np.int64)
    which = hashlib.sha256(chosen.tobytes()).hexdigest()
    key = hash_json([VERSION, rows.fingerprint, which, task.describe(), reader.fingerprint])[:40]
    target = (cache or cache_home() / "encoded") / f"{key}.arrow"
    if not target.exists():
        _write(target, rows, chosen, task, reader)
    return Encoded(pa.ipc.open_file(pa.memory_map(str(target))).read_all(), rows, key)


def _write(target: Any, rows: Rows, indices: np.ndarray, task: Task, reader: Reader) -> None:
    """Stream the rows into a file, then settle what happened to long ones; the counts go into its footer."""
    tally = _Tally(rows, task, reader)
    schema = _schema(task)
    with atomic_file(target, "wb") as file, tempfile.TemporaryDirectory(dir=target.parent, prefix=".raw-") as folder:
        raw = Path(folder) / "rows.arrow"
        with pa.OSFile(str(raw), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for start in range(0, len(indices), _CHUNK):
                chosen = indices[start : start + _CHUNK]
                records = list(tally.keep(chosen, _encode(rows, chosen, task, reader)))
                writer.write_batch(pa.RecordBatch.from_pylist(records, schema=schema))
        tally.settle()
        counted = schema.with_metadata({k: str(v) for k, v in tally.counts.items()})
        with pa.memory_map(str(raw)) as source, pa.ipc.new_file(file, counted) as writer:
            whole = pa.ipc.open_file(source)
            for i in range(whole.num_record_batches):
                writer.write_batch(whole.get_batch(i).replace_schema_metadata(counted.metadata))


def _encode(rows: Rows, chosen: np.ndarray, task: Task, reader: Reader) -> list[list[Encoding]]:
    """A task's encoding of these rows; an error names the row."""
    plain = _plain(rows, chosen, task)
    try:
        return task.encode(plain, reader)
    except InputError:
        for index, row in zip(chosen, plain, strict=True):
            try:
                task.encode([row], reader)
            except InputError as error:
                where = rows.where(int(index))
                raise InputError(error.found, where=where, expected=error.expected, fix=error.fix) from None
        raise


def _plain(rows: Rows, chosen: np.ndarray, task: Task) -> list[dict[str, Any]]:
    """The task's columns of these rows, without touching more of the table than the window in which they lie."""
    columns = [c for c in dict.fromkeys(task.columns.values()) if c in rows.columns]
    table = rows.table.select(columns)
    low, high = (int(chosen.min()), int(chosen.max())) if len(chosen) else (0, 0)
    if high - low > 20 * len(chosen):
        return [row for i in chosen for row in table.slice(int(i), 1).to_pylist()]
    return table.slice(low, high - low + 1).take(pa.array(chosen - low)).to_pylist()


class _Tally:
    """Counts what happened to long rows, and keeps what the policy keeps."""

    def __init__(self, rows: Rows, task: Task, reader: Reader):
        self.rows, self.task, self.reader = rows, task, reader
        self.counts = {"rows_cut": 0, "rows_dropped": 0, "rows_that_lost_answers": 0, "answer_tokens_lost": 0}
        self.longest = 0
        self.first_long = -1

    def keep(self, chosen: np.ndarray, encoded: Sequence[list[Encoding]]) -> Iterator[dict[str, Any]]:
        """The records of these rows that stay."""
        for row, pieces in zip(chosen, encoded, strict=True):
            long = any(p.full > self.reader.max_length for p in pieces)
            self.longest = max([self.longest, *(p.full for p in pieces)])
            if long and self.first_long < 0:
                self.first_long = int(row)
            if long and self.reader.policy == "drop":
                self.counts["rows_dropped"] += 1
                continue
            self.counts["rows_cut"] += long
            lost = sum(p.lost for p in pieces)
            self.counts["answer_tokens_lost"] += lost
            self.counts["rows_that_lost_answers"] += lost > 0
            if not pieces:
                raise InputError("has nothing to learn from", where=self.rows.where(int(row)), fix="mend the row")
            for piece in pieces:
                yield self._record(int(row), piece)

    def _record(self, row: int, piece: Encoding) -> dict[str, Any]:
        units = sum(label != IGNORED for label in piece.labels) if self.task.per_token else 1
        if not units or not piece.input_ids:
            raise InputError(
                "has no token that this tokenizer knows" if not piece.input_ids else "has no supervised token",
                where=self.rows.where(row),
                fix=f"mend the row, or raise --length above {self.reader.max_length}" if piece.lost else "mend the row",
            )  # fmt: skip
        record = {"input_ids": piece.input_ids, "labels": piece.labels, "row": row, "units": units}
        other = piece.other
        record |= {"source": piece.source, "rationale": piece.rationale}
        record |= {"good": piece.good, "controlled": piece.controlled, "other_ids": other and other.input_ids}
        record["other_labels"] = other and other.labels
        record["length"] = (
            len(other.input_ids if other else ()) + len(piece.input_ids) + (len(piece.labels) if self._two_sides else 0)
        )
        if piece.views is not None:
            record |= {"views": piece.views, "asked": piece.asked, "length": sum(len(ids) for ids in piece.views)}
        if piece.soft is not None:
            record["soft"] = piece.soft
        return {**record, "token_type_ids": piece.token_type_ids, "words": piece.words}

    @property
    def _two_sides(self) -> bool:
        return self.task.per_token and self.reader.architecture == "encoder-decoder"

    def settle(self) -> None:
        """Stop where the policy says so.

        Raises:
            InputError: a row is too long and the policy is to stop, or an answer was cut and no policy allows it.
        """
        limit, where = self.reader.max_length, self.rows.where(max(0, self.first_long))
        fix = f"--length {self.longest} (if the base allows it), or --over-length truncate or drop"
        if self.reader.policy == "stop" and self.counts["rows_cut"]:
            raise InputError(f"{self.counts['rows_cut']:,} rows are longer than {limit} tokens, the first here",
                             where=where, fix=fix)  # fmt: skip
        if self.reader.policy is None and self.counts["rows_that_lost_answers"]:
            losing, lost = self.counts["rows_that_lost_answers"], self.counts["answer_tokens_lost"]
            raise InputError(
                f"{losing:,} rows would lose {lost:,} tokens of their answers at length {limit}, the first here",
                where=where, fix=fix,
            )  # fmt: skip


def _schema(task: Task) -> pa.Schema:
    label: pa.DataType = pa.int32()
    if task.per_token:
        label = pa.list_(pa.int32())
    elif task.loss == "binary_cross_entropy":
        label = pa.list_(pa.float32())
    elif task.loss == "squared_error":
        label = pa.float64()
    ids = pa.list_(pa.int32())
    views = [("views", pa.list_(ids)), ("asked", pa.list_(ids))] if "cloze" in task.settings else []
    soft = [("soft", pa.list_(pa.float32()))] if "soft" in task.columns else []
    return pa.schema([
        ("input_ids", ids), ("labels", label), ("token_type_ids", ids), ("words", ids), ("row", pa.int64()),
        ("units", pa.int32()), ("length", pa.int32()), ("good", pa.bool_()), ("controlled", pa.bool_()),
        ("other_ids", ids), ("other_labels", ids), ("source", pa.int32()), ("rationale", ids), *views, *soft,
    ])  # fmt: skip


def collator(task: Task, pad_id: int) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Tensor]]:
    """The function that makes a batch of tensors from encoded rows, padded on the right; places tell padding, not ids.

    Args:
        task: says whether labels stand at tokens.
        pad_id: the id that fills the places beyond a row's end.
    """
    import torch

    def pad(values: Sequence[Sequence[int]], fill: int) -> Tensor:
        width = max(len(v) for v in values)
        return torch.tensor([[*v, *[fill] * (width - len(v))] for v in values])

    def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        if isinstance(task, Classify) and task.blanks is not None:
            return blanks.collate(rows, task.blanks, pad_id)
        rows, rated = _answers(rows)
        ids = [row["input_ids"] for row in rows]
        batch = {"input_ids": pad(ids, pad_id), "attention_mask": pad([[1] * len(i) for i in ids], 0)}
        if rows[0]["token_type_ids"] is not None:
            batch["token_type_ids"] = pad([row["token_type_ids"] for row in rows], 0)
        labels = [row["labels"] for row in rows]
        batch["labels"] = pad(labels, IGNORED) if task.per_token else torch.tensor(labels)
        if batch["labels"].dtype == torch.float64:
            batch["labels"] = batch["labels"].float()
        if rows[0].get("rationale") is not None:
            batch["rationale"] = pad([row["rationale"] for row in rows], IGNORED)
        if rows[0].get("soft") is not None:
            batch["soft"] = torch.tensor([row["soft"] for row in rows])
        if rows[0].get("source") is not None:
            batch["source"] = torch.tensor([row["source"] for row in rows])
            if not task.per_token:
                batch["choices"] = torch.tensor(getattr(task, "choices")())[batch["source"]]  # noqa: B009
        return batch | {name: torch.tensor(values) for name, values in rated.items()}

    return collate


def _answers(rows: Sequence[Mapping[str, Any]]) -> tuple[Sequence[Mapping[str, Any]], dict[str, list[Any]]]:
    """Rated answers one a row: of pairs all the chosen, then all the rejected; and what is known of each answer."""
    if rows[0].get("good") is None:
        return rows, {}
    rated: dict[str, list[Any]] = {"good": [row["good"] for row in rows]}
    if rows[0]["other_ids"] is not None:
        others = [{**r, "input_ids": r["other_ids"], "labels": r["other_labels"], "good": False} for r in rows]
        rated = {"good": rated["good"] + [False] * len(rows), "pairs": [*range(len(rows)), *range(len(rows))]}
        rows = [*rows, *others]
    if rows[0]["controlled"]:
        rated["controlled"] = [True] * len(rows)
    return rows, rated


def suggest_length(rows: Rows, indices: np.ndarray, task: Task, reader: Reader, limit: int) -> int:
    """A length for these rows, in steps of 8: at most the base's limit and 512, or 1,024 for a decoder.

    It holds 99.5 % of the rows where only inputs can be cut, and every row where an answer would be; plain text is cut into
    pieces and takes the limit. Measured on at most 2,000 rows, or 20,000 where answers count.
    """
    cap = min(limit, 512 if reader.architecture == "encoder" else 1024)
    if task.name == "lm":
        return min(cap, 512)
    share, most = (1.0, 20_000) if task.per_token else (0.995, 2000)
    sample = indices[:: max(1, len(indices) // most)]
    full = [max((p.full for p in pieces), default=0) for pieces in _encode(rows, sample, task, reader.unlimited())]
    wanted = int(np.quantile(full, share, method="higher"))
    return max(8, min(cap, -(-wanted // 8) * 8))
