"""What an audit may ask of base and tuned model, computed when it is asked, and the audits of a run."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ..audits import Row
from ..audits._texts import asked
from ..data.encode import collator
from ..data.packaged import open_rows
from ..data.rows import read as read_rows
from ..data.tasks import Encoding, Task
from ..data.tasks.lm import LanguageModel
from ..engine.generate import Sampling, generate
from ..engine.predict import Reading, features, read
from ..errors import InputError, unknown
from ..evaluation.answers import Answers
from ..host import Host
from ..models.bases import load
from ..parts import Chosen, of_kind
from ..recipe import Recipe
from .build import problem_of
from .measure import Probe, answers, answers_itself, name_of_base, probe_rows
from .prepare import Prepared, group_of


class InMemory:
    """Encoded rows in memory: what an audit has made of a run's rows.

    Args:
        pieces: encodings of each row.
        originals: the rows.
    """

    def __init__(self, pieces: Sequence[Sequence[Encoding]], originals: Sequence[Row]):
        self._originals = list(originals)
        self._records = [
            {"input_ids": p.input_ids, "labels": p.labels, "token_type_ids": p.token_type_ids, "words": p.words,
             "views": p.views, "asked": p.asked, "source": p.source, "rationale": p.rationale}
            for row in pieces for p in row
        ]  # fmt: skip
        self.rows = np.repeat(np.arange(len(pieces)), [len(row) for row in pieces])
        self.lengths = np.array([len(r["input_ids"]) for r in self._records])

    def __len__(self) -> int:
        return len(self._records)

    def take(self, indices: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        return [self._records[int(i)] for i in indices]

    def where(self, index: int) -> str:
        return f"audited row {int(self.rows[int(index)]) + 1}"

    def original(self, index: int) -> dict[str, Any]:
        return dict(self._originals[int(self.rows[int(index)])])


class BaseAndTuned:
    """Base and tuned model of a run with its rows: the `audits.Pair` of real models.

    The base is the tuned model with its adapters off. Where the run has moved the model's own weights, the base is
    loaded anew, once, when it is first asked.

    Args:
        prepared: the run's recipe, rows and reader.
        tuned: how the tuned model reads rows.
        held_out: indices of the test rows that the report stands on.
        probe: the linear probe on the base, if it has been fitted; else it is fitted when first asked.
        known: answers of base and tuned model on the held-out rows, where they have been had.
    """

    def __init__(
        self, prepared: Prepared, tuned: Reading, held_out: np.ndarray, probe: Probe | None = None,
        known: tuple[Answers, Answers] | None = None,
    ):  # fmt: skip
        self.prepared, self.tuned = prepared, tuned
        self.task: Task = prepared.task
        self.architecture = prepared.base.architecture
        self.source = str(prepared.recipe.rows.train)
        self.group = group_of(prepared.recipe)
        self.seed = prepared.recipe.seed
        self.base_name = name_of_base(self.task)
        self._held_out = held_out
        self._probe = probe
        self._answered: dict[bool, list[tuple[dict[str, int], Answers]]] = {False: [], True: []}
        if known:
            rows = self.held_out()
            keys = self._keys(rows, self._pieces(rows))
            for is_tuned, said in zip((False, True), known, strict=True):
                self._keep(is_tuned, keys, said)

    # ------------------------------------------------------------------ rows

    def held_out(self, count: int | None = None) -> list[Row]:
        """At most so many held-out rows; see `audits.Pair`."""
        drawn = self._held_out if count is None else np.random.default_rng(self.seed).permutation(self._held_out)
        return self._originals("test", drawn, count)

    def training(self, count: int) -> list[Row]:
        """At most so many training rows, which the probe has seen too."""
        drawn = probe_rows(self.prepared.encoded["train"], self.prepared.recipe.rows.seed)
        return self._originals("train", drawn, count)

    def _originals(self, split: str, drawn: np.ndarray, count: int | None) -> list[Row]:
        encoded = self.prepared.encoded[split]
        firsts = {int(encoded.rows[i]): int(i) for i in drawn[::-1]}
        order = list(dict.fromkeys(int(encoded.rows[i]) for i in drawn))[:count]
        return [encoded.original(firsts[row]) for row in order]

    # ------------------------------------------------------------------ the two models

    @cached_property
    def _base(self) -> Reading:
        prepared = self.prepared
        if prepared.recipe.mask is None:
            return dataclasses.replace(self.tuned, terms=())
        labels = self.task.labels if self.task.name != "regress" else None
        problem = problem_of(prepared.head, labels, multi=bool(getattr(self.task, "multi", False)))
        loaded = load(prepared.base, prepared.head, labels=labels, seed=prepared.recipe.seed, problem=problem)
        host = Host(loaded.model, loaded.fresh).to(self.tuned.device).eval()
        return dataclasses.replace(self.tuned, host=host, terms=())

    @contextlib.contextmanager
    def _model(self, tuned: bool) -> Iterator[Reading]:
        with contextlib.nullcontext() if tuned else self._base.host.off():
            yield self.tuned if tuned else self._base

    @cached_property
    def probe(self) -> Probe:
        """The linear probe that answers for the base of an encoder."""
        if self._probe is not None:
            return self._probe
        return Probe(self.task, self._base, self.prepared.encoded["train"], self.prepared.recipe.rows.seed)

    def answers(self, rows: Sequence[Row], *, tuned: bool) -> Answers:
        """What the model says of rows of the run's task; rows that it has read before are not read again."""
        pieces = self._pieces(rows)
        keys = self._keys(rows, pieces)
        for places, said in self._answered[tuned]:
            if all(key in places for key in keys):
                return _taken(said, [places[key] for key in keys])
        held = InMemory(pieces, rows)
        every = np.arange(len(held))
        if not tuned and not answers_itself(self.task):
            found = self.probe.answers(self._base, held, every)
        else:
            with self._model(tuned) as reading:
                found = answers(self.task, held, read(reading, held, every), every)
        self._keep(tuned, keys, found)
        return found

    def _pieces(self, rows: Sequence[Row]) -> list[list[Encoding]]:
        pieces = self.task.encode(rows, self.prepared.reader)
        return [p[:1] for p in pieces] if self.task.name == "lm" else pieces

    def _keys(self, rows: Sequence[Row], pieces: Sequence[Sequence[Encoding]]) -> list[str]:
        """What tells apart rows that the model reads differently: their ids and what is asked of them."""
        truth = [self.task.target(row) if self.task.name == "tag" else None for row in rows]
        return [
            repr(([(p.views or p.input_ids, p.labels) for p in row], a)) for row, a in zip(pieces, truth, strict=True)
        ]

    def _keep(self, tuned: bool, keys: list[str], said: Answers) -> None:
        self._answered[tuned].append(({key: i for i, key in enumerate(keys)}, said))

    def features(self, texts: Sequence[str], *, tuned: bool) -> np.ndarray:
        """The mean last hidden state of each text."""
        pieces = [[dataclasses.replace(e, labels=0)] for e in self.prepared.reader.texts(list(texts))]
        held = InMemory(pieces, [{"text": text} for text in texts])
        model = self.tuned if tuned else self._base
        plain = dataclasses.replace(model, collate=self._collate(Task({})), head="sequence-classification")
        return features(plain, held, tuned=tuned)

    def _collate(self, task: Task) -> Any:
        pad = self.prepared.reader.tokenizer.pad_token_id
        return collator(task, pad if pad is not None else 0)

    def losses(self, texts: Sequence[str], *, tuned: bool, tokens: int) -> Answers:
        """A language model's loss of each text's first tokens."""
        reader = copy.copy(self.prepared.reader)
        reader.max_length = min(tokens, self.prepared.base.max_length or tokens)
        task = LanguageModel({"text": "text"})
        held = InMemory([p[:1] for p in reader.documents(list(texts))], [{"text": text} for text in texts])
        with self._model(tuned) as model:
            reading = dataclasses.replace(model, collate=self._collate(task))
            return answers(task, held, read(reading, held), np.arange(len(held)))

    def write(self, prompts: Sequence[str], *, tuned: bool, tokens: int) -> list[tuple[str, bool]]:
        """What a language model writes after each prompt, and whether it stopped by itself."""
        task: Any = self.task
        reader = self.prepared.reader
        ids = [reader.shorten(task.prompt_ids(asked(task, p), reader), reader.max_length) for p in prompts]
        with self._model(tuned) as model:
            made = generate(model.host, ids, reader.tokenizer, sampling=Sampling(max_tokens=tokens), dtype=model.dtype)
            return [(reader.tokenizer.decode(w.ids, skip_special_tokens=True).strip(), w.stopped) for w in made]

    # ------------------------------------------------------------------ words

    def neighbours(self, words: Sequence[str], count: int) -> dict[str, list[str]]:
        """The whole words nearest to each in the base's embedding table, by the cosine of centred vectors."""
        table, ids, names = self._vocabulary
        place = {name.lower(): i for i, name in reversed(list(enumerate(names)))}
        known = [w for w in dict.fromkeys(words) if w.lower() in place]
        found: dict[str, list[str]] = {}
        for start in range(0, len(known), 256):
            part = known[start : start + 256]
            near = table[[place[w.lower()] for w in part]] @ table.T
            best = near.topk(min(len(names), 4 * count + 1)).indices.tolist()
            for word, order in zip(part, best, strict=True):
                others = dict.fromkeys(names[i].lower() for i in order)
                found[word] = [_cased(w, word) for w in others if not _same_stem(w, word.lower())][:count]
        return found

    @cached_property
    def _vocabulary(self) -> tuple[torch.Tensor, list[int], list[str]]:
        """Centred unit vectors of the whole words of the base's vocabulary, their ids and the words."""
        tokens = self.prepared.reader.tokenizer.get_vocab()
        marks = {mark for mark in ("Ġ", "▁") if sum(t.startswith(mark) for t in tokens) > len(tokens) // 10}
        kept = {}
        for token, i in sorted(tokens.items(), key=lambda item: item[1]):
            word = token[1:] if token[:1] in marks else "" if marks else token
            if len(word) > 2 and word.isalpha():
                kept[i] = word
        weight = self._base.host.model.get_input_embeddings().weight.detach().float()
        rows = weight[list(kept)]
        rows = rows - rows.mean(0)
        return torch.nn.functional.normalize(rows, dim=1), list(kept), list(kept.values())


def _cased(word: str, like: str) -> str:
    return word.upper() if like.isupper() and len(like) > 1 else word.capitalize() if like[:1].isupper() else word


def _same_stem(one: str, two: str) -> bool:
    """Whether one word is the other with another ending: a form of the same word is no replacement."""
    short, long = sorted((one, two), key=len)
    return long.startswith(short[: max(3, len(short) - 2)])


def _taken(said: Answers, places: list[int]) -> Answers:
    """The answers at these places."""

    def pick(values: Any) -> Any:
        if isinstance(values, np.ndarray):
            return values[places]
        return [values[i] for i in places] if values is not None and len(values) else values

    rows = ("references", "predictions", "probabilities", "loss", "units")
    return dataclasses.replace(said, **{name: pick(getattr(said, name)) for name in rows})


# ---------------------------------------------------------------------- the audits of a run


def check_audits(recipe: Recipe, task: Task) -> None:
    """Open every row set that the recipe's audits read, so that none is found missing after the training.

    Raises:
        InputError: one cannot be had.
    """
    for chosen in recipe.audit:
        audit = chosen.build()
        if audit.applies(task):
            for source in audit.reads(str(recipe.rows.train)):
                try:
                    read_rows(source).column("text")
                except InputError as error:
                    fix = f"name others with audit.{chosen.name}.text, or leave the audit out"
                    raise InputError(str(error), where=f"audit.{chosen.name}", fix=fix) from None


def chosen_audits(names: str | None) -> list[Chosen]:
    """Audits by their names, separated by commas; None takes all.

    Raises:
        InputError: there is none of that name.
    """
    every = of_kind("audit")
    wanted = list(every) if names is None else [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in every:
            raise unknown("audit", name, every)
    return [every[name].choose() for name in wanted]


def audits_at_hand() -> tuple[list[str], dict[str, str]]:
    """Names of the audits whose rows are on this machine already, and for each other one the rows that it would fetch.

    Nothing is fetched: an audit that nobody asked for is no reason to use the network.
    """
    names, left_out = [], {}
    for name, part in of_kind("audit").items():
        wanted = [source for source in part.choose().build().reads("") if not _at_hand(source)]
        if wanted:
            left_out[name] = ", ".join(wanted)
        else:
            names.append(name)
    return names, left_out


def _at_hand(source: str) -> bool:
    kind, _, alias = source.partition(":")
    if kind != "packaged":
        return True
    try:
        open_rows(alias, offline=True)
    except InputError:
        return False
    return True


def audit(pair: BaseAndTuned, audits: Sequence[Chosen], say: Any = lambda text: None) -> dict[str, Any]:
    """Ask every audit.

    Args:
        pair: base and tuned model.
        audits: which.
        say: hears a line for each.

    Returns:
        ``findings`` (audit, figure, base, tuned, change, words), ``left_out`` (audit -> why it has no answer),
        ``seconds`` (audit -> wall time).
    """
    found: dict[str, Any] = {"findings": [], "left_out": {}, "seconds": {}}
    for chosen in audits:
        asking = chosen.build()
        if reason := asking.lacks(pair):
            found["left_out"][chosen.name] = reason
            continue
        started = time.perf_counter()
        findings = asking(pair)
        found["findings"] += [{"audit": chosen.name, **finding.to_dict()} for finding in findings]
        found["seconds"][chosen.name] = round(time.perf_counter() - started, 2)
        say(f"audit {chosen.name}: {found['seconds'][chosen.name]:.1f} s")
    return found
