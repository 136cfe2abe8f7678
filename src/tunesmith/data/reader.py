"""The one place where text becomes token ids: the same for training, evaluation, prediction, generation and chat."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

from ..errors import InputError
from .tasks import IGNORED, Encoding
from .templates import plain

Policy = Literal["truncate", "drop", "stop"]
Message = Mapping[str, Any]

_HIDDEN = 0.15
"""Share of the tokens that a masked language model is asked for."""


class Reader:
    """Turns text into token ids and says which of them are supervised.

    Args:
        tokenizer: the base's tokenizer, a fast one.
        architecture: ``encoder``, ``decoder`` or ``encoder-decoder``.
        max_length: most tokens of a row.
        policy: what becomes of longer rows. ``truncate`` cuts them, ``drop`` leaves them out, ``stop`` is an error;
            None cuts what goes in, and is an error where an answer would be cut.
        template: a chat template (jinja); None takes the tokenizer's, or a plain one where it has none.

    Raises:
        InputError: the tokenizer is a slow one, which cannot say where its tokens lie in the text.
    """

    def __init__(
        self,
        tokenizer: Any,
        architecture: str,
        *,
        max_length: int,
        policy: Policy | None = None,
        template: str | None = None,
    ):
        if not getattr(tokenizer, "is_fast", False):
            raise InputError(f"{type(tokenizer).__name__} is a slow tokenizer", expected="one with a tokenizer.json")
        self.tokenizer = tokenizer
        self.architecture = architecture
        self._known = (-1, "")
        self.max_length = max_length
        self.policy = policy
        self.has_template = bool(template or getattr(tokenizer, "chat_template", None))
        self.template = template or getattr(tokenizer, "chat_template", None) or plain(begin=bool(self._begin()))

    @property
    def fingerprint(self) -> str:
        """A hash of all that changes token ids: tokenizer, template, length and policy."""
        special = {k: str(v) for k, v in self.tokenizer.special_tokens_map.items()}
        own = [self.architecture, self.template, self.has_template, self.max_length, self.policy]
        return hashlib.sha256(json.dumps([self._backend(), special, *own], sort_keys=True).encode()).hexdigest()

    def _backend(self) -> str:
        """A hash of the tokenizer, made anew when it has got tokens."""
        if self._known[0] != len(self.tokenizer):
            backend = json.loads(self.tokenizer.backend_tokenizer.to_str())
            for state in ("truncation", "padding"):  # what the last call left behind, not what the tokenizer is
                backend.pop(state, None)
            self._known = len(self.tokenizer), hashlib.sha256(json.dumps(backend, sort_keys=True).encode()).hexdigest()
        return self._known[1]

    def unlimited(self) -> Reader:
        """The same reader without a limit to the length."""
        free = copy.copy(self)
        free.max_length = 10**9
        return free

    # ------------------------------------------------------------------ texts and words

    def texts(self, texts: Sequence[str], seconds: Sequence[str] | None = None) -> list[Encoding]:
        """Texts, or pairs of texts, for a head that gives one answer a row.

        Too long ones are cut at their end, of a pair the longer one first.
        """
        pair = {"text_pair": list(seconds)} if seconds is not None else {}
        whole = self.tokenizer(list(texts), **pair, verbose=False)
        made = []
        for i, ids in enumerate(whole["input_ids"]):
            types = whole["token_type_ids"][i] if "token_type_ids" in whole else None
            encoding = Encoding(ids, None, types, full=len(ids))
            if len(ids) > self.max_length:
                one = {"text_pair": seconds[i]} if seconds is not None else {}
                cut = self.tokenizer(texts[i], **one, truncation="longest_first", max_length=self.max_length)
                encoding.input_ids, encoding.token_type_ids = cut["input_ids"], cut.get("token_type_ids")
            made.append(encoding)
        return made

    def words(self, sentences: Sequence[Sequence[str]]) -> list[Encoding]:
        """Sentences of words, joined by spaces; ``labels`` marks the first sub-word of each word.

        Words are found by their place in the text, so every tokenizer reads them as it reads running text.
        """
        joined = self.tokenizer([" ".join(s) for s in sentences], return_offsets_mapping=True, verbose=False)
        made = []
        for i, words in enumerate(sentences):
            text, ids = " ".join(words), joined["input_ids"][i]
            first, index = _first_subwords(text, words, joined["offset_mapping"][i])
            types = joined["token_type_ids"][i] if "token_type_ids" in joined else None
            encoding = Encoding(ids, first, types, words=index, full=len(ids))
            if len(ids) > self.max_length:
                self._cut_words(encoding)
            made.append(encoding)
        return made

    def _cut_words(self, encoding: Encoding) -> None:
        closing = encoding.input_ids[-1] in self._special
        encoding.input_ids = self._cut_end(encoding.input_ids)
        encoding.labels = encoding.labels[: self.max_length - closing] + [False] * closing
        if encoding.token_type_ids is not None:
            encoding.token_type_ids = encoding.token_type_ids[: self.max_length]
        kept = sum(encoding.labels)
        words = encoding.words or []
        encoding.lost, encoding.words = len(words) - kept, words[:kept]

    # ------------------------------------------------------------------ prompts and completions

    def prompt(self, text: str, *, chat: bool = True, separator: str = "\n") -> list[int]:
        """The ids of a prompt, after which the model writes."""
        if self._wraps(chat):
            return self.chat_prompt([{"role": "user", "content": text}])
        if self.architecture == "encoder-decoder":
            return self._cut_end(list(self.tokenizer(text, verbose=False)["input_ids"]))
        return self._begin() + self.ids(_separated(text, separator))

    def completion(self, prompt: str, answer: str, *, chat: bool = True, separator: str = "\n") -> Encoding:
        """A prompt and its completion; the completion and the end of text are supervised."""
        if self._wraps(chat):
            return self.chat([{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}])
        if self.architecture == "encoder-decoder":
            return self._two_sides(prompt, answer)
        before = self.prompt(prompt, chat=chat, separator=separator)
        after = [*self.ids(answer), self._end()]
        return self._fit(before + after, [IGNORED] * len(before) + after)

    def _two_sides(self, prompt: str, answer: str) -> Encoding:
        before, after = list(self.tokenizer(prompt, verbose=False)["input_ids"]), [*self.ids(answer), self._end()]
        lost = max(0, len(after) - self.max_length)
        return Encoding(self._cut_end(before), after[: self.max_length], full=max(len(before), len(after)), lost=lost)

    def _cut_end(self, ids: list[int]) -> list[int]:
        """Cut the end of a text, but keep the special token that closes it."""
        if len(ids) <= self.max_length:
            return ids
        closing = ids[-1:] if ids[-1] in self._special else []
        return ids[: self.max_length - len(closing)] + closing

    def _wraps(self, chat: bool) -> bool:
        return chat and self.has_template and self.architecture == "decoder"

    # ------------------------------------------------------------------ conversations

    def chat_text(self, messages: Sequence[Message], *, ask: bool = False) -> str:
        """A conversation as the template writes it; ``ask`` adds the beginning of the assistant's turn.

        Raises:
            InputError: the template cannot write this conversation.
        """
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    [dict(m) for m in messages], tokenize=False, add_generation_prompt=ask, chat_template=self.template
                )
            )
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"the chat template fails on roles {', '.join(str(m.get('role')) for m in messages)} ({reason})",
                expected="a conversation that the template knows",
                fix="mend the rows, or give another template with --set template=FILE",
            ) from None  # fmt: skip

    def chat_prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation up to where the assistant speaks."""
        text = self.chat_text(messages, ask=True)
        return [i for piece in self._pieces(text, _edges(self._spans(messages, text), text)) for i in piece]

    def chat(self, messages: Sequence[Message]) -> Encoding:
        """A conversation; what the assistant says is supervised, and the end of each of its turns.

        The spans are found by writing the conversation up to each turn, with the template itself, and so hold for any
        template whose text for a beginning is the beginning of the text. What follows the last answer is left out.
        Where the template does not mark an answer's end, the end of text follows the last answer.

        Raises:
            InputError: the template writes a beginning in another way than the whole.
        """
        last = max(i for i, m in enumerate(messages) if m["role"] == "assistant")
        messages = messages[: last + 1]
        text = self.chat_text(messages)
        spans = self._spans(messages, text)
        marked = self._ends(text, spans[-1])
        if not marked:
            text = text[: spans[-1][1]]
        edges = _edges(spans, text)
        ids: list[int] = []
        labels: list[int] = []
        for start, piece in zip(edges, self._pieces(text, edges), strict=False):
            said = any(a <= start < b for a, b in spans)
            ids += piece
            labels += piece if said else [IGNORED] * len(piece)
        if not marked:
            ids.append(self._end())
            labels.append(self._end())
        return self._fit(ids, labels)

    def _spans(self, messages: Sequence[Message], text: str) -> list[tuple[int, int]]:
        return [self._span(messages, k, text) for k, m in enumerate(messages) if m["role"] == "assistant"]

    def _pieces(self, text: str, edges: Sequence[int]) -> list[list[int]]:
        """The ids of the text between the edges.

        What stands before an edge is read as if nothing followed, as it is when the model is asked to go on there; so
        the ids before an answer are the same in training and in use, even where a token would reach over the edge.
        """
        pieces: list[list[int]] = []
        before: list[int] = []
        for start, stop in pairwise(edges):
            until = self.ids(text[:stop])
            aligned = until[: len(before)] == before
            pieces.append(until[len(before) :] if aligned else self.ids(text[start:stop]))
            before += pieces[-1]
        return pieces

    def _span(self, messages: Sequence[Message], turn: int, text: str) -> tuple[int, int]:
        """Where a turn of the assistant stands in the text: from its first word to the end of its end mark."""
        before = self.chat_text(messages[:turn], ask=True)
        until = self.chat_text(messages[: turn + 1])
        if not (text.startswith(before) and text.startswith(until) and len(until) > len(before)):
            raise InputError(
                f"the chat template writes turn {turn + 1} in another way when the conversation goes on",
                expected="a template whose text for a beginning is the beginning of the text",
                fix="give another with --set template=FILE",
            )
        return len(before), len(until.rstrip())

    def _ends(self, text: str, span: tuple[int, int]) -> bool:
        """Whether the template writes a token that ends the assistant's turn."""
        said = self.ids(text[span[0] : span[1]])
        return bool(said) and said[-1] in self._special

    @cached_property
    def _special(self) -> frozenset[int]:
        added = self.tokenizer.added_tokens_decoder
        return frozenset({*self.tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)})

    # ------------------------------------------------------------------ plain text

    def documents(self, texts: Sequence[str]) -> list[list[Encoding]]:
        """Plain texts in pieces of at most ``max_length`` tokens, each text closed by the end of text.

        Every token is predicted once: a piece starts with the beginning of text or, where the tokenizer writes none,
        with the last token of the piece before it.
        """
        made = []
        begin, end = self._begin(), [self._end()]
        for ids in self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]:
            closed = list(ids) + end
            if begin:
                size = self.max_length - len(begin)
                pieces = [begin + closed[i : i + size] for i in range(0, len(closed), size)]
            else:
                pieces = [closed[i : i + self.max_length] for i in range(0, len(closed) - 1, self.max_length - 1)]
            made.append([Encoding(p, [IGNORED, *p[1:]], full=len(p)) for p in pieces])
        return made

    def hidden(self, texts: Sequence[str]) -> list[list[Encoding]]:
        """Plain texts in pieces of which some tokens are hidden; these are supervised (masked language modelling).

        Of each piece 15 % of the tokens are asked for, one at least: 8 of 10 show the mask, one a random token, one itself,
        as in Devlin et al. 2019, arXiv:1810.04805, sec. 3.1. The choice follows from the piece, so that every pass asks the
        same.

        Raises:
            InputError: the tokenizer has no mask.
        """
        (before, after), made = self.around, []
        size = self.max_length - len(before) - len(after)
        for ids in self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]:
            pieces = [self._hide(ids[i : i + size]) for i in range(0, len(ids), size)]
            made.append([
                Encoding([*before, *shown, *after], [IGNORED] * len(before) + asked + [IGNORED] * len(after),
                         full=len(before) + len(shown) + len(after))
                for shown, asked in pieces
            ])  # fmt: skip
        return made

    def _hide(self, ids: list[int]) -> tuple[list[int], list[int]]:
        """What is shown of a piece, and what is asked of it."""
        draw = random.Random(hashlib.sha256(str(ids).encode()).digest())
        chosen = {i for i in range(len(ids)) if draw.random() < _HIDDEN} or {draw.randrange(len(ids))}
        mask, shown = self.tokenizer.convert_tokens_to_ids(self.mask), list(ids)
        for i in sorted(chosen):
            lot = draw.random()
            shown[i] = mask if lot < 0.8 else draw.randrange(len(self.tokenizer)) if lot < 0.9 else ids[i]
        return shown, [t if i in chosen else IGNORED for i, t in enumerate(ids)]

    def beginning(self, text: str) -> list[int]:
        """The ids of a text that the model is to go on with."""
        return self._begin() + self.ids(text)

    # ------------------------------------------------------------------ blanks

    @property
    def mask(self) -> str:
        """The token that stands for a blank.

        Raises:
            InputError: the tokenizer has none.
        """
        if self.tokenizer.mask_token is None:
            raise InputError(
                "the tokenizer has no mask token", where=self.tokenizer.name_or_path or None,
                expected="one with a mask_token, as masked language models have it",
            )  # fmt: skip
        return str(self.tokenizer.mask_token)

    def spanned(self, before: str, inside: str, after: str) -> tuple[list[int], list[int]]:
        """The ids of a text of three pieces, read as one, and the places of the tokens in the middle piece."""
        whole, start, stop = before + inside + after, len(before), len(before) + len(inside)
        special = self.architecture != "decoder"
        read = self.tokenizer(whole, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
        begin = [] if special else self._begin()
        places = [i + len(begin) for i, (a, b) in enumerate(read["offset_mapping"]) if a < stop and max(a, start) < b]
        return [*begin, *read["input_ids"]], places

    def word(self, word: str, spaced: bool) -> list[int]:
        """The ids of a word in a text, behind a space or at the beginning of a line.

        Raises:
            InputError: the tokenizer does not know it.
        """
        before = "a" if spaced else "a\n"
        until, both = self.ids(before), self.ids(f"a {word}" if spaced else before + word)
        found = both[len(until) :] if both[: len(until)] == until else self.ids(word)
        if not found or self.tokenizer.unk_token_id in found:
            raise InputError(
                f"word {word!r} is not in the base's vocabulary", where="task.cloze.words",
                expected="words that it knows", fix="write others: task.cloze.words.LABEL=WORD",
            )  # fmt: skip
        return found

    def size(self, text: str) -> int:
        """Number of tokens of a text by itself."""
        return len(self.ids(text))

    def first_tokens(self, text: str, count: int) -> str:
        """A text without what follows its first tokens."""
        read = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return text[: read["offset_mapping"][:count][-1][1]] if len(read["input_ids"]) > count else text

    # ------------------------------------------------------------------ helpers

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """The ids that the tokenizer puts before and behind every text."""
        own, whole = self.ids("a"), self.tokenizer("a")["input_ids"]
        place = next((i for i in range(len(whole)) if whole[i : i + len(own)] == own), 0)
        return whole[:place], whole[place + len(own) :]

    def marks(self, texts: Sequence[str], passages: Sequence[Sequence[str]]) -> list[list[int]]:
        """For each token of each text, as `texts` cuts it: 1 in one of its passages, 0 elsewhere, -100 beside the text."""
        found = self.tokenizer(
            list(texts), truncation=True, max_length=self.max_length, return_offsets_mapping=True, verbose=False
        )
        made = []
        for text, given, offsets in zip(texts, passages, found["offset_mapping"], strict=True):
            spans = [s for passage in given for s in _places(text, passage)]
            marks = [int(any(a < stop and start < b for a, b in spans)) for start, stop in offsets]
            made.append([m if b > a else IGNORED for m, (a, b) in zip(marks, offsets, strict=True)])
        return made

    def ids(self, text: str) -> list[int]:
        """A text as ids, without special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else []

    def _begin(self) -> list[int]:
        """The beginning of text, where the tokenizer writes one by itself."""
        bos = self.tokenizer.bos_token_id
        return [bos] if bos is not None and self.tokenizer("a")["input_ids"][:1] == [bos] else []

    def _end(self) -> int:
        if self.tokenizer.eos_token_id is None:
            raise InputError(
                "the tokenizer has no end of text", where=self.tokenizer.name_or_path or None, expected="an eos_token"
            )
        return int(self.tokenizer.eos_token_id)

    def shorten(self, prompt: Sequence[int], room: int) -> list[int]:
        """A prompt of at most ``room`` ids: cut on its left, as in training, and begun as before."""
        begin = self._begins(prompt)
        return list(prompt) if len(prompt) <= room else [*begin, *prompt[len(prompt) - room + len(begin) :]]

    def _begins(self, ids: Sequence[int]) -> list[int]:
        return list(ids[:1]) if ids and ids[0] == self.tokenizer.bos_token_id else []

    def _fit(self, ids: list[int], labels: list[int]) -> Encoding:
        """Cut to the length: the prompt's left first, the answer's end only when nothing of the prompt is left."""
        full, over = len(ids), len(ids) - self.max_length
        if over <= 0:
            return Encoding(ids, labels, full=full)
        first = next((i for i, label in enumerate(labels) if label != IGNORED), 0)
        begin = self._begins(ids)
        left = min(over, max(0, first - len(begin) - 1))
        kept_ids = begin + ids[len(begin) + left :]
        kept_labels = [IGNORED] * len(begin) + labels[len(begin) + left :]
        kept_ids, dropped = kept_ids[: self.max_length], kept_labels[self.max_length :]
        lost = sum(label != IGNORED for label in dropped)
        return Encoding(kept_ids, kept_labels[: self.max_length], full=full, lost=lost)


def _places(text: str, passage: str) -> list[tuple[int, int]]:
    """Where a passage stands in a text as whole words, whatever its case.

    >>> _places("A good, good-natured goods train", "good")
    [(2, 6), (8, 12)]
    """
    whole = rf"(?<!\w){re.escape(passage.strip())}(?!\w)"
    return [m.span() for m in re.finditer(whole, text, re.IGNORECASE)] if passage.strip() else []


def _edges(spans: Sequence[tuple[int, int]], text: str) -> list[int]:
    """Where the text is to be cut: at its ends, and where an answer begins or ends."""
    return sorted({0, len(text), *(edge for span in spans for edge in span)})


def _separated(text: str, separator: str) -> str:
    """A prompt that ends in white space already says where the answer begins."""
    return text if text[-1:].isspace() else text + separator


def _first_subwords(
    text: str, words: Sequence[str], offsets: Sequence[tuple[int, int]]
) -> tuple[list[bool], list[int]]:
    """Which tokens begin a word, and the index of the word that each of them begins."""
    starts, place = [], 0
    for word in words:
        starts.append(place)
        place += len(word) + 1
    owner = {s + j: i for i, (s, w) in enumerate(zip(starts, words, strict=True)) for j in range(len(w))}
    seen: set[int] = set()
    first: list[bool] = []
    index: list[int] = []
    for start, stop in offsets:
        owned = next((owner[c] for c in range(start, stop) if c in owner and not text[c].isspace()), None)
        fresh = owned is not None and owned not in seen
        first.append(fresh)
        if fresh and owned is not None:
            seen.add(owned)
            index.append(owned)
    return first, index
