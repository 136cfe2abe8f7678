"""A cloze settled for base and rows: its words found, spelled, and, where asked, calibrated, with the untuned base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .. import parts
from ..data import blanks, cloze
from ..data.reader import Reader
from ..data.rows import Rows
from ..data.tasks.classify import Classify, label_name
from ..engine.cloze import places
from ..engine.step import Step
from ..errors import InputError
from ..host import Host
from ..models.bases import BaseInfo, load
from ..recipe import choose
from ..verbalisers import Words

POOL = 64
"""Rows of each label that are shown as examples, or that words are searched on, at most."""

CONTENT_FREE = ("N/A", "none", "...")
"""Texts that say nothing: what the base says of them is its bias."""

_PASS = 16


def verbaliser(task: Classify) -> parts.Chosen | None:
    """The part that finds the words of a task's cloze; None where the user wrote them, or there is no cloze.

    Raises:
        InputError: no such part.
    """
    words = task.settings["cloze"]["words"] if "cloze" in task.settings else None
    by_hand = isinstance(words, Mapping) and (len(words) != 1 or str(next(iter(words))) in (task.labels or []))
    return None if words is None or by_hand else choose("verbaliser", words, where="task.cloze.words")


def settle(task: Classify, base: BaseInfo, rows: Rows, train: np.ndarray, seed: int, reader: Reader) -> list[str]:
    """Find and spell the words of a task's cloze, draw the rows that may be shown, and calibrate; changes the task.

    Args:
        task: with a cloze in its settings.
        base: the base.
        rows: the table of the training rows.
        train: which of them are training rows.
        seed: of the draw of rows.
        reader: turns text into ids.

    Returns:
        Lines that say what was decided.

    Raises:
        InputError: words that the base does not know, or a template that does not fit.
    """
    form = dict(task.settings["cloze"])
    pairs, labels = "second" in task.columns, task.labels or []
    found = cloze.templates(form, base.architecture, pairs=pairs)
    pool = drawn(task, rows, train, seed)
    form |= {"template": found, "architecture": base.architecture, "prior": [],
             "pool": [[s.text, s.second, s.label] for s in pool] if form["demonstrations"] else []}  # fmt: skip
    untuned = Untuned(base, task, found[0], pool, reader)
    part = verbaliser(task)
    form["verbalised"] = cloze.written_words(form["words"], labels) if part is None else part.build()(untuned)
    form["pieces"] = spelled(form["verbalised"], reader)
    if form["calibrate"]:
        form["prior"] = untuned.prior(blanks.Cloze.read(form, labels))
    task.settings["cloze"] = form
    task.__dict__.pop("blanks", None)
    shown = ", ".join(f"{label} = {_few(words)}" for label, words in list(form["verbalised"].items())[:6])
    return [f"cloze: {' | '.join(t.encode('unicode_escape').decode() for t in found)}", f"words: {shown}"]


def _few(words: Mapping[str, float]) -> str:
    ranked = sorted(words, key=lambda w: -words[w])
    return " ".join(ranked[:4]) + (f" and {len(ranked) - 4} more" if len(ranked) > 4 else "")


def drawn(task: Classify, rows: Rows, train: np.ndarray, seed: int) -> list[blanks.Shown]:
    """At most `POOL` training rows of each label, drawn by the seed."""
    label, text = task.columns["label"], task.columns["text"]
    names = [label_name(v) for v in rows.column(label).take(train).to_pylist()]
    counts = dict.fromkeys(task.labels or [], 0)
    pool = []
    for i in np.random.default_rng(seed).permutation(len(train)):
        if counts[names[i]] < POOL:
            counts[names[i]] += 1
            row = rows[int(train[i])]
            second = str(row[task.columns["second"]]) if "second" in task.columns else ""
            pool.append(blanks.Shown(str(row[text]), second, names[i]))
    return pool


def spelled(words: Words, reader: Reader) -> dict[str, list[int]]:
    """Every word as it may stand in a text, behind a space or not -> its ids.

    Raises:
        InputError: the tokenizer does not know a word, or two labels have the same one only.
    """
    seen: dict[tuple[str, ...], str] = {}
    for label, found in words.items():
        if (other := seen.setdefault(tuple(sorted(found)), label)) != label:
            raise InputError(
                f"labels {other!r} and {label!r} have the same words", where="task.cloze.words",
                expected="words that tell labels apart",
            )  # fmt: skip
    every = dict.fromkeys(word for found in words.values() for word in found)
    return {" " * spaced + word: reader.word(word, bool(spaced)) for word in every for spaced in (0, 1)}


class Untuned:
    """The base before training, as a verbaliser asks it (`verbalisers.View`); loaded when it is first asked."""

    def __init__(self, base: BaseInfo, task: Classify, template: str, pool: Sequence[blanks.Shown], reader: Reader):
        self.labels = list(task.labels or [])
        self.names = [cloze.label_words(label) for label in self.labels]
        self.classes = torch.tensor([self.labels.index(s.label) for s in pool], dtype=torch.long)
        self._base, self._template, self._pool, self._reader = base, template, pool, reader
        self._spaced = template.split("{mask}")[0].endswith(" ")

    @cached_property
    def _host(self) -> Host:
        return Host(load(self._base, cloze.HEADS[self._base.architecture]).model).eval()

    @cached_property
    def said(self) -> Tensor:
        any_word = {label: {"a": 1.0} for label in self.labels}
        pieces = {spaced + "a": [0] for spaced in ("", " ")}
        asked = blanks.Cloze(self.labels, self._base.architecture, [self._template], any_word, pieces)
        found = []
        for step in self._steps(asked, self._pool):
            found.append(step.vocabulary(places(step.batch)).float().log_softmax(-1))
        return torch.cat(found)

    @cached_property
    def table(self) -> Tensor:
        weight: Tensor = self._host.model.get_input_embeddings().weight
        return weight.detach()

    def pieces(self, word: str) -> list[int]:
        return self._reader.word(word, self._spaced)

    def word(self, token: int) -> str | None:
        text = self._reader.tokenizer.decode([token]).strip()
        if len(text) < 2 or not text.isalpha() or len(self._reader.tokenizer) <= token:
            return None
        try:
            return text if self.pieces(text) == [token] else None
        except InputError:
            return None

    def fills(self, ids: Sequence[Sequence[int]], places: Sequence[int]) -> Tensor:
        """The base's log-probability of every token at one place of each sequence, (sequences, vocabulary)."""
        pad = self._reader.tokenizer.pad_token_id or 0
        found = []
        with torch.inference_mode():
            for start in range(0, len(ids), _PASS):
                part = [list(one) for one in ids[start : start + _PASS]]
                width = max(map(len, part))
                at = torch.zeros(len(part), width, dtype=torch.bool)
                at[torch.arange(len(part)), torch.tensor(places[start : start + _PASS])] = True
                batch = {
                    "input_ids": torch.tensor([one + [pad] * (width - len(one)) for one in part]),
                    "attention_mask": torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in part]),
                    "labels": torch.zeros(len(part), dtype=torch.long),
                }
                step = Step(self._host, batch, cloze.HEADS[self._base.architecture])
                found.append(step.vocabulary(at).float().log_softmax(-1))
        return torch.cat(found)

    def prior(self, asked: blanks.Cloze) -> list[float]:
        """Log-probability of each class where the text says nothing: the mean over texts without content."""
        texts = [blanks.Shown(text, text if "{second}" in self._template else "", "") for text in CONTENT_FREE]
        shares = torch.cat([step.logits.softmax(-1) for step in self._steps(asked, texts)])
        return [float(v) for v in shares.mean(0).clamp(min=1e-8).log()]

    def _steps(self, asked: blanks.Cloze, rows: Sequence[blanks.Shown]) -> Iterator[Step]:
        with torch.inference_mode():
            for start in range(0, len(rows), _PASS):
                part = rows[start : start + _PASS]
                made = asked.encode([s.text for s in part], [s.second for s in part], self._reader)
                records = [{"views": e.views, "asked": e.asked, "labels": 0} for e in made]
                pad = self._reader.tokenizer.pad_token_id
                batch = blanks.collate(records, asked, pad if pad is not None else 0)
                yield Step(self._host, batch, cloze.HEADS[self._base.architecture])
