"""The recipe: base, task, rows, parts and budget. As YAML, as command-line options, as Python: the same thing.

Checking a recipe imports no model library; every error is one line that names the option.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from . import parts
from .errors import InputError, unknown
from .parts import Chosen
from .settings import Count, Positive, Share, Whole


def choose(kind: str, value: Any, *, where: str | None = None) -> Chosen:
    """A part from any form that a recipe may give it: a name, ``{name: {setting: value}}``, or a chosen part.

    Raises:
        InputError: no such part or setting, or a value that does not fit.
    """
    where = where or kind
    if isinstance(value, Chosen):
        if value.kind != kind:
            raise InputError(f"{value.name} is a part of kind {value.kind}", where=where, expected=f"kind {kind}")
        return value
    if isinstance(value, str):
        return parts.find(kind, value, where=where).choose()
    if isinstance(value, Mapping) and len(value) == 1:
        name, settings = next(iter(value.items()))
        if not isinstance(settings, Mapping | None):
            raise InputError(f"{settings!r} is not a set of settings", where=f"{where}.{name}", expected="key: value")
        return parts.find(kind, str(name), where=where).choose(settings or {}, where=f"{where}.{name}")
    raise InputError(f"{value!r} names no {kind}", where=where, expected="a name or {name: {setting: value}}")


def _one(kind: str) -> Any:
    return BeforeValidator(lambda value: None if value is None else choose(kind, value))


def _several(kind: str) -> Any:
    def read(value: Any) -> list[Chosen]:
        if value is None:
            return []
        if isinstance(value, Mapping):
            return [choose(kind, {name: settings}) for name, settings in value.items()]
        single = not isinstance(value, Sequence) or isinstance(value, str)
        return [choose(kind, item) for item in ([value] if single else value)]

    return BeforeValidator(read)


def _audits(value: Any) -> Any:
    """The audits of a recipe: true asks all, false none."""
    if isinstance(value, bool):
        value = list(parts.of_kind("audit")) if value else []
    return value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, frozen=True)


class RowsFrom(_Strict):
    """Where the rows come from and how they are split."""

    train: Any = Field(
        description="file, folder, packaged:NAME, hub:OWNER/NAME; several by name with templates; or a table in Python"
    )
    validation: Any = Field(default=None, description="held-out rows for choosing; None splits them off")
    test: Any = Field(default=None, description="held-out rows for the report; None splits them off")
    validation_share: Share = Field(default=0.1, description="share of the rows for validation where no file is given")
    test_share: Share = Field(default=0.2, description="share of the rows for the report where no file is given")
    columns: dict[str, str] = Field(default={}, description="what a column is: {text: review, label: stars}")
    group: str | None = Field(
        default=None, description="column whose values are never split between train and held-out rows"
    )
    limit: Count | None = Field(default=None, description="use only this many rows, drawn by the seed")
    shots: Count | None = Field(
        default=None, description="train on this many rows of each label, drawn by the seed; as many for validation"
    )
    seed: Whole = Field(
        default=0,
        description="seed of the split and the draw; apart from the run's, so that runs of other seeds compare",
    )


class Ends(_Strict):
    """When the run ends: at the first limit that it meets."""

    epochs: Positive | None = Field(default=3.0, description="passes over the training rows")
    steps: Count | None = Field(default=None, description="optimizer steps")
    minutes: Positive | None = Field(default=None, description="wall time of training")
    rows: Count | None = Field(default=None, description="training rows seen")
    patience: Count | None = Field(
        default=None, description="validations in a row without a lower loss; keeps the best weights"
    )


class Batch(_Strict):
    """How many rows make a step, and how much goes through the model at a time."""

    rows: Count = Field(default=32, description="rows of one optimizer step: the effective batch")
    tokens: Count | None = Field(
        default=None,
        description="most tokens in one micro-batch; changes memory and speed, not the result; None takes what suits the "
        "device: 512 on a CPU (1,024 for a model that writes) and 8,192 on a GPU",
    )


class Length(_Strict):
    """What becomes of rows that are too long."""

    max: Count | None = Field(
        default=None, description="most tokens of a row; None takes it from the rows and the base"
    )
    over: Literal["truncate", "drop", "stop"] | None = Field(
        default=None,
        description="what to do with longer rows; None cuts inputs but stops before it cuts what is supervised",
    )


class Checks(_Strict):
    """What is measured while and after training."""

    validations: Count = Field(
        default=1,
        description="validations in each epoch; without budget.patience one waits until training has seen as many rows",
    )
    rows: Count | None = Field(
        default=None, description="most test rows to score, and most validation rows; None takes all"
    )
    generate: Whole = Field(default=50, description="test rows for which text is generated and scored (generate, chat)")
    generate_tokens: Count = Field(default=64, description="most tokens to generate for each of them")


class Saves(_Strict):
    """When checkpoints are written."""

    minutes: Positive = Field(default=5.0, description="wall time between checkpoints")
    steps: Count | None = Field(default=None, description="also after so many steps")


TESTED_WIDTH = 384
"""Size of the hidden states of the bases on which the parts' learning rates were found (MiniLM)."""


class Recipe(_Strict):
    """Everything that defines a run. A complete recipe has every default written out."""

    base: str | None = Field(default=None, description="alias, local folder, or hub id; None picks a packaged base")
    revision: str | None = Field(default=None, description="revision of a hub id")
    upon: list[str] = Field(
        default=[], description="folders of earlier runs whose sparse differences are added to the base before all else"
    )
    rows: Annotated[RowsFrom, BeforeValidator(lambda v: v if isinstance(v, Mapping | RowsFrom) else {"train": v})]
    task: str | dict[str, Any] | None = Field(
        default=None, description="name of the task; None finds it in the columns"
    )
    adapter: Annotated[list[Chosen], _several("adapter")] = Field([], description="what is added; several are stacked")
    mask: Annotated[Chosen | None, _one("mask")] = Field(default=None, description="which own weights move")
    loss: Annotated[list[Chosen], _several("loss")] = Field([], description="terms that add up; none takes the task's")
    gradient: Annotated[Chosen, _one("gradient")] = Field("backprop", validate_default=True)
    forward: Annotated[list[Chosen], _several("forward")] = Field(
        [], description="how much of the model a training step computes; none takes all of it"
    )
    optimizer: Annotated[list[Chosen], _several("optimizer")] = Field(
        ["clip_norm", "adamw"], validate_default=True, description="a chain: transforms, then the rule that steps"
    )
    schedule: Annotated[Chosen, _one("schedule")] = Field("linear", validate_default=True)
    budget: Ends = Ends()
    batch: Batch = Batch()
    length: Length = Length()
    template: str | None = Field(
        default=None, description="file with a chat template (jinja); None takes the base's own"
    )
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    gradient_checkpointing: bool = Field(False, description="recompute activations: less memory, a third more time")
    sharded: bool = Field(
        False, description="several processes share the model out (FSDP2): each keeps its part of the weights"
    )
    packing: bool = Field(False, description="rows go through the layers end to end, not padded: the same result")
    cache_activations: Literal[False, True, "no_dropout"] = Field(
        False,
        description="what lies below all that trains is computed once; no_dropout: and nothing is dropped out there",
    )
    memory: str | None = Field(
        None, description="most memory of the process, e.g. 2GB: micro-batch and recomputation are chosen to fit it"
    )
    checks: Checks = Checks()
    audit: Annotated[list[Chosen], _several("audit"), BeforeValidator(_audits)] = Field(
        [], description="what tuning may have broken: audits to make, or true for all of them"
    )
    save: Saves = Saves()
    seed: Whole = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a recipe file has them, every default written out."""
        return {name: plain(getattr(self, name)) for name in type(self).model_fields}

    def to_yaml(self) -> str:
        """The recipe as a file."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True, width=100)

    @property
    def rate(self) -> float | None:
        """The learning rate; None where the recipe leaves it to its parts (`with_rate`)."""
        given = self.optimizer[-1].settings.get("lr")
        return None if given is None else float(given)

    def with_rate(self, width: int | None) -> Recipe:
        """A copy that names its learning rate: its own, else the tested one of the adapter or the mask, the lowest of several.

        Parts were tested on bases of `TESTED_WIDTH`; on a wider one their rate falls by a power of the width that each states.

        Args:
            width: size of the base's hidden states; None where it is unknown: then nothing falls.
        """
        if self.rate is not None:
            return self
        wider = max(1.0, (width or 0) / TESTED_WIDTH)
        brought = [c.part.attributes for c in (*self.adapter, *([self.mask] if self.mask else []))]
        rate = min(float(a["rate"]) / wider ** float(a["width_power"]) for a in brought)
        *before, last = plain(self.optimizer)
        named = {name: {**settings, "lr": float(f"{rate:.3g}")} for name, settings in last.items()}
        return self.updated({"optimizer": [*before, named]})

    def updated(self, changes: Mapping[str, Any]) -> Recipe:
        """A copy with other values; checked again."""
        return make({**self.to_dict(), **changes})


def plain(value: Any) -> Any:
    """A value as a recipe file has it."""
    if isinstance(value, Chosen):
        return {name: plain(settings) for name, settings in value.to_recipe().items()}
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return f"<{type(value).__name__} in memory>"


def make(values: Mapping[str, Any], *, where: object = None) -> Recipe:
    """A checked recipe from plain values.

    With neither adapter nor mask, LoRA is taken.

    Raises:
        InputError: an unknown option, a wrong type, a value out of bounds, parts that do not fit together.
    """
    values = dict(values)
    if not values.get("adapter") and not values.get("mask"):
        values["adapter"] = ["lora"]
    if "rows" not in values:
        raise InputError("rows are missing", where=where, expected="a file, e.g. rows: reviews.csv")
    try:
        recipe = Recipe(**values)
    except ValidationError as error:
        raise explain(error, where) from None
    _check_chain(recipe, where)
    _check_gradient(recipe, where)
    return recipe


def read(path: str | Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe in a YAML file, with dotted changes on top.

    Paths of rows are taken from the folder that the command runs in.

    Raises:
        InputError: no such file, no valid YAML, no valid recipe.
    """
    return make(override(values_in(path), changes or {}), where=path)


def values_in(
    path: str | Path, key: str | None = None, *, what: str = "recipe", expected: str = "keys such as base, rows, task"
) -> Mapping[str, Any]:
    """The values in a YAML file.

    Args:
        path: the file.
        key: a key that has to be there and to hold values of its own.
        what: the file should hold, for messages.
        expected: how that looks.

    Raises:
        InputError: no such file, no valid YAML, no values, or the key is missing.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path) from None
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise InputError(f"{problem}", where=f"{path} line {line}", expected=f"a YAML {what}") from None
    if not isinstance(values, Mapping) or (key is not None and not isinstance(values.get(key), Mapping)):
        raise InputError(f"holds no {what}", where=path, expected=expected)
    return values


def override(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with dotted changes: ``{"adapter.lora.rank": 16}``.

    A part that is named in a change but not in the values is added with its defaults.

    >>> override({"adapter": "lora"}, {"adapter.lora.rank": 16, "budget.steps": 5})
    {'adapter': {'lora': {'rank': 16}}, 'budget': {'steps': 5}}
    >>> override({"rows": "a.csv"}, {"rows.limit": 9})
    {'rows': {'train': 'a.csv', 'limit': 9}}
    """
    result = dict(values)
    for dotted, value in changes.items():
        head, *rest = dotted.split(".")
        current = result.get(head)
        if head == "rows" and rest and current is not None and not isinstance(current, Mapping):
            current = {"train": current}
        if head == "audit" and current is True:
            current = list(parts.of_kind("audit"))
        result[head] = _set(current, rest, value)
    return result


def _set(current: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    if isinstance(current, str):
        current = {current: {}}
    elif isinstance(current, list):
        current = {k: v for item in current for k, v in (item.items() if isinstance(item, Mapping) else [(item, {})])}
    current = dict(current or {})
    current[path[0]] = _set(current.get(path[0]), path[1:], value)
    return current


def _check_chain(recipe: Recipe, where: object) -> None:
    steppers = [c for c in recipe.optimizer if "lr" in c.settings]
    if len(steppers) != 1 or recipe.optimizer[-1] is not steppers[0]:
        names = ", ".join(c.name for c in recipe.optimizer) or "nothing"
        raise InputError(
            f"optimizer is the chain {names}", where=where, expected="transforms, then one rule that steps",
            fix="for example [clip_norm, adamw]",
        )  # fmt: skip
    if all(value is None for value in (recipe.budget.epochs, recipe.budget.steps, recipe.budget.minutes,
                                       recipe.budget.rows)):  # fmt: skip
        raise InputError("budget has no end", where=where, expected="epochs, steps, minutes or rows")
    if recipe.rows.validation_share + recipe.rows.test_share >= 1:
        raise InputError(
            "rows.validation_share and rows.test_share leave nothing to train on", where=where, expected="a sum below 1"
        )


def _check_gradient(recipe: Recipe, where: object) -> None:
    """What can be seen of the parts alone; the engine looks at the rest."""
    gradient, (*transforms, stepper) = recipe.gradient, recipe.optimizer
    joint = [c.name for c in transforms if not c.part.attributes.get("each")]
    if gradient.part.attributes["streams"] and joint:
        raise InputError(
            f"gradient {gradient.name} gives one gradient after another, and {joint[0]} needs all of them at once",
            where=where, fix=f"optimizer: {[c.name for c in transforms if c.name not in joint] + [stepper.name]}",
        )  # fmt: skip
    reason = gradient.part.attributes["entries"]
    if reason and recipe.mask and recipe.mask.part.attributes["sparse"]:
        raise InputError(
            f"mask {recipe.mask.name} moves single entries of a tensor, and for gradient {gradient.name} {reason}",
            where=where, fix="choose a mask of whole tensors, or gradient backprop",
        )  # fmt: skip


def explain(
    error: ValidationError,
    where: object,
    model: type[BaseModel] | None = None,
    under: str = "",
    also: Sequence[str] = (),
) -> Exception:
    """One line for the first thing that is wrong.

    Args:
        error: of a checked model.
        where: file or option that holds the values.
        model: what was checked; None is `Recipe`.
        under: key that its options stand under.
        also: names that are valid besides the model's fields.
    """
    first = error.errors()[0]
    location = [str(step) for step in first["loc"] if not str(step).startswith("function-")]
    above = [under] if under else []
    option = ".".join([*above, *location])
    if first["type"] == "extra_forbidden":
        fields: Any = model or Recipe
        for step in location[:-1]:
            fields = fields.model_fields[step].annotation
        names = (*fields.model_fields, *also)
        return unknown("option", option, [".".join([*above, *location[:-1], n]) for n in names], where=where)
    return InputError(f"{option} is {first['input']!r}: {first['msg']}", where=where)


@dataclass(frozen=True)
class Option:
    """One option of a recipe, for help and schema."""

    name: str
    default: Any
    help: str


def options() -> list[Option]:
    """Every option with its default and its line of help, dotted."""
    found = []
    for name, field in Recipe.model_fields.items():
        if isinstance(field.default, _Strict):
            inner = type(field.default).model_fields
            found += [Option(f"{name}.{n}", f.default, f.description or "") for n, f in inner.items()]
        else:
            found.append(Option(name, field.default, field.description or ""))
    return found
