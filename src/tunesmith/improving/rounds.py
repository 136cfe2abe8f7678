"""The rounds of an improvement: write, judge, make rows, tune, score. Each leaves files, and is not done again."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..data.rows import Rows, read
from ..data.tasks import Task
from ..engine.generate import Sampling
from ..errors import InputError, Interrupted
from ..evaluation.answers import Answers, Measured
from ..evaluation.intervals import bootstrap, measure
from ..framings import Framing, Kept
from ..judges import Judge, Question, Verdict
from ..judges.self_consistency import SelfConsistency
from ..makers import Judged, Maker
from ..parts import find
from ..recipe import Recipe
from ..recipe import make as make_recipe
from ..run.carry_out import carry_out
from ..run.events import Listener
from ..run.opened import Run
from ..run.prepare import on_disk, part
from ..storage import atomic_file, write_json
from .asking import Asker, task_of
from .plan import Improvement
from .writer import Writer

AT_A_TIME = 32
"""Prompts whose samples are written before they are kept."""

FEWEST_PAIRS = 10
"""Pairs that a round needs: some are held out of its training."""

HELD_OUT = ("validation", "test")

TRUST_SAMPLES = 10
"""Samples of each held-out prompt for a judge of trust that compares them, where the plan draws fewer than two."""

Row = dict[str, Any]


@dataclass
class Rounds:
    """An improvement while it is carried out.

    Attributes:
        plan: what to do.
        folder: where everything is kept.
        listen: hears every event.
        task: what the rows ask for.
        rows: the prompts of each split.
    """

    plan: Improvement
    folder: Path
    listen: Listener
    task: Task
    rows: dict[str, list[Row]]
    judge: Judge = field(init=False)
    maker: Maker = field(init=False)
    framing: Framing | None = field(init=False)
    check: Judge | None = field(init=False)
    trust: dict[str, Judge] = field(init=False)
    _writers: dict[int, Writer] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.judge, self.maker = self.plan.improve.judge.build(), self.plan.improve.maker.build()
        self.framing = self.plan.improve.framing.build() if self.plan.improve.framing else None
        self.asker = Asker(self.task)
        self.check = self._check()
        self.trust = {chosen.name: chosen.build() for chosen in self.plan.improve.trust}

    def _check(self) -> Judge | None:
        """Who scores held-out answers; None where nobody can."""
        if self.plan.improve.check is not None:
            made: Judge = self.plan.improve.check.build()
            return made
        if self.judge.measures:
            return self.judge
        answered = all(self.asker.reference(row) for name in HELD_OUT for row in self.rows[name])
        return find("judge", "exact_match").choose().build() if answered else None

    def carry_out(self) -> dict[str, Any]:
        """All rounds; what ``report.json`` holds.

        Raises:
            InputError: the rows cannot be judged, or a round makes too few rows.
            RunError: a tuning failed.
            Interrupted: SIGINT or SIGTERM; what was done is kept.
        """
        every = [row for rows in self.rows.values() for row in rows]
        for judge in filter(None, (self.judge, self.check, *self.trust.values())):
            judge.check(every)
            self._need(judge.needs_reference, type(judge).__name__, every)
        self._need(self.maker.needs_reference or not self.plan.improve.samples, type(self.maker).__name__, every)
        if self.framing and self.framing.searches and not (self.check and self.rows["validation"]):
            raise InputError(
                f"{type(self.framing).__name__} tries itself out on held-out rows that nobody can score",
                where="improve.framing", expected="validation rows with answers, or improve.check",
            )  # fmt: skip
        scored = [self.score(0)]
        done: list[dict[str, Any]] = []
        stopped = f"all {self.plan.improve.rounds} rounds are done"
        for number in range(1, self.plan.improve.rounds + 1):
            made = self.make(number)
            if too_few := self._too_few(made):
                stopped = f"round {number} was not tuned: {too_few}"
                break
            self.tune(number)
            scored.append(self.score(number))
            done.append(made)
            if why := self._no_gain(scored):
                stopped = f"stopped after round {number}: {why}"
                break
        if not done and self.plan.improve.rounds:
            raise InputError(
                stopped, where=self.folder, fix="give more prompts or samples, or a maker that asks for less"
            )
        report = {"rounds": done, "scores": scored, "best": best(scored), "stopped": stopped}
        write_json(self.folder / "report.json", report)
        return report

    def _need(self, needed: bool, who: str, rows: Sequence[Row]) -> None:
        if needed and (lacking := sum(self.asker.reference(row) is None for row in rows)):
            raise InputError(
                f"{who} needs right answers, and {lacking} of {len(rows)} rows have none", expected="a completion",
                fix="take a judge that needs none, such as self_consistency",
            )  # fmt: skip

    # ------------------------------------------------------------------ write, judge, make

    def make(self, number: int) -> dict[str, Any]:
        """The rows of a round, from samples that are judged; facts of them."""
        place = self._place(number)
        facts = place / "made.json"
        if facts.exists():
            return _read_json(facts)
        judged = self._judged(number)
        items = self.maker(judged, _Desk(self, number))
        _write_lines(place / "rows.jsonl", [*map(self.asker.made, items), *self._beside()])
        scores = [v.score for one in judged for v in one.verdicts]
        found = {
            "round": number, "prompts": len(judged), "samples": len(scores), "mean_score": float(np.mean(scores)),
            "rows": len(items), "pairs": self.maker.pairs,
        }  # fmt: skip
        write_json(facts, found)
        self._note(
            f"round {number}: {len(scores)} samples of {len(judged)} prompts, mean score {found['mean_score']:.3f}; "
            f"{len(items)} {'pairs' if self.maker.pairs else 'rows'} made"
        )
        return found

    def _beside(self) -> list[Row]:
        """The rows that every round is also tuned on.

        Raises:
            InputError: what is made are no rows of this form, or a column is missing.
        """
        if self.plan.improve.beside is None:
            return []
        rows = read(self.plan.improve.beside)
        if self.maker.pairs or self.maker.rates:
            raise InputError(
                f"rows beside those of maker {self.plan.improve.maker.name}", where="improve.beside",
                expected="a maker of plain answers",
            )  # fmt: skip
        columns = list(self.task.columns.values())
        for column in columns:
            rows.column(column)
        return [{c: rows[i][c] for c in columns} for i in range(len(rows))]

    def _judged(self, number: int) -> list[Judged]:
        place = self._place(number) / "judged.jsonl"
        questions = self._sampled(number)
        if not place.exists():
            verdicts = self.judge(questions, self.writer(number - 1))
            _write_lines(place, (
                {"prompt": q.prompt, "samples": [{"text": t, "score": v.score, "feedback": v.feedback}
                                                 for t, v in zip(q.samples, said, strict=True)]}
                for q, said in zip(questions, verdicts, strict=True)
            ))  # fmt: skip
        lines = _read_lines(place)
        return [
            Judged(q, tuple(Verdict(s["score"], s["feedback"]) for s in line["samples"]))
            for q, line in zip(questions, lines, strict=True)
        ]

    def _sampled(self, number: int) -> list[Question]:
        """The prompts of a round with what was written to them, part by part, so that no part is written twice."""
        improve, rows = self.plan.improve, self._prompts(number)
        if not improve.samples:
            return [self.asker.question(row, [self.asker.reference(row) or ""]) for row in rows]
        sampling = Sampling(improve.tokens, improve.temperature, improve.top_p, self._seed(number), improve.samples)
        texts: list[list[str]] = []
        for start in range(0, len(rows), AT_A_TIME):
            some = rows[start : start + AT_A_TIME]
            place = self._place(number) / "samples" / f"{start:06}.jsonl"
            if not place.exists():
                written = self.writer(number - 1).answer(self._put(some, number - 1), sampling)
                _write_lines(
                    place, ({"prompt": self.asker.prompt(r), "texts": t} for r, t in zip(some, written, strict=True))
                )
            texts += [line["texts"] for line in _read_lines(place)]
        return [
            self.asker.question(row, [self.maker.said(t) for t in said]) for row, said in zip(rows, texts, strict=True)
        ]

    def _prompts(self, number: int) -> list[Row]:
        """The training prompts of a round: all, or as many as the plan says, drawn anew in each."""
        rows, limit = self.rows["train"], self.plan.improve.prompts
        if limit is None or limit >= len(rows):
            return rows
        drawn = random.Random(f"{self.plan.recipe.seed}|{number}").sample(range(len(rows)), limit)
        return [rows[i] for i in sorted(drawn)]

    def _asked(self, row: Row, by: int) -> Row:
        """A row as it is put to the model of a round, which may have learnt to be asked in a form of its own."""
        return self.asker.asking(row, self.maker.ask(self.asker.prompt(row))) if by else row

    def _put(self, rows: Sequence[Row], by: int) -> list[Row]:
        """Rows as they are put to the model of a round: in the form that it has learnt, and in a frame."""
        asked = [self._asked(row, by) for row in rows]
        return asked if self.framing is None else self.framed(asked, by, self._kept(by))

    def framed(self, rows: Sequence[Row], by: int, kept: Kept) -> list[Row]:
        """Rows in the frame that shows what is kept."""
        assert self.framing is not None
        prompts = self.framing([self.asker.prompt(row) for row in rows], kept, _Trial(self, by))
        return [self.asker.asking(row, prompt) for row, prompt in zip(rows, prompts, strict=True)]

    def _kept(self, by: int) -> Kept:
        """What the framing found out for the model of a round."""
        assert self.framing is not None
        place = self._place(by) / "framing.json"
        if not place.exists():
            write_json(place, {"kept": self.framing.settle(_Trial(self, by))})
        kept: Kept = _read_json(place)["kept"]
        return kept

    def _seed(self, number: int) -> int:
        return self.plan.recipe.seed * 100_003 + number

    # ------------------------------------------------------------------ tune

    def tune(self, number: int) -> None:
        """Tune on a round's rows, from where the plan says."""
        folder = self._place(number) / "run"
        if (folder / "report.json").exists():
            return
        recipe = self._recipe(number)
        self._writers.clear()
        try:
            carry_out(recipe, folder, listen=self.listen, resume=(folder / "recipe.yaml").exists())
        except Interrupted as stopped:
            signal = stopped.exit_code - 128
            raise Interrupted(
                f"stopped in round {number}; go on with: tunesmith improve {self.folder} --resume", signal
            ) from None

    def _recipe(self, number: int) -> Recipe:
        place, prefers = self._place(number), self.maker.pairs or self.maker.rates
        values = self.plan.recipe.to_dict()
        task, columns = self.asker.recipe_task(self.maker)
        rows: dict[str, Any] = {"train": str(place / "rows.jsonl"), "columns": columns, "seed": values["rows"]["seed"]}
        for name in HELD_OUT:
            if not prefers and self.rows[name] and all(self.asker.reference(row) for row in self.rows[name]):
                rows[name] = str(place / f"{name}.jsonl")
                _write_lines(place / f"{name}.jsonl", (self._asked(row, number) for row in self.rows[name]))
        if "test" in rows:
            rows["validation_share"] = 0.0
        values |= {"rows": rows, "task": task, "checks": {**values["checks"], "generate": 0}}
        return make_recipe(self._started(values, number), where=place)

    def _started(self, values: dict[str, Any], number: int) -> dict[str, Any]:
        """The recipe's values with the start of this round's tuning."""
        how, last = self.plan.improve.start, self._run(number - 1)
        if how == "base" or last is None:
            return values
        if not values["adapter"]:
            return {**values, "base": str(last / "model"), "revision": None}
        if how == "last":
            begun = [{name: {**s, "tuned": str(last)} for name, s in one.items()} for one in values["adapter"]]
            return {**values, "adapter": begun}
        merged = self._place(number) / "start"
        if not merged.exists():
            Run(last).save_pretrained(merged, form="merged")
        return {**values, "base": str(merged), "revision": None}

    # ------------------------------------------------------------------ score

    def score(self, number: int) -> dict[str, Any]:
        """The score of a round's model on the held-out rows, with its difference from the model before the first round."""
        place = self._place(number) / "score.json"
        if self.check is None:
            return {"round": number}
        if not place.exists():
            found: dict[str, Any] = {"round": number}
            for name in HELD_OUT:
                values = self._held_out(number, name)
                found[name] = _measured(values)
                if number and len(values):
                    found[name]["difference"] = _measured(values - self._held_out(0, name))
                if self.trust and len(values):
                    found[name]["trust"] = self._trust(number, name, values)
            write_json(place, found)
            if found["test"]:
                test = found["test"]
                self._note(
                    f"{_name(number)}: {test['value']:.3f} on test rows ({test['low']:.3f} to {test['high']:.3f})"
                )
        return _read_json(place)

    def _held_out(self, number: int, name: str) -> np.ndarray:
        """The score of the answer to each held-out row, shape (rows,): always the likeliest token, or the framing's vote."""
        assert self.check is not None
        place = self._place(number) / f"said-{name}.jsonl"
        rows = self.rows[name]
        if not place.exists() and rows:
            writer = self.writer(number)
            texts = self._answers(self._put(rows, number), number)
            questions = [self.asker.question(r, [self.maker.said(t)]) for r, t in zip(rows, texts, strict=True)]
            verdicts = self.check(questions, writer)
            _write_lines(place, (
                {"prompt": q.prompt, "text": t, "score": v.score, "feedback": v.feedback}
                for q, t, (v,) in zip(questions, texts, verdicts, strict=True)
            ))  # fmt: skip
        return np.array([line["score"] for line in _read_lines(place)]) if rows else np.zeros(0)

    def _answers(self, rows: Sequence[Row], number: int) -> list[str]:
        """One answer to each row as it is put to the model."""
        writer, votes = self.writer(number), self.framing.votes if self.framing else 1
        if votes == 1:
            return [one for (one,) in writer.answer(rows, Sampling(self.plan.improve.tokens))]
        questions = self._samples(number, rows, votes)
        verdicts = SelfConsistency()(questions, writer)
        return [
            q.samples[max(range(votes), key=lambda i: v[i].score)] for q, v in zip(questions, verdicts, strict=True)
        ]

    def write(self, prompts: Sequence[str], by: int) -> list[str]:
        """What the model of a round says to each prompt, always the likeliest token."""
        rows = [self.asker.asking(self.rows["train"][0], prompt) for prompt in prompts]
        return [text for (text,) in self.writer(by).answer(rows, Sampling(self.plan.improve.tokens))]

    def value(self, number: int, kept: Kept) -> float:
        """The mean score on the validation rows of the model of a round, with what is kept in every frame."""
        assert self.check is not None
        rows = self.rows["validation"]
        texts = self._answers(self.framed([self._asked(row, number) for row in rows], number, kept), number)
        questions = [self.asker.question(r, [self.maker.said(t)]) for r, t in zip(rows, texts, strict=True)]
        return float(np.mean([v.score for (v,) in self.check(questions, self.writer(number))]))

    def _trust(self, number: int, name: str, values: np.ndarray) -> dict[str, Any]:
        """How well each judge of trust tells right held-out answers, those of score 1 and more, from the others."""
        place = self._place(number) / f"trust-{name}.jsonl"
        if not place.exists():
            writer, rows = self.writer(number), self._put(self.rows[name], number)
            said = [self.maker.said(line["text"]) for line in _read_lines(self._place(number) / f"said-{name}.jsonl")]
            one = [self.asker.question(row, [text]) for row, text in zip(rows, said, strict=True)]
            count = self.plan.improve.samples if self.plan.improve.samples > 1 else TRUST_SAMPLES
            many = self._samples(number, rows, count) if any(j.compares for j in self.trust.values()) else one
            found = {who: judge(many if judge.compares else one, writer) for who, judge in self.trust.items()}
            means = {who: [float(np.mean([v.score for v in vs])) for vs in all_] for who, all_ in found.items()}
            _write_lines(place, (dict(zip(means, row, strict=True)) for row in zip(*means.values(), strict=True)))
        lines = _read_lines(place)
        return {who: _told_apart(values >= 1, [line[who] for line in lines]) for who in self.trust}

    def _samples(self, number: int, rows: Sequence[Row], count: int) -> list[Question]:
        """Held-out prompts, as they are asked, with several samples each."""
        plan = self.plan.improve
        sampling = Sampling(plan.tokens, plan.temperature or 1.0, plan.top_p, self._seed(number), count)
        texts = self.writer(number).answer(rows, sampling)
        return [self.asker.question(r, [self.maker.said(t) for t in said]) for r, said in zip(rows, texts, strict=True)]

    def _no_gain(self, scored: Sequence[Mapping[str, Any]]) -> str:
        """Why no further round is worth its time, by the validation rows; empty where one may be."""
        gain = self.plan.improve.gain
        if gain is None or not scored[-1].get("validation"):
            return ""
        before = max(s["validation"]["value"] for s in scored[:-1])
        now = scored[-1]["validation"]["value"]
        more = f" by more than {gain:g}" if gain else ""
        return "" if now > before + gain else f"validation score {now:.3f} is not above {before:.3f}{more}"

    def _too_few(self, made: Mapping[str, Any]) -> str:
        prefers = self.maker.pairs or self.maker.rates
        held = any(self.asker.reference(row) for row in self.rows["test"]) and not prefers
        least = 1 if held else FEWEST_PAIRS
        return f"{made['rows']} rows were made, and {least} are needed" if made["rows"] < least else ""

    # ------------------------------------------------------------------ models and places

    def writer(self, number: int) -> Writer:
        """The model that came out of a round; of round 0 the one that writes first."""
        if number not in self._writers:
            self._writers.clear()
            run = self._run(number)
            if run is not None:
                self._writers[number] = Writer.of_run(Run(run), self.task)
            else:
                self._writers[number] = Writer.of_base(self.plan.recipe, read(self.rows["train"]), self.task)
        return self._writers[number]

    def _run(self, number: int) -> Path | None:
        if number:
            return self._place(number) / "run"
        return Path(self.plan.improve.policy) if self.plan.improve.policy else None

    def _place(self, number: int) -> Path:
        return self.folder / f"round-{number}"

    def _note(self, text: str) -> None:
        self.listen({"event": "note", "text": text})


@dataclass
class _Desk:
    """What a maker may ask for: the model that wrote, and the judge."""

    rounds: Rounds
    number: int

    def write(self, prompts: Sequence[str]) -> list[str]:
        """The likeliest answer to each prompt."""
        return self.rounds.write(prompts, self.number - 1)

    def judge(self, questions: Sequence[Question]) -> list[list[Verdict]]:
        """What the judge of the plan says."""
        return self.rounds.judge(questions, self.rounds.writer(self.number - 1))


@dataclass
class _Trial:
    """What a framing may ask for while it settles: the model of a round, and rows."""

    rounds: Rounds
    number: int
    _drawn: int = field(default=0, init=False)

    def write(self, prompts: Sequence[str]) -> list[str]:
        """What the model says to each prompt, always the likeliest token."""
        return self.rounds.write(prompts, self.number)

    def examples(self, most: int) -> Kept:
        """Training prompts that the model answers right by itself, with its answers; of so many at most."""
        rounds, every = self.rounds, self.rounds.rows["train"]
        rows = [every[i] for i in self.draw(min(most, len(every)), len(every))]
        prompts = [rounds.asker.prompt(rounds._asked(row, self.number)) for row in rows]
        questions = [
            rounds.asker.question(r, [rounds.maker.said(t)]) for r, t in zip(rows, self.write(prompts), strict=True)
        ]
        assert rounds.check is not None
        verdicts = rounds.check(questions, rounds.writer(self.number))
        return [
            {"prompt": prompt, "answer": q.samples[0]}
            for prompt, q, (v,) in zip(prompts, questions, verdicts, strict=True) if v.score >= 1
        ]  # fmt: skip

    def value(self, kept: Kept) -> float:
        """The mean score on the validation rows of what is kept."""
        return self.rounds.value(self.number, kept)

    def draw(self, count: int, of: int) -> list[int]:
        """So many different places below ``of``, by the seed; other ones each time."""
        self._drawn += 1
        seed = f"{self.rounds.plan.recipe.seed}|{self.number}|{self._drawn}"
        return random.Random(seed).sample(range(of), count)


def begin(plan: Improvement, folder: Path, listen: Listener) -> Rounds:
    """Read and split the rows of an improvement.

    Raises:
        InputError: anything in the rows that the user can mend.
    """
    recipe = on_disk(plan.recipe)
    rows: Rows = read(recipe.rows.train)
    known = Run(plan.improve.policy).task if plan.improve.policy else None
    if known is not None and known.name not in ("generate", "chat"):
        known = None
    task = task_of(recipe, rows, known)
    parted = part(recipe, rows, task)
    split = {name: [parted.tables[name][int(i)] for i in parted.indices[name]] for name in parted.indices}
    return Rounds(Improvement(recipe, plan.improve), folder, listen, task, split)


def best(scored: Sequence[Mapping[str, Any]]) -> int:
    """The round with the highest validation score, the earlier of equal ones; the last where none is scored."""
    if not all(s.get("validation") for s in scored):
        return len(scored) - 1
    return max(range(len(scored)), key=lambda i: (scored[i]["validation"]["value"], -i))


def _measured(values: np.ndarray) -> dict[str, Any]:
    """Mean with its bootstrap interval over rows; nothing of no rows."""
    if not len(values):
        return {}
    return _plain(bootstrap(lambda weights: weights @ values / weights.sum(-1), len(values)))


def _plain(found: Measured) -> dict[str, Any]:
    return {"value": found.value, "low": found.low, "high": found.high, "rows": found.rows, "note": found.note}


def _told_apart(right: np.ndarray, scores: Sequence[float]) -> dict[str, Any]:
    """Share of pairs of a right and a wrong answer of which the right one has the higher score; nothing without both."""
    if right.all() or not right.any():
        return {}
    shown = np.stack([-np.array(scores), np.array(scores)], axis=1)
    return _plain(measure("auroc", Answers(right.astype(int).tolist(), probabilities=shown, labels=("wrong", "right"))))


def _name(number: int) -> str:
    return f"round {number}" if number else "before the first round"


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with atomic_file(path) as file:
        file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _read_json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
