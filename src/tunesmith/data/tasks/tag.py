from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import InputError
from ..rows import Rows
from . import Encoding, Task
from .classify import label_name

if TYPE_CHECKING:
    from ..reader import Reader


class Tag(Task):
    """A tag for every word: names, parts of speech. BIO tags are scored as spans.

    The first sub-word of a word carries its tag; the others carry none.
    """

    name = "tag"
    roles: ClassVar[Mapping[str, Sequence[str]]] = {
        "tokens": ("tokens", "words"),
        "tags": ("tags", "ner_tags", "pos_tags", "labels"),
    }
    metric = "span_f1"
    per_token = True
    heads: ClassVar[Mapping[str, str]] = {"encoder": "token-classification"}

    def learn(self, rows: Rows) -> None:
        """Find the tags, over all rows; count I- tags that follow no tag of their kind."""
        self.check(rows)
        column = self.columns["tags"]
        counts: Counter[str] = Counter()
        odd = 0
        for batch in rows.batches([column]):
            for row in batch:
                tags = [label_name(t) for t in row[column]]
                counts.update(tags)
                odd += sum(t[:2] == "I-" and p[2:] != t[2:] for p, t in zip(["O", *tags], tags, strict=False))
        if len(counts) < 2:
            found = f"column {column!r} holds one tag only ({next(iter(counts), 'none')!r})"
            raise InputError(found, where=rows.source, expected="at least two")
        self.labels = sorted(counts, key=lambda t: (t != "O", t[2:] if t[1:2] == "-" else t, t))
        self.notes.append(f"{len(counts)} tags over {sum(counts.values()):,} words")
        if odd:
            self.notes.append(f"{odd:,} I- tags begin a span; they are read as B-")

    def problem(self, row: Mapping[str, Any]) -> str | None:
        tokens, tags = (row[self.columns[role]] for role in ("tokens", "tags"))
        for role, value in (("tokens", tokens), ("tags", tags)):
            if not isinstance(value, list) or not value:
                return f"column {self.columns[role]!r} is {value!r}; expected a list of {role}"
        if len(tokens) != len(tags):
            return f"{len(tokens)} tokens but {len(tags)} tags; expected one tag a token"
        if any(t is None for t in (*tokens, *tags)):
            return "a token or a tag is null; expected text"
        return None

    def encode(self, rows: Sequence[Mapping[str, Any]], reader: Reader) -> list[list[Encoding]]:
        assert self.labels is not None
        encodings = reader.words([[str(w) for w in row[self.columns["tokens"]]] for row in rows])
        known = {label: i for i, label in enumerate(self.labels)}
        for encoding, row in zip(encodings, rows, strict=True):
            tags = row.get(self.columns["tags"])
            names = ["" if tags is None else label_name(tags[w]) for w in encoding.words or []]
            if tags is not None and (new := [n for n in names if n not in known]):
                raise InputError(f"tag {new[0]!r} was not among the training tags", expected=", ".join(self.labels))
            values = iter([known.get(n, 0) for n in names])
            encoding.labels = [next(values) if first else -100 for first in encoding.labels]
        return [[e] for e in encodings]

    def target(self, row: Mapping[str, Any]) -> list[str]:
        return [label_name(t) for t in row[self.columns["tags"]]]
