"""Wordings around a text, and the same rows inside one of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..errors import InputError
from . import Step

PLACE = "{text}"
"""Where a row's text stands in a template."""

TEMPLATES = (
    "{text}", "Text: {text}\nAnswer:", "Input: {text}\nOutput:", "Question: {text}\nAnswer:",
    "Read this: {text}\nYour answer:", "{text}\nWhat is the answer?", "Task: {text}\nSolution:",
    "Here is a text. {text}\nIts answer is", "Consider the following. {text}\nReply:", "Q: {text}\nA:",
    "Please answer.\n{text}\n", "Given: {text}\nResult:", "You see this: {text}\nWhat do you say?",
    "### Input\n{text}\n### Response\n", "[{text}] ->", "Look at this and answer: {text}\n",
    "Example: {text}\nLabel:", "The text is: {text}\nThe answer is:", "{text}\nSo:", "Case: {text}\nVerdict:",
)  # fmt: skip
"""Wordings that fit any task."""


def cut(template: str) -> tuple[str, str]:
    """What stands before the text and what stands behind it.

    Raises:
        InputError: the text has no place in it, or several.

    >>> cut("Q: {text} A:")
    ('Q: ', ' A:')
    """
    before, found, after = template.partition(PLACE)
    if not found or PLACE in after:
        raise InputError(f"template {template!r} has no one place for the text", expected=f"{PLACE} once")
    return before, after


def framed(step: Step, before: list[int], after: list[int]) -> Step:
    """The rows with ids before and behind what is asked: inside what a tokenizer adds, before an answer.

    Raises:
        InputError: a row is too long for the model then.
    """
    ids, attended = step.batch["input_ids"], step.attended
    writes = step.mask is not None
    first, last = step.around
    rows: dict[str, list[Tensor]] = {name: [] for name in ("input_ids", "token_type_ids", "labels")}
    for row in range(step.rows):
        own = ids[row, : int(attended[row].sum())]
        begin = len(first) if own[: len(first)].tolist() == first else 0
        end = len(own) - (len(last) if last and own[-len(last) :].tolist() == last else 0)
        if writes:
            end = int((step.batch["labels"][row] != -100).nonzero()[0])
            rows["labels"].append(_around(step.batch["labels"][row, : len(own)], begin, end, [-100], before, after))
        rows["input_ids"].append(
            torch.cat([own[:begin], own.new_tensor(before), own[begin:end], own.new_tensor(after), own[end:]])
        )
        if "token_type_ids" in step.batch:
            types = step.batch["token_type_ids"][row, : len(own)]
            rows["token_type_ids"].append(_around(types, begin, end, [], before, after))
    return step.on(_padded(step, rows))


def _around(values: Tensor, begin: int, end: int, fill: list[int], before: list[int], after: list[int]) -> Tensor:
    """Values of a row with others for what was put in: ``fill``, else those of the neighbours."""
    first = fill[0] if fill else int(values[min(begin, len(values) - 1)])
    last = fill[0] if fill else int(values[max(0, end - 1)])
    put = [values.new_full((len(before),), first), values.new_full((len(after),), last)]
    return torch.cat([values[:begin], put[0], values[begin:end], put[1], values[end:]])


def _padded(step: Step, rows: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    longest = max(len(row) for row in rows["input_ids"])
    if step.places is not None and longest > step.places:
        raise InputError(
            f"a row has {longest} tokens inside its template", expected=f"at most {step.places}, the most that the base reads",
            fix=f"lower length.max by {longest - step.places}",
        )  # fmt: skip
    there = [torch.ones_like(row) for row in rows["input_ids"]]
    made = {
        name: pad_sequence(values, batch_first=True) for name, values in rows.items() if values and name != "labels"
    }
    labels = (
        pad_sequence(rows["labels"], batch_first=True, padding_value=-100) if rows["labels"] else step.batch["labels"]
    )
    return {**step.batch, **made, "attention_mask": pad_sequence(there, batch_first=True), "labels": labels}
