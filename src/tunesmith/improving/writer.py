"""The model that writes, and what judges and makers may ask of it and of other models."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ..data.encode import collator
from ..data.reader import Reader
from ..data.rows import Rows
from ..data.tasks import IGNORED, Encoding, Task
from ..engine.batches import most_tokens
from ..engine.generate import Sampling, generate
from ..engine.precision import pick
from ..engine.predict import Reading, features
from ..engine.predict import read as read_outputs
from ..errors import InputError
from ..host import Host
from ..judges import Question
from ..models.bases import load, resolve
from ..recipe import Recipe
from ..run.audit import InMemory
from ..run.build import device
from ..run.measure import answers
from ..run.opened import Run
from ..run.prepare import make_reader, pick_base
from .asking import Asker, Row


class Writer:
    """A model that answers rows. It is the `judges.Bench` of real models.

    Args:
        host: the model.
        reader: turns text into ids as in training.
        task: ``generate`` or ``chat``.
        longest: most tokens that the model can read.
        precision: as in a recipe.
    """

    def __init__(self, host: Host, reader: Reader, task: Task, longest: int, precision: Any = "auto"):
        self.reader, self.task, self.longest = reader, task, longest
        self.asker = Asker(task)
        pad = reader.tokenizer.pad_token_id
        collate = collator(task, pad if pad is not None else 0)
        head = task.head(reader.architecture)
        self.reading = Reading(host, collate, head, most_tokens(device().type, writes=True), pick(precision, device()))
        self.host = host

    @classmethod
    def of_run(cls, run: Run, task: Task) -> Writer:
        """The model of a finished run."""
        return cls(run.host, run.reader, task, run.base.max_length or 1024, run.recipe.precision)

    @classmethod
    def of_base(cls, recipe: Recipe, rows: Rows, task: Task) -> Writer:
        """The base itself.

        Raises:
            InputError: there is no such base, or it cannot write.
        """
        base = resolve(recipe.base or pick_base(rows, task), recipe.revision)
        head = task.head(base.architecture)
        host = Host(load(base, head, labels=None, seed=recipe.seed).model, []).to(device()).eval()
        return cls(host, make_reader(recipe, base, rows, task), task, base.max_length or 1024, recipe.precision)

    def answer(self, rows: Sequence[Row], sampling: Sampling) -> list[list[str]]:
        """``sampling.samples`` answers to each row."""
        room = max(8, self.longest - sampling.max_tokens)
        free = self.reader.unlimited()
        task: Any = self.task
        ids = [self.reader.shorten(task.prompt_ids(row, free), room) for row in rows]
        made = generate(self.host, ids, self.reader.tokenizer, sampling=sampling, dtype=self.reading.dtype)
        texts = [self.reader.tokenizer.decode(w.ids, skip_special_tokens=True).strip() for w in made]
        return [texts[i : i + sampling.samples] for i in range(0, len(texts), sampling.samples)]

    # ------------------------------------------------------------------ what a judge may ask

    def log_probabilities(self, questions: Sequence[Question], *, base: bool, total: bool = False) -> list[np.ndarray]:
        """Mean log-probability of a token of each sample, or their sum; see `judges.Bench`."""
        if base and not self.host.adapters:
            raise InputError(
                "the writing model holds no base beside it", expected="a run with an adapter",
                fix="judge.likelihood.base=false",
            )  # fmt: skip
        rows = [self.asker.answered(q.row, text) for q in questions for text in q.samples]
        held = InMemory(self._encoded(rows), rows)
        with self.host.off() if base else contextlib.nullcontext():
            found = answers(self.task, held, read_outputs(self.reading, held), np.arange(len(held)))
        assert found.loss is not None and found.units is not None
        values = -found.loss if total else -found.loss / np.maximum(found.units, 1)
        return np.split(values, np.cumsum([len(q.samples) for q in questions])[:-1])

    def _encoded(self, rows: Sequence[Row]) -> list[list[Encoding]]:
        reader = self.reader.unlimited()
        reader.max_length = self.longest
        return self.task.encode(rows, reader)

    def predictions(self, run: str, texts: Sequence[tuple[str, str]]) -> list[Any]:
        """What another run says of pairs of texts; see `judges.Bench`."""
        return _asked(_opened(run), texts) if texts else []

    def embeddings(self, base: str, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of texts by an encoder; see `judges.Bench`."""
        reading, reader = _encoder(base)
        held = InMemory([[dataclasses.replace(e, labels=0)] for e in reader.texts(list(texts))], [{}] * len(texts))
        vectors = features(reading, held)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def context_attention(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """How much each answer attends to what the user said; see `judges.Bench`."""
        if self.reader.architecture != "decoder":
            raise InputError("attention to a context is measured in a causal model", expected="a base of kind decoder")
        model = self.host.model
        before = model.config._attn_implementation
        model.set_attn_implementation("eager")  # the fused kernels keep no attention weights
        try:
            return [np.array([self._attention(q, text) for text in q.samples]) for q in questions]
        finally:
            model.set_attn_implementation(before)

    def _attention(self, question: Question, text: str) -> float:
        (encoding,) = self._encoded([self.asker.answered(question.row, text)])[0]
        ids, labels = torch.tensor([encoding.input_ids], device=self.reading.device), np.array(encoding.labels)
        with torch.inference_mode():
            layers = self.host.model(input_ids=ids, output_attentions=True).attentions
        writes = np.flatnonzero(labels != IGNORED) - 1
        start, stop = self._context(question.row, encoding.input_ids)
        heads = [layer[0, :, writes, start:stop].float().sum(-1).mean(-1) for layer in layers]
        return float(torch.stack(heads).max())

    def _context(self, row: Row, ids: Sequence[int]) -> tuple[int, int]:
        """Where the user's own words stand: what is not the same when the user says something else."""
        task: Any = self.task
        others = [task.prompt_ids(self.asker.asking(row, text), self.reader.unlimited()) for text in ("0", "Z")]
        start = min(_common(ids, other) for other in others)
        mine = task.prompt_ids(row, self.reader.unlimited())
        after = min(_common(mine[::-1], other[::-1]) for other in others)
        return start, max(start + 1, len(mine) - after)


def _common(one: Sequence[int], two: Sequence[int]) -> int:
    """How long two sequences are the same."""
    pairs = zip(one, two, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(two)))


@lru_cache(maxsize=1)
def _opened(folder: str) -> Run:
    return Run(folder)


def _asked(run: Run, texts: Sequence[tuple[str, str]]) -> list[Any]:
    columns = run.task.columns
    if "text" not in columns or run.task.name not in ("classify", "pair", "regress"):
        raise InputError(
            f"is of task {run.task.name}", where=run.folder, expected="a run of task classify, pair or regress"
        )
    if "second" in columns:
        rows = [{columns["text"]: one, columns["second"]: two} for one, two in texts]
    else:
        rows = [{columns["text"]: two} for _, two in texts]
    if run.task.name == "regress":
        return run.predict(rows)
    labels = run.task.labels or []
    found = [dict(zip(labels, map(float, share), strict=True)) for share in run.probabilities(rows)]
    return [{"label": labels[int(np.argmax(list(shares.values())))], "probabilities": shares} for shares in found]


@lru_cache(maxsize=1)
def _encoder(name: str) -> tuple[Reading, Reader]:
    base = resolve(name)
    if base.architecture != "encoder":
        raise InputError(f"{name} is of kind {base.architecture}", expected="an encoder, e.g. minilm-l6")
    tokenizer = base.tokenizer()
    host = Host(load(base, "sequence-classification", labels=["0", "1"], seed=0).model, []).to(device()).eval()
    pad = tokenizer.pad_token_id
    reading = Reading(host, collator(Task({}), pad if pad is not None else 0), "sequence-classification")
    return reading, Reader(tokenizer, "encoder", max_length=base.max_length or 512)
