"""What a recipe may say of a cloze, the filling of a blank that tells a row's class: templates, words, demonstrations."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError, unknown

SETTINGS: Mapping[str, Any] = {
    "template": "", "words": "names", "combine": "mean", "demonstrations": 0, "sets": 1, "similar": 1.0,
    "calibrate": False, "plausibility": False,
}  # fmt: skip
"""What a user may say of a cloze, with its defaults; an empty template is the plain one of the base's kind."""

PLAIN = {
    ("encoder", False): "{text} It was {mask}.",
    ("encoder", True): "{text}? {mask}, {second}",
    ("decoder", False): "Text: {text}\nLabel: {mask}",
    ("decoder", True): "Text: {text}\nSecond text: {second}\nLabel: {mask}",
}
"""The template for a kind of base, for one text or two, where the user gives none."""

HEADS = {"encoder": "masked-cloze", "decoder": "causal-cloze"}
"""The kind of head for each architecture."""

SETTLED = ("verbalised", "pieces", "pool", "prior", "architecture")
"""What is added once base and rows are known; see `blanks.Cloze`."""


def check(given: Any) -> dict[str, Any]:
    """What a recipe says of a cloze, with every default written out; ``true`` takes all of them, a text is a template.

    >>> check("{text} All in all, it was {mask}.")["template"]
    ['{text} All in all, it was {mask}.']

    Raises:
        InputError: an unknown setting, or a value that does not fit.
    """
    given = {"template": given} if isinstance(given, str) else {} if given is True else given
    if not isinstance(given, Mapping):
        raise InputError(f"{given!r} does not fit", where="task.cloze", expected="true, a template, or settings")
    for name in given:
        if name not in (*SETTINGS, *SETTLED):
            raise unknown("setting of a cloze:", name, SETTINGS, where="task.cloze")
    form = {**SETTINGS, **given}
    templates = form["template"] if isinstance(form["template"], list) else [form["template"]]
    form["template"] = [t for t in templates if t != ""]
    for template in form["template"]:
        _check_template(template)
    _check_values(form)
    return form


def _check_values(form: Mapping[str, Any]) -> None:
    fits = {
        "combine": (form["combine"] in ("mean", "sum"), "mean or sum"),
        "demonstrations": (_is_count(form["demonstrations"], 0), "a whole number: demonstrations a label"),
        "sets": (_is_count(form["sets"], 1), "a whole number of at least 1"),
        "similar": (isinstance(form["similar"], int | float) and 0 < form["similar"] <= 1, "a share above 0, to 1"),
        "calibrate": (isinstance(form["calibrate"], bool), "true or false"),
        "plausibility": (isinstance(form["plausibility"], bool), "true or false"),
        "words": (isinstance(form["words"], str | Mapping), "a verbaliser, or words for each label"),
    }
    for name, (fine, expected) in fits.items():
        if not fine:
            raise InputError(f"{form[name]!r} does not fit", where=f"task.cloze.{name}", expected=expected)


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _check_template(template: Any) -> None:
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(str(template)) if name is not None]
    except ValueError as error:
        raise InputError(f"template {template!r} cannot be read ({error})", where="task.cloze.template") from None
    if names.count("mask") != 1 or "text" not in names or set(names) - {"text", "second", "mask"}:
        raise InputError(
            f"template {template!r} has {', '.join(names) or 'no fields'}", where="task.cloze.template",
            expected="{text} and one {mask}, and {second} for pairs",
        )  # fmt: skip


def written_words(words: Mapping[str, Any], labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """Words that the user wrote for each label: a word, a list of words, or words with weights.

    >>> written_words({"good": ["great", "fine"], "bad": "poor"}, ["bad", "good"])
    {'bad': {'poor': 1.0}, 'good': {'great': 1.0, 'fine': 1.0}}

    Raises:
        InputError: a label has no word, or there is no such label.
    """
    words = {str(label).lower() if isinstance(label, bool) else str(label): w for label, w in words.items()}
    where = "task.cloze.words"
    for label in words:
        if label not in labels:
            raise unknown("label", label, labels, where=where)
    made: dict[str, dict[str, float]] = {}
    for label in labels:
        given = words.get(label)
        listed = [given] if isinstance(given, str) else given or []
        weights = given if isinstance(given, Mapping) else dict.fromkeys(listed, 1)
        if not weights:
            raise InputError(f"label {label!r} has no word", where=where, expected="a word, or a list, for every label")
        if bad := [w for w, a in weights.items() if not isinstance(a, int | float) or not 0 < a < math.inf]:
            raise InputError(
                f"the weight of {bad[0]!r} is {weights[bad[0]]!r}", where=where, expected="a number above 0"
            )
        made[label] = {str(w): float(a) for w, a in weights.items()}
    return made


def label_words(label: str) -> str:
    """A label as the words of a sentence.

    >>> label_words("NOT_relevant"), label_words("veryGood"), label_words("3")
    ('not relevant', 'very good', '3')
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)
    return re.sub(r"[\W_]+", " ", spaced).strip().lower() or label


def templates(form: Mapping[str, Any], architecture: str, *, pairs: bool) -> list[str]:
    """The templates for a base of this architecture: the user's, else the plain one.

    Raises:
        InputError: the base fills no blanks, or a template does not fit it or the rows.
    """
    if architecture not in HEADS:
        raise InputError(
            f"the base is of kind {architecture}, which fills no blanks here", where="task.cloze",
            expected="a masked language model or a causal one", fix="see `tunesmith models`",
        )  # fmt: skip
    found = form["template"] or [PLAIN[architecture, pairs]]
    for template in found:
        if ("{second}" in template) != pairs:
            expected = "{second} too" if pairs else "no {second}: a row has one text"
            raise InputError(f"template {template!r}", where="task.cloze.template", expected=expected)
        before, after = template.split("{mask}")
        if architecture == "decoder" and form["plausibility"] and "{text}" in before:
            raise InputError(
                f"template {template!r} has the text before the mask", where="task.cloze.template",
                expected="{mask} before {text}: a causal model scores what follows",
            )  # fmt: skip
        if architecture == "decoder" and not form["plausibility"] and re.search(r"\w|{", after):
            raise InputError(
                f"template {template!r} goes on after the mask", where="task.cloze.template",
                expected="at most punctuation there: a causal model reads nothing that follows",
            )  # fmt: skip
    return found
