from __future__ import annotations

from typing import ClassVar

from . import Audit, Finding, Pair
from ._compare import by_metric


class Calibration(Audit):
    """Does the model still know how sure it may be? Log-loss, Brier score and calibration error on held-out rows.

    The calibration error has no interval, since chance alone moves it above zero; a verdict stands on the other two.

    Source: Guo et al. 2017, arXiv:1706.04599 (calibration error); Brier 1950 (Brier score).
    """

    tasks: ClassVar[tuple[str, ...]] = ("classify", "pair")

    def lacks(self, pair: Pair) -> str:
        several = "a row can have several labels" if getattr(pair.task, "multi", False) else ""
        return super().lacks(pair) or several

    def __call__(self, pair: Pair) -> list[Finding]:
        rows = pair.held_out()
        base, tuned = (pair.answers(rows, tuned=t) for t in (False, True))
        return [by_metric(pair, metric, base, tuned) for metric in ("log_loss", "brier", "ece")]
