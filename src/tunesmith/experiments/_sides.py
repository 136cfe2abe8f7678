"""A task of two classes given to a language model: with a new classifier on top, or as a word to be written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from . import Lab

Drawn = list[tuple[str, int]]
"""Texts with their class, 0 or 1."""

IGNORED = -100


class Classified:
    """With a classifier that is drawn at random.

    Args:
        lab: carries out.
        recipe: of a task ``classify``; its rows are replaced.
        sketch: see `row_gradients`.
    """

    def __init__(self, lab: Lab, recipe: Any, sketch: int):
        self.lab, self.recipe, self.sketch = lab, recipe, sketch

    def rows(self, drawn: Drawn) -> list[dict[str, Any]]:
        """The rows of a table."""
        return [{"text": text, "label": f"class {side}"} for text, side in drawn]

    def value(self, reading: Any, batch: Any) -> Any:
        """The log odds of class 1, of a batch of one row."""
        logits = reading.host(**{k: v for k, v in batch.items() if k != "labels"}).logits[0]
        return logits[1] - logits[0]

    def classes(self, encoded: Any) -> np.ndarray:
        """The class of each encoded row."""
        return np.array([row["labels"] for row in encoded.take(np.arange(len(encoded)))])

    def tuned(self, train: Drawn, test: Drawn, seed: int) -> np.ndarray:
        """Whether fine-tuning is right on each held-out row."""
        answers = self._result(train, self.rows(test), seed).answers
        return np.array([a == b for a, b in zip(answers.references, answers.predictions, strict=True)])

    def _result(self, train: Drawn, test: list[dict[str, Any]], seed: int) -> Any:
        recipe = self.lab.given(self.recipe, train=self.rows(train), test=test)
        return self.lab.results(recipe, seeds=[seed])[0][0]

    def kernel(self, train: Drawn, test: Drawn, seed: int) -> np.ndarray:
        """Whether the kernel of the base's gradients is right on each held-out row."""
        from ._gradients import kernel_logits, row_gradients

        recipe = self.lab.given(self.recipe.updated({"seed": seed}), train=self.rows(train), test=self.rows(test))
        encoded, reading = self.lab.prepared(recipe).encoded, self.lab.untuned(recipe)
        known, asked = (
            row_gradients(reading, encoded[name], lambda batch: self.value(reading, batch), sketch=self.sketch)
            for name in ("train", "test")
        )
        said = kernel_logits(known, self.classes(encoded["train"]), asked) > 0
        return np.asarray(said == self.classes(encoded["test"]))


class Prompted(Classified):
    """As a word that the language model writes after a cue.

    Args:
        lab, sketch: as above.
        recipe: of a task ``generate``; its rows are replaced.
        cue: what follows the text.
        words: what is written for class 0 and class 1.

    Raises:
        InputError: the words begin with the same token.
    """

    def __init__(self, lab: Lab, recipe: Any, sketch: int, cue: str, words: Sequence[str]):
        super().__init__(lab, recipe, sketch)
        self.cue, self.words = cue, words
        some = self.lab.given(recipe, train=self.rows([("a", 0), ("b", 1)]), test=self.rows([("c", 0)]))
        tokenizer = lab.prepared(some).reader.tokenizer
        self.ids = [tokenizer(w, add_special_tokens=False)["input_ids"][0] for w in words]
        if self.ids[0] == self.ids[1]:
            raise InputError(
                f"words {list(words)} begin with the same token", expected="two that differ from the first"
            )

    def rows(self, drawn: Drawn) -> list[dict[str, Any]]:
        return [{"prompt": text + self.cue, "completion": self.words[side]} for text, side in drawn]

    def value(self, reading: Any, batch: Any) -> Any:
        first = int((batch["labels"][0] != IGNORED).nonzero()[0])
        logits = reading.host(**{k: v for k, v in batch.items() if k != "labels"}).logits[0, first - 1]
        return logits[self.ids[1]] - logits[self.ids[0]]

    def classes(self, encoded: Any) -> np.ndarray:
        firsts = [next(t for t in row["labels"] if t != IGNORED) for row in encoded.take(np.arange(len(encoded)))]
        return np.array([self.ids.index(t) for t in firsts])

    def tuned(self, train: Drawn, test: Drawn, seed: int) -> np.ndarray:
        """Whether the right word is likelier than the other after fine-tuning, for each held-out row."""
        both = self.rows(test) + self.rows([(text, 1 - side) for text, side in test])
        right, wrong = np.split(np.asarray(self._result(train, both, seed).answers.loss), 2)
        return np.asarray(right < wrong)
