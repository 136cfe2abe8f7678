"""Comparisons in Python: the library's ``compare``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import parts
from .. import recipe as recipes
from ..errors import InputError, unknown
from ..recipe import Recipe
from .comparison import Comparison
from .comparison import compare as compare_recipes


def compare(
    rows: Any, techniques: Sequence[str] | Mapping[str, Any], *, seeds: int | Sequence[int] = 5, base: str | None = None,
    audit: bool = False, store: str | Path = "runs/results", on: str = "here", workers: int = 1,
    correction: str = "holm", progress: Any = None, **options: Any,
) -> Comparison:  # fmt: skip
    """Compare techniques on the same rows over several seeds.

    Args:
        rows: whatever `tunesmith.tune` takes for rows.
        techniques: names of adapters and masks (``["lora", "head", "lora+norms"]``), or name -> options of a recipe
            (``{"wide": {"adapter": ts.LoRA(rank=64)}}``).
        seeds: how many, or which.
        base: alias, folder or hub id; None picks a packaged one.
        audit: measure what tuning broke, too, with the first seed of each.
        store: folder of results; what is there is not computed again.
        on: ``here`` or ``ray``.
        workers: trainings at a time.
        correction: for many comparisons: ``holm`` or ``bh``.
        progress: gets a line for each result.
        **options: any other option of a recipe, for all techniques.

    Returns:
        The comparison: `Comparison.report` shows it, `Comparison.save` writes its files.

    Raises:
        InputError: fewer than two techniques, or anything else that the caller can mend.
        RunError: a training failed; what is done stays in the store.
    """
    named = techniques if isinstance(techniques, Mapping) else {name: technique_named(name) for name in techniques}
    if len(named) < 2:
        raise InputError(
            f"only {', '.join(named) or 'nothing'} is there to compare", expected="two techniques at least"
        )
    source = rows if isinstance(rows, dict) else {"train": rows}
    shared = {k: v for k, v in {"base": base, "audit": audit or None, **options}.items() if v is not None}
    found: dict[str, Recipe] = {n: recipes.make({"rows": source, **shared, **dict(t)}) for n, t in named.items()}
    hear = progress or (lambda text: None)
    return compare_recipes(found, seeds=seeds, store=store, on=on, workers=workers, correction=correction, hear=hear)


def technique_named(name: str) -> dict[str, Any]:
    """``lora`` or ``lora+norms``: adapters and at most one mask, as options of a recipe.

    Raises:
        InputError: no such adapter or mask, or two masks.
    """
    adapters, masks = parts.of_kind("adapter"), parts.of_kind("mask")
    chosen: dict[str, Any] = {}
    for single in name.split("+"):
        if single in adapters:
            chosen.setdefault("adapter", []).append(single)
        elif single in masks and "mask" not in chosen:
            chosen["mask"] = single
        elif single in masks:
            raise InputError(f"{name} names two masks", expected="one mask at most")
        else:
            raise unknown("adapter or mask", single, [*adapters, *masks])
    return chosen
