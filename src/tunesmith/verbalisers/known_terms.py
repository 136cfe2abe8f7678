from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError, unknown
from ..settings import Count, Share
from . import Verbaliser, View, Words


class KnownTerms(Verbaliser):
    """Each label's name, and terms that a source of knowledge gives for it, weighted by how near they are (SciPrompt).

    A term counts by its relevance, the cosine of its pieces' mean embedding in the base and the label's; terms below
    ``least``, and terms that are nearer to another label, are left out. Meant for ``combine: sum``, ``P(y|x) = sum_v w_v
    P(blank = v)``. Source: You et al. 2024, SciPrompt; the base's own embeddings stand where the paper scores terms by
    encoders tuned on entailment, and the terms are the user's where it asks a dictionary service.

    Settings:
        terms: label -> its terms.
        file: a JSON file of the same form, read beside ``terms``; a result's identity knows its name alone.
        most: terms of each label, its name among them.
        least: smallest relevance of a term.
        weighted: whether terms count by their relevance, or all alike.
    """

    def __init__(
        self,
        *,
        terms: dict[str, list[str]] = {},  # noqa: B006
        file: str = "",
        most: Count = 20,
        least: Share = 0.2,
        weighted: bool = True,
    ):
        self.terms, self.file, self.most, self.least, self.weighted = terms, file, most, least, weighted

    def __call__(self, view: View) -> Words:
        known = self._known(view.labels)
        table = torch.nn.functional.normalize(view.table.float() - view.table.float().mean(0), dim=-1)
        named = torch.stack([_mean(table, view.pieces(name)) for name in view.names])
        words: Words = {}
        for c, (label, name) in enumerate(zip(view.labels, view.names, strict=True)):
            near: dict[str, float] = {}
            for term in dict.fromkeys(known.get(label, ())):
                pieces = _spelled(view, term)
                relevance = named @ _mean(table, pieces) if pieces else torch.zeros(len(named))
                if term.lower() != name and int(relevance.argmax()) == c and float(relevance[c]) >= self.least:
                    near[term] = float(relevance[c])
            best = sorted(near, key=lambda term: -near[term])[: self.most - 1]
            words[label] = {name: 1.0} | {term: near[term] if self.weighted else 1.0 for term in best}
        return words

    def _known(self, labels: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Label -> terms, from the settings and the file."""
        given = {label: list(terms) for label, terms in self.terms.items()}
        for label, terms in (_read(self.file) if self.file else {}).items():
            given.setdefault(label, []).extend(terms)
        if not given:
            raise InputError(
                "no terms are given", where="task.cloze.words.known_terms", expected="terms, or a file of them",
                fix="words: expand takes the base's own neighbours",
            )  # fmt: skip
        if strange := [label for label in given if label not in labels]:
            raise unknown("label", strange[0], labels, where="task.cloze.words.known_terms")
        return given


def _read(path: str) -> Mapping[str, Sequence[str]]:
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({error})", where=path, expected="JSON: label -> list of terms") from None
    fits = isinstance(found, dict) and all(
        isinstance(terms, list) and all(isinstance(term, str) for term in terms) for terms in found.values()
    )
    if not fits:
        raise InputError("is no table of terms", where=path, expected='JSON such as {"sports": ["football", "race"]}')
    return dict(found)


def _spelled(view: View, term: str) -> list[int]:
    """The ids of a term; none where the base cannot spell it."""
    try:
        return view.pieces(term)
    except InputError:
        return []


def _mean(table: Tensor, pieces: Sequence[int]) -> Tensor:
    return torch.nn.functional.normalize(table[list(pieces)].mean(0), dim=-1)
