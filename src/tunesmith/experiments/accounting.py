from __future__ import annotations

import math

from . import Lab, Outcome
from ._figures import times_over_seeds


def accounting(
    lab: Lab,
    *,
    epsilons: list[float] = [3.0, 8.0],  # noqa: B006
    delta: float = 1e-5,
    rates: list[float] = [0.02, 0.05, 0.1],  # noqa: B006
    steps: list[int] = [100, 300],  # noqa: B006
) -> Outcome:
    """The noise that a privacy budget asks for by the Edgeworth accountant, against two others. Nothing is trained.

    Figures, geometric means over all budgets, rates and numbers of steps, which stand in the place of seeds: ``over_rdp``,
    the noise over that of Renyi accounting; ``over_prv``, over that of a numerical accountant of the privacy loss, which is a
    bound: a figure below 1 there says that the estimate asks for too little.

    Source: Wang et al. 2022, arXiv:2206.04236; Opacus' accountants for the others.

    Settings:
        epsilons: budgets.
        delta: the share of cases in which a budget may be exceeded.
        rates: shares of the rows that a step sees.
        steps: numbers of steps.
    """
    from ..gradients._privacy import noise_for

    settings = [(e, rate, n) for e in epsilons for rate in rates for n in steps]
    found: dict[str, list[float]] = {"edgeworth": [], "rdp": [], "prv": []}
    for name, noises in found.items():
        lab.say(f"noise of {len(settings)} budgets by {name}")
        noises += [noise_for(e, delta, rate, n, name) for e, rate, n in settings]  # type: ignore[arg-type]
    figures = {
        f"over_{name}": times_over_seeds(
            [math.log(a / b) for a, b in zip(found["edgeworth"], found[name], strict=True)],
            f"noise, Edgeworth over {name}",
        )
        for name in ("rdp", "prv")
    }
    series = {name: [[i, noise] for i, noise in enumerate(noises)] for name, noises in found.items()}
    told = "; ".join(f"{i}: epsilon {e:g}, rate {rate:g}, {n} steps" for i, (e, rate, n) in enumerate(settings))
    return Outcome(figures, series, ("budget", "noise multiplier"), [told])
