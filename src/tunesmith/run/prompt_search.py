"""Templates and label words for a cloze, searched with the untuned base and chosen by tuning each on the few rows.

As LM-BFF does (Gao, Fisch and Chen 2021, arXiv:2012.15723, sec. 5): words are ranked by the untuned base, templates are
written by filling blanks around the label's word, and the best of either is chosen by the validation rows after tuning,
which are as few as the training rows. The paper lets a T5 model write the templates; here the masked base itself does.
"""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..data import blanks, cloze
from ..data.reader import Reader
from ..data.rows import Rows
from ..data.tasks.classify import Classify
from ..errors import InputError
from ..evaluation.answers import Answers, Measured
from ..evaluation.intervals import measure
from ..models.bases import BaseInfo, resolve
from ..recipe import Recipe
from ..verbalisers import View, likeliest
from .carry_out import score
from .events import Listener
from .few_shot import rank
from .prepare import Parted, open_rows, part, pick_base
from .settling import Untuned, drawn

SHAPES = ((1, 1), (2, 1), (3, 1))
"""Tokens of a template between text and blank, and behind the blank."""

BEAM = 8
"""Beginnings of a template that are kept at each token, and assignments at each label, times the number wanted."""

SHOWN = 16
"""Rows that a template is written for, at most."""


@dataclasses.dataclass
class Searched:
    """What was tried, and what follows.

    Attributes:
        recipe: the recipe with the best template and words.
        tried: template, words and accuracy on the few validation rows of each candidate, the best first.
    """

    recipe: Recipe
    tried: list[tuple[str, Mapping[str, str], Measured]]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        tried = [{"template": t, "words": dict(w), "accuracy": dataclasses.asdict(m)} for t, w, m in self.tried]
        return {"tried": tried, "recipe": self.recipe.to_dict()}


def search(recipe: Recipe, *, templates: int, words: int, listen: Listener) -> Searched:
    """Find words for the recipe's template, then templates for the best words.

    Args:
        recipe: with ``rows.shots``; its parts and budget are those of every trial.
        templates: templates that are tried; 0 keeps the recipe's.
        words: assignments of words that are tried; 0 takes the labels' names.
        listen: hears each trial's figure.

    Raises:
        InputError: the task has no classes, or the base fills no blanks, or nothing is held out to choose on.
    """
    rows, task = open_rows(recipe)
    if task.name not in ("classify", "pair") or not isinstance(task, Classify):
        raise InputError(f"task {task.name} has no classes", expected="task classify or pair")
    parted = part(recipe, rows, task)
    if not len(parted.indices["validation"]):
        raise InputError("no row is held out to choose on", where="rows.validation_share", expected="above 0")
    base = resolve(recipe.base or pick_base(rows, task), recipe.revision)
    form = cloze.check(task.settings.get("cloze") or True)
    template = cloze.templates(form, base.architecture, pairs="second" in task.columns)[0]
    reader = Reader(base.tokenizer(), base.architecture, max_length=recipe.length.max or base.max_length or 1024)
    looked = _Looked(recipe, base, task, parted, reader)
    named = {label: cloze.label_words(label) for label in task.labels or []}
    given = (
        [{label: next(iter(w)) for label, w in looked.written(form).items()}] if form["words"] != "names" else [named]
    )
    found = [(template, w) for w in (assignments(looked.view(template), words) if words else [])]
    tried = looked.tune([*found, (template, given[0])], listen)
    if templates:
        best = max(tried, key=lambda one: rank(one[2]))[1]
        written = write_templates(looked.view(template), looked.shown, best, looked.reader, templates)
        tried += looked.tune([(t, best) for t in written if t != template], listen)
    tried.sort(key=lambda one: rank(one[2]), reverse=True)
    kept = looked.with_prompt(tried[0][0], tried[0][1])
    return Searched(kept, [(t, w, measure("accuracy", a)) for t, w, a in tried])


@dataclasses.dataclass
class _Looked:
    """The few rows, the untuned base's view of them, and trials on them."""

    recipe: Recipe
    base: BaseInfo
    task: Classify
    parted: Parted
    reader: Reader

    @property
    def shown(self) -> list[blanks.Shown]:
        return drawn(self.task, self.parted.tables["train"], self.parted.indices["train"], self.recipe.rows.seed)

    def view(self, template: str) -> Untuned:
        return Untuned(self.base, self.task, template, self.shown, self.reader)

    def written(self, form: Mapping[str, Any]) -> Mapping[str, Mapping[str, float]]:
        """The words that the user gave.

        Raises:
            InputError: they are to be found by a part.
        """
        if isinstance(form["words"], str):
            raise InputError(
                f"task.cloze.words is {form['words']}",
                expected="words for every label, or none: they are searched here",
            )
        return cloze.written_words(form["words"], self.task.labels or [])

    def with_prompt(self, template: str, words: Mapping[str, str]) -> Recipe:
        own = {k: v for k, v in self.task.settings.items() if k != "cloze" and v is not None}
        form = self.recipe.task.get(self.task.name, {}).get("cloze") if isinstance(self.recipe.task, Mapping) else None
        said = {**(form if isinstance(form, Mapping) else {}), "template": template, "words": dict(words)}
        return self.recipe.updated({"base": self.base.name, "task": {self.task.name: {**own, "cloze": said}}})

    def tune(
        self, candidates: Sequence[tuple[str, Mapping[str, str]]], listen: Listener
    ) -> list[tuple[str, Mapping[str, str], Answers]]:
        """Tune with each candidate on the few training rows; its answers to the few validation rows."""
        few: dict[str, Rows] = {n: self.parted.tables[n].take(self.parted.indices[n]) for n in ("train", "validation")}
        rows = {"train": few["train"].table, "test": few["validation"].table, "validation_share": 0.0, "test_share": 0.0,
                "columns": dict(self.task.columns), "seed": self.recipe.rows.seed}  # fmt: skip
        made = []
        for template, words in candidates:
            trial = self.with_prompt(template, words).updated({"rows": rows, "audit": [], "checks": {"generate": 0}})
            with tempfile.TemporaryDirectory() as folder:
                answers = score(trial, Path(folder), listen=lambda event: None).answers
            value = measure("accuracy", answers).value
            listen({"event": "note", "text": f"{value:.3f}  {template!r}  {', '.join(words.values())}"})
            made.append((template, words, answers))
        return made


# ---------------------------------------------------------------------- words


def assignments(view: View, count: int, top: int = 30) -> list[dict[str, str]]:
    """The ``count`` best assignments of a word to each label, told by the untuned base on the labelled rows.

    Of each label the ``top`` words with the largest sum of log-probabilities at its rows' blanks; assignments grow label by
    label, those that tell most rows right being kept, the likelier ones where several tell the same.
    """
    tried = [likeliest(view.said[view.classes == c].sum(0), view, top) for c in range(len(view.labels))]
    beam: list[tuple[int, ...]] = [()]
    for c, words in enumerate(tried):
        grown = [(*known, w) for known in beam for w in words if w not in known]
        rows = view.classes <= c
        said, classes = view.said[rows], view.classes[rows]
        told: list[tuple[float, tuple[int, ...]]] = []
        for one in grown:
            scores = said[:, list(one)].log_softmax(-1)
            likely = scores.gather(1, classes[:, None]).mean().exp()
            told.append((float((scores.argmax(-1) == classes).float().mean() + 0.01 * likely), one))
        beam = [one for _, one in sorted(told, key=lambda t: -t[0])[: BEAM * count]]
    return [{label: str(view.word(t)) for label, t in zip(view.labels, one, strict=True)} for one in beam[:count]]


# ---------------------------------------------------------------------- templates


def write_templates(
    base: Untuned, rows: Sequence[blanks.Shown], words: Mapping[str, str], reader: Reader, count: int
) -> list[str]:
    """Templates that the masked base writes around the label's word behind each row's text, the likeliest first.

    The tokens between text and word, and behind the word, are filled in from left to right; a token's score is the sum of
    its log-probabilities over all rows, and ``BEAM`` beginnings are kept. Scores are compared by their mean over tokens.

    Raises:
        InputError: the base is no masked language model, or the rows are pairs.
    """
    if reader.architecture != "encoder" or any(row.second for row in rows):
        raise InputError(
            "templates are written by a masked language model for single texts", fix="--templates 0, and write your own"
        )
    rows = rows[:SHOWN]
    fits = _fits(reader)
    found: list[tuple[float, str]] = []
    for before, behind in SHAPES:
        for score_, tokens in _written(base, rows, words, reader, before, behind, fits, count):
            texts = [reader.tokenizer.decode(part) for part in (tokens[:before], tokens[before:])]
            apart = " " if texts[1][:1].isalnum() else ""
            found.append((score_ / (before + behind), f"{{text}} {texts[0]} {{mask}}{apart}{texts[1]}"))
    ranked = dict.fromkeys(template for _, template in sorted(found, reverse=True))
    return list(itertools.islice(ranked, count))


def _fits(reader: Reader) -> torch.Tensor:
    """Which tokens may stand in a template: words and punctuation that read the same when they are read again."""
    tokenizer = reader.tokenizer
    texts = [tokenizer.decode([t]) for t in range(len(tokenizer))]
    special = set(tokenizer.all_special_ids)
    plain = [t not in special and not set("{}#[]") & set(x) and bool(x.strip()) for t, x in enumerate(texts)]
    return torch.tensor(plain)


def _written(
    base: Untuned, rows: Sequence[blanks.Shown], words: Mapping[str, str], reader: Reader, before: int, behind: int,
    fits: torch.Tensor, count: int,
) -> list[tuple[float, tuple[int, ...]]]:  # fmt: skip
    """The best fillings of one shape: sum of log-probabilities, tokens."""
    mask = int(reader.tokenizer.mask_token_id)
    first, last = reader.around
    texts = [reader.ids(reader.first_tokens(row.text, 40)) for row in rows]
    named = [reader.word(words[row.label], True) for row in rows]

    def sequence(number: int, known: Sequence[int]) -> tuple[list[int], int]:
        slots = [*known, *[mask] * (before + behind - len(known))]
        at = len(known) + (len(named[number]) if len(known) >= before else 0)
        own = [*slots[:before], *named[number], *slots[before:]]
        return [*first, *texts[number], *own, *last], len(first) + len(texts[number]) + at

    beam: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for _ in range(before + behind):
        grown: list[tuple[float, tuple[int, ...]]] = []
        for total, known in beam:
            asked = [sequence(number, known) for number in range(len(rows))]
            said = base.fills([ids for ids, _ in asked], [place for _, place in asked]).sum(0)
            said[: len(fits)][~fits] = -torch.inf
            best = said.topk(BEAM)
            grown += [(total + float(v), (*known, int(t))) for v, t in zip(best.values, best.indices, strict=True)]
        beam = sorted(grown, reverse=True)[: max(BEAM, count)]
    return beam
