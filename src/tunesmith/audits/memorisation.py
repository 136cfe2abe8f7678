from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..evaluation.answers import Answers, row_losses
from ..evaluation.metrics import METRICS, Figure
from ..settings import Count
from . import ROWS, TEXT, Audit, Finding, Pair, Row
from ._compare import by_figure, by_rows, errors

CHANCE = "chance"


class Memorisation(Audit):
    """Can one tell from its loss that a row was trained on? Training rows against held-out rows.

    The figures: the mean loss of held-out rows less that of training rows; the share of pairs of a training and a
    held-out row in which the trained one has the lower loss (0.5 is chance; Yeom et al. 2018); for a language model the
    same with the base's loss taken off, so that rows that are easy for everybody do not count (Carlini et al. 2021);
    and the exposure of the training rows in bits, from the rank of each among the held-out ones (Carlini et al. 2019,
    with held-out rows in place of canaries). A probe stands for an encoder's base, and has been fitted on these rows.

    Source: Carlini et al. 2019, arXiv:1802.08232; Yeom et al. 2018, arXiv:1709.01604; Carlini et al. 2021,
    arXiv:2012.07805.

    Settings:
        rows: training rows, and held-out rows, that are measured.
    """

    tasks: ClassVar[tuple[str, ...]] = (*ROWS, *TEXT)

    def __init__(self, *, rows: Count = 200):
        self.rows = rows

    def __call__(self, pair: Pair) -> list[Finding]:
        count = self.rows if pair.task.name in ROWS else max(6, self.rows // 5)
        trained, held = pair.training(count), pair.held_out(count)
        losses = [np.concatenate([_losses(pair, rows, tuned) for rows in (trained, held)]) for tuned in (False, True)]
        member = np.r_[np.ones(len(trained)), np.zeros(len(held))]
        base, tuned = losses
        findings = [
            by_figure(pair, "loss_gap", _gap(base, member), _gap(tuned, member), len(member)),
            by_figure(pair, "membership_auc", _auc(-base, member), _auc(-tuned, member), len(member)),
            by_rows(pair, "exposure_bits", _exposure(base, member), _exposure(tuned, member)),
        ]
        if pair.task.name in TEXT:
            lower = _auc(np.round(base - tuned, 6), member)
            half: Figure = lambda weights: np.full(len(weights), 0.5)  # noqa: E731
            findings.append(by_figure(pair, "membership_auc_against_base", half, lower, len(member), who=CHANCE))
        return findings


def _losses(pair: Pair, rows: list[Row], tuned: bool) -> np.ndarray:
    answers = pair.answers(rows, tuned=tuned)
    known = answers.probabilities is not None or answers.loss is not None
    return row_losses(answers) if known else errors(pair.task, answers)


def _gap(loss: np.ndarray, member: np.ndarray) -> Figure:
    def figure(weights: np.ndarray) -> np.ndarray:
        inside, outside = weights * member, weights * (1 - member)
        return np.asarray(
            (outside @ loss) / np.maximum(outside.sum(1), 1e-9) - (inside @ loss) / np.maximum(inside.sum(1), 1e-9)
        )

    return figure


def _auc(score: np.ndarray, member: np.ndarray) -> Figure:
    """The area under the curve of a score by which members are to be told from others."""
    shown = Answers(member.astype(int).tolist(), probabilities=np.stack([-score, score], axis=1), labels=["out", "in"])
    return METRICS["auroc"].weighted(shown)


def _exposure(loss: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Of each training row, log2 of the held-out rows plus one, less log2 of its rank among them; equal ones halve."""
    inside, outside = loss[member == 1], np.sort(loss[member == 0])
    below = (np.searchsorted(outside, inside, "left") + np.searchsorted(outside, inside, "right")) / 2
    return np.asarray(np.log2(len(outside) + 1) - np.log2(1 + below))
