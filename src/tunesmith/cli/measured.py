"""What was measured of adapters and masks, in words: the table of `parts` and the lines of `show`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from .. import measured
from ..parts import Part

NOT = "not tested"


def parts_measured(parts: Sequence[Part]) -> Any:
    """A table of adapters or masks with what they train, what they can do, and what is known of them."""
    from rich import box
    from rich.table import Table

    about = measured.everything()["about"]
    title = (
        f"{len(parts)} {parts[0].kind}s; trained: share of {about['base']}'s weights at the defaults, with a new head"
    )
    table = Table(title=title, box=box.SIMPLE, title_justify="left")
    columns: dict[str, Callable[[Part, Mapping[str, Any]], Any]] = {
        "name": lambda part, known: part.name, "what it does, source, settings": lambda part, known: told(part),
        "trained": lambda part, known: trained(known), "folds": lambda part, known: yes(known, "folds"),
        "PEFT": lambda part, known: yes(known, "exports"), "tested rates": lambda part, known: rates(known),
        "claim": lambda part, known: verdicts(known),
    }  # fmt: skip
    if parts[0].kind == "mask":
        columns = {
            k: v for k, v in columns.items() if k not in ("folds", "PEFT")
        }  # what moves are the model's own weights
    for heading in columns:
        table.add_column(heading, overflow="fold", no_wrap=heading in ("trained", "folds", "PEFT"))
    for part in parts:
        known = measured.facts(part.kind, part.name)
        table.add_row(*(column(part, known) for column in columns.values()))
    return table


def told(part: Part) -> Any:
    """Its first sentence; below it, dim, its source and its settings."""
    from rich.text import Text

    return Text(part.summary).append(f"\n{part.source}\n{settings_of(part)}", style="dim")


def lines_measured(part: Part) -> Iterator[str]:
    """What `show` adds about an adapter or a mask; nothing of other kinds."""
    if part.kind not in ("adapter", "mask"):
        return
    known, about = measured.facts(part.kind, part.name), measured.everything()["about"]
    if not known:
        yield "not measured yet: python bench/parts.py"
        return
    cost = ", ".join(f"{megabytes(known[k])} of {k}" for k in ("weights", "gradients", "optimizer"))
    scout = f"; before that {megabytes(known['scout'])} for a full tuning" if known["scout"] else ""
    yield (
        f"on {about['base']} ({about['task']}) at its defaults {known['trained']:,} numbers train, {trained(known)}: "
        f"{cost} state{scout}"
    )
    if part.kind == "adapter":
        folds = "folds into the model's weights" if known["folds"] else "does not fold into the model's weights"
        yield f"{folds}; {'has' if known['exports'] else 'has not'} a form in PEFT's format"
    yield preset(known)
    said = known["claims"]
    yield "claims: " + ("; ".join(f"{stem}: {v or 'not run yet'}" for stem, v in said.items()) if said else "none")


def preset(known: Mapping[str, Any]) -> str:
    """What the learning test said, in a sentence."""
    found = known["preset"]
    if found is None:
        return f"preset: {NOT} (python bench/presets.py)"
    beats = found["beats_head"]
    against = (
        f"; {100 * beats['value']:+.1f} points against head only "
        f"({100 * beats['low']:+.1f} to {100 * beats['high']:+.1f}, {found['seeds']} seeds, {', '.join(found['tasks'])})"
        if beats else ""
    )  # fmt: skip
    dead = "; it learned nothing" if found["dead"] else ""
    best = f"good from {rates(known)}, of those tried {found['best']:g} had the lowest loss"
    return f"preset: rate {found['rate']:g}, {best}{against}{dead}"


def settings_of(part: Part) -> str:
    """Names and defaults of its own settings."""
    return ", ".join(f"{s.name} {s.default}" for s in part.settings.values() if s.own) or "no settings"


def trained(known: Mapping[str, Any]) -> str:
    """Share of the base's weights that trains."""
    return f"{100 * known['share']:.3g} %" if known else ""


def yes(known: Mapping[str, Any], what: str) -> str:
    """Yes or no; nothing where it was not measured."""
    return ("yes" if known[what] else "no") if known else ""


def rates(known: Mapping[str, Any]) -> str:
    """The range of learning rates that the learning test found good."""
    found = known.get("preset")
    return f"{found['range'][0]:g} to {found['range'][1]:g}" if found else NOT


def verdicts(known: Mapping[str, Any]) -> str:
    """Claims of the part with their verdicts."""
    return "; ".join(f"{stem.split('-')[0]} {said or 'not run'}" for stem, said in known.get("claims", {}).items())


def megabytes(count: int) -> str:
    """Bytes for people.

    >>> megabytes(334086 * 4), megabytes(2310 * 4)
    ('1.3 MB', '9 kB')
    """
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.0f} kB"
