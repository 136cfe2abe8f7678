"""The plan of a recipe: its footprint on a machine, and the cheapest changes that make it fit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..engine.batches import most_tokens
from ..engine.precision import pick
from ..errors import InputError
from ..planning import machine as machines
from ..planning.answer import Change, Plan, disk_items, rounded_down, run_seconds, step_seconds
from ..planning.footprint import Footprint, footprint, shapes_only
from ..planning.machine import Machine, size_of, told
from ..recipe import Recipe, override
from ..recipe import make as make_recipe
from .build import device, in_one_piece, micro_batch, sketch_host
from .carry_out import _begin, _work
from .prepare import Prepared, on_disk, prepare

FEWEST_TOKENS = 64
"""A micro-batch of fewer tokens saves nothing that matters, and costs much time."""


def plan(recipe: Recipe, machine: str | None = None, *, say: Callable[[str], None] = lambda text: None) -> Plan:
    """What a recipe will take, before any weight is loaded.

    Args:
        recipe: any recipe; its ``memory``, where given, is the limit.
        machine: ``8GB`` or ``1x24GB``; None takes this one.
        say: hears what was found in the rows.

    Raises:
        InputError: anything in recipe or rows that the user can mend.
        RunError: a part asks for values that only a real run has.
    """
    here = machines.named(machine) if machine else machines.this()
    return plan_prepared(prepare(on_disk(recipe), say), here)


def plan_prepared(prepared: Prepared, machine: Machine) -> Plan:
    """The plan of a prepared recipe; see `plan`."""
    recipe = _precise(prepared.recipe, machine)
    limit = size_of(recipe.memory, where="memory") if recipe.memory else machine.memory
    found, host = _trace(prepared, recipe)
    seconds = None
    if machine.here and not machine.gpu:
        seconds = run_seconds(found, machines.speed(), _epochs(prepared, recipe, found))
    whole = sum(p.numel() * 4 for p in host.model.parameters())
    saves = recipe.save.steps is not None or seconds is None or seconds[2] > 60 * recipe.save.minutes
    made = Plan(
        machine, found, seconds, disk_items(found, adapter=bool(recipe.adapter), whole=whole, saves=saves), limit,
        host.count(), sum(p.numel() for p in host.model.parameters()), recipe.precision,
    )  # fmt: skip
    return made if made.fits else replace(made, changes=_changes(prepared, recipe, made))


def fitted(prepared: Prepared, say: Callable[[str], None], before: Recipe | None = None) -> Recipe:
    """The recipe with micro-batch and recomputation chosen so that it fits its ``memory``; what is learned stays.

    Args:
        prepared: the recipe, with its rows.
        say: hears the choice.
        before: of a run that goes on: the recipe that it began with, whose choice is kept.

    Raises:
        InputError: it cannot fit without learning otherwise; the message names the cheapest change that would.
    """
    recipe = prepared.recipe
    if recipe.memory is None:
        return recipe
    if before is not None:
        return recipe.updated(
            {
                "batch": before.batch.model_dump(),
                "gradient_checkpointing": before.gradient_checkpointing,
            }
        )
    made = plan_prepared(prepared, machines.this())
    if made.fits:
        say(f"memory: {told(made.peak)} of {told(made.limit)} will be used")
        return recipe
    kept = [c for c in made.changes if c.learns and c.peak <= made.limit]
    if not kept:
        others = [c for c in made.changes if c.peak <= made.limit]
        least = min([made.peak, *(c.peak for c in made.changes if c.learns)])
        raise InputError(
            f"the run needs {told(least)} at least", where="memory", expected=f"at most {told(made.limit)}",
            fix=f"learn otherwise with {others[0].told()}" if others else "choose a smaller base",
        )  # fmt: skip
    say(f"memory: {told(kept[0].peak)} of {told(made.limit)} will be used, with {kept[0].told()}")
    return make_recipe(override(recipe.to_dict(), kept[0].options))


# ---------------------------------------------------------------------- one recipe


def _trace(prepared: Prepared, recipe: Recipe) -> tuple[Footprint, Any]:
    """The footprint of a recipe on these rows, and its host without values."""
    shown = replace(prepared, recipe=recipe)
    with tempfile.TemporaryDirectory() as folder, shapes_only() as mode:
        made = _begin(shown, Path(folder), sketch_host)
        work = _work(made)
        read = [rows for name in ("validation", "test") if len(rows := prepared.encoded[name])]
        return footprint(work, read, mode, reads=made.reading.tokens), made.host


def _precise(recipe: Recipe, machine: Machine) -> Recipe:
    """The recipe with its precision decided, and its micro-batch where the machine is another than this."""
    if machine.gpu and not machine.here and recipe.batch.tokens is None and not _in_one_piece(recipe):
        recipe = recipe.updated({"batch": {**recipe.batch.model_dump(), "tokens": most_tokens("cuda", writes=True)}})
    if recipe.precision != "auto":
        return recipe
    half = machine.gpu if not machine.here else str(pick("auto", device())) == "torch.bfloat16"
    return recipe.updated({"precision": "bf16" if half else "fp32"})


def _in_one_piece(recipe: Recipe) -> bool:
    """Whether a part needs all rows of a step at a time."""
    return in_one_piece(recipe.gradient.build(), [term.build() for term in recipe.loss])


def _epochs(prepared: Prepared, recipe: Recipe, found: Footprint) -> float:
    """Passes over the rows that the budget allows, by what it counts."""
    budget, rows = recipe.budget, len(prepared.encoded["train"])
    limits = [
        budget.epochs,
        budget.rows and budget.rows / rows,
        budget.steps and budget.steps * recipe.batch.rows / rows,
    ]
    return min((value for value in limits if value), default=1.0)


# ---------------------------------------------------------------------- what would make it fit


def _changes(prepared: Prepared, recipe: Recipe, made: Plan) -> list[Change]:
    """Changes with their figures: those that fit first, those that keep the result before others, the fastest first."""
    found = [c for c in _tried(prepared, recipe, made) if c.peak < made.peak]
    return sorted(found, key=lambda c: (c.peak > made.limit, not c.learns, c.time if c.peak <= made.limit else c.peak))


def _tried(prepared: Prepared, recipe: Recipe, made: Plan) -> Iterator[Change]:
    for options in _same_learning(recipe):
        change = _change(prepared, recipe, made, options) if options else None
        if change:
            yield change
        if change is None or change.peak > made.limit:
            yield from _smaller(prepared, recipe, made, options)
    for options in _other_learning(recipe):
        yield _change(prepared, recipe, made, options, learns=False)


def _same_learning(recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Options after which the same is learned; those of the recipe as it is come first."""
    yield {}
    if not recipe.gradient_checkpointing:
        yield {"gradient_checkpointing": True}


def _smaller(prepared: Prepared, recipe: Recipe, made: Plan, options: Mapping[str, Any]) -> Iterator[Change]:
    """The largest micro-batch that fits, between the longest row alone and the recipe's; the smallest where none does."""
    if _in_one_piece(recipe):
        return
    now = min(micro_batch(recipe, prepared.head), made.footprint.rows * made.footprint.length)
    least = max(FEWEST_TOKENS, int(prepared.encoded["train"].lengths.max()))
    if least >= now:
        return
    floor = _change(prepared, recipe, made, {**options, "batch.tokens": least})
    if floor.peak > made.limit:
        yield floor
        return
    share = (made.limit - floor.peak) / max(1, made.peak - floor.peak)
    tokens = max(least, rounded_down(least + share * (now - least)))
    while tokens > least:
        change = _change(prepared, recipe, made, {**options, "batch.tokens": tokens})
        if change.peak <= made.limit:
            yield change
            return
        tokens = max(least, tokens // 2)
    yield floor


def _other_learning(recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Changes after which something else is learned."""
    if recipe.precision != "bf16":
        yield {"precision": "bf16"}
    for adapter in recipe.adapter:
        rank = adapter.settings.get("rank")
        if isinstance(rank, int) and rank > 1:
            yield {f"adapter.{adapter.name}.rank": max(1, rank // 4)}
    if not recipe.adapter:
        yield {"mask": None, "adapter": "lora"}
    if recipe.mask is None or recipe.mask.name != "top_layers":
        yield {"adapter": [], "mask": "top_layers"}
    if recipe.optimizer[-1].name == "adamw":
        yield {"optimizer": [*(c.name for c in recipe.optimizer[:-1]), "sgd"]}


def _change(
    prepared: Prepared, recipe: Recipe, made: Plan, options: Mapping[str, Any], *, learns: bool = True
) -> Change:
    other = make_recipe(override(recipe.to_dict(), options))
    found, _ = _trace(prepared, other)
    speed = machines.Speed(1.0, 2.0, 0.1, 2e6) if not made.machine.here or made.machine.gpu else machines.speed()
    factor = _per_token(found, speed) / _per_token(made.footprint, speed)
    return Change(dict(options), made.machine.framework + found.peak, factor, learns)


def _per_token(found: Footprint, speed: machines.Speed) -> float:
    return step_seconds(found, speed) / max(1, found.traced)
