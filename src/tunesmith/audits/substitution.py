from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ..evaluation.answers import Answers
from ..settings import Count, Share
from . import Audit, Finding, Pair, Row
from ._compare import by_rows


class Substitution(Audit):
    """How few words turn an answer: a greedy attack that replaces the words that matter most by their neighbours.

    The words of a row (of a pair: of its first text) are ranked by how much its right answer loses when each is left
    out, and replaced one after the other by that neighbour in the base's own embedding table that hurts most, until the
    answer is wrong. Base and tuned model are attacked apart, with the same words to choose from. Neighbours are not always
    synonyms, so the figure compares the two models; it does not say how robust one is by itself.

    Source: Jin et al. 2019, arXiv:1907.11932, alg. 1, without its sentence encoder.

    Settings:
        rows: held-out rows that are attacked.
        share: most words of a row that may be replaced.
        neighbours: words to choose from for each.
        words: words at the beginning of a text that may be replaced.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classify", "pair")

    def __init__(self, *, rows: Count = 40, share: Share = 0.25, neighbours: Count = 6, words: Count = 30):
        self.rows, self.share, self.neighbours, self.words = rows, share, neighbours, words

    def lacks(self, pair: Pair) -> str:
        several = "a row can have several labels" if getattr(pair.task, "multi", False) else ""
        return super().lacks(pair) or several

    def __call__(self, pair: Pair) -> list[Finding]:
        rows = pair.held_out(self.rows)
        column = pair.task.columns["text"]
        words = sorted({w for row in rows for w in str(row[column]).split()[: self.words] if w.isalpha()})
        near = pair.neighbours(words, self.neighbours)
        stands = [self._attacked(pair, rows, near, tuned) for tuned in (False, True)]
        return [by_rows(pair, "accuracy_under_attack", stands[0], stands[1], greater=True)]

    def _attacked(self, pair: Pair, rows: list[Row], near: dict[str, list[str]], tuned: bool) -> np.ndarray:
        """Whether each row is still right after the attack."""
        column = pair.task.columns["text"]
        said = pair.answers(rows, tuned=tuned)
        targets = [_Target(row, column, float(p)) for row, p in zip(rows, _right(said), strict=True)]
        for target, truth, answer in zip(targets, said.references, said.predictions, strict=True):
            target.fallen = truth != answer
        self._rank(pair, targets, near, tuned)
        while open_ := [t for t in targets if not t.fallen and t.order and t.changes < self._most(t)]:
            tries = [(t, t.order[0], word) for t in open_ for word in near[t.words[t.order[0]]]]
            answers = pair.answers([t.with_word(i, word) for t, i, word in tries], tuned=tuned)
            _take(tries, answers)
            for target in open_:
                target.order.pop(0)
        return np.array([not t.fallen for t in targets], dtype=float)

    def _most(self, target: _Target) -> int:
        return max(1, int(self.share * len(target.words)))

    def _rank(self, pair: Pair, targets: list[_Target], near: dict[str, list[str]], tuned: bool) -> None:
        """Order the words that have neighbours by what the right answer loses without them."""
        asked = [
            (t, i) for t in targets if not t.fallen for i, w in enumerate(t.words[: self.words]) if near.get(w)
            and len(t.words) > 1
        ]  # fmt: skip
        if not asked:
            return
        kept = _right(pair.answers([t.with_word(i, "") for t, i in asked], tuned=tuned))
        for number in np.argsort(kept, kind="stable"):
            target, place = asked[number]
            target.order.append(place)


@dataclass
class _Target:
    """A row under attack: its words, how sure the model still is of the right answer, and the words to try, in order."""

    row: Row
    column: str
    chance: float
    words: list[str] = field(init=False)
    order: list[int] = field(default_factory=list)
    changes: int = 0
    fallen: bool = False

    def __post_init__(self) -> None:
        self.words = str(self.row[self.column]).split()

    def with_word(self, place: int, word: str) -> dict[str, Any]:
        """The row with another word in this place; an empty one leaves it out."""
        words = [*self.words[:place], *([word] if word else []), *self.words[place + 1 :]]
        return {**self.row, self.column: " ".join(words)}


def _right(answers: Answers) -> np.ndarray:
    """The probability of the right answer, shape (rows,)."""
    assert answers.probabilities is not None
    return np.asarray(answers.probabilities[np.arange(len(answers)), np.asarray(answers.references, dtype=int)])


def _take(tries: list[tuple[_Target, int, str]], answers: Answers) -> None:
    """Keep for each row the replacement that hurts most, if one does."""
    best: dict[int, tuple[float, int]] = {}
    for number, chance in enumerate(_right(answers)):
        key = id(tries[number][0])
        best[key] = min(best.get(key, (float("inf"), -1)), (float(chance), number))
    for chance, number in best.values():
        target, place, word = tries[number]
        if chance < target.chance:
            target.words[place], target.chance = word, chance
            target.changes += 1
            target.fallen = answers.references[number] != answers.predictions[number]
