"""Rows as the model will see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tokens import TEMPLATES, bert, gpt, llama
from tunesmith.data.detect import detect
from tunesmith.data.reader import Reader
from tunesmith.data.render import as_text, render
from tunesmith.data.rows import read


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))


TALK = [{"role": "user", "content": "Was ist das? 猫"}, {"role": "assistant", "content": "Die Katze schläft 猫."}]


@pytest.mark.parametrize("make", [gpt, llama])
def test_a_conversation_shows_what_is_trained(make: Any) -> None:
    """Characters of several tokens come out whole, and no token is left out."""
    rows = read([{"messages": TALK}] * 12)
    reader = Reader(make(TEMPLATES["chatml"]), "decoder", max_length=128)
    shown = render(detect(rows), reader, rows, 2)
    assert len(shown) == 2 and shown[0].where == "table row 1"
    whole = "".join(p.text for p in shown[0].pieces)
    assert whole == reader.tokenizer.decode(reader.chat(TALK).input_ids)
    said = "".join(p.text for p in shown[0].pieces if p.supervised)
    assert "�" not in said
    assert said.endswith("<|im_end|>") and "schläft" in said and "Was ist das" not in said
    assert 0 < shown[0].units < shown[0].tokens


def test_supervision_is_seen_without_colour() -> None:
    rows = read([{"prompt": "the cat", "completion": "Die Katze"}] * 12)
    [one] = render(detect(rows), Reader(gpt(), "encoder-decoder", max_length=32), rows, 1)
    text = as_text(one).plain
    assert "-> [[Di" in text and text.count("[[") == 1 and "</s>]]" in text and "supervised" in text


def test_tags_stand_at_the_first_subword() -> None:
    rows = read([{"tokens": ["The", "quickest", "foxes"], "tags": ["O", "B-A", "I-A"]}] * 12)
    [one] = render(detect(rows), Reader(bert(), "encoder", max_length=32), rows, 1)
    assert [p.tag for p in one.pieces if p.supervised] == ["O", "B-A", "I-A"]
    pieces = [p.text.strip() for p in one.pieces]
    assert "".join(pieces) == "[CLS]Thequickestfoxes[SEP]" and all(
        f"/{tag}]]" in as_text(one).plain for tag in ("O", "I-A")
    )
    first = [i for i, p in enumerate(one.pieces) if p.supervised][1]
    assert "quickest".startswith(pieces[first]) and not one.pieces[first + 1].supervised


LABELLED = {
    "one": (lambda i: "ab"[i % 2], "a"),
    "several": (lambda i: [["a", "b"], ["b"]][i % 2], "a, b"),
    "number": (lambda i: i / 4, "0"),
}


@pytest.mark.parametrize("case", LABELLED)
def test_the_answer_is_in_words(case: str) -> None:
    make, answer = LABELLED[case]
    rows = read([{"text": f"the fox {i}", "label": make(i)} for i in range(12)])
    task = detect(rows)
    [one] = render(task, Reader(bert(), "encoder", max_length=32), rows, 1)
    assert one.answer == answer and f"asked for: [[{answer}]]" in as_text(one).plain
    [plain] = render(task, None, rows, 1)
    assert plain.pieces == [] and "text: the fox 0" in as_text(plain).plain


def test_what_is_cut_is_said() -> None:
    rows = read([{"text": "the lazy dog " * 9, "label": "ab"[i % 2]} for i in range(12)])
    [one] = render(detect(rows), Reader(bert(), "encoder", max_length=8), rows, 1)
    assert one.tokens == 8 and one.cut > 0 and f"{one.cut} more were cut" in as_text(one).plain
