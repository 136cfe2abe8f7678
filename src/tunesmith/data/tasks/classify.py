from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import InputError
from .. import cloze
from ..blanks import Cloze
from ..rows import Rows
from . import IGNORED, Encoding, Task

if TYPE_CHECKING:
    from ..reader import Reader

SEPARATORS = "|;"
"""What may stand between several labels in one field."""


class Classify(Task):
    """One label, or several, for a text.

    Where a column tells several tasks apart (``source``), each row is answered among its own task's labels, which get
    the task's name in front. A column of reasons (``rationale``: words or passages of the text) marks tokens. A column of
    soft labels (``soft``: label -> probability) says how sure a teacher was; it is empty where a person gave the label.

    Settings: ``multi``, whether a row can have several; ``cloze`` tells classes by filling a blank in place of a new
    head (`tunesmith.data.cloze`).
    """

    name = "classify"
    roles: ClassVar[Mapping[str, Sequence[str]]] = {
        "text": ("text", "sentence", "review", "content", "question", "document", "comment", "tweet", "message",
                 "body", "utterance", "query", "title"),
        "label": ("label", "labels", "class", "category", "target", "sentiment", "intent", "topic", "rating", "tag"),
        "source": (),
        "rationale": (),
        "soft": (),
    }  # fmt: skip
    optional: ClassVar[frozenset[str]] = frozenset({"source", "rationale", "soft"})
    metric = "accuracy"
    heads: ClassVar[Mapping[str, str]] = {
        "encoder": "sequence-classification",
        "decoder": "sequence-classification",
        "encoder-decoder": "sequence-classification",
    }
    options: ClassVar[Mapping[str, Any]] = {"multi": None, "cloze": None}

    def __init__(
        self,
        columns: Mapping[str, str],
        *,
        labels: Sequence[str] | None = None,
        options: Mapping[str, Any] | None = None,
        notes: Sequence[str] = (),
        sources: Sequence[str] | None = None,
    ):
        options = dict(options or {})
        form = options.pop("cloze", None)
        super().__init__(columns, labels=labels, options=options, notes=notes, sources=sources)
        self.settings.pop("cloze")  # a task with a head of its own says nothing of it
        if form is not None and form is not False:
            self.settings["cloze"] = cloze.check(form)

    @cached_property
    def blanks(self) -> Cloze | None:
        """The settled cloze; None where the task has a head of its own."""
        return Cloze.read(self.settings["cloze"], self.labels or []) if "cloze" in self.settings else None

    def head(self, architecture: str) -> str:
        if "cloze" not in self.settings:
            return super().head(architecture)
        cloze.templates(self.settings["cloze"], architecture, pairs="second" in self.columns)
        return cloze.HEADS[architecture]

    @property
    def multi(self) -> bool:
        """Whether a row can have several labels."""
        return bool(self.settings["multi"])

    @property
    def loss(self) -> str:  # type: ignore[override]
        return "binary_cross_entropy" if self.multi else "cross_entropy"

    def learn(self, rows: Rows) -> None:
        """Find the labels, over all rows, and whether a row can have several."""
        super().learn(rows)
        column = self.columns["label"]
        values: Counter[Any] = Counter()
        named = [column, self.columns["source"]] if self.sources else [column]
        for batch in rows.batches(named):
            values.update(tuple(tuple(v) if isinstance(v, list) else v for v in map(row.get, named)) for row in batch)
        if self.settings["multi"] is None:
            self.settings["multi"] = _several({value for value, *_ in values})
        if self.multi and self.sources:
            raise InputError(
                "a row has several labels", where=rows.source, expected="one where rows are of several tasks"
            )
        counts: Counter[str] = Counter()
        for (value, *source), count in values.items():
            for name in self._names(value, *source):
                counts[name] += count
        if len(counts) < 2:
            raise InputError(
                f"column {column!r} holds one class only ({next(iter(counts), 'none')!r})", where=rows.source,
                expected="at least two",
            )  # fmt: skip
        if len(counts) > max(10, len(rows) / 2):
            raise InputError(
                f"column {column!r} holds {len(counts):,} different labels in {len(rows):,} rows", where=rows.source,
                expected="a label that repeats", fix="name another column, --column label=NAME, or another --task",
            )  # fmt: skip
        if "cloze" in self.settings and (self.multi or self.sources or "rationale" in self.columns):
            found = "a row can have several labels" if self.multi else "rows have a source or reasons"
            raise InputError(found, where=rows.source, expected="one text, or two, and one label a row for a cloze")
        self.labels = sorted(counts, key=_order)
        common = ", ".join(f"{name} {n:,}" for name, n in counts.most_common(6))
        self.notes.append(f"{len(counts)} labels{' (several a row)' if self.multi else ''}: {common}")

    def problem(self, row: Mapping[str, Any]) -> str | None:
        value = self.value(row, "label")
        if self.multi and value == "":  # a field with no label in it
            row = {**row, self.columns["label"]: "none"}
        if isinstance(value, list):
            if self.settings["multi"] is False:
                return f"column {self.columns['label']!r} holds a list; expected one label; set multi to true"
            if any(v is None or v != v or v == "" for v in value):
                return f"column {self.columns['label']!r} holds an empty label in its list; fill it in or delete it"
        return super().problem(row)

    def encode(self, rows: Sequence[Mapping[str, Any]], reader: Reader) -> list[list[Encoding]]:
        texts = [str(self.value(row, "text")) for row in rows]
        seconds = [str(self.value(row, "second")) for row in rows] if "second" in self.columns else None
        if self.blanks is not None:
            encodings = self.blanks.encode(texts, seconds or [""] * len(texts), reader)
        else:
            encodings = reader.texts(texts, seconds)
        for encoding, row in zip(encodings, rows, strict=True):
            encoding.source, encoding.labels = self.source(row), self._label(row)
        if "rationale" in self.columns:
            reasons = [row.get(self.columns["rationale"]) or [] for row in rows]
            marks = reader.marks(texts, [[r] if isinstance(r, str) else r for r in reasons])
            for encoding, reason, own in zip(encodings, reasons, marks, strict=True):
                encoding.rationale = own if reason else [IGNORED] * len(own)
        if "soft" in self.columns:
            for encoding, row in zip(encodings, rows, strict=True):
                encoding.soft = self._soft(row)
        return [[e] for e in encodings]

    def _soft(self, row: Mapping[str, Any]) -> list[float]:
        """The probability of each label: the row's soft labels, or all of it on its own label."""
        assert self.labels is not None
        given = row.get(self.columns["soft"])
        if given is None or self.multi:
            own = self._label(row)
            return own if self.multi else [float(i == own) for i in range(len(self.labels))]
        shares = {label_name(k): float(v or 0.0) for k, v in given.items()}
        if not shares.keys() <= set(self.labels) or not math.isclose(sum(shares.values()), 1.0, abs_tol=1e-3):
            raise InputError(
                f"column {self.columns['soft']!r} holds {given}",
                expected=f"shares of {', '.join(self.labels)}, 1 in all",
            )
        return [shares.get(label, 0.0) for label in self.labels]

    def _label(self, row: Mapping[str, Any]) -> Any:
        assert self.labels is not None
        if self.columns["label"] not in row:
            return [0.0] * len(self.labels) if self.multi else self._first(row)
        names = self._names(row[self.columns["label"]], *([self.value(row, "source")] if self.sources else []))
        for name in names:
            if name not in self.labels:
                raise InputError(f"label {name!r} was not among the training labels", expected=", ".join(self.labels))
        if self.multi:
            return [1.0 if label in names else 0.0 for label in self.labels]
        return self.labels.index(names[0])

    def target(self, row: Mapping[str, Any]) -> Any:
        return self._label(row)

    def _first(self, row: Mapping[str, Any]) -> int:
        """A class that the row can have."""
        place = self.source(row)
        return 0 if place is None else self.choices()[place].index(True)

    def choices(self) -> list[list[bool]]:
        """For each task of ``sources``, which labels its rows can have."""
        assert self.labels is not None
        return [[label.startswith(_prefix(name)) for label in self.labels] for name in self.sources or ()]

    def _names(self, value: Any, source: str | None = None) -> list[str]:
        """The names of a row's labels, as text; with the task's name in front where there are several."""
        if source is not None:
            return [_prefix(source) + label_name(value)]
        if isinstance(value, list | tuple):
            return [label_name(v) for v in value]
        if self.multi and isinstance(value, str):
            separator = next((s for s in SEPARATORS if s in value), None)
            return [v.strip() for v in (value.split(separator) if separator else [value]) if v.strip()]
        return [label_name(value)]


def _prefix(source: str) -> str:
    return f"{source}: "


def label_name(value: Any) -> str:
    """A label as text; whole numbers without a point.

    >>> label_name(3.0), label_name(True), label_name(" spam ")
    ('3', 'true', 'spam')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _order(name: str) -> tuple[bool, float, str]:
    """Numbers by value, then words by the alphabet."""
    try:
        number = float(name)
    except ValueError:
        return (True, 0.0, name)
    return (False, number, name) if math.isfinite(number) else (True, 0.0, name)


def _several(values: Iterable[Any]) -> bool:
    """Whether a label column's different values are lists, or text in which few names stand in many combinations."""
    if any(isinstance(v, tuple) for v in values):
        return True
    texts = {v for v in values if isinstance(v, str)}
    for separator in SEPARATORS:
        pieces = {p.strip() for v in texts for p in v.split(separator)}
        if any(separator in v for v in texts) and len(pieces) < len(texts):
            return True
    return False
