"""A claim's file, and what an outcome says of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ..errors import InputError, unknown
from ..experiments import Figure
from ..parts import Chosen
from ..recipe import choose
from ..settings import Count

VERDICTS = ("reproduced", "not reproduced", "within noise", "not testable here")


class Expectation(BaseModel):
    """What the paper expects of one figure: above or below a threshold, which holds the margin."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    figure: str = Field(description="name of a figure of the experiment")
    above: float | None = Field(default=None, description="the figure is above this")
    below: float | None = Field(default=None, description="the figure is below this")

    @model_validator(mode="after")
    def _one_side(self) -> Expectation:
        if (self.above is None) == (self.below is None):
            raise ValueError(f"expectation of {self.figure} needs either above or below")
        return self

    def met(self, figure: Figure) -> bool | None:
        """True or False where the interval leaves no doubt, else None."""
        if math.isnan(figure.low) or math.isnan(figure.high):
            return None
        if self.above is not None:
            return True if figure.low > self.above else False if figure.high <= self.above else None
        assert self.below is not None
        return True if figure.high < self.below else False if figure.low >= self.below else None

    def __str__(self) -> str:
        side, threshold = ("above", self.above) if self.below is None else ("below", self.below)
        return f"{self.figure} {side} {threshold:g}"


class Claim(BaseModel):
    """One claim or finding of a paper, and the experiment that tests it."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    id: str = Field(description="catalogue number of the paper")
    name: str = Field(description="short name of the technique or finding")
    paper: str = Field(description="authors, year, title, arXiv id")
    claim: str = Field(description="what the paper says, in one sentence of ours")
    setting: str = Field(description="what stands here for the paper's setting")
    distance: str = Field(description="how far that is from the paper's")
    experiment: Annotated[Chosen | None, BeforeValidator(lambda v: None if v is None else choose("experiment", v))] = (
        Field(default=None, description="what is done: a part of kind experiment with its settings")
    )
    seeds: Count = Field(default=3, description="number of seeds")
    expect: list[Expectation] = Field(default=[], description="what the paper expects of the figures")
    quick: bool = Field(default=False, description="whether it is run again with every test")
    not_testable: str | None = Field(default=None, description="why it cannot be tested here")
    tried: str | None = Field(default=None, description="what was tried to make it appear before it was called")

    @model_validator(mode="after")
    def _whole(self) -> Claim:
        if (self.experiment is None or not self.expect) and self.not_testable is None:
            raise ValueError("a claim needs an experiment and what is expected of it, or not_testable with the reason")
        return self

    @property
    def stem(self) -> str:
        """Name of its files."""
        return f"{self.id}-{self.name}"

    def verdict(self, figures: Mapping[str, Figure]) -> str:
        """What measured figures say of the claim.

        *reproduced* where every expectation is met outside its interval, *not reproduced* where one is contradicted
        outside its interval, *within noise* else.

        Raises:
            InputError: the experiment gave no such figure.
        """
        if self.not_testable:
            return "not testable here"
        for e in self.expect:
            if e.figure not in figures:
                raise unknown("figure", e.figure, figures, where=f"claim {self.stem}")
        met = [e.met(figures[e.figure]) for e in self.expect]
        return "not reproduced" if False in met else "within noise" if None in met else "reproduced"


def read(path: Path) -> Claim:
    """The claim in a file.

    Raises:
        InputError: it cannot be read, or is no claim; names the option.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path) from None
    except yaml.YAMLError as error:
        raise InputError(f"is no valid YAML ({' '.join(str(error).split())})", where=path) from None
    if not isinstance(values, dict):
        raise InputError("holds no claim", where=path, expected="keys such as id, paper, claim, experiment, expect")
    try:
        claim = Claim.model_validate({k: str(v) if k == "id" else v for k, v in values.items()})
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(str(step) for step in first["loc"])
        if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
            raise unknown("option", option, Claim.model_fields, where=path) from None
        raise InputError(f"{option}: {first['msg']}".removeprefix(": "), where=path) from None
    if path.stem != claim.stem:
        raise InputError(f"is named {path.stem}", where=path, expected=f"{claim.stem}.yaml, as its id and name say")
    return claim


def every(folder: Path) -> dict[str, Claim]:
    """All claims of a folder, by id and name.

    Raises:
        InputError: there is no such folder, or a file in it is no claim.
    """
    if not folder.is_dir():
        raise InputError("is no folder of claims", where=folder, fix="name one with --folder")
    return {claim.stem: claim for path in sorted(folder.glob("*.yaml"), key=lambda p: p.stem) for claim in [read(path)]}


def of_paper(folder: Path, name: str) -> list[Claim]:
    """All claims of a paper, by its id; or the one claim of that name, or of both.

    Raises:
        InputError: there is none.
    """
    claims = every(folder)
    number = name.zfill(3) if name.isdigit() else name
    fits = [c for c in claims.values() if number == c.id or name in (c.name, c.stem)]
    if not fits:
        raise unknown("claim", name, claims)
    return fits


def find(folder: Path, name: str) -> Claim:
    """A claim by its id, its name, or both.

    Raises:
        InputError: there is none, or the name fits several.
    """
    fits = of_paper(folder, name)
    if len(fits) > 1:
        raise InputError(f"{name} is the name of {len(fits)} claims", expected=" or ".join(c.stem for c in fits))
    return fits[0]


def as_figures(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Figure]:
    """Figures from a stored result."""
    return {name: Figure(**figure) for name, figure in values.items()}
