"""Scores of a model on held-out rows, and what it has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ..data.encode import Encoded
from ..data.reader import Reader
from ..data.tasks import Task
from ..engine.generate import Sampling, generate
from ..engine.loop import Rows
from ..engine.predict import Outputs, Reading, features, read, token_features
from ..evaluation import baselines
from ..evaluation.answers import Answers

PROBE_ROWS = 5000
"""Training rows that the linear probe sees at most: beyond these it hardly gains, and it must stay cheap."""

PROBE_TOKENS = 20_000

WRITERS = ("generate", "chat", "lm", "prefer")
"""Tasks whose base answers by itself, with the head that it came with; the others' base is asked by a linear probe."""

PLAIN_BASE, PROBED_BASE, IN_CONTEXT = "base (zero-shot)", "base (linear probe)", "base (in context)"


def answers_itself(task: Task) -> bool:
    """Whether the base answers with the head that it came with."""
    return task.name in WRITERS or "cloze" in task.settings


def name_of_base(task: Task) -> str:
    """Who answers for the base."""
    if not answers_itself(task):
        return PROBED_BASE
    return IN_CONTEXT if task.settings.get("cloze", {}).get("demonstrations") else PLAIN_BASE


class Held(Rows, Protocol):
    """Encoded rows, on disk or in memory."""

    @property
    def rows(self) -> np.ndarray:
        """Index of the original row of each."""

    def original(self, index: int) -> dict[str, Any]:
        """The original row."""

    def take(self, indices: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """These encoded rows."""


@dataclass(frozen=True)
class Scale:
    """A regression's numbers are learned at mean 0 and deviation 1; this brings them there and back."""

    mean: float = 0.0
    deviation: float = 1.0


def labels_of(encoded: Encoded) -> list[Any]:
    """The encoded label of every row."""
    return [row["labels"] for row in encoded.take(np.arange(len(encoded)))]


def answers(task: Task, encoded: Held, outputs: Outputs, chosen: np.ndarray, scale: Scale = Scale()) -> Answers:  # noqa: B008
    """What a model said of these rows, ready to be scored."""
    if task.name in ("classify", "pair"):
        return _classes(task, [encoded.take([i])[0]["labels"] for i in chosen], outputs.logits)
    if task.name == "regress":
        said = outputs.logits[:, 0].astype(float) * scale.deviation + scale.mean
        return Answers([encoded.take([i])[0]["labels"] for i in chosen], said.tolist())
    if task.name == "tag":
        originals = [encoded.original(i) for i in chosen]
        tagged = [tags_of(task, encoded.take([i])[0], t, len(o[task.columns["tokens"]]))
                for i, t, o in zip(chosen, outputs.tokens, originals, strict=True)]  # fmt: skip
        truth = [task.target(o) for o in originals]
        return Answers(truth, tagged, loss=outputs.loss, units=outputs.units)
    if task.name == "prefer":
        return _preferred(outputs)
    return _by_row(encoded, outputs, chosen)


def _classes(task: Task, truth: list[Any], logits: np.ndarray) -> Answers:
    labels = task.labels or []
    if getattr(task, "multi", False):
        share = 1 / (1 + np.exp(-logits.astype(float)))
        return Answers(truth, (share > 0.5).astype(float).tolist(), share, labels, multi=True)
    z = logits.astype(float) - logits.max(1, keepdims=True)
    share = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    return Answers(truth, share.argmax(1).tolist(), share, labels)


def tags_of(task: Task, encoded: dict[str, Any], scores: np.ndarray, words: int) -> list[str]:
    """A tag for every word; words that were cut off get the first tag, which is ``O`` where there is one."""
    labels = task.labels or []
    said = [labels[0]] * words
    for word, score in zip(encoded["words"], scores, strict=True):
        said[word] = labels[int(score.argmax())]
    return said


def _preferred(outputs: Outputs) -> Answers:
    """Losses of the good answers; of pairs also whether the chosen answer is the likelier one, token by token."""
    margins = [float(m[0]) for m in outputs.tokens if len(m)]
    said = [int(margin > 0) for margin in margins]
    return Answers([1] * len(outputs.loss), said, loss=outputs.loss, units=outputs.units)


def _by_row(encoded: Held, outputs: Outputs, chosen: np.ndarray) -> Answers:
    """Losses of a language model, with the pieces of one text added up."""
    owners, place = np.unique(encoded.rows[chosen], return_inverse=True)
    loss, units = np.zeros(len(owners)), np.zeros(len(owners), dtype=np.int64)
    np.add.at(loss, place, outputs.loss)
    np.add.at(units, place, outputs.units)
    return Answers([""] * len(owners), loss=loss, units=units)


class Probe:
    """The linear probe on the frozen base: fitted once on training rows, asked of any others.

    Args:
        task: what the rows ask for: classes, numbers or tags.
        reading: the model; whatever is attached to it is switched off.
        train: encoded training rows, of which `PROBE_ROWS` (`PROBE_TOKENS` words for tags) are seen.
        seed: of the draw of those rows.
    """

    def __init__(self, task: Task, reading: Reading, train: Encoded, seed: int):
        self.task = task
        self.drawn = probe_rows(train, seed)
        self.labels = task.labels or []
        multi = bool(getattr(task, "multi", False))
        if task.name == "tag":
            enough = self.drawn[: int(np.searchsorted(np.cumsum(train.units[self.drawn]), PROBE_TOKENS)) + 1]
            seen, classes, _ = token_features(reading, train, enough)
            self.model = baselines.LinearProbe(seen, classes.tolist(), self.labels, seed=seed)
        else:
            known = [train.take([i])[0]["labels"] for i in self.drawn]
            labels = self.labels if task.name != "regress" else ()
            self.model = baselines.LinearProbe(
                features(reading, train, self.drawn), known, labels, multi=multi, seed=seed
            )

    def answers(self, reading: Reading, rows: Held, chosen: np.ndarray) -> Answers:
        """What it says of these rows."""
        if self.task.name != "tag":
            truth = [rows.take([i])[0]["labels"] for i in chosen]
            return self.model.answers(features(reading, rows, chosen), truth)
        truth = [self.task.target(rows.original(i)) for i in chosen]
        asked, held, owners = token_features(reading, rows, chosen)
        scores = self.model.answers(asked, held.tolist()).probabilities
        assert scores is not None
        tagged = []
        for place, i in enumerate(chosen):
            tagged.append(tags_of(self.task, rows.take([i])[0], scores[owners == place], len(truth[place])))
        picked = np.log(np.clip(scores[np.arange(len(held)), held], 1e-12, 1))
        loss = np.bincount(owners, -picked, minlength=len(chosen))
        units = np.bincount(owners, minlength=len(chosen))
        return Answers(truth, tagged, loss=loss, units=units)


def probe_rows(train: Encoded, seed: int) -> np.ndarray:
    """The training rows that a `Probe` may see, in the order of the draw."""
    return np.random.default_rng(seed).permutation(len(train))[:PROBE_ROWS]


def before_training(
    task: Task, reading: Reading, train: Encoded, test: Encoded, chosen: np.ndarray, probe: Probe | None
) -> dict[str, Answers]:
    """What the tuned model has to beat, by name, measured on the same test rows with all that is attached switched off.

    Args:
        task: what the rows ask for.
        reading: the model.
        train: encoded training rows.
        test: encoded test rows.
        chosen: which of the test rows.
        probe: the fitted linear probe; None for a language model, whose base answers by itself.
    """
    if probe is None:
        return {PLAIN_BASE: _of_base(task, reading, test, chosen)}
    if task.name == "tag":
        truth = [task.target(test.original(i)) for i in chosen]
        floor = baselines.commonest_tag([task.target(train.original(i)) for i in probe.drawn], truth)
        return {"commonest tag": floor, PROBED_BASE: probe.answers(reading, test, chosen)}
    truth = [test.take([i])[0]["labels"] for i in chosen]
    known = [train.take([i])[0]["labels"] for i in probe.drawn]
    labels, multi = task.labels or (), bool(getattr(task, "multi", False))
    floor_name = "mean" if task.name == "regress" else "majority class"
    found = {
        floor_name: baselines.constant(known, truth, labels, multi=multi),
        PROBED_BASE: probe.answers(reading, test, chosen),
    }
    if answers_itself(task):
        found[name_of_base(task)] = _of_base(task, reading, test, chosen)
    return found


def _of_base(task: Task, reading: Reading, test: Encoded, chosen: np.ndarray) -> Answers:
    with reading.host.off():
        return answers(task, test, read(replace(reading, terms=()), test, chosen), chosen)


def write_texts(
    task: Any, reading: Reading, reader: Reader, rows: list[dict[str, Any]], tokens: int
) -> tuple[list[str], list[bool]]:
    """What the model writes for these rows' prompts, and whether it stopped by itself."""
    prompts = [reader.shorten(task.prompt_ids(row, reader), reader.max_length) for row in rows]
    written = list(
        generate(reading.host, prompts, reader.tokenizer, sampling=Sampling(max_tokens=tokens), dtype=reading.dtype)
    )
    return [reader.tokenizer.decode(w.ids, skip_special_tokens=True).strip() for w in written], [
        w.stopped for w in written
    ]
