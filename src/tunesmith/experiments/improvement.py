from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import Figure, Lab, Outcome
from ._asked import asked
from ._figures import over_seeds, times_over_seeds
from ._improved import Way, filled, gain, merged

PLAIN: dict[str, Any] = {"judge": "exact_match", "maker": "select", "samples": 0, "rounds": 1, "start": "base"}
"""Plain supervised tuning on the rows' own answers, said as an improvement: their own answer is the one that is kept."""


def improvement(
    lab: Lab,
    *,
    ways: dict[str, Any] = {"kept": {"like": "rest_em", "judge": "numeric_answer"}},  # noqa: B006
    rows: str = "sums",
    first: int = 24,
    options: dict[str, Any] = {"check": "numeric_answer"},  # noqa: B006
    models: dict[str, Any] = {},  # noqa: B006
    asks: dict[str, str] = {},  # noqa: B006
    refusal: str = "",
    corruptions: list[str] = [],  # noqa: B006
    rival: str = "plain.likelihood",
) -> Outcome:
    """Ways to generate, judge and train, each for its rounds, against plain supervised tuning on the same prompts.

    One answer to each held-out prompt is scored, by the same judge for all. Differences are paired by seed and by prompt.

    Figures, more is better: ``NAME.gain``, a way's score less that of the model that writes first; ``NAME.difference``,
    less plain tuning's; ``NAME.over.OTHER``, less another way's; ``NAME.own.ASK``, its score asked in its own form less
    asked in another. ``NAME.prefers.KIND``, how much more often than plain tuning a right answer is likelier than a
    corrupted one. With a refusal, ``NAME.refused``, the share of refusals; ``NAME.fewer.OTHER``, how many fewer answers
    are wrong; ``NAME.nearer.OTHER``, how much nearer it comes to no wrong answer and none withheld (the two shares' root
    mean square; an answer is withheld that the model that writes first has right). With judges of trust,
    ``NAME.auroc.JUDGE`` and, ``before`` being a name too, ``NAME.trust.JUDGE``, that less the rival's. ``NAME.length``,
    ratio of words to plain tuning's.

    Source: Bouthillier et al. 2021, arXiv:2103.03098 (paired comparison over seeds).

    Settings:
        ways: name -> options of loop and recipe; ``{NAME}`` in them is the run of an earlier way, of the ``models``, or of
            the ``first``; ``{merged}`` is the first's model as a base, for losses that compare with it.
        rows: ``sums``, ``programs``, ``facts``, ``topics``, ``contexts`` or ``reviews``.
        first: so many rows tune the model that writes first, and the ways get the others; 0 lets the base write.
        options: of all ways.
        models: name -> ``{task, ...}``: runs on arena tasks, with options of their recipes.
        asks: name -> form in which held-out prompts are asked besides, with ``{prompt}``.
        refusal: what a model says where it does not answer.
        corruptions: kinds of corruption that right answers are held against: ``delete``, ``alter``, ``shuffle``.
        rival: way and judge of trust, with a dot between them, that others are compared with.
    """
    found = {seed: _carried_out(lab, seed, ways, rows, first, options, models) for seed in lab.seeds}
    sides = {name: [found[seed][name] for seed in lab.seeds] for name in ("plain", *ways)}
    figures: dict[str, Figure] = {}
    for name, mine in sides.items():
        figures[f"{name}.gain"] = gain(mine, [w.before() for w in mine], f"{name} less the model that writes first")
        for ask, form in asks.items():
            figures[f"{name}.own.{ask}"] = gain(mine, [w.asked(form) for w in mine], f"{name}: own form less {ask}")
        if name != "plain":
            figures[f"{name}.difference"] = gain(mine, sides["plain"], f"{name} less plain supervised tuning")
            figures[f"{name}.length"] = _length(mine, sides["plain"], name)
            figures |= {f"{name}.prefers.{k}": _prefers(mine, sides["plain"], k) for k in corruptions}
        if refusal:
            figures |= {f"{name}.{what}": f for what, f in _refusing(name, sides, refusal).items()}
    for one, other in itertools.permutations(ways, 2):
        figures[f"{one}.over.{other}"] = gain(sides[one], sides[other], f"{one} less {other}")
    figures |= _trust(sides, rival)
    series = {name: [[n, float(np.mean([w.rounds[n] for w in mine]))] for n in range(min(len(w.rounds) for w in mine))]
              for name, mine in sides.items()}  # fmt: skip
    return Outcome(figures, series, ("round", "score of one answer to each held-out prompt"))


def _carried_out(
    lab: Lab, seed: int, ways: Mapping[str, Any], rows: str, first: int, options: Mapping[str, Any],
    models: Mapping[str, Any],
) -> dict[str, Way]:  # fmt: skip
    """Every way with this seed, in order; each may name the runs of those before it."""
    train, test = asked(rows)
    places = {name: str(lab.tuned(_model(lab, how))) for name, how in models.items()}
    start: dict[str, Any] = {}
    if first:
        places["first"] = str(
            _improved(lab, filled(options, places), {**PLAIN, "trust": []}, train[:first], test, seed).run
        )
        start = {"policy": places["first"]}
        places |= {"merged": merged(Path(places["first"]))} if "{merged}" in str(ways) else {}
    found = {}
    for name, how in {"plain": {}, **ways}.items():
        changes = {**PLAIN, **how} if name == "plain" else how
        own = filled({**start, **changes}, places)
        found[name] = _improved(lab, filled(options, places), own, train[first:], test, seed)
        places[name] = str(found[name].run)
    return found


def _model(lab: Lab, how: Mapping[str, Any]) -> Any:
    return lab.recipe(how["task"], {k: v for k, v in how.items() if k != "task"})


def _improved(lab: Lab, options: Mapping[str, Any], own: Mapping[str, Any], train: Any, test: Any, seed: int) -> Way:
    from ..improving.plan import Improve
    from ..recipe import override

    both, loops = {**options, **own}, {*Improve.model_fields, "like"}
    loop = override({}, {k: v for k, v in both.items() if k.split(".")[0] in loops})
    rest = {k: v for k, v in both.items() if k.split(".")[0] not in loops}
    recipe = lab.recipe("instruct", {"adapter": "lora", "task": "generate", "checks.rows": 8, **rest})
    return Way(Path(lab.improved(lab.given(recipe, train=train, test=test), loop, seed)))


# ---------------------------------------------------------------------- figures


def _length(mine: Sequence[Way], plain: Sequence[Way], name: str) -> Figure:
    logs = [float(np.log(max(a.words, 0.1) / max(b.words, 0.1))) for a, b in zip(mine, plain, strict=True)]
    return times_over_seeds(logs, f"words of an answer, {name} over plain tuning")


def _prefers(mine: Sequence[Way], plain: Sequence[Way], kind: str) -> Figure:
    return gain([w.preferred(kind) for w in mine], [w.preferred(kind) for w in plain], f"right answer likelier, {kind}")


def _refusing(name: str, sides: Mapping[str, Sequence[Way]], refusal: str) -> dict[str, Figure]:
    told = {side: [w.refusing(refusal) for w in ways] for side, ways in sides.items()}
    own = told.pop(name)
    made = {"refused": over_seeds([a["refused"] for a in own], "points", f"{name}: refused prompts")}
    for other, theirs in told.items():
        for figure, what, about in (
            ("fewer", "wrong", "wrong answers"),
            ("nearer", "distance", "distance from the best"),
        ):
            change = [b[what] - a[what] for a, b in zip(own, theirs, strict=True)]
            made[f"{figure}.{other}"] = over_seeds(change, "points", f"{about}, {other} less {name}")
    return made


def _trust(sides: Mapping[str, Sequence[Way]], rival: str) -> dict[str, Figure]:
    """How well judges of trust tell right from wrong answers, of each way and of the model that writes first."""
    told = {name: [w.trust() for w in mine] for name, mine in sides.items()}
    told["before"] = [w.trust(before=True) for w in sides["plain"]]
    side, _, judge = rival.partition(".")
    figures: dict[str, Figure] = {}
    for name, every in told.items():
        for who in every[0]:
            values = [one.get(who, np.nan) for one in every]
            others = [one.get(judge, np.nan) for one in told.get(side, [])]
            figures[f"{name}.auroc.{who}"] = over_seeds(values, "", f"{name}: {who} tells right from wrong answers")
            if others and (name, who) != (side, judge):
                change = [a - b for a, b in zip(values, others, strict=True)]
                figures[f"{name}.trust.{who}"] = over_seeds(change, "", f"{name}: {who} less {rival}")
    return figures
