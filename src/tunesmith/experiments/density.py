from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from . import Figure, Lab, Outcome
from ._figures import difference, over_seeds, times_over_seeds


def activation_sparsity(
    lab: Lab,
    *,
    task: str = "intent",
    baseline: dict[str, Any] = {"adapter": "lora"},  # noqa: B006
    term: dict[str, Any] = {"activation_density": {"weight": 1.0}},  # noqa: B006
    threshold: float = 0.05,
    options: dict[str, Any] = {},  # noqa: B006
) -> Outcome:
    """Tuning with a term that lets few neurons of the MLPs fire, against tuning without.

    A neuron counts as active where what the last matrix of its MLP reads is above ``threshold`` in size. Figures:
    ``density``, the share of active neurons with the term over that without; ``difference`` in the chief metric;
    ``agreement``, the share of held-out rows whose answer stays when all inactive neurons are set to zero.

    Source: Runwal et al. 2024, arXiv:2402.01911.

    Settings:
        task: an arena task of the kind ``classify``.
        baseline: options of a recipe.
        term: the term, put beside cross_entropy.
        threshold: size from which an activation counts.
        options: of both recipes.
    """
    sparse = {**baseline, "loss": {"cross_entropy": {}, **term}}
    recipes = [lab.recipe(task, technique, **options) for technique in (sparse, baseline)]
    ours, theirs = lab.results(*recipes)
    looks = [[_look(lab, r.updated({"seed": s}), threshold) for r in recipes] for s in lab.seeds]
    ratios = [float(np.log(a[0] / b[0])) for a, b in looks]
    figures: dict[str, Figure] = {
        "difference": difference(ours, theirs, task),
        "density": times_over_seeds(ratios, "active neurons, with the term over without"),
        "agreement": over_seeds([a[1] for a, _ in looks], "points", "answers that stay without the inactive neurons"),
    }
    series = {n: [[i, pair[k][0]] for i, pair in enumerate(looks)] for k, n in enumerate(("with", "without"))}
    return Outcome(figures, series, ("seed", "share of active neurons"))


def _look(lab: Lab, recipe: Any, threshold: float) -> tuple[float, float]:
    """Share of active neurons on held-out rows, and of answers that stay when the others are silenced."""
    from ..engine.predict import read
    from ..run.opened import Run

    run, held_out = Run(lab.tuned(recipe)), lab.prepared(recipe).encoded["test"]
    chosen = np.arange(min(200, len(held_out)))
    plain = read(run.reading, held_out, chosen).logits.argmax(1)
    with _silenced(run.host, threshold) as counts:
        silent = read(run.reading, held_out, chosen).logits.argmax(1)
    active, seen = np.sum(counts, axis=0)
    return float(active / seen), float((plain == silent).mean())


@contextmanager
def _silenced(host: Any, threshold: float) -> Iterator[list[tuple[int, int]]]:
    """Inside this block inactive neurons are zero; the list gets active and all neurons of each pass of each layer."""
    counts: list[tuple[int, int]] = []

    def silence(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        on = inputs[0].abs() > threshold
        counts.append((int(on.sum()), on.numel()))
        return (inputs[0] * on, *inputs[1:])

    sites = [s for s in host.anatomy.sites if s.role == "mlp.down" and s.rows is None]
    handles = [s.module.register_forward_pre_hook(silence) for s in sites]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()
