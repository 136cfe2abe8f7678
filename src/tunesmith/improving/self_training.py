"""The rounds of a labelling: tune teachers, label, choose, tune a student; each leaves files, and is not done again."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..data.rows import Rows
from ..data.rows import read as read_rows
from ..data.split import drop_leaks
from ..data.tasks.classify import label_name
from ..errors import InputError
from ..evaluation.answers import Answers
from ..evaluation.intervals import difference, measure
from ..recipe import Recipe
from ..run.carry_out import carry_out, untrained
from ..run.events import Listener, listener
from ..run.measure import name_of_base
from ..run.opened import Run
from ..run.prepare import open_rows, part
from ..storage import atomic_file, write_json
from . import labelling
from .labelling import SOFT, Labelling, by_people, labelled

FILE = "label.yaml"

PLAIN: dict[str, Any] = {"adapter": [], "mask": "everything", "loss": [], "gradient": "backprop"}
"""Parts that leave the base as it is until something is trained."""

Table = list[dict[str, Any]]


class SelfTrained:
    """A finished labelling.

    Args:
        folder: where it is kept.

    Raises:
        InputError: the folder holds none that is finished.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            self.results: dict[str, Any] = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))
            self.results["models"]
        except (OSError, KeyError):
            raise InputError("holds no finished self-training", where=folder) from None

    def __repr__(self) -> str:
        return f"SelfTrained({str(self.folder)!r})"

    @property
    def run(self) -> Run:
        """The last run: that of the last tuning on the labelled rows, else the last student's."""
        return Run(self.folder / self.results["models"][-1]["run"])


def self_train(
    source: str | Path | Mapping[str, Any] | Labelling,
    *,
    out: str | Path = "runs",
    name: str | None = None,
    force: bool = False,
    resume: bool = False,
    progress: str | Listener = "auto",
) -> SelfTrained:
    """Tune a teacher on few labels, let it label other rows, and tune a student on what it is sure of; round by round.

    Args:
        source: a file with the key ``label``, the values of one, or a checked labelling.
        out: folder that the folder is made in.
        name: name of that folder; None makes one from the source.
        force: replace one of this name.
        resume: go on with one that was cut off; what is finished is not done again.
        progress: ``auto``, ``bar``, ``lines``, ``json`` or ``quiet``; or a function that hears every event.

    Raises:
        InputError: anything that the caller can mend.
        RunError: a tuning failed.
    """
    if isinstance(source, Labelling):
        plan = source
    else:
        plan = labelling.make(source) if isinstance(source, Mapping) else labelling.read(source)
    stem = Path(source).stem if isinstance(source, str | Path) else "labels"
    folder = Path(out) / (name or stem)
    _open(folder, plan, force=force, resume=resume)
    Rounds(plan, folder, listener(progress)).carry_out()
    return SelfTrained(folder)


def _open(folder: Path, plan: Labelling, *, force: bool, resume: bool) -> None:
    kept = folder / FILE
    if folder.exists() and any(folder.iterdir()):
        if not (force or resume):
            raise InputError(
                "is there already", where=folder, fix="--name another, --resume it, or --force to replace it"
            )
        if not kept.exists():
            raise InputError("is no self-training's folder", where=folder, fix="choose another --name")
        if force:
            shutil.rmtree(folder)
        elif kept.read_text(encoding="utf-8") != plan.to_yaml():
            raise InputError("was begun with other options", where=folder, fix=f"go on with {kept}, or --force")
    with atomic_file(kept) as file:
        file.write(plan.to_yaml())


@dataclass
class Rounds:
    """A labelling while it is carried out.

    Attributes:
        plan: what to do.
        folder: where everything is kept.
        listen: hears every event.
    """

    plan: Labelling
    folder: Path
    listen: Listener

    def __post_init__(self) -> None:
        rows, self.task = open_rows(self.plan.recipe)
        if self.task.name not in ("classify", "pair") or getattr(self.task, "multi", False) or self.task.sources:
            raise InputError(f"task {self.task.name}", where=rows.source, expected="classes, one label a row")
        self.parted = part(self.plan.recipe, rows, self.task)
        self.labels = list(self.task.labels or [])
        self.pool = self._pool(read_rows(self.plan.label.rows))

    def _pool(self, rows: Rows) -> Rows:
        """The rows to be labelled, without those that are labelled or held out."""
        columns = self.task.input_columns
        for name in ("train", "validation", "test"):
            known = self.parted.tables[name].take(self.parted.indices[name])
            rows = rows.take(drop_leaks(rows, known, columns)) if len(known) else rows
        limit = self.plan.label.limit or len(rows)
        drawn = np.random.default_rng(self.plan.recipe.rows.seed).permutation(len(rows))[:limit]
        if not len(drawn):
            raise InputError(
                "no row is left to be labelled",
                where=rows.source,
                expected="rows beside the labelled and held-out ones",
            )
        return rows.take(np.sort(drawn))

    @cached_property
    def split(self) -> dict[str, Table]:
        """The rows by people, by their split."""
        tables, indices = self.parted.tables, self.parted.indices
        return {n: [tables[n][int(i)] for i in indices[n]] for n in ("train", "validation", "test")}

    # ------------------------------------------------------------------ the rounds

    def carry_out(self) -> dict[str, Any]:
        """All rounds; what ``report.json`` holds."""
        shares, teachers = self._first()
        models = [self._scored(name, run) for name, run in teachers.items()]
        rounds = []
        for number in range(1, self.plan.label.rounds + 1):
            made = self._labelled(number, shares)
            rounds.append(made | self._told(shares))
            run = self._tuned(self._student(number), f"round-{number}/run")
            models.append(self._scored(f"student {number}", run))
            if number < self.plan.label.rounds:
                shares = Run(run).probabilities(self._asked())
        if self.plan.label.finish is not None:
            models.append(self._scored("finished", self._tuned(self._finish(run), "finish")))
        report = {"rounds": rounds, "models": self._compared(models)}
        write_json(self.folder / "report.json", report)
        return report

    def _first(self) -> tuple[np.ndarray, dict[str, Path]]:
        """The first teachers' shares of each class for each row of the pool, their mean; and the teachers."""
        if self.plan.label.teacher == "base":
            return self._untuned(), {}
        views = self.plan.label.views or {"teacher": {}}
        runs = {
            name: self._tuned(self._with(changes, self.split["train"], self.split["validation"]), f"teachers/{name}")
            for name, changes in views.items()
        }
        return np.mean([Run(run).probabilities(self._asked()) for run in runs.values()], axis=0), runs

    def _untuned(self) -> np.ndarray:
        """What the base says of the pool."""
        column = self.task.columns["label"]
        asked = [{**row, column: self.labels[0]} for row in self._asked()]
        recipe = self._with({**PLAIN, "checks.rows": None}, self.split["train"], self.split["validation"], asked)
        with tempfile.TemporaryDirectory() as folder:
            prepared, said = untrained(recipe, Path(folder))
        answers = said[name_of_base(prepared.task)]
        assert answers.probabilities is not None
        return answers.probabilities

    def _asked(self) -> Table:
        kept = self.task.input_columns
        return [{c: row[c] for c in kept} for row in (self.pool[i] for i in range(len(self.pool)))]

    def _labelled(self, number: int, shares: np.ndarray) -> dict[str, Any]:
        """Write the rows of a round; facts of them."""
        label = self.plan.label
        made = labelled(self._asked(), shares, self.labels, self.task.columns, keep=label.keep, soft=label.soft)
        place = self.folder / f"round-{number}" / "rows.jsonl"
        with atomic_file(place) as file:
            file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in made)
        self._note(f"round {number}: {len(made)} of {len(self.pool)} rows are labelled")
        return {"round": number, "labelled": len(made), "asked": len(self.pool)}

    def _told(self, shares: np.ndarray) -> dict[str, Any]:
        """How many labels are right, of all and of the kept ones, where the pool happens to have labels."""
        column = self.task.columns["label"]
        if column not in self.pool.columns or self.pool.column(column).null_count:
            return {}
        truth = [label_name(v) for v in self.pool.column(column).to_pylist()]
        right = np.array([self.labels[c] == own for c, own in zip(shares.argmax(1), truth, strict=True)])
        kept = labelling.surest(shares, self.plan.label.keep)
        return {"right": float(right.mean()), "right_of_kept": float(right[kept].mean())}

    # ------------------------------------------------------------------ recipes

    def _with(self, changes: Mapping[str, Any], train: Table, validation: Table, test: Table | None = None) -> Recipe:
        """The recipe with changes, on these rows alone."""
        rows = {
            "train": train, "validation": validation or None, "test": test or self.split["test"],
            "columns": dict(self.task.columns), "validation_share": 0.0, "test_share": 0.0, "seed": self.plan.recipe.rows.seed,
        }  # fmt: skip
        task = self.plan.recipe.task or self.task.name
        return self.plan.changed({"task": task, **changes}).updated({"rows": rows})

    def _student(self, number: int) -> Recipe:
        label, columns = self.plan.label, self.task.columns
        made = read_rows(self.folder / f"round-{number}" / "rows.jsonl")
        own, held, test = (by_people(self.split[n], columns, soft=label.soft) for n in ("train", "validation", "test"))
        train = [made[i] for i in range(len(made))]
        train = [{k: v for k, v in row.items() if k in (*columns.values(), SOFT)} for row in train]
        if label.labelled == "train":
            train = own + train
        recipe = self._with(label.student, train, own if label.labelled == "guide" else held, test)
        if not label.soft:
            return recipe
        return recipe.updated({"rows": {**recipe.rows.model_dump(), "columns": {**columns, "soft": SOFT}}})

    def _finish(self, student: Path) -> Recipe:
        """The last tuning: it begins where the last student ended."""
        recipe = self._with(self.plan.label.finish or {}, self.split["train"], self.split["validation"])
        if (student / "model").exists():
            return recipe.updated({"base": str(student / "model"), "revision": None})
        begun = [{name: {**s, "tuned": str(student)} for name, s in one.items()} for one in recipe.to_dict()["adapter"]]
        return recipe.updated({"adapter": begun})

    def _tuned(self, recipe: Recipe, place: str) -> Path:
        """The folder of a run of this recipe; carried out where it is not finished."""
        folder = self.folder / place
        if not (folder / "report.json").exists():
            self._note(f"{place}: {len(recipe.rows.train)} rows")
            carry_out(recipe, folder, listen=self.listen, resume=(folder / "recipe.yaml").exists())
        return folder

    # ------------------------------------------------------------------ scores

    def _scored(self, name: str, run: Path) -> dict[str, Any]:
        """A model with its answers to the held-out rows."""
        column = self.task.columns["label"]
        shares = Run(run).probabilities([{c: r[c] for c in self.task.input_columns} for r in self.split["test"]])
        truth = [self.labels.index(label_name(row[column])) for row in self.split["test"]]
        answers = Answers(truth, shares.argmax(1).tolist(), shares, self.labels)
        return {"name": name, "run": str(run.relative_to(self.folder)), "answers": answers}

    def _compared(self, models: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Each model's accuracy with its interval, and its paired difference from the first."""
        made = []
        for model in models:
            found = {
                "name": model["name"],
                "run": model["run"],
                "accuracy": asdict(measure("accuracy", model["answers"])),
            }
            if model is not models[0]:
                found["difference"] = asdict(difference("accuracy", model["answers"], models[0]["answers"]))
            accuracy = found["accuracy"]
            self._note(
                f"{model['name']}: accuracy {accuracy['value']:.3f} ({accuracy['low']:.3f} to {accuracy['high']:.3f})"
            )
            made.append(found)
        return made

    def _note(self, text: str) -> None:
        self.listen({"event": "note", "text": text})
