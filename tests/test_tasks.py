"""Finding out what rows ask for, and encoding them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tokens import bert, gpt
from tunesmith.data import tasks
from tunesmith.data.detect import detect
from tunesmith.data.encode import collator, encode, suggest_length
from tunesmith.data.reader import Reader
from tunesmith.data.rows import Rows, read
from tunesmith.data.tasks import IGNORED
from tunesmith.errors import InputError


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path_factory.mktemp("home")))


def many(count: int = 40, **columns: Any) -> Rows:
    """Rows whose columns are made by functions of the row's number."""
    return read([{name: make(i) for name, make in columns.items()} for i in range(count)])


def talk(i: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": f"answer {i}"}]


def words(i: int) -> list[str]:
    return ["the", "fox", f"x{i}"]


text, label = (lambda i: f"a text number {i}"), (lambda i: ("no", "yes")[i % 2])
FOUND = {
    "plain names": ({"text": text, "label": label}, "classify", {"text": "text", "label": "label"}),
    "other names": ({"Review": text, "Sentiment": label}, "classify", {"text": "Review", "label": "Sentiment"}),
    "pair": ({"premise": text, "hypothesis": text, "label": label}, "pair",
             {"text": "premise", "second": "hypothesis", "label": "label"}),
    "question and context": ({"question": text, "context": text, "label": label}, "pair",
                             {"text": "question", "second": "context", "label": "label"}),
    "fractions": ({"text": text, "score": lambda i: i / 7}, "regress", {"text": "text", "label": "score"}),
    "many whole numbers": ({"text": text, "label": lambda i: i}, "regress", {"text": "text", "label": "label"}),
    "few whole numbers": ({"text": text, "label": lambda i: i % 5}, "classify", {"text": "text", "label": "label"}),
    "similarity": ({"sentence1": text, "sentence2": text, "score": lambda i: i / 7}, "regress",
                   {"text": "sentence1", "second": "sentence2", "label": "score"}),
    "tags": ({"tokens": words, "ner_tags": lambda i: ["O", "B-A", "I-A"]}, "tag",
             {"tokens": "tokens", "tags": "ner_tags"}),
    "prompt": ({"prompt": text, "completion": text}, "generate", {"prompt": "prompt", "completion": "completion"}),
    "pairs of answers": ({"prompt": text, "chosen": text, "rejected": text}, "prefer",
                         {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}),
    "rated answers": ({"prompt": text, "completion": text, "label": lambda i: i % 2 == 0}, "prefer",
                      {"prompt": "prompt", "completion": "completion", "label": "label"}),
    "alpaca": ({"instruction": text, "input": text, "output": text}, "generate",
               {"prompt": "instruction", "input": "input", "completion": "output"}),
    "messages": ({"messages": talk}, "chat", {"messages": "messages"}),
    "sharegpt": ({"conversations": lambda i: [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, "chat",
                 {"messages": "conversations"}),
    "text alone": ({"text": text}, "lm", {"text": "text"}),
    "by type": ({"zzz": lambda i: f"a long text of many words, number {i}", "kind": label}, "classify",
                {"text": "zzz", "label": "kind"}),
    "stars by type": ({"text": text, "stars": lambda i: i % 5}, "classify", {"text": "text", "label": "stars"}),
    "an id is no label": ({"text": text, "id": lambda i: i}, "lm", {"text": "text"}),
    "label beside an id": ({"id": lambda i: i, "text": text, "kind": label}, "classify",
                           {"text": "text", "label": "kind"}),
    "pair by type": ({"question": text, "passage": lambda i: f"long {i} " * 20, "answer": lambda i: i % 2 == 0}, "pair",
                     {"text": "question", "second": "passage", "label": "answer"}),
    "few answers": ({"question": text, "answer": label}, "classify", {"text": "question", "label": "answer"}),
    "many answers": ({"question": text, "answer": text}, "generate", {"prompt": "question", "completion": "answer"}),
    "input and output": ({"input": text, "output": text}, "generate", {"prompt": "input", "completion": "output"}),
    "question, context, answer": ({"question": text, "context": text, "answer": text}, "generate",
                                  {"prompt": "question", "input": "context", "completion": "answer"}),
    "whole numbers as floats": ({"text": text, "label": lambda i: float(i % 3)}, "classify",
                                {"text": "text", "label": "label"}),
    "many of them": ({"text": text, "label": lambda i: float(i)}, "regress", {"text": "text", "label": "label"}),
    "a passed-through group": ({"text": text, "label": label, "author": lambda i: f"w{i % 4}"}, "classify",
                               {"text": "text", "label": "label"}),
    "several labels": ({"text": text, "labels": lambda i: [["a"], ["a", "b"]][i % 2]}, "classify",
                       {"text": "text", "label": "labels"}),
}  # fmt: skip


@pytest.mark.parametrize("case", FOUND)
def test_tasks_are_found(case: str) -> None:
    columns, name, expected = FOUND[case]
    task = detect(many(**columns))
    assert (task.name, task.columns) == (name, expected) and task.notes
    again = tasks.from_dict(task.describe())
    assert again.describe() == task.describe()


def test_labels_are_learned_in_order() -> None:
    task = detect(many(text=text, label=lambda i: [10, 9, 2][i % 3]))
    assert task.labels == ["2", "9", "10"]
    several = detect(many(text=text, label=lambda i: ["b|a", "a", "b"][i % 3]))
    assert several.labels == ["a", "b"] and several.loss == "binary_cross_entropy"
    assert several.target({"label": "b|a"}) == [1.0, 1.0]


BAD = {
    "no task": ({"a": lambda i: i, "b": lambda i: i}, {}, "no task fits the columns a, b"),
    "one class": ({"text": text, "label": lambda i: "x"}, {}, r"holds one class only \('x'\)"),
    "label missing": ({"text": text, "label": lambda i: None if i == 6 else label(i)}, {}, "row 7: column 'label' is empty"),
    "nan": ({"text": text, "score": lambda i: float("nan") if i == 3 else i / 3}, {}, "row 4: column 'score' is empty"),
    "text missing": ({"text": lambda i: " " if i == 2 else "a b", "label": label}, {}, "row 3: column 'text' holds no text"),
    "every label differs": ({"text": text, "label": lambda i: f"l{i}"}, {"task": "classify"}, "40 different labels"),
    "same numbers": ({"text": text, "label": lambda i: 0.5}, {"task": "regress"}, "is 0.5 in every row"),
    "no number": ({"text": text, "label": label}, {"task": "regress"}, "column 'label' is 'no'; expected a number"),
    "blank label": ({"text": text, "label": lambda i: "" if i == 3 else label(i)}, {}, "row 4: column 'label' holds no"),
    "null among labels": ({"text": text, "label": lambda i: ["a", None] if i == 3 else ["b"]}, {},
                          "row 4: column 'label' holds an empty label in its list"),
    "list but one label": ({"text": text, "label": lambda i: ["a"]}, {"task": {"classify": {"multi": False}}},
                           "holds a list; expected one label"),
    "setting of a wrong type": ({"text": text, "label": label}, {"task": {"classify": {"multi": "maybe"}}},
                                "task.classify.multi: 'maybe' does not fit; expected true or false"),
    "turns of one speaker": ({"messages": lambda i: [talk(i)[0], *talk(i)]}, {}, "messages 1 and 2 are both the user's"),
    "content that is no text": ({"messages": lambda i: [talk(i)[0], {"role": "assistant", "content": None}]}, {},
                                "message 2 has content None; expected text"),
    "two texts": ({"aa": lambda i: f"{text(i)} " * 3, "bb": lambda i: f"{text(i)} " * 3, "kind": label}, {},
                  r"which column is the text is not clear \(aa, bb\).*--task classify --column text=NAME"),
    "two labels": ({"text": text, "aa": label, "bb": label}, {},
                   r"which column is the label is not clear \(aa, bb\).*--column label=NAME"),
    "a number as text": ({"n": lambda i: i, "label": label}, {"columns": {"text": "n"}},
                         "column 'n' holds int64; expected a text"),
    "one column twice": ({"text": text, "label": label}, {"columns": {"text": "text", "label": "text"}},
                         "'text' cannot be both"),
    "questions on a context": ({"question": text, "context": text, "title": label}, {}, "no task fits the columns"),
    "no such group": ({"text": text, "label": label}, {"group": "autor"}, "column 'autor' is missing"),
    "unknown task": ({"text": text, "label": label}, {"task": "clasify"}, "did you mean 'classify'"),
    "unknown role": ({"text": text, "label": label}, {"task": "classify", "columns": {"txt": "text"}}, "did you mean 'text'"),
    "unknown column": ({"text": text, "label": label}, {"columns": {"label": "lable"}}, "did you mean 'label'"),
    "unknown setting": ({"text": text, "label": label}, {"task": {"classify": {"mlti": True}}}, "did you mean 'multi'"),
    "unclear": ({"a": label, "b": label, "c": text}, {"task": "classify"}, "which column is the label is not clear"),
    "tags and tokens": ({"tokens": words, "tags": lambda i: ["O"]}, {}, "3 tokens but 1 tags"),
    "no assistant": ({"messages": lambda i: [{"role": "user", "content": "a"}]}, {}, "no turn of the assistant"),
    "assistant first": ({"messages": lambda i: talk(i)[1:]}, {}, "the assistant speaks first"),
    "unknown speaker": ({"messages": lambda i: [{"role": "bot", "content": "a"}]}, {}, "message 1 has role 'bot'"),
    "empty answers": ({"messages": lambda i: [talk(i)[0], {"role": "assistant", "content": ""}]}, {}, "assistant is empty"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_one_clear_line(case: str) -> None:
    columns, options, message = BAD[case]
    with pytest.raises(InputError, match=message) as caught:
        detect(many(**columns), **options)
    assert "\n" not in str(caught.value)


def test_a_file_sorted_by_its_label_is_seen_through() -> None:
    task = detect(many(5000, text=text, stars=lambda i: i // 1000))
    assert (task.name, task.labels) == ("classify", ["0", "1", "2", "3", "4"])


def test_a_group_is_never_a_label() -> None:
    rows = many(text=text, kind=label, author=lambda i: f"w{i % 4}")
    with pytest.raises(InputError, match="not clear"):
        detect(rows)
    assert detect(rows, group="author").columns == {"text": "text", "label": "kind"}


def test_notes_say_what_was_mapped_and_what_was_not_used() -> None:
    task = detect(many(id=lambda i: i, text=text, stars=lambda i: i % 5))
    assert task.notes[:2] == ["task classify (found): text = text, label = stars (by its values)", "not used: id"]
    told = detect(many(a=text, b=label), "classify", {"text": "a", "label": "b"})
    assert told.notes[0] == "task classify (as you say): text = a (as you say), label = b (as you say)"
    sharegpt = many(conversations=lambda i: [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}])
    assert "ShareGPT" in detect(sharegpt).notes[1] and len(detect(many(conversations=talk)).notes) == 1


def test_labels_that_read_as_numbers_keep_their_order() -> None:
    assert detect(many(text=text, label=lambda i: ["nan", "b", "1", "inf"][i % 4])).labels == ["1", "b", "inf", "nan"]


def test_a_separator_within_single_labels_is_part_of_them() -> None:
    assert detect(many(text=text, label=lambda i: ["a;b", "c"][i % 2])).labels == ["a;b", "c"]


def test_a_row_may_have_no_label_where_it_can_have_several() -> None:
    task = detect(many(text=text, label=lambda i: [["a"], [], ["a", "b"]][i % 3]))
    assert task.target({"label": []}) == [0.0, 0.0]
    told = detect(many(text=text, label=lambda i: ["a", "", "a|b"][i % 3]), {"classify": {"multi": True}})
    assert told.labels == ["a", "b"] and told.target({"label": ""}) == [0.0, 0.0]


def test_loose_bio_tags_are_counted() -> None:
    task = detect(many(tokens=words, tags=lambda i: ["O", "I-A", "B-A"]))
    assert task.notes[-1] == "40 I- tags begin a span; they are read as B-"


def test_tools_may_speak_between_turns() -> None:
    call = {"type": "function", "function": {"name": "time", "arguments": "{}"}}
    spoken = [
        {"role": "user", "content": "what time is it?"}, {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "noon"}, {"role": "assistant", "content": "it is noon"},
    ]  # fmt: skip
    rows = many(messages=lambda i: spoken)
    task: Any = detect(rows)
    assert task.messages(rows[0]) == spoken and task.target(rows[0]) == "it is noon"


def reader_for(name: str, **options: Any) -> Reader:
    if name in ("generate", "chat", "lm", "prefer"):
        return Reader(gpt(), "decoder", **{"max_length": 64, **options})
    return Reader(bert(), "encoder", **{"max_length": 64, **options})


@pytest.mark.parametrize("case", FOUND)
def test_every_task_is_encoded_and_collated(case: str) -> None:
    columns, name, _ = FOUND[case]
    rows = many(12, **columns)
    task = detect(rows, name)
    encoded = encode(rows, np.arange(12), task, reader_for(name))
    batch = collator(task, 0)(encoded.take(np.arange(5)))
    assert len(encoded) >= 12 and (encoded.units > 0).all()
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["attention_mask"].sum(1).tolist()[:5] == [len(r["input_ids"]) for r in encoded.take(np.arange(5))]
    if task.per_token:
        assert (batch["labels"] != IGNORED).sum(1).tolist()[:5] == encoded.units[:5].tolist()
    assert batch["labels"].dtype == (torch.float32 if name == "regress" or "several" in case else torch.int64)


def test_encoding_is_kept_and_follows_what_it_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = many(text=text, label=label)
    task = detect(rows)
    first = encode(rows, np.arange(40), task, reader_for("classify"))
    monkeypatch.setattr(type(task), "encode", lambda *a: pytest.fail("encoded again"))
    assert encode(rows, np.arange(40), task, reader_for("classify")).take([7]) == first.take([7])
    for changed in (dict(max_length=32), dict(policy="drop")):
        with pytest.raises(BaseException, match="encoded again"):
            encode(rows, np.arange(40), task, reader_for("classify", **changed))


LONG = {"prompt": lambda i: "what is it?", "completion": lambda i: "word " * (60 if i == 4 else 3)}


def test_long_answers_stop_the_run_unless_the_user_chooses() -> None:
    rows = many(12, **LONG)
    task = detect(rows)
    with pytest.raises(
        InputError, match=r"row 5: 1 rows would lose \d+ tokens of their answers at length 32.*--length \d+"
    ):
        encode(rows, np.arange(12), task, reader_for("generate", max_length=32))
    cut = encode(rows, np.arange(12), task, reader_for("generate", max_length=32, policy="truncate"))
    assert len(cut) == 12 and cut.counts["rows_that_lost_answers"] == 1 and cut.counts["answer_tokens_lost"] > 0
    dropped = encode(rows, np.arange(12), task, reader_for("generate", max_length=32, policy="drop"))
    assert len(dropped) == 11 and dropped.counts["rows_dropped"] == 1 and 4 not in dropped.rows
    with pytest.raises(InputError, match="1 rows are longer than 32 tokens"):
        encode(rows, np.arange(12), task, reader_for("generate", max_length=32, policy="stop"))


def test_long_inputs_are_cut_and_counted() -> None:
    rows = many(12, text=lambda i: "word " * (90 if i == 4 else 3) + str(i), label=label)
    task = detect(rows)
    encoded = encode(rows, np.arange(12), task, reader_for("classify", max_length=32))
    assert encoded.counts["rows_cut"] == 1 and encoded.lengths.max() == 32


def test_the_suggested_length_follows_the_rows() -> None:
    rows = many(400, text=lambda i: "dog " * (i % 20 + 1) + str(i), label=label)
    task = detect(rows)
    length = suggest_length(rows, np.arange(400), task, reader_for("classify"), 512)
    assert length % 8 == 0 and 20 <= length <= 48


def test_the_suggested_length_cuts_no_answer() -> None:
    rows = many(400, prompt=text, completion=lambda i: "dog " * (60 if i == 399 else 3))
    task = detect(rows)
    length = suggest_length(rows, np.arange(400), task, reader_for("generate"), 512)
    encode(rows, np.arange(400), task, reader_for("generate", max_length=length))


def test_a_row_without_a_supervised_token_is_an_error() -> None:
    rows = many(12, prompt=lambda i: "dog " * 200, completion=text)
    task = detect(rows)
    reader = reader_for("generate", max_length=8, policy="truncate")
    monkey = [task.encode([rows[0]], reader)[0][0]]
    assert any(label != IGNORED for label in monkey[0].labels), "the answer is kept as long as it can be"


def test_an_unseen_label_is_named() -> None:
    rows = many(text=text, label=label)
    task = detect(rows)
    with pytest.raises(InputError, match="label 'maybe' was not among the training labels"):
        task.encode([{"text": "a", "label": "maybe"}], reader_for("classify"))


def test_rows_to_predict_need_no_answer() -> None:
    for case in ("plain names", "fractions", "tags"):
        columns, name, _ = FOUND[case]
        rows = many(**columns)
        task = detect(rows)
        answer = task.columns.get("label") or task.columns["tags"]
        row = {k: v for k, v in rows[0].items() if k != answer}
        assert task.encode([row], reader_for(name))[0][0].input_ids
