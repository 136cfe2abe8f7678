"""Encoded rows on disk: errors that name their row, a cache that follows what it depends on, little memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokens import TEMPLATES, bert, gpt
from tunesmith.data.detect import detect
from tunesmith.data.encode import encode, suggest_length
from tunesmith.data.reader import Reader
from tunesmith.data.rows import Rows, read
from tunesmith.data.tasks import IGNORED
from tunesmith.errors import InputError


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))


def many(count: int = 40, **columns: Any) -> Rows:
    return read([{name: make(i) for name, make in columns.items()} for i in range(count)])


def text(i: int) -> str:
    return f"a text number {i}"


def label(i: int) -> str:
    return ("no", "yes")[i % 2]


def test_what_comes_back_is_what_the_task_made(tmp_path: Path) -> None:
    """Over several chunks, in the order asked, for indices with gaps, with the original row of each."""
    rows = many(2500, text=text, label=label)
    task, reader = detect(rows), Reader(gpt(), "encoder", max_length=32)
    chosen = np.arange(3, 2500, 2)
    encoded = encode(rows, chosen, task, reader, cache=tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == [tmp_path / "mine" / f"{encoded.key}.arrow"], (
        "and nothing is left behind"
    )
    assert encoded.rows.tolist() == chosen.tolist() and len(encoded) == len(chosen)
    for place in (0, 700, len(chosen) - 1):
        [[whole]] = task.encode([rows[int(chosen[place])]], reader)
        [record] = encoded.take([place])
        assert record["input_ids"] == whole.input_ids and record["labels"] == whole.labels
        assert encoded.original(place)["text"] == text(int(chosen[place]))
        assert encoded.lengths[place] == len(whole.input_ids) and encoded.units[place] == 1
    assert encoded.where(0) == "table row 4"


def test_few_rows_of_many_are_the_same_rows() -> None:
    rows = many(3000, text=text, label=label)
    task, reader = detect(rows), Reader(gpt(), "encoder", max_length=32)
    chosen = np.array([5, 1500, 2999])
    encoded = encode(rows, chosen, task, reader)
    assert [encoded.original(i)["text"] for i in range(3)] == [text(int(i)) for i in chosen]
    assert [r["input_ids"] for r in encoded.take([0, 1, 2])] == [
        e[0].input_ids for e in task.encode([rows[int(i)] for i in chosen], reader)
    ]


def test_no_rows_are_no_error() -> None:
    rows = many(text=text, label=label)
    encoded = encode(rows, np.arange(0), detect(rows), Reader(bert(), "encoder", max_length=32))
    assert len(encoded) == 0 and len(encoded.lengths) == 0 and encoded.counts["rows_cut"] == 0


def test_the_cache_follows_rows_indices_and_task() -> None:
    rows = many(text=text, label=label)
    task, reader = detect(rows), Reader(bert(), "encoder", max_length=32)
    key = encode(rows, np.arange(40), task, reader).key
    assert encode(rows, np.arange(40), detect(rows), Reader(bert(), "encoder", max_length=32)).key == key
    other = many(text=lambda i: text(i + 1), label=label)
    keys = {
        key,
        encode(other, np.arange(40), task, reader).key,
        encode(rows, np.arange(39), task, reader).key,
        encode(rows, np.arange(40), detect(rows, {"classify": {"multi": True}}), reader).key,
        encode(rows, np.arange(40), task, Reader(bert(), "encoder", max_length=31)).key,
    }
    assert len(keys) == 5


def test_the_row_of_an_error_is_named() -> None:
    """Though rows go to the tokenizer a thousand at a time."""
    picky = "{% for m in messages %}{% if 'bad' in m['content'] %}{{ raise_exception('bad word') }}{% endif %}" + (
        "{{ m['content'] + eos_token }}{% endfor %}"
    )
    rows = many(messages=lambda i: [
        {"role": "user", "content": "bad" if i == 17 else f"q {i}"}, {"role": "assistant", "content": "fine"}
    ])  # fmt: skip
    reader = Reader(gpt(picky), "decoder", max_length=64)
    with pytest.raises(
        InputError, match=r"row 18: the chat template fails on roles user, assistant .*bad word"
    ) as caught:
        encode(rows, np.arange(40), detect(rows), reader)
    assert "\n" not in str(caught.value)


def test_a_label_of_another_split_is_named_with_its_row() -> None:
    task = detect(many(text=text, label=label))
    rows = many(text=text, label=lambda i: "maybe" if i == 8 else label(i))
    with pytest.raises(InputError, match="row 9: label 'maybe' was not among the training labels; expected no, yes"):
        encode(rows, np.arange(40), task, Reader(bert(), "encoder", max_length=32))


def test_a_row_without_tokens_is_an_error() -> None:
    rows = many(text=lambda i: "\u00ad" if i == 4 else text(i), label=label)
    tokenizer = gpt()
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u00ad", "")
    with pytest.raises(InputError, match="row 5: has no token that this tokenizer knows"):
        encode(rows, np.arange(40), detect(rows), Reader(tokenizer, "decoder", max_length=32))


def test_nothing_is_left_of_a_failed_encoding(tmp_path: Path) -> None:
    rows = many(prompt=text, completion=lambda i: "word " * 50)
    with pytest.raises(InputError, match="40 rows would lose"):
        encode(rows, np.arange(40), detect(rows), Reader(gpt(), "decoder", max_length=16), cache=tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


def test_chat_answers_that_are_cut_are_counted() -> None:
    rows = many(12, messages=lambda i: [
        {"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "word " * (60 if i == 4 else 2)}
    ])  # fmt: skip
    task = detect(rows)
    reader = Reader(gpt(TEMPLATES["chatml"]), "decoder", max_length=48, policy="truncate")
    encoded = encode(rows, np.arange(12), task, reader)
    whole = encode(rows, np.arange(12), task, Reader(gpt(TEMPLATES["chatml"]), "decoder", max_length=999))
    assert encoded.counts["rows_cut"] == encoded.counts["rows_that_lost_answers"] == 1
    assert whole.units.sum() - encoded.units.sum() == encoded.counts["answer_tokens_lost"] > 0
    assert encoded.lengths.max() == 48


def test_units_are_the_supervised_tokens() -> None:
    rows = many(text=lambda i: "The quick brown fox jumps over the lazy dog. " * (i % 4 + 1))
    encoded = encode(rows, np.arange(40), detect(rows), Reader(gpt(bos=True), "decoder", max_length=16))
    assert len(encoded) > 40 and set(encoded.rows.tolist()) == set(range(40))
    for record, units in zip(encoded.take(np.arange(len(encoded))), encoded.units, strict=True):
        assert units == sum(x != IGNORED for x in record["labels"]) > 0


def test_the_suggested_length_keeps_to_the_base() -> None:
    rows = many(text=lambda i: "dog " * 700, label=label)
    task = detect(rows)
    assert suggest_length(rows, np.arange(40), task, Reader(bert(), "encoder", max_length=32), 256) == 256
    assert suggest_length(rows, np.arange(40), task, Reader(bert(), "encoder", max_length=32), 4096) == 512
    assert suggest_length(rows, np.arange(40), task, Reader(gpt(), "decoder", max_length=32), 4096) <= 1024


def test_detection_and_tasks_import_no_model_library() -> None:
    """What the command line needs before a model is chosen answers at once."""
    code = (
        "import sys; from tunesmith.data import detect, render, rows, tasks; tasks.every()\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'sklearn') if m in sys.modules])"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "[]"
