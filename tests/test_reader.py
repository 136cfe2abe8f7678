"""Text to token ids: the same in training and in use, and supervised where it should be."""

from __future__ import annotations

from typing import Any

import pytest

from tokens import TEMPLATES, bert, gpt, llama
from tunesmith.data.reader import Reader
from tunesmith.data.tasks import IGNORED
from tunesmith.errors import InputError

TALK = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris is the capital."},
    {"role": "user", "content": "Thank you."},
    {"role": "assistant", "content": "I am fine"},
]


@pytest.fixture(params=[gpt, llama], ids=["byte-level", "sentencepiece"])
def make(request: pytest.FixtureRequest) -> Any:
    """Two ways of cutting text into tokens that differ most in what a space belongs to."""
    return request.param


def decoder(template: str, make: Any = gpt, **options: Any) -> Reader:
    """A reader for a base with this template, whose tokenizer writes a beginning of text by itself."""
    return Reader(make(TEMPLATES[template], bos=True), "decoder", max_length=256, **options)


def supervised(reader: Reader, encoding: Any) -> str:
    kept = [i for i, label in zip(encoding.input_ids, encoding.labels, strict=True) if label != IGNORED]
    return str(reader.tokenizer.decode(kept))


@pytest.mark.parametrize("template", TEMPLATES)
class TestEveryTemplate:
    def test_training_begins_with_what_the_model_is_asked(self, template: str, make: Any) -> None:
        """The ids before each answer are those with which generation starts, for every turn."""
        reader = decoder(template, make)
        encoding = reader.chat(TALK)
        for turn in (1, 3):
            asked = reader.chat_prompt(TALK[:turn])
            assert encoding.input_ids[: len(asked)] == asked
            assert encoding.labels[len(asked) - 1] == IGNORED and encoding.labels[len(asked)] != IGNORED

    def test_only_answers_and_their_ends_are_supervised(self, template: str, make: Any) -> None:
        reader = decoder(template, make)
        encoding = reader.chat(TALK)
        text = supervised(reader, encoding)
        assert "Paris is the capital." in text and "I am fine" in text
        assert "capital of France" not in text and "Thank you" not in text and "user" not in text
        ends = [i for i, x in enumerate(encoding.labels) if x in reader._special]
        assert len(ends) == (1 if template == "no end" else 2), "each turn that the template ends, and the last one"
        assert encoding.labels[ends[-1] - 1] != IGNORED, "the end comes right after the answer"
        assert all(label == IGNORED for label in encoding.labels[ends[-1] + 1 :])

    def test_what_follows_the_last_answer_changes_nothing(self, template: str) -> None:
        reader = decoder(template)
        assert reader.chat(TALK[:3]) == reader.chat(TALK[:2])

    def test_text_is_begun_once(self, template: str, make: Any) -> None:
        reader = decoder(template, make)
        begun = reader.chat(TALK).input_ids.count(reader.tokenizer.bos_token_id)
        assert begun == (template in ("llama3", "gemma", "mistral", "plain"))

    def test_ids_are_those_of_transformers(self, template: str, make: Any) -> None:
        reader = decoder(template, make)
        theirs = reader.tokenizer.apply_chat_template(TALK, chat_template=reader.template, tokenize=True)
        theirs = list(getattr(theirs, "input_ids", theirs))
        ours = reader.chat(TALK).input_ids
        if template == "no end" or (template == "plain" and make is llama):
            # what the model is asked ends within a token of the whole text, and goes before the whole
            read = ["".join(reader.tokenizer.decode(ids).split()) for ids in (ours, theirs)]
            assert read[0] == read[1] + ("</s>" if template == "no end" else "")
        else:
            assert ours == theirs

    def test_a_completion_starts_after_its_prompt(self, template: str, make: Any) -> None:
        reader = decoder(template, make)
        asked = reader.prompt("Translate: the cat")
        encoding = reader.completion("Translate: the cat", "Die Katze")
        assert encoding.input_ids[: len(asked)] == asked and set(encoding.labels[: len(asked)]) == {IGNORED}
        assert supervised(reader, encoding).strip().startswith("Die Katze")
        ends = [i for i in encoding.labels if i in reader._special]
        assert len(ends) == 1


def test_a_template_that_changes_its_mind_is_an_error() -> None:
    template = "{% for m in messages %}{{ loop.length ~ m['content'] }}{% endfor %}"
    with pytest.raises(InputError, match="writes turn 2 in another way"):
        Reader(gpt(template), "decoder", max_length=99).chat(TALK)


def test_a_template_that_fails_is_one_line() -> None:
    reader = Reader(gpt("{{ raise_exception('only users') }}"), "decoder", max_length=99)
    with pytest.raises(InputError, match=r"fails on roles user, assistant.*\(only users\)"):
        reader.chat(TALK[:2])


def test_texts_and_pairs_are_the_tokenizers() -> None:
    reader = Reader(bert(), "encoder", max_length=64)
    [one] = reader.texts(["the lazy dog"])
    [two] = reader.texts(["the lazy dog"], ["the fox"])
    assert one.input_ids == reader.tokenizer("the lazy dog")["input_ids"]
    both = reader.tokenizer("the lazy dog", "the fox")
    assert two.input_ids == both["input_ids"] and two.token_type_ids == both["token_type_ids"]


def test_long_texts_keep_their_closing_token() -> None:
    reader = Reader(bert(), "encoder", max_length=8)
    [one] = reader.texts(["the lazy dog jumps over the quick brown fox"])
    [two] = reader.texts(["the fox"], ["the lazy dog jumps over the quick brown fox"])
    sep = reader.tokenizer.sep_token_id
    assert one.full > 8 and len(one.input_ids) == 8 and one.input_ids[-1] == sep
    assert len(two.input_ids) == 8 and two.input_ids[-1] == sep
    assert reader.tokenizer.decode(two.input_ids).startswith("[CLS] the fox [SEP]")


@pytest.mark.parametrize("kind", [bert, gpt, llama])
def test_the_first_subword_of_each_word_carries_its_tag(kind: Any) -> None:
    reader = Reader(kind(), "encoder", max_length=64)
    words = ["Paris", "schläft", "quickest", "42."]
    [encoding] = reader.words([words])
    assert encoding.words == [0, 1, 2, 3] and sum(encoding.labels) == 4
    starts = [i for i, first in enumerate(encoding.labels) if first]
    pieces = [encoding.input_ids[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)]
    for word, ids in zip(words, pieces, strict=True):
        assert reader.tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == word


def test_cut_sentences_count_the_words_that_they_lose() -> None:
    reader = Reader(bert(), "encoder", max_length=6)
    [encoding] = reader.words([["the", "lazy", "dog", "jumps", "over", "the", "fox"]])
    assert len(encoding.input_ids) == len(encoding.labels) == 6
    assert encoding.lost == 7 - len(encoding.words or []) > 0


def test_a_long_prompt_is_cut_on_its_left_and_keeps_the_answer() -> None:
    reader = Reader(gpt(bos=True), "decoder", max_length=24)
    encoding = reader.completion("What is the capital of France? " * 6, "Paris")
    assert len(encoding.input_ids) == 24 and encoding.lost == 0 and encoding.full > 24
    assert encoding.input_ids[0] == reader.tokenizer.bos_token_id
    assert supervised(reader, encoding) == "Paris</s>"


def test_an_answer_that_is_too_long_counts_what_it_loses() -> None:
    reader = Reader(gpt(), "decoder", max_length=10)
    encoding = reader.completion("Hello", "Paris is the capital of France, " * 3)
    assert len(encoding.input_ids) == 10 and encoding.lost > 0
    kept = sum(label != IGNORED for label in encoding.labels)
    whole = Reader(gpt(), "decoder", max_length=999).completion("Hello", "Paris is the capital of France, " * 3)
    assert kept + encoding.lost == sum(label != IGNORED for label in whole.labels)


def test_documents_lose_no_token() -> None:
    reader = Reader(gpt(bos=True), "decoder", max_length=8)
    [pieces] = reader.documents(["The quick brown fox jumps over the lazy dog, and then it jumps again."])
    ids = [i for p in pieces for i in p.input_ids if i != reader.tokenizer.bos_token_id]
    assert reader.tokenizer.decode(ids) == "The quick brown fox jumps over the lazy dog, and then it jumps again.</s>"
    assert all(len(p.input_ids) <= 8 and p.labels[1:] == p.input_ids[1:] for p in pieces)


def test_every_token_of_a_document_is_predicted_once() -> None:
    text = "The quick brown fox jumps over the lazy dog, and then it jumps again."
    whole = gpt()(text)["input_ids"]
    [pieces] = Reader(gpt(), "decoder", max_length=8).documents([text])
    asked = [label for p in pieces for label in p.labels if label != IGNORED]
    assert asked == [*whole[1:], gpt().eos_token_id], "all but the first, which nothing stands before"


@pytest.mark.parametrize("chat", [True, False])
def test_a_plain_completion_is_begun_as_plain_text_is(chat: bool, make: Any) -> None:
    reader = Reader(make(bos=True), "decoder", max_length=64)
    encoding = reader.completion("the cat", "Die Katze", chat=chat)
    assert encoding.input_ids[0] == reader.tokenizer.bos_token_id
    assert encoding.input_ids.count(reader.tokenizer.bos_token_id) == 1
    assert encoding.input_ids[-1] == encoding.labels[-1] == reader.tokenizer.eos_token_id


def test_a_shortened_prompt_keeps_its_beginning_and_its_end() -> None:
    reader = Reader(gpt(bos=True), "decoder", max_length=64)
    whole = reader.prompt("What is the capital of France?")
    assert reader.shorten(whole, 5) == [whole[0], *whole[-4:]] and reader.shorten(whole, 99) == whole


def test_two_sided_models_cut_a_prompt_as_in_training() -> None:
    tokenizer = bert()
    tokenizer.eos_token = "[SEP]"
    reader = Reader(tokenizer, "encoder-decoder", max_length=6)
    asked = reader.prompt("the lazy dog jumps over the fox")
    encoding = reader.completion("the lazy dog jumps over the fox", "the fox")
    assert asked == encoding.input_ids and len(asked) == 6 and asked[-1] == tokenizer.sep_token_id


def test_the_fingerprint_is_of_what_changes_ids_alone() -> None:
    reader = Reader(bert(), "encoder", max_length=8)
    before = reader.fingerprint
    reader.texts(["the lazy dog jumps over the quick brown fox"])
    assert reader.fingerprint == before == Reader(bert(), "encoder", max_length=8).fingerprint
    others = [
        Reader(bert(), "encoder", max_length=9), Reader(bert(), "encoder", max_length=8, policy="drop"),
        Reader(gpt(), "encoder", max_length=8), Reader(gpt(), "decoder", max_length=8),
        Reader(gpt(), "decoder", max_length=8, template=TEMPLATES["chatml"]),
    ]  # fmt: skip
    assert len({before, *(r.fingerprint for r in others)}) == 6


def test_a_slow_tokenizer_is_refused() -> None:
    with pytest.raises(InputError, match="is a slow tokenizer"):
        Reader(object(), "encoder", max_length=8)


def test_padding_is_told_by_its_place() -> None:
    """An end of text that is also the padding's id stays a token, and supervised."""
    from tunesmith.data.encode import collator
    from tunesmith.data.tasks import find

    reader = Reader(gpt(), "decoder", max_length=64)
    task, end = find("generate")({"prompt": "prompt", "completion": "completion"}), reader.tokenizer.eos_token_id
    encodings = [reader.completion("a", answer) for answer in ("b", "b c d e")]
    rows = [{"input_ids": e.input_ids, "labels": e.labels, "token_type_ids": None} for e in encodings]
    batch = collator(task, end)(rows)
    for i, encoding in enumerate(encodings):
        size = len(encoding.input_ids)
        assert batch["attention_mask"][i].tolist() == [1] * size + [0] * (batch["input_ids"].shape[1] - size)
        assert batch["labels"][i, size - 1] == end and (batch["labels"][i, size:] == IGNORED).all()


def test_two_sided_models_read_the_prompt_and_write_the_answer() -> None:
    reader = Reader(gpt(), "encoder-decoder", max_length=64)
    encoding = reader.completion("the cat", "Die Katze")
    assert encoding.input_ids == reader.prompt("the cat") and encoding.labels[-1] == reader.tokenizer.eos_token_id
    assert reader.tokenizer.decode(encoding.labels[:-1]) == "Die Katze"
