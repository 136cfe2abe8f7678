"""Experiments: what is done and measured to test what a paper says. One a file; the folder is the registry.

An experiment is a function. It gets a `Lab`, which carries out recipes, and gives figures with intervals. What a paper
expects of the figures stands in the claim's file, never here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Figure:
    """A measured figure.

    Attributes:
        value: the figure, e.g. a mean difference over seeds.
        low, high: ends of its 95 % interval; both the value itself where it is exact (a count).
        values: what it was with each seed, task or row set, for the record.
        unit: ``points`` (shares, shown times 100), ``times`` (ratios), ``nats``, or empty.
        about: what it is, in a few words.
    """

    value: float
    low: float
    high: float
    values: Sequence[float] = ()
    unit: str = ""
    about: str = ""


@dataclass(frozen=True)
class Outcome:
    """What an experiment found.

    Attributes:
        figures: name -> figure; a claim's expectations name them.
        series: name -> points ``[x, y, low, high]`` (low and high may be left out) for the plot, one line each.
        axes: what x and y are.
        notes: what a reader has to know.
    """

    figures: Mapping[str, Figure]
    series: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    axes: tuple[str, str] = ("", "")
    notes: Sequence[str] = ()


class Lab(Protocol):
    """What an experiment works with. Everything it computes is kept, and is not computed again."""

    @property
    def seeds(self) -> Sequence[int]:
        """The claim's seeds."""

    def recipe(self, task: str, technique: Mapping[str, Any], **changes: Any) -> Any:
        """A recipe on an arena task.

        Args:
            task: name of an arena task.
            technique: options of a recipe (``{"adapter": {"lora": {"rank": 4}}}``); where it names no optimizer, the
                learning rate that was tuned for ``full``, ``head`` or ``lora`` stands in for parts that are those.
            **changes: dotted options on top (``**{"budget.steps": 50}``).
        """

    def results(self, *recipes: Any, seeds: Sequence[int] | None = None) -> list[list[Any]]:
        """For each recipe its results (`tunesmith.comparing.result.Result`), one a seed; missing ones are computed."""

    def each(self, recipes: Sequence[Any]) -> list[Any]:
        """The result of each recipe with the seed of its place: one a seed, where seeds differ in more than their number."""

    def before(self, recipe: Any) -> Any:
        """The result of what tuning has to beat: a language model's untuned base, a linear probe on an encoder."""

    def prepared(self, recipe: Any) -> Any:
        """Rows, split, task and encodings of a recipe (`tunesmith.run.prepare.Prepared`)."""

    def given(self, recipe: Any, *, train: Any, test: Any = None) -> Any:
        """The recipe with other training rows, none of which is held out for choosing.

        Args:
            recipe: any recipe.
            train: whatever `tunesmith.data.rows.read` reads; all of it is trained on.
            test: the held-out rows; None keeps the recipe's own.
        """

    def features(self, recipe: Any) -> Any:
        """The untuned base's mean last hidden state of each encoded training row, shape (rows, hidden)."""

    def untuned(self, recipe: Any) -> Any:
        """The model as training begins, with its head and parts, and how rows are read (`tunesmith.engine.predict.Reading`)."""

    def loop(self, recipe: Any) -> Any:
        """The loop of a training that has not begun and writes nothing (`tunesmith.engine.loop.Loop`)."""

    def tuned(self, recipe: Any) -> Path:
        """The folder of a finished run of this recipe, for what needs weights; carried out where it is missing."""

    def improved(self, recipe: Any, loop: Mapping[str, Any], seed: int) -> Path:
        """The folder of a finished improvement of this recipe with this seed; carried out where it is missing.

        Args:
            recipe: of every tuning, with its rows.
            loop: options of generate, judge, train, as the key ``improve`` of a file has them.
            seed: of samples and tunings.
        """

    def say(self, text: str) -> None:
        """Tell the user where the experiment stands."""
