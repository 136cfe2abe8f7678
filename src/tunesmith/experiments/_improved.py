"""What an experiment reads out of a finished improvement, and what it asks of its model besides."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from . import Figure


class Way:
    """One way to improve a model, carried out with one seed.

    Args:
        folder: of the improvement.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    @cached_property
    def report(self) -> dict[str, Any]:
        """What ``report.json`` holds."""
        found: dict[str, Any] = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))
        return found

    @property
    def last(self) -> int:
        """The round whose model is scored: the best by the validation rows, the last where there are none."""
        return max(1, int(self.report["best"]))

    @property
    def run(self) -> Path:
        """The run of that round."""
        return self.folder / f"round-{self.last}" / "run"

    @property
    def rounds(self) -> list[float]:
        """The score of each round on the held-out prompts, the first being that before it."""
        return [float(s["test"]["value"]) for s in self.report["scores"]]

    @cached_property
    def scores(self) -> np.ndarray:
        """Score of the answer to each held-out prompt, (prompts,)."""
        return self._said(self.last)

    def before(self) -> np.ndarray:
        """The same of the model that writes first."""
        return self._said(0)

    @property
    def words(self) -> float:
        """Mean number of words of an answer."""
        return float(np.mean([len(line["text"].split()) for line in self._lines(self.last)]))

    def _lines(self, number: int) -> list[dict[str, Any]]:
        return _lines(self.folder / f"round-{number}" / "said-test.jsonl")

    def _said(self, number: int) -> np.ndarray:
        return np.array([line["score"] for line in self._lines(number)])

    def refusing(self, refusal: str) -> dict[str, float]:
        """Shares of the held-out prompts: ``refused``, ``wrong``; and the ``distance`` that `improvement` tells of."""
        refused = np.array([line["text"].strip().startswith(refusal) for line in self._lines(self.last)])
        wrong, known = ~refused & (self.scores < 1), self.before() >= 1
        withheld = float(refused[known].mean()) if known.any() else 0.0
        distance = math.hypot(float(wrong.mean()), withheld) / math.sqrt(2)
        return {"refused": float(refused.mean()), "wrong": float(wrong.mean()), "distance": distance}

    def trust(self, *, before: bool = False) -> dict[str, float]:
        """Judge of trust -> AUROC on the held-out answers; without those that had no wrong or no right answer."""
        number = 0 if before else self.last
        score = next(s for s in self.report["scores"] if s["round"] == number)
        return {who: float(f.get("value", math.nan)) for who, f in score["test"].get("trust", {}).items()}

    def asked(self, form: str) -> np.ndarray:
        """Scores where each prompt is asked in this form, with ``{prompt}`` in it, (prompts,)."""
        return self._kept(f"asked {form}", lambda: _asked(self, form))

    def preferred(self, kind: str) -> np.ndarray:
        """1 where a right answer is likelier for the model, per token, than itself corrupted, else 0, (pairs,)."""
        return self._kept(f"preferred {kind}", lambda: _preferred(self, kind))

    def _kept(self, name: str, make: Any) -> np.ndarray:
        """Scores that are computed once, and lie beside the improvement then."""
        from ..storage import hash_bytes, write_json

        place = self.folder / f"besides-{hash_bytes(name.encode())[:16]}.json"
        if not place.exists():
            write_json(place, {"what": name, "scores": make()})
        return np.array(json.loads(place.read_text(encoding="utf-8"))["scores"], dtype=float)


def gain(ours: Sequence[Way | np.ndarray], theirs: Sequence[Way | np.ndarray], about: str) -> Figure:
    """How much higher ours score than theirs, paired by seed and by held-out prompt."""
    from ..comparing.statistics import combine

    one, two = (np.array([w.scores if isinstance(w, Way) else w for w in side]) for side in (ours, theirs))
    each = one - two
    rows = each.shape[1]
    row_variance = float(each.mean(0).var(ddof=1)) / rows if rows > 1 else 0.0
    found = combine(each.mean(1), row_variance, rows)
    return Figure(found.value, found.low, found.high, [float(v) for v in each.mean(1)], "points", about)


def filled(value: Any, places: Mapping[str, str]) -> Any:
    """Options in which ``{NAME}`` is the place of that name.

    >>> filled({"policy": "{first}", "samples": 4}, {"first": "runs/a"})
    {'policy': 'runs/a', 'samples': 4}
    """
    if isinstance(value, Mapping):
        return {k: filled(v, places) for k, v in value.items()}
    if isinstance(value, list):
        return [filled(v, places) for v in value]
    for name, place in places.items():
        if value == f"{{{name}}}":
            return place
    return value


def merged(run: Path) -> str:
    """The run's model as a whole, beside the run; written where it is missing."""
    from ..run.opened import Run

    place = run.parent / "merged"
    if not place.exists():
        Run(run).save_pretrained(place, form="merged")
    return str(place)


def _lines(path: Path) -> list[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _opened(way: Way) -> Any:
    """The improvement's rounds, for what takes its model."""
    from ..improving.plan import read
    from ..improving.rounds import begin

    return begin(read(way.folder / "improve.yaml"), way.folder, lambda event: None)


def _asked(way: Way, form: str) -> list[float]:
    from ..engine.generate import Sampling

    rounds = _opened(way)
    rows, asker, writer = rounds.rows["test"], rounds.asker, rounds.writer(way.last)
    asked = [asker.asking(row, form.replace("{prompt}", asker.prompt(row))) for row in rows]
    texts = [text for (text,) in writer.answer(asked, Sampling(rounds.plan.improve.tokens))]
    questions = [asker.question(row, [rounds.maker.said(t)]) for row, t in zip(rows, texts, strict=True)]
    return [float(said.score) for (said,) in rounds.check(questions, writer)]


def _preferred(way: Way, kind: str) -> list[float]:
    from dataclasses import replace

    from ..judges import Verdict
    from ..makers import Judged
    from ..makers.corrupt import Corrupt

    rounds = _opened(way)
    asker, writer = rounds.asker, rounds.writer(way.last)
    questions = [asker.question(row, [asker.reference(row) or ""]) for row in rounds.rows["test"]]
    pairs: Any = Corrupt(ways=[kind])([Judged(q, (Verdict(1.0),)) for q in questions], writer)  # type: ignore[list-item]
    both = [replace(p.question, samples=(p.chosen, p.rejected)) for p in pairs]
    return [float(one > two) for one, two in writer.log_probabilities(both, base=False)]
