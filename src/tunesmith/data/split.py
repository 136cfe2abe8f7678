"""Splits by content: a row's place depends on what it says, so that no duplicate is ever on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from .rows import Rows

SMALLEST = 10
"""Rows that a split needs at least."""


@dataclass(frozen=True)
class Splits:
    """Indices of the rows of each split, ascending, and how many rows repeat an earlier one."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    duplicates: int


def split(
    rows: Rows,
    columns: Sequence[str],
    *,
    test: float = 0.2,
    validation: float = 0.1,
    seed: int = 0,
    group: str | None = None,
) -> Splits:
    """Split rows by a hash of their content.

    Rows that say the same but for case and white space land in the same split, whatever their labels. A row's split
    depends on its content, the seed and the shares alone: adding rows moves none of the others.

    Args:
        rows: the rows.
        columns: what makes two rows the same: the inputs of the task.
        test: share for the report; 0 gives none.
        validation: share for choosing; 0 gives none.
        seed: another seed is another split.
        group: a column whose values are never split.

    Raises:
        InputError: fewer than ten rows, or so few different ones that a split would be empty.
    """
    if len(rows) < SMALLEST and (test or validation):
        raise InputError(
            f"{len(rows)} rows cannot be split", where=rows.source, expected=f"at least {SMALLEST}",
            fix="add rows, or give files for validation and test",
        )  # fmt: skip
    keys = _keys(rows, [group] if group else columns, seed)
    place = keys.astype(np.float64) / 2.0**64
    sides = np.where(place < test, 2, np.where(place < test + validation, 1, 0))
    _fill_empty(sides, keys, {2: test, 1: validation, 0: 1.0}, rows)
    content = keys if group is None else _keys(rows, columns, seed)
    train, held, tested = (np.flatnonzero(sides == side) for side in (0, 1, 2))
    return Splits(train, held, tested, duplicates=len(content) - len(np.unique(content)))


def _fill_empty(sides: np.ndarray, keys: np.ndarray, wanted: dict[int, float], rows: Rows) -> None:
    """A small table can leave a split empty by chance; it then gets the rows of one key from the largest split."""
    for side, share in wanted.items():
        if share > 0 and not (sides == side).any():
            largest = int(np.bincount(sides, minlength=3).argmax())
            candidates = np.unique(keys[sides == largest])
            if len(candidates) < 2:
                raise InputError(
                    f"{len(np.unique(keys))} different rows cannot be split", where=rows.source,
                    expected="different texts (or groups) in each split",
                )  # fmt: skip
            sides[keys == candidates[0]] = side


def drop_leaks(train: Rows, other: Rows, columns: Sequence[str]) -> np.ndarray:
    """The places in ``train`` of the rows that do not also stand in ``other``."""
    return np.flatnonzero(~np.isin(_keys(train, columns, 0), _keys(other, columns, 0)))


def _keys(rows: Rows, columns: Sequence[str], seed: int) -> np.ndarray:
    """A 64-bit hash of each row's content in these columns, shape (rows,)."""
    for name in columns:
        rows.column(name)
    return np.fromiter(_hashes(rows, columns, seed), dtype=np.uint64, count=len(rows))


def _hashes(rows: Rows, columns: Sequence[str], seed: int) -> Iterator[int]:
    salt = seed.to_bytes(8, "little", signed=True)
    for batch in rows.batches(columns):
        for row in batch:
            text = "\x1f".join(_normal(row[name]) for name in columns)
            yield int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, key=salt).digest(), "little")


def _normal(value: Any) -> str:
    """A value as text in lower case with single spaces."""
    if isinstance(value, str):
        return " ".join(value.lower().split())
    return " ".join(str(value).lower().split())
