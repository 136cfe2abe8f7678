"""What losses over good and bad answers share: log-probabilities of whole answers, pairs, and answers of other rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..errors import InputError
from . import Step
from ._common import must, name_of, row_counts, row_sums, token_log_probabilities


def answer_log_probabilities(logits: Tensor, step: Step) -> Tensor:
    """Log-probability of each row's answer, (rows,)."""
    return row_sums(token_log_probabilities(logits, step.targets), step)


def log_ratios(step: Step) -> Tensor:
    """How much likelier each answer is for the model than for its base, in nats, (rows,)."""
    return answer_log_probabilities(step.logits, step) - answer_log_probabilities(step.reference.logits, step)


def lengths(step: Step) -> Tensor:
    """Tokens of each answer, (rows,), at least 1."""
    return row_counts(step).clamp(min=1)


def pairs(step: Step, term: Any) -> tuple[Tensor, Tensor]:
    """Rows of the chosen and of the rejected answers, pair by pair.

    Raises:
        InputError: the rows are not pairs.
    """
    if "pairs" not in step.batch:
        raise InputError(
            f"{name_of(term)} needs pairs of answers", expected="rows of task prefer with chosen and rejected",
            fix="for rows with prompt, completion and label use kto or unlikelihood",
        )  # fmt: skip
    good, number = step.batch["good"], step.batch["pairs"]
    chosen, rejected = good.nonzero()[:, 0], (~good).nonzero()[:, 0]
    return chosen[number[chosen].argsort()], rejected[number[rejected].argsort()]


def good_rows(step: Step, term: Any) -> Tensor:
    """Which rows hold a good answer, bool (rows,).

    Raises:
        InputError: the rows do not say.
    """
    if "good" not in step.batch:
        raise InputError(f"{name_of(term)} needs to know which answers are good", expected="rows of task prefer")
    return step.batch["good"]


def must_write(step: Step, term: Any) -> None:
    """The term needs a causal model that writes.

    Raises:
        InputError: the head is another one.
    """
    must(step.head == "causal-lm", term, "a causal model that writes")


def with_answers_of(step: Step, by: int) -> Step:
    """The same prompts, each with the answer of the row ``by`` places further on."""
    ids, labels, attended = step.batch["input_ids"], step.batch["labels"], step.attended
    new_ids, new_labels = [], []
    for row in range(step.rows):
        first = int((labels[row] != -100).nonzero()[0])
        other = (row + by) % step.rows
        answer = labels[other][labels[other] != -100]
        new_ids.append(torch.cat([ids[row, :first], answer]))
        new_labels.append(torch.cat([torch.full_like(ids[row, :first], -100), answer]))
    there = pad_sequence([torch.ones_like(i) for i in new_ids], batch_first=True)
    batch = {
        "input_ids": pad_sequence(new_ids, batch_first=True),
        "attention_mask": there.to(attended.dtype).long(),
        "labels": pad_sequence(new_labels, batch_first=True, padding_value=-100),
    }
    made: Step = step.on(batch)
    return made
