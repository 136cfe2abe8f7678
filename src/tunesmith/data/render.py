"""Rows as the model will see them: token by token, with what is supervised marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .rows import Rows
from .tasks import Encoding, Task

if TYPE_CHECKING:
    from rich.text import Text

    from .reader import Reader

_WIDTH = 300
_CONTEXT = 8


@dataclass(frozen=True)
class Piece:
    """A few characters: usually one token, or the tokens that together make a character.

    Attributes:
        text: what stands there.
        supervised: whether the model is asked for it, or for a tag at it.
        tag: the tag that is asked for.
    """

    text: str
    supervised: bool = False
    tag: str = ""


@dataclass(frozen=True)
class Shown:
    """One row.

    Attributes:
        where: where it stands in the file.
        columns: column -> its value, in short.
        answer: what is asked of the row as a whole, in the words of the labels; None where tokens are asked for.
        pieces: its tokens; none where no tokenizer was given.
        tokens: number of tokens.
        units: number of supervised units.
        cut: number of tokens that were too many.
    """

    where: str
    columns: dict[str, str]
    answer: str | None = None
    pieces: list[Piece] = field(default_factory=list)
    tokens: int = 0
    units: int = 0
    cut: int = 0


def render(task: Task, reader: Reader | None, rows: Rows, n: int = 3) -> list[Shown]:
    """The first rows, as the model will see them.

    Args:
        task: what the columns mean.
        reader: turns text into token ids; None shows the columns' values alone.
        rows: the rows.
        n: how many; of a long text only the first piece is shown.

    Raises:
        InputError: a row cannot be encoded.
    """
    return [_shown(task, reader, rows, i) for i in range(min(n, len(rows)))]


def _shown(task: Task, reader: Reader | None, rows: Rows, index: int) -> Shown:
    row, where = rows[index], rows.where(index)
    columns = {column: _short(row[column]) for column in task.columns.values()}
    answer = None if task.per_token else _answer(task, row)
    if reader is None:
        return Shown(where, columns, answer)
    encoding = task.encode([row], reader)[0][0]
    two_sides = task.per_token and reader.architecture == "encoder-decoder"
    units = sum(label != -100 for label in encoding.labels) if task.per_token else 1
    return Shown(
        where, columns, answer, list(_pieces(task, reader, encoding)), units=units,
        tokens=len(encoding.input_ids) + (len(encoding.labels) if two_sides else 0),
        cut=max(0, encoding.full - reader.max_length),
    )  # fmt: skip


def _answer(task: Task, row: dict[str, Any]) -> str:
    target = task.target(row)
    if isinstance(target, list):
        return ", ".join(name for name, there in zip(task.labels or [], target, strict=True) if there) or "none"
    return task.labels[target] if task.labels else f"{target:g}"


def _pieces(task: Task, reader: Reader, encoding: Encoding) -> Iterator[Piece]:
    if not task.per_token:
        yield from (Piece(text) for text, _ in _texts(reader, encoding.input_ids))
    elif reader.architecture == "encoder-decoder":
        yield from (Piece(text) for text, _ in _texts(reader, encoding.input_ids))
        yield Piece("->")
        yield from (Piece(text, True) for text, _ in _texts(reader, encoding.labels))
    else:
        for text, place in _texts(reader, encoding.input_ids, encoding.labels):
            label = encoding.labels[place]
            yield Piece(text, label != -100, task.labels[label] if task.labels and label != -100 else "")


def _texts(reader: Reader, ids: Sequence[int], labels: Sequence[int] | None = None) -> Iterator[tuple[str, int]]:
    """The characters that each token adds, and its place; tokens that end within a character wait for the next.

    A token is written together with those before it, because many tokenizers tell a word's beginning only that way.
    """
    start, written = 0, ""
    for place in range(len(ids)):
        whole = _decode(reader, ids[start : place + 1])
        turn = labels is not None and place + 1 < len(ids) and (labels[place] == -100) != (labels[place + 1] == -100)
        if whole.endswith("\ufffd") and place + 1 < len(ids) and not turn:
            continue
        yield whole[len(written) :], place
        start = max(start, place + 1 - _CONTEXT) if not whole.endswith("\ufffd") else place + 1
        written = _decode(reader, ids[start : place + 1])


def _decode(reader: Reader, ids: Sequence[int]) -> str:
    return str(reader.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)) if ids else ""


def as_text(shown: Shown) -> Text:
    """A row for the terminal, token by token: ``·`` is a space, ``⏎`` a new line.

    Supervised tokens are green, and stand in ``[[...]]`` so that no colour is needed.
    """
    from rich.text import Text

    made = Text()
    made.append(f"{shown.where}\n", style="bold")
    if not shown.pieces:
        for column, value in shown.columns.items():
            made.append(f"  {column}: ", style="dim").append(f"{value}\n")
    for run in _runs(shown.pieces):
        text = " ".join(p.text.replace(" ", "·").replace("\n", "⏎") for p in run)
        tag = f"/{run[0].tag}" if run[0].tag else ""
        if run[0].supervised:
            made.append(f" [[{text}{tag}]]", style="bold green")
        else:
            made.append(f" {text}", style="dim")
    made.append("\n" if shown.pieces else "")
    if shown.answer is not None:
        made.append("  asked for: ", style="dim").append(f"[[{shown.answer}]]\n", style="bold green")
    if shown.pieces:
        cut = f", {shown.cut:,} more were cut" if shown.cut else ""
        made.append(f"  {shown.tokens:,} tokens, {shown.units:,} supervised{cut}\n", style="dim")
    return made


def _runs(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Neighbours that are marked alike; each tagged piece by itself."""
    run: list[Piece] = []
    for piece in pieces:
        if run and (piece.supervised != run[0].supervised or piece.tag or run[0].tag):
            yield run
            run = []
        run.append(piece)
    if run:
        yield run


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"
