"""What judges read out of texts: words that count, numbers, sentences, programs, and groups of answers that agree."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NUMBER = re.compile(r"(?<![\w.])-?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE]-?\d+)?|(?<![\w.])-?\.\d+")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


def normal(text: str) -> str:
    """A short answer without case, punctuation, articles and extra white space, as SQuAD compares them.

    >>> normal("The  Eiffel Tower.")
    'eiffel tower'
    """
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def number(text: str) -> Decimal | None:
    """The number that a text ends on: what follows the last ``####`` or ``answer is``, else the last number of all.

    >>> number("3 + 4 = 7 apples. #### 1,007.50"), number("The answer is -2. That was step 9."), number("none")
    (Decimal('1007.50'), Decimal('-2'), None)
    """
    marked = re.split(r"####|answer is:?", text, flags=re.IGNORECASE)
    found = _NUMBER.findall(marked[-1])
    if not found:
        return None
    chosen = found[0] if len(marked) > 1 else found[-1]
    try:
        return Decimal(chosen.replace(",", "").replace("$", ""))
    except InvalidOperation:
        return None


def sentences(text: str) -> list[str]:
    """The sentences, or lines, of a text.

    >>> sentences("Paris is a city. It is large!\\nFrance has it.")
    ['Paris is a city.', 'It is large!', 'France has it.']
    """
    return [s.strip() for s in _SENTENCE.split(text) if s.strip()]


def words(text: str) -> set[str]:
    """The words of a text that count, as `normal` leaves them."""
    return set(normal(text).split())


def program(text: str) -> str:
    """The program in an answer: the first fenced block, else all of it.

    >>> program("Sure!\\n```python\\nx = 1\\n```\\nDone.")
    'x = 1\\n'
    """
    found = _FENCE.search(text)
    return found[1] if found else text


def groups(texts: Sequence[str], same: Callable[[int, int], bool]) -> list[int]:
    """The group of each text: that of the first earlier group whose first text is the same as it.

    >>> groups(["a", "b", "A"], lambda i, j: "abA"[i].lower() == "abA"[j].lower())
    [0, 1, 0]
    """
    firsts: list[int] = []
    owners = []
    for i in range(len(texts)):
        owner = next((g for g, j in enumerate(firsts) if same(j, i)), len(firsts))
        if owner == len(firsts):
            firsts.append(i)
        owners.append(owner)
    return owners
