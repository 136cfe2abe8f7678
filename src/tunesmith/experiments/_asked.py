"""Prompts that a small model can answer and a program can judge: sums, programs, facts, stories, reviews."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..data.rows import read
from ..errors import unknown

Table = list[dict[str, Any]]

TRAIN, TEST = 96, 60
"""Most prompts to train on and to be tested on."""

_COUNTRIES = Path(__file__).with_name("countries.tsv")


def asked(kind: str) -> tuple[Table, Table]:
    """Rows to train on and rows to be tested on, which share no prompt; the same each time.

    Raises:
        InputError: there is no such kind.
    """
    if kind not in KINDS:
        raise unknown("kind of prompts", kind, KINDS, where="experiment.improvement.rows")
    return KINDS[kind](random.Random(0))


def _parted(rows: Iterable[dict[str, Any]], draw: random.Random) -> tuple[Table, Table]:
    made = sorted(rows, key=lambda row: str(row["prompt"]))
    draw.shuffle(made)
    test = made[: min(TEST, len(made) // 3)]
    return made[len(test) :][:TRAIN], test


def _sums(draw: random.Random) -> tuple[Table, Table]:
    """Sums of two numbers up to 20."""
    pairs = [(a, b) for a in range(2, 21) for b in range(2, 21)]
    return _parted(({"prompt": f"What is {a} + {b}?", "completion": f"{a} + {b} = {a + b}"} for a, b in pairs), draw)


def _programs(draw: random.Random) -> tuple[Table, Table]:
    """One line of Python, with a test of what it leaves in ``x``."""
    words = ("apple", "river", "stone", "cloud", "paper", "green", "tiger", "music", "table", "snow")
    rows = []
    for n in range(3, 19):
        m = n % 7 + 2
        rows += [
            (f"the sum of {n} and {m}", f"{n} + {m}", n + m), (f"the product of {n} and {m}", f"{n} * {m}", n * m),
            (f"the difference of {n} and {m}", f"{n} - {m}", n - m), (f"the square of {n}", f"{n} ** 2", n * n),
            (f"the list of numbers from 1 to {n}", f"list(range(1, {n + 1}))", list(range(1, n + 1))),
        ]  # fmt: skip
    for word in words:
        rows += [
            (f"the word '{word}' in upper case", f"'{word}'.upper()", word.upper()),
            (f"the word '{word}' backwards", f"'{word}'[::-1]", word[::-1]),
            (f"the number of letters in '{word}'", f"len('{word}')", len(word)),
            (f"the word '{word}' three times", f"'{word}' * 3", word * 3),
        ]
    made = (
        {"prompt": f"Write one line of Python that sets x to {what}. Write only the code.", "completion": f"x = {code}",
         "tests": f"assert x == {value!r}, f'x is {{x!r}}'"}
        for what, code, value in rows
    )  # fmt: skip
    return _parted(made, draw)


def countries() -> list[dict[str, str]]:
    """Countries with capital, continent, an official language and currency."""
    with open(_COUNTRIES, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


_ASKED = {
    "capital": "What is the capital of {country}?", "continent": "On which continent is {country}?",
    "language": "Which language is spoken in {country}?", "currency": "What is the currency of {country}?",
}  # fmt: skip


def _facts(draw: random.Random) -> tuple[Table, Table]:
    """Short questions on countries; a small model knows some of the answers."""
    return _parted(
        ({"prompt": text.format(**c), "completion": c[what]} for c in countries() for what, text in _ASKED.items()),
        draw,
    )


def _sentences(country: dict[str, str]) -> list[str]:
    name = country["country"]
    return [
        f"The capital of {name} is {country['capital']}.", f"{name} lies in {country['continent']}.",
        f"People in {name} speak {country['language']}.",
    ]  # fmt: skip


def _topics(draw: random.Random) -> tuple[Table, Table]:
    """Three facts on a country each; ``facts`` is what is true, ``others`` what is true of another country."""
    every = countries()
    rows = [
        {"prompt": f"Tell me three facts about {one['country']}.", "completion": " ".join(_sentences(one)),
         "facts": _sentences(one), "others": [s.replace(other["country"], one["country"]) for s in _sentences(other)]}
        for one, other in zip(every, every[37:] + every[:37], strict=True)
    ]  # fmt: skip
    return _parted(rows, draw)


def _contexts(draw: random.Random) -> tuple[Table, Table]:
    """Instructions of every kind, and questions on a story beside them; the test asks for stories alone."""
    names = ("Ann", "Bob", "Cara", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "Jo")
    things, colours = ("hat", "bike", "cup", "bag", "coat"), ("red", "blue", "green", "white", "black", "yellow")
    stories: Table = []
    for _ in range(120):
        people, thing = draw.sample(names, 4), draw.choice(things)
        worn = {who: draw.choice(colours) for who in people}
        told = " ".join(f"{who} has a {colour} {thing}." for who, colour in worn.items())
        who = draw.choice(people)
        prompt = f"{told} What colour is {who}'s {thing}?"
        stories.append({"prompt": prompt, "completion": f"{who}'s {thing} is {worn[who]}.", "answer": worn[who]})
    train, test = _parted({row["prompt"]: row for row in stories}.values(), draw)
    general = read("packaged:alpaca-demo")
    drawn = [general[i] for i in draw.sample(range(len(general)), 400)]
    short = [r for r in drawn if len(r["output"]) < 200 and not r.get("input")][:TRAIN]
    plain = [{"prompt": r["instruction"], "completion": r["output"], "answer": ""} for r in short]
    return train[:32] + plain[:64], test


def _reviews(draw: random.Random) -> tuple[Table, Table]:
    """Film reviews to be gone on with, of either kind; the test has the beginnings of others."""
    rows = read("packaged:rotten-tomatoes")
    made = []
    for i in draw.sample(range(len(rows)), 600):
        words = rows[i]["text"].split()
        if 10 <= len(words) <= 24:
            made.append(
                {"prompt": f"Go on with this film review: {' '.join(words[:4])}", "completion": " ".join(words[4:])}
            )
    return _parted({row["prompt"]: row for row in made}.values(), draw)


KINDS: dict[str, Callable[[random.Random], tuple[Table, Table]]] = {
    "sums": _sums,
    "programs": _programs,
    "facts": _facts,
    "topics": _topics,
    "contexts": _contexts,
    "reviews": _reviews,
}
