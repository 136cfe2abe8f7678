"""How alike two texts are by the rare words that they share: no model is asked."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence


class Similarity:
    """Cosine of tf-idf vectors over lower-case words.

    >>> near = Similarity(["a red car", "a blue boat", "a fast car"])
    >>> near.of("the red car", 0) > near.of("the red car", 2) > near.of("the red car", 1)
    True

    Args:
        texts: the texts that others are compared with; the inverse document frequencies are theirs.
    """

    def __init__(self, texts: Sequence[str]):
        counts = [Counter(_words(text)) for text in texts]
        seen = Counter(word for count in counts for word in count)
        self._rare = {word: math.log((1 + len(texts)) / (1 + n)) + 1 for word, n in seen.items()}
        self._vectors = [self._vector(count) for count in counts]
        self._asked: tuple[str, dict[str, float]] = ("", {})

    def of(self, text: str, index: int) -> float:
        """Similarity of a text to one of the texts, 0 to 1."""
        if self._asked[0] != text:
            self._asked = (text, self._vector(Counter(_words(text))))
        other = self._vectors[index]
        return sum(value * other.get(word, 0.0) for word, value in self._asked[1].items())

    def _vector(self, counts: Counter[str]) -> dict[str, float]:
        vector = {word: n * self._rare[word] for word, n in counts.items() if word in self._rare}
        norm = math.sqrt(sum(v * v for v in vector.values()))
        return {word: v / norm for word, v in vector.items()} if norm else {}


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
