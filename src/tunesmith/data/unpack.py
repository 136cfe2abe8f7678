"""Readers of the packaged row sets: from a package's files to rows, one function a format."""

from __future__ import annotations

import bz2
import csv
import io
import json
import zipfile
from collections.abc import Collection, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

Row = dict[str, Any]


def trec_coarse(files: list[Path]) -> Iterator[Row]:
    """``NUM:date When did ... ?`` as text and ``NUM``."""
    for row in trec_fine(files):
        yield {"text": row["text"], "label": row["label"].partition(":")[0]}


def trec_fine(files: list[Path]) -> Iterator[Row]:
    """``NUM:date When did ... ?`` as text and ``NUM:date``."""
    for line in _lines(files[0]):
        label, _, text = line.partition(" ")
        yield {"text": text, "label": label}


def sms_spam(files: list[Path]) -> Iterator[Row]:
    """A csv with ``spam`` 0 or 1."""
    for row in _csv(files[0].read_text(encoding="utf-8")):
        yield {"text": row["text"], "label": "spam" if row["spam"] == "1" else "ham"}


def rotten_tomatoes(files: list[Path]) -> Iterator[Row]:
    """A compressed csv whose category is fresh, rotten or plot; summaries of plots are no reviews and are left out."""
    for row in _csv(bz2.decompress(files[0].read_bytes()).decode("utf-8")):
        if row["category"] != "plot":
            yield {"text": row["text"], "label": row["category"], "film": row["movie_name"]}


def bbc_news(files: list[Path]) -> Iterator[Row]:
    """A folder a topic, a file an article; one of them is in Latin-1."""
    for path in sorted(files[0].glob("*/*.txt")):
        content = path.read_bytes()
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            text = content.decode("latin-1")
        yield {"text": text.strip(), "label": path.parent.name}


def chinese_reviews(files: list[Path]) -> Iterator[Row]:
    """A file of positive and a file of negative reviews, one a line."""
    for path, label in zip(files, ("positive", "negative"), strict=True):
        for line in _lines(path):
            yield {"text": line, "label": label}


def privacy_pairs(files: list[Path]) -> Iterator[Row]:
    """Questions, passages and whether the passage is relevant."""
    for row in map(json.loads, _lines(files[0])):
        label = "relevant" if row["answer"] == "True" else "irrelevant"
        yield {"sentence1": row["question"], "sentence2": row["context"], "label": label}


def boolq(files: list[Path]) -> Iterator[Row]:
    """Questions and passages; those of the test set have no label and are left out."""
    for row in map(json.loads, _lines(files[0])):
        if "label" in row:
            label = "yes" if row["label"] else "no"
            yield {"sentence1": row["question"], "sentence2": row["passage"], "label": label}


def ratings(files: list[Path]) -> Iterator[Row]:
    """Tab-separated id, mean rating and text, without quoting."""
    for line in _lines(files[0])[1:]:
        _, score, text = line.split("\t")
        yield {"text": text, "score": float(score)}


def us_addresses(files: list[Path]) -> Iterator[Row]:
    """XML with an element a word; neighbours with one role become one span (BIO)."""
    for path in files:
        for address in ElementTree.parse(path).getroot():
            words = [((word.text or "").strip(), word.tag) for word in address]
            words = [(text, role) for text, role in words if text]
            roles = ["", *(role for _, role in words)]
            tags = [f"{'I' if role == before else 'B'}-{role}" for before, role in pairwise(roles)]
            yield {"tokens": [text for text, _ in words], "tags": tags}


def alpaca(files: list[Path]) -> Iterator[Row]:
    """A JSON list in Alpaca's columns."""
    for row in json.loads(files[0].read_text(encoding="utf-8")):
        yield {"instruction": row["instruction"], "input": row["input"], "output": row["output"]}


def chatterbot(files: list[Path]) -> Iterator[Row]:
    """A YAML file a topic with lists of turns; user and assistant take turns, a last turn without answer is dropped."""
    for path in sorted(files[0].glob("*.yml")):
        for turns in yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]:
            said = [str(turn).strip() for turn in turns]
            said = said[: len(said) // 2 * 2]
            if said and all(said):
                yield {"messages": _messages(said), "topic": path.stem}


def movie_dialogue(files: list[Path]) -> Iterator[Row]:
    """A csv of statements and replies."""
    for row in _csv(files[0].read_text(encoding="utf-8")):
        said = [row["statement"].strip(), row["reply"].strip()]
        if all(said):
            yield {"messages": _messages(said)}


def news_articles(files: list[Path]) -> Iterator[Row]:
    """A zipped csv of articles."""
    with zipfile.ZipFile(files[0]) as archive:
        text = archive.read("NewsArticles.csv").decode("utf-8")
    for row in _csv(text):
        if row["text"].strip():
            yield {"text": row["text"].strip(), "title": row["title"].strip()}


def distinct(rows: Iterable[Row], inputs: Collection[str], answers: Collection[str]) -> list[Row]:
    """``rows`` in their order, each input once; an input whose ``answers`` columns contradict each other is left out.

    >>> distinct([{"text": "a", "label": 1}, {"text": "a", "label": 1}, {"text": "b", "label": 0},
    ...           {"text": "b", "label": 1}], inputs=["text"], answers=["label"])
    [{'text': 'a', 'label': 1}]
    """
    first: dict[str, Row] = {}
    contradicted: set[str] = set()
    for row in rows:
        key = json.dumps([row[name] for name in sorted(inputs)])
        known = first.setdefault(key, row)
        if any(known[name] != row[name] for name in answers):
            contradicted.add(key)
    return [row for key, row in first.items() if key not in contradicted]


def _lines(path: Path) -> list[str]:
    # not splitlines(): it also splits at characters such as U+2028 inside a text
    lines = path.read_text(encoding="utf-8").split("\n")
    return [line.strip() for line in lines if line.strip()]


def _csv(text: str) -> Iterator[dict[str, str]]:
    csv.field_size_limit(10**7)
    return csv.DictReader(io.StringIO(text, newline=""))


def _messages(said: list[str]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[turn % 2], "content": text} for turn, text in enumerate(said)]
