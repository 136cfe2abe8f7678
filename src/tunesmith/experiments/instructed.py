from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import Figure, Lab, Outcome
from ._figures import difference, drawn_difference

CLOZE = {"template": "{text} Answer: {mask}."}


def instructed(
    lab: Lab,
    *,
    sources: list[str] = ["packaged:trec", "packaged:sms-spam"],  # noqa: B006
    first: dict[str, Any] = {"mask": "everything", "loss": "answer_modelling"},  # noqa: B006
    task: str = "topic",
    form: str = "options",
    words: int = 40,
    rows: int = 500,
    asked: int = 200,
    second: dict[str, Any] = {},  # noqa: B006
    options: dict[str, Any] = {},  # noqa: B006
) -> Outcome:
    """A base that fills blanks, tuned on a collection of questions of other tasks, and then asked those of a new task.

    The collection is drawn anew with each seed, from sources that the task's rows are none of.

    Figures, paired by seed and by row: ``zero_shot.difference``, the instructed base less the base as it is, both asked
    the new task's questions untuned; and for two recipes ``a`` and ``b`` of ``second``, tuned on the task from the
    instructed base, ``a.over.b``; ``a.from_base``, ``a`` from the instructed base less ``a`` from the base.

    Source: Clavié, Cooper and Warner 2025, arXiv:2502.03793; yes-or-no questions: Zhong et al. 2021, arXiv:2104.04670.

    Settings:
        sources: row sets of the collection.
        first: options of the first tuning.
        task: name of the arena task that is new.
        form: how questions ask: ``options`` or ``yes_no``.
        words: of a text that a question shows.
        rows: rows of each source.
        asked: questions of the new task.
        second: name -> options of a tuning on the new task.
        options: of all recipes; the base among them.
    """
    plain: list[Any] = []
    after: list[Any] = []
    tuned: dict[str, list[Any]] = {name: [] for name in second}
    begun: dict[str, list[Any]] = {name: [] for name in second}
    for seed in lab.seeds:
        drawn = _Drawn(lab, task, options, form, seed, words)
        given = drawn.recipe(first, sources, rows, asked)
        base = str(lab.tuned(given) / "model")
        plain.append(lab.before(given))
        after.append(lab.before(given.updated({"base": base})))
        for name, how in second.items():
            one = lab.recipe(task, how, **options)
            begun[name] += lab.results(one, seeds=[seed])[0]
            tuned[name] += lab.results(one.updated({"base": base}), seeds=[seed])[0]
    figures: dict[str, Figure] = {
        "zero_shot.difference": drawn_difference(after, plain, "instructed less as it is, untuned")
    }
    for a in second:
        figures[f"{a}.from_base"] = difference(tuned[a], begun[a], f"{a}, instructed less as it is")
        figures |= {f"{a}.over.{b}": difference(tuned[a], tuned[b], f"{a} less {b}") for b in second if b != a}
    series = {"as it is": plain, "instructed": after, **tuned}
    points = {n: [[s, r.score] for s, r in zip(lab.seeds, rs, strict=True)] for n, rs in series.items()}
    return Outcome(figures, points, ("seed", f"score, {task}"))


@dataclass(frozen=True)
class _Drawn:
    """One seed's collection, and the questions of the new task."""

    lab: Lab
    task: str
    options: Mapping[str, Any]
    form: Any
    seed: int
    words: int

    def recipe(self, first: Mapping[str, Any], sources: Sequence[str], rows: int, asked: int) -> Any:
        """The first tuning on the collection; the new task's questions are held out."""
        from ..data.collection import Source, collect, sources_of
        from ..run.prepare import on_disk

        mixed = collect(sources_of(sources), self.form, rows, self.seed, self.words)
        own = self.lab.prepared(self.lab.recipe(self.task, {"mask": "everything"}, **self.options)).parted
        held = [own.tables["test"][int(i)] for i in own.indices["test"]]
        questions = collect({self.task: Source(held)}, self.form, asked, self.seed, self.words)
        known = {row["label"] for row in mixed}
        questions = [row for row in questions if row["label"] in known]
        recipe = self.lab.recipe(self.task, {**first, "task": {"classify": {"cloze": CLOZE}}}, **self.options)
        given = self.lab.given(recipe, train=mixed, test=questions)
        return on_disk(given.updated({"rows": {**given.rows.model_dump(), "shots": None}, "seed": self.seed}))
