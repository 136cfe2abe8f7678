"""A settled cloze: rows as ids with places that are asked, and batches of them.

A row becomes one text a *view* (a template with a choice of demonstrations); every *word* of every label is asked for in
each view. An encoder reads all pieces of a word at the one mask; a causal model reads a word behind the text, piece by
piece. Where plausibility is asked, the word is filled in and the row's own tokens are asked for instead.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .similarity import Similarity
from .tasks import Encoding

if TYPE_CHECKING:
    from torch import Tensor

    from .reader import Reader


@dataclass(frozen=True)
class Shown:
    """A row that may be shown as an example of its label."""

    text: str
    second: str
    label: str


@dataclass(frozen=True)
class View:
    """A template with texts in it: ids, places of what is asked for, and whether a space stands before the blank."""

    ids: list[int]
    places: list[int]
    spaced: bool


Asked = tuple[int, int, int, int]
"""Sequence, place, token and word of one thing that is asked."""


@dataclass
class Cloze:
    """All that turns a row into ids and places, and its words' scores into classes.

    Attributes:
        labels: the classes.
        architecture: ``encoder`` or ``decoder``.
        template: the templates.
        verbalised: label -> word -> weight.
        pieces: a word as it stands in a text, with the space before it if there is one -> its ids.
        combine: ``mean``: a class scores the weighted mean of its words' log-probabilities; ``sum``: the logarithm of
            the weighted mean of their probabilities.
        demonstrations: examples of each label that are shown with a row.
        sets: choices of examples; their scores are combined like those of templates.
        similar: share of a label's rows, the most alike first, from which examples are drawn.
        pool: rows that may be shown.
        prior: log-probability of each class without a text, which is taken off; empty for none.
        plausibility: whether the row's own tokens are scored, given the label's word.
    """

    labels: list[str]
    architecture: str
    template: list[str]
    verbalised: dict[str, dict[str, float]]
    pieces: dict[str, list[int]]
    combine: str = "mean"
    demonstrations: int = 0
    sets: int = 1
    similar: float = 1.0
    pool: list[Shown] = field(default_factory=list)
    prior: list[float] = field(default_factory=list)
    plausibility: bool = False

    @classmethod
    def read(cls, form: Mapping[str, Any], labels: Sequence[str]) -> Cloze:
        """The cloze that a task's settings describe, once they are settled."""
        same = ("architecture", "template", "verbalised", "pieces", "combine", "demonstrations", "sets", "similar",
                "prior", "plausibility")  # fmt: skip
        return cls(list(labels), pool=[Shown(*entry) for entry in form["pool"]], **{k: form[k] for k in same})

    @cached_property
    def words(self) -> list[tuple[int, str, float]]:
        """Class, word and weight of every word; the weights of a class add up to 1."""
        return [
            (c, word, weight / sum(self.verbalised[label].values()))
            for c, label in enumerate(self.labels)
            for word, weight in self.verbalised[label].items()
        ]

    @property
    def views(self) -> int:
        """Texts that a row becomes, before words are put into them."""
        return len(self.template) * (self.sets if self.demonstrations else 1)

    # ------------------------------------------------------------------ rows as ids

    def encode(self, texts: Sequence[str], seconds: Sequence[str], reader: Reader) -> list[Encoding]:
        """Rows as ids: ``views`` of ids, and ``asked`` as four lists (`Asked`).

        Raises:
            InputError: the template, or what is shown with a row, leaves no room for its text.
        """
        return [self._row(Shown(text, second, ""), reader) for text, second in zip(texts, seconds, strict=True)]

    def _row(self, row: Shown, reader: Reader) -> Encoding:
        sequences: list[list[int]] = []
        asked: list[Asked] = []
        full = 0
        for number, (template, shown) in enumerate(self._choices(row.text)):
            first = number * len(self.words)
            if self.plausibility:
                for w, (_, word, _) in enumerate(self.words):
                    view, size = self._fit(template, row, shown, reader, word)
                    self._ask_text(sequences, asked, view, first + w, reader)
                    full = max(full, size)
                continue
            view, size = self._fit(template, row, shown, reader)
            self._ask_words(sequences, asked, view, first)
            full = max(full, size)
        return Encoding(
            sequences[0], None, full=full, views=sequences, asked=[list(c) for c in zip(*asked, strict=True)]
        )

    def _choices(self, text: str) -> list[tuple[str, list[Shown]]]:
        sets = [self.shown_with(text, n) for n in range(self.sets)] if self.demonstrations else [[]]
        return [(template, shown) for template in self.template for shown in sets]

    def shown_with(self, text: str, number: int) -> list[Shown]:
        """The examples shown with a text: of each label some of the rows most like it, never the text itself.

        The draw follows from text and number alone, so that a row has the same ids in training and in use.
        """
        draw = random.Random(hashlib.sha256(f"{number} {text}".encode()).digest())
        chosen = []
        for label in self.labels:
            others = [i for i, shown in enumerate(self.pool) if shown.label == label and shown.text != text]
            if self.similar < 1:
                others.sort(key=lambda i: (-self._similarity.of(text, i), i))
                others = others[: max(self.demonstrations, math.ceil(self.similar * len(others)))]
            chosen += [self.pool[i] for i in draw.sample(others, min(self.demonstrations, len(others)))]
        draw.shuffle(chosen)
        return chosen

    @cached_property
    def _similarity(self) -> Similarity:
        return Similarity([shown.text for shown in self.pool])

    # ------------------------------------------------------------------ one view

    def _fit(
        self, template: str, row: Shown, shown: Sequence[Shown], reader: Reader, word: str | None = None
    ) -> tuple[View, int]:
        """A view and its full size; where it is too long, the longest of its texts is cut at its end until it fits."""
        texts = [t for r in (row, *shown) for t in (r.text, r.second)]
        tail = max(len(p) - 1 for p in self.pieces.values()) if self.architecture == "decoder" and word is None else 0
        view = self._fill(template, texts, shown, reader, word)
        full = len(view.ids) + tail
        while (over := len(view.ids) + tail - reader.max_length) > 0:
            sizes = [reader.size(text) for text in texts]
            longest = sizes.index(max(sizes))
            if sizes[longest] <= 1:
                raise InputError(
                    f"the template leaves no room for a text at length {reader.max_length}",
                    fix="raise --length, shorten the template, or show fewer demonstrations",
                )
            texts[longest] = reader.first_tokens(texts[longest], max(1, sizes[longest] - over))
            view = self._fill(template, texts, shown, reader, word)
        return view, full

    def _fill(
        self, template: str, texts: Sequence[str], shown: Sequence[Shown], reader: Reader, word: str | None
    ) -> View:
        """A template with texts in it, and the examples behind it, or for a causal model before it."""
        pairs = list(zip(texts[::2], texts[1::2], strict=True))
        examples = [
            template.format(text=t, second=s, mask=self._chief(e.label))
            for e, (t, s) in zip(shown, pairs[1:], strict=True)
        ]
        causal = self.architecture == "decoder"
        context = "".join(f"{e}\n\n" for e in examples) if causal else "".join(f" {e}" for e in examples)
        if word is not None:
            before, after = template.split("{text}", 1)
            before, after = (p.format(text=pairs[0][0], second=pairs[0][1], mask=word) for p in (before, after))
            return View(*reader.spanned(context * causal + before, pairs[0][0], after + context * (not causal)), False)
        before, after = (p.format(text=pairs[0][0], second=pairs[0][1]) for p in template.split("{mask}"))
        spaced = before.endswith(" ")
        if causal:
            ids = reader.beginning(context + (before[:-1] if spaced else before))
            return View(ids, [len(ids) - 1], spaced)
        ids, places = reader.spanned(before, reader.mask, after + context)
        return View(ids, [p for p in places if ids[p] == reader.tokenizer.mask_token_id], spaced)

    def _chief(self, label: str) -> str:
        """The word of a label that examples show: the one of most weight."""
        weights = self.verbalised[label]
        return max(weights, key=lambda word: weights[word])

    def _ask_words(self, sequences: list[list[int]], asked: list[Asked], view: View, first: int) -> None:
        """Ask for every word at a view's blank; ``first`` is the number of the view's first word."""
        spelled = [self.pieces[" " * view.spaced + word] for _, word, _ in self.words]
        begin, place = len(sequences), view.places[0]
        if self.architecture == "encoder":
            sequences.append(view.ids)
            asked += [(begin, place, t, first + w) for w, ids in enumerate(spelled) for t in ids]
            return
        tails = _longest([tuple(ids[:-1]) for ids in spelled])
        sequences += [[*view.ids, *tail] for tail in tails]
        for w, ids in enumerate(spelled):
            there = next(i for i, tail in enumerate(tails) if list(tail[: len(ids) - 1]) == ids[:-1])
            asked += [(begin + there, place + j, t, first + w) for j, t in enumerate(ids)]

    def _ask_text(self, sequences: list[list[int]], asked: list[Asked], view: View, word: int, reader: Reader) -> None:
        """Ask for every token of the row's text, by an encoder masked in its turn, by a causal model given what precedes."""
        if self.architecture == "decoder":
            asked += [(len(sequences), p - 1, view.ids[p], word) for p in view.places if p > 0]
            sequences.append(view.ids)
            return
        mask = int(reader.tokenizer.mask_token_id)
        for p in view.places:
            asked.append((len(sequences), p, view.ids[p], word))
            sequences.append([*view.ids[:p], mask, *view.ids[p + 1 :]])


def _longest(tails: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The tails that are no beginning of another one, the longest first.

    >>> _longest([(), (1,), (1, 2), (3,)])
    [(1, 2), (3,)]
    """
    kept: list[tuple[int, ...]] = []
    for tail in sorted(set(tails), key=lambda t: (-len(t), t)):
        if not any(other[: len(tail)] == tail for other in kept):
            kept.append(tail)
    return kept


# ---------------------------------------------------------------------- batches


def collate(rows: Sequence[Mapping[str, Any]], cloze: Cloze, pad_id: int) -> dict[str, Tensor]:
    """A batch: all sequences of all rows, (sequences, length), ``labels`` (rows,), and what is asked.

    ``asked`` is (things, 5): sequence, place, token, word, row; ``shares`` (things,) is the factor of each in its
    word's score; ``mean_words`` or ``sum_words`` (words, classes) is the weight of each word in each class; ``prior``
    (classes,) is taken off.

    Args:
        rows: encoded rows.
        cloze: what they were encoded with.
        pad_id: fills the places beyond a sequence's end.
    """
    import torch

    sequences = [ids for row in rows for ids in row["views"]]
    width = max(len(ids) for ids in sequences)
    ids = torch.tensor([[*s, *[pad_id] * (width - len(s))] for s in sequences])
    there = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences])
    asked, begin = [], 0
    for number, row in enumerate(rows):
        columns = torch.tensor(row["asked"])
        columns[0] += begin
        asked.append(torch.cat([columns, torch.full((1, columns.shape[1]), number)]).T)
        begin += len(row["views"])
    labels = torch.tensor([row["labels"] for row in rows])
    batch = {"input_ids": ids, "attention_mask": there, "labels": labels, "asked": torch.cat(asked)}
    if rows[0].get("soft") is not None:
        batch["soft"] = torch.tensor([row["soft"] for row in rows])
    return batch | _weights(cloze, batch["asked"])


def _weights(cloze: Cloze, asked: Tensor) -> dict[str, Tensor]:
    import torch

    table = torch.zeros(len(cloze.words), len(cloze.labels))
    for number, (c, _, weight) in enumerate(cloze.words):
        table[number, c] = weight / cloze.views
    made = {f"{cloze.combine}_words": table.repeat(cloze.views, 1), "shares": torch.ones(len(asked))}
    if cloze.architecture == "encoder" and not cloze.plausibility:
        units = asked[:, 4] * len(cloze.words) * cloze.views + asked[:, 3]
        made["shares"] = 1 / torch.bincount(units)[units].float()
    if cloze.prior:
        made["prior"] = torch.tensor(cloze.prior)
    return made
