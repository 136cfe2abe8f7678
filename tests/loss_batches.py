"""Batches of every kind that a loss may meet, on tiny models in double precision whose weights have left their base."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tiny import tiny
from tunesmith import parts
from tunesmith.engine.step import Step
from tunesmith.host import Host

ROWS = ("row", "row-decoder")
"""One class a row."""
CAUSAL = ("lm", "prefer", "unpaired", "controlled")
"""A causal model that writes."""
WRITTEN = (*CAUSAL, "seq2seq")
CLASSES = (*ROWS, "tag", *WRITTEN)
"""One right class or token at each unit."""
LABELLED = (*ROWS, "several", "number", "tag")
"""Labels, not texts."""
KINDS = (*LABELLED, *WRITTEN)

_FAMILY = {"row": "bert", "row-decoder": "gpt2", "several": "bert", "number": "bert", "tag": "bert", "seq2seq": "t5"}
_HEAD = {"tag": "token-classification", "seq2seq": "seq2seq-lm"}


def head_of(kind: str) -> str:
    return _HEAD.get(kind, "causal-lm" if kind in CAUSAL else "sequence-classification")


def make_host(kind: str, *, moved: bool = True, mask: str | None = "everything") -> Host:
    """A model with LoRA and trained weights of its own; ``moved`` takes both away from the base."""
    model = tiny(_FAMILY.get(kind, "gpt2"), head_of(kind), labels=1 if kind == "number" else 3)
    host = Host(model.double(), [n for n, _ in model.named_parameters() if n.startswith(("classifier", "score"))])
    host.attach(parts.find("adapter", "lora").choose({"rank": 2}))
    host.train_only(parts.find("mask", mask).choose().build() if mask else None)
    host.remember()
    torch.manual_seed(1)
    if moved:
        with torch.no_grad():
            for parameter in host.trainable().values():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return host.eval()


def make_batch(kind: str, rows: int = 6, seed: int = 0) -> dict[str, Tensor]:
    """Rows of uneven length; answers begin behind the second token."""
    draw = torch.Generator().manual_seed(seed)
    sizes = torch.randint(4, 10, (rows,), generator=draw).tolist()
    width = max(sizes)
    ids = torch.randint(5, 100, (rows, width), generator=draw)
    there = torch.arange(width)[None, :] < torch.tensor(sizes)[:, None]
    batch = {"input_ids": ids * there, "attention_mask": there.long()}
    if kind in ROWS:
        batch["labels"] = torch.arange(rows) % 3
        batch["source"] = torch.arange(rows) % 2
        marks = torch.randint(0, 2, (rows, width), generator=draw)
        batch["soft"] = torch.rand(rows, 3, generator=draw).double().softmax(-1)
        batch["rationale"] = marks.masked_fill(~there | (torch.arange(rows) == 1)[:, None], -100)
    elif kind == "several":
        batch["labels"] = torch.randint(0, 2, (rows, 3), generator=draw).double()
    elif kind == "number":
        batch["labels"] = torch.randn(rows, generator=draw).double()
    elif kind == "tag":
        tags = torch.randint(0, 3, (rows, width), generator=draw)
        batch["labels"] = tags.masked_fill(~there | (torch.arange(width) % 3 == 0)[None, :], -100)
    else:
        asked = there & (torch.arange(width) >= 2)[None, :]
        batch["labels"] = ids.masked_fill(~asked, -100)
    if kind in ("prefer", "unpaired", "controlled"):
        batch["good"] = torch.arange(rows) % 2 == 0
    if kind == "lm":
        batch["source"] = torch.arange(rows) % 2
    if kind == "prefer":
        batch["pairs"] = torch.arange(rows) // 2
    if kind == "controlled":
        batch["controlled"] = torch.ones(rows, dtype=torch.bool)
    return batch


def padded(batch: dict[str, Tensor], by: int = 3) -> dict[str, Tensor]:
    """The same rows with more padding."""
    made = {}
    for name, tensor in batch.items():
        fill = -100 if name in ("labels", "rationale") else 0
        grows = tensor.shape == batch["input_ids"].shape and (name != "labels" or tensor.dtype == torch.long)
        made[name] = torch.nn.functional.pad(tensor, (0, by), value=fill) if grows else tensor
    return made


def chosen(batch: dict[str, Tensor], rows: Any) -> dict[str, Tensor]:
    """Some rows, or the same in another order."""
    return {name: tensor[rows] for name, tensor in batch.items()}


def pieces(batch: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Row by row, or pair by pair."""
    numbers = batch.get("pairs", torch.arange(len(batch["labels"])))
    for number in numbers.unique():
        yield chosen(batch, numbers == number)


def make_step(host: Host, kind: str, batch: dict[str, Tensor], *, progress: float = 0.5) -> Step:
    torch.manual_seed(5)
    return Step(host, batch, head_of(kind), progress=progress, words=Letters())


class Letters:
    """A tokenizer of letters."""

    def __init__(self, first: tuple[int, ...] = (), last: tuple[int, ...] = ()):
        self.around = list(first), list(last)

    def ids(self, text: str) -> list[int]:
        return said(text)


def said(text: str) -> list[int]:
    """Ids of a text, one a letter."""
    return [5 + ord(letter) % 90 for letter in text]


def units(step: Step, tensor: Tensor) -> list[Tensor]:
    """What a model's output holds for each supervised unit, found with a loop."""
    if step.mask is None:
        return list(tensor)
    back = 1 if step.head == "causal-lm" else 0
    return [
        tensor[r, i - back] for r, row in enumerate(step.labels) for i, v in enumerate(row) if v != -100 and i >= back
    ]


def raw(step: Step, **changes: Any) -> Any:
    """The model's own output, without the step's help."""
    inputs = {k: v for k, v in step.batch.items() if k in ("input_ids", "attention_mask")} | changes
    if step.head == "seq2seq-lm":
        labels = step.labels.clone()
        inputs["decoder_input_ids"] = torch.cat([torch.zeros_like(labels[:, :1]), labels[:, :-1].clamp(min=0)], 1)
    return step.host.model(output_hidden_states=True, **inputs)
