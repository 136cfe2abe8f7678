from __future__ import annotations

from . import Verbaliser, View, Words


class Names(Verbaliser):
    """The name of each label, as the words of a sentence.

    The plainest of hand-written verbalisers, and right where labels are words that the base knows. Source: Schick and
    Schütze 2021, arXiv:2001.07676.
    """

    asks = False

    def __call__(self, view: View) -> Words:
        return {label: {name: 1.0} for label, name in zip(view.labels, view.names, strict=True)}
