"""What an improvement is: a recipe, and beside it who judges, what is made of the verdicts, and how often.

As a file it is a recipe with one more key, ``improve``. Checking it imports no model library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from .. import recipe as recipes
from ..errors import InputError, unknown
from ..parts import Chosen
from ..recipe import Recipe
from ..settings import Count, NonNegative, Share, Whole


def _one(kind: str) -> Any:
    return BeforeValidator(lambda value: None if value is None else recipes.choose(kind, value, where=kind))


def _several(kind: str) -> Any:
    def read(value: Any) -> list[Chosen]:
        if isinstance(value, Mapping):
            value = [{name: settings} for name, settings in value.items()]
        single = isinstance(value, str | Chosen)
        return [recipes.choose(kind, one, where=kind) for one in ([value] if single else value or [])]

    return BeforeValidator(read)


class Improve(BaseModel):
    """How rows come out of what a model writes."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, frozen=True)

    judge: Annotated[Chosen, _one("judge")] = Field(description="who says what an answer is worth")
    maker: Annotated[Chosen, _one("maker")] = Field(
        default="select", validate_default=True, description="what becomes of judged answers"
    )
    framing: Annotated[Chosen | None, _one("framing")] = Field(
        default=None, description="how prompts are put to the model; None as they are"
    )
    rounds: Whole = Field(default=1, description="most rounds; 0 only scores what is there")
    samples: Whole = Field(default=4, description="answers to each prompt; 0 judges the rows' own")
    temperature: NonNegative = Field(default=1.0, description="0 takes the likeliest token each time")
    top_p: Share = Field(default=1.0, description="share of the probability that is drawn from")
    tokens: Count = Field(default=128, description="most tokens of an answer")
    prompts: Count | None = Field(
        default=None, description="most prompts of a round, drawn by the seed; None takes all"
    )
    start: Literal["base", "last", "merged"] = Field(
        default="base",
        description="where each tuning begins: at the base; at the last round's adapter or weights; or at a base that the "
        "last round is merged into, which preference losses then compare with",
    )
    policy: str | None = Field(default=None, description="run whose model writes first; None takes the base")
    check: Annotated[Chosen | None, _one("judge")] = Field(
        default=None, description="who scores held-out answers; None takes the judge, or exact_match where it cannot"
    )
    trust: Annotated[list[Chosen], _several("judge")] = Field(
        default=[], description="judges whose scores are to tell right held-out answers from wrong ones (AUROC)"
    )
    beside: Any = Field(
        default=None,
        description="rows that each round is also tuned on, of the same columns: general text that keeps it from drifting",
    )
    gain: NonNegative | None = Field(
        default=0.0,
        description="a round whose validation score is no more than this above the best one's is the last; None goes on",
    )


PRESETS: dict[str, dict[str, Any]] = {
    "rest_em": {"maker": "select", "samples": 16, "rounds": 3, "start": "base"},
    "rft": {
        "judge": "numeric_answer", "samples": 32, "temperature": 0.7, "start": "base",
        "maker": {"select": {"distinct": "equations", "gold": True, "cap": 32}},
    },
    "s3ft": {"judge": "exact_match", "maker": "own_or_gold", "samples": 1, "temperature": 0.0},
    "leti": {"judge": "unit_tests", "maker": "feedback", "samples": 8, "rounds": 3, "start": "last"},
    "facttune": {"judge": "claims", "maker": "pairs", "samples": 10, "start": "merged"},
    "knowtuning_explicit": {"judge": "exact_match", "maker": "knowledge", "samples": 0},
    "knowtuning_implicit": {"judge": "exact_match", "maker": "corrupt", "samples": 0, "start": "merged"},
    "r_tuning": {"judge": "exact_match", "maker": "certainty", "samples": 1, "temperature": 0.0},
    "r_tuning_u": {"judge": "semantic_entropy", "maker": {"certainty": {"least": 0.5}}, "samples": 10},
    "semantic_entropy_abstention": {"judge": "semantic_entropy", "maker": "abstain", "samples": 10},
    "laffi": {"judge": "exact_match", "maker": "critique", "samples": 1, "temperature": 0.0},
    "context_awareness": {"judge": "context_dependency", "maker": "mark_context", "samples": 0},
}  # fmt: skip
"""Published ways as settings; ``like`` takes one of them, and every other setting that is given goes before it."""


@dataclass(frozen=True)
class Improvement:
    """A checked improvement: the recipe of every tuning, and the loop around it."""

    recipe: Recipe
    improve: Improve

    def to_dict(self) -> dict[str, Any]:
        """Plain values, every default written out."""
        loop = {name: recipes.plain(getattr(self.improve, name)) for name in Improve.model_fields}
        return {"improve": loop, **self.recipe.to_dict()}

    def to_yaml(self) -> str:
        """The improvement as a file."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True, width=100)


def make(values: Mapping[str, Any], *, where: object = None) -> Improvement:
    """A checked improvement from plain values.

    Raises:
        InputError: an unknown option, a wrong value, or parts that do not fit together.
    """
    loop = dict(values.get("improve") or {})
    if (name := loop.pop("like", None)) is not None:
        if name not in PRESETS:
            raise unknown("preset", name, PRESETS, where=where)
        loop = _merged(PRESETS[name], loop)
    if loop.get("judge") is None:
        raise InputError("no judge is named", where=where, expected="improve.judge", fix="see `tunesmith parts judge`")
    try:
        improve = Improve(**loop)
    except ValidationError as error:
        raise recipes.explain(error, where, Improve, "improve", also=("like",)) from None
    recipe = recipes.make({k: v for k, v in values.items() if k != "improve"}, where=where)
    if improve.temperature == 0 and improve.samples > 1:
        raise InputError(
            f"improve.samples is {improve.samples} at temperature 0, where all are the same", where=where,
            expected="samples: 1, or a temperature above 0",
        )  # fmt: skip
    if improve.start != "base" and recipe.mask and recipe.mask.part.attributes["sparse"]:
        raise InputError(
            f"improve.start is {improve.start}", where=where, expected=f"base, with mask {recipe.mask.name}"
        )
    return Improvement(recipe, improve)


def _merged(preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A preset with what is given; of the same part single settings.

    >>> _merged({"maker": {"select": {"cap": 9, "gold": True}}}, {"maker": {"select": {"cap": 2}}, "rounds": 3})
    {'maker': {'select': {'cap': 2, 'gold': True}}, 'rounds': 3}
    """
    made = {**preset, **given}
    for kind in ("judge", "maker"):
        one, two = preset.get(kind), given.get(kind)
        if isinstance(one, Mapping) and isinstance(two, Mapping) and one.keys() == two.keys():
            made[kind] = {name: {**(one[name] or {}), **(two[name] or {})} for name in one}
    return made


def read(path: str | Path, changes: Mapping[str, Any] | None = None) -> Improvement:
    """The improvement in a YAML file, with dotted changes on top; see `changed`.

    Raises:
        InputError: no such file, no valid YAML, no valid improvement.
    """
    values = recipes.values_in(path, "improve", what="improvement", expected="a recipe with the key improve")
    return make(changed(values, changes or {}), where=path)


def changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values with dotted changes, where an option of the loop may stand without ``improve`` before it.

    >>> changed({"base": "b"}, {"judge.unit_tests.allow": "confined", "base": "c"})
    {'base': 'c', 'improve': {'judge': {'unit_tests': {'allow': 'confined'}}}}
    """
    loop = {*Improve.model_fields, "like"}
    named = {f"improve.{k}" if k.partition(".")[0] in loop else k: v for k, v in changes.items()}
    return recipes.override(values, named)
