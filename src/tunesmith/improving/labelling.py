"""Label, choose, train: a tuned model labels rows that have no label, and a new one is tuned on the labels it is sure of.

As a file it is a recipe with one more key, ``label``. Checking it imports no model library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from annotated_types import Gt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .. import recipe as recipes
from ..errors import InputError
from ..recipe import Recipe
from ..settings import Count, Share

SOFT = "soft"
"""The column of a teacher's shares in the rows that it labelled."""

Changes = dict[str, Any]


class Label(BaseModel):
    """How rows without labels get them, and what is tuned on them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: Any = Field(description="rows without labels; what stands in their label column is not looked at")
    rounds: Count = Field(default=1, description="rounds; from the second on, the last student is the teacher")
    teacher: Literal["tuned", "base"] = Field(
        default="tuned", description="who labels first: the recipe tuned on the labelled rows, or its base as it is"
    )
    views: dict[str, Changes] = Field(
        default={}, description="changes of the recipe, by name: several first teachers, whose shares are averaged"
    )
    keep: Annotated[Share, Gt(0)] = Field(
        default=1.0, description="share of the rows of each class that are kept, the surest ones"
    )
    limit: Count | None = Field(default=None, description="most rows that are labelled; None takes all")
    soft: bool = Field(default=True, description="keep the teacher's shares, for loss soft_labels")
    labelled: Literal["train", "guide", "none"] = Field(
        default="train",
        description="what the labelled rows are to the student: training rows too, its validation rows, or nothing",
    )
    student: Changes = Field(default={}, description="changes of the recipe for the students")
    finish: Changes | None = Field(
        default=None, description="changes for a last tuning of the last student on the labelled rows; None for none"
    )


@dataclass(frozen=True)
class Labelling:
    """A checked labelling: the recipe of the teachers, and the loop around it."""

    recipe: Recipe
    label: Label

    def to_yaml(self) -> str:
        """The labelling as a file."""
        values = {"label": recipes.plain(self.label), **self.recipe.to_dict()}
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)

    def changed(self, changes: Mapping[str, Any]) -> Recipe:
        """The recipe with dotted changes."""
        return recipes.make(recipes.override(self.recipe.to_dict(), changes))


def make(values: Mapping[str, Any], *, where: object = None) -> Labelling:
    """A checked labelling from plain values.

    Raises:
        InputError: an unknown option, a wrong value, or parts that do not fit together.
    """
    try:
        label = Label(**dict(values.get("label") or {}))
    except ValidationError as error:
        raise recipes.explain(error, where, Label, "label") from None
    made = Labelling(recipes.make({k: v for k, v in values.items() if k != "label"}, where=where), label)
    if label.teacher == "base" and label.views:
        raise InputError("label.views are tuned", where=where, expected="label.teacher: tuned, or no views")
    for changes in (*label.views.values(), label.student, label.finish or {}):
        made.changed(changes)
    return made


def read(path: str | Path, changes: Mapping[str, Any] | None = None) -> Labelling:
    """The labelling in a YAML file, with dotted changes on top (``label.rounds``, ``budget.steps``).

    Raises:
        InputError: no such file, no valid YAML, no valid labelling.
    """
    values = recipes.values_in(path, "label", what="labelling", expected="a recipe with the key label")
    return make(recipes.override(values, changes or {}), where=path)


# ---------------------------------------------------------------------- labels out of shares


def surest(shares: np.ndarray, keep: float) -> np.ndarray:
    """The rows of each class, by the largest share, of which the teacher is surest; ascending.

    Args:
        shares: of each class, (rows, classes).
        keep: share of each class's rows that are kept, rounded up.

    >>> surest(np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]]), 0.5).tolist()
    [0, 2, 3]
    """
    said, sure = shares.argmax(1), shares.max(1)
    kept = []
    for c in range(shares.shape[1]):
        own = np.flatnonzero(said == c)
        kept += own[np.argsort(-sure[own], kind="stable")[: math.ceil(keep * len(own))]].tolist()
    return np.array(sorted(kept), dtype=int)


def labelled(
    rows: Sequence[Mapping[str, Any]], shares: np.ndarray, labels: Sequence[str], columns: Mapping[str, str], *,
    keep: float = 1.0, soft: bool = True,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows with the teacher's labels, of which it is surest.

    Args:
        rows: the rows.
        shares: the teacher's probability of each class, (rows, classes).
        labels: the classes.
        columns: role -> column of the task.
        keep: share of the rows of each class that are kept.
        soft: whether the shares stand in a column of their own.

    Raises:
        InputError: the teacher gives a class to no row, so that no student could learn it.
    """
    said = shares.argmax(1)
    if missing := [label for c, label in enumerate(labels) if not (said == c).any()]:
        raise InputError(
            f"the teacher gives label {missing[0]!r} to none of {len(rows)} rows", expected="every label for some row",
            fix="label more rows, give more labelled ones, or let them train too: label.labelled=train",
        )  # fmt: skip
    kept = [c for r, c in columns.items() if r in ("text", "second")]
    made = []
    for i in surest(shares, keep):
        row = {**{c: rows[i][c] for c in kept}, columns["label"]: labels[said[i]]}
        told = {label: round(float(p), 6) for label, p in zip(labels, shares[i] / shares[i].sum(), strict=True)}
        made.append(row | ({SOFT: told} if soft else {}))
    return made


def by_people(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, soft: bool = True
) -> list[dict[str, Any]]:
    """Rows with their own labels, in the form of those that a teacher labelled."""
    kept = [c for r, c in columns.items() if r in ("text", "second", "label")]
    return [{**{c: row[c] for c in kept}, **({SOFT: None} if soft else {})} for row in rows]
