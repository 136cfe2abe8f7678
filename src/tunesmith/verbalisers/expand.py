from __future__ import annotations

import torch
from torch import Tensor

from ..settings import Count, Share
from . import Verbaliser, View, Words, likeliest


class Expand(Verbaliser):
    """Each label's name, and the words nearest to it in meaning, weighted by how near they are (SciPrompt).

    A word counts by its relevance, the cosine of its embedding in the base and the label's; it belongs to the label that
    it is nearest to. With ``calibrated`` its weight is divided by how likely the base finds it on the labelled rows
    anyway. Meant for ``combine: sum``, ``P(y|x) = sum_v w_v P(blank = v)``. Source: You et al. 2024, SciPrompt; the
    base's own neighbours stand where the paper retrieves terms and scores them by encoders tuned on entailment;
    calibration as in Hu et al. 2022, arXiv:2108.02035.

    Settings:
        terms: words of each label, its name among them.
        least: smallest relevance of a word.
        calibrated: whether words that are likely everywhere count less.
    """

    def __init__(self, *, terms: Count = 10, least: Share = 0.3, calibrated: bool = True):
        self.terms, self.least, self.calibrated = terms, least, calibrated

    def __call__(self, view: View) -> Words:
        table = torch.nn.functional.normalize(view.table.float() - view.table.float().mean(0), dim=-1)
        named = torch.stack([table[view.pieces(name)].mean(0) for name in view.names])
        near = table @ torch.nn.functional.normalize(named, dim=-1).T  # (vocabulary, labels)
        owner = near.argmax(-1)
        words: Words = {}
        for c, (label, name) in enumerate(zip(view.labels, view.names, strict=True)):
            own = torch.where(owner == c, near[:, c], -torch.inf)
            found = {name: 1.0 / self._usual(view, view.pieces(name))}
            for token in likeliest(own, view, self.terms):
                word = str(view.word(token))
                if own[token] >= self.least and word.lower() != name and len(found) < self.terms:
                    found[word] = float(own[token]) / self._usual(view, [token])
            words[label] = found
        return words

    def _usual(self, view: View, tokens: list[int]) -> float:
        """The mean probability of a word on the labelled rows, that of its likeliest piece at least."""
        if not self.calibrated:
            return 1.0
        usual: Tensor = view.said[:, tokens].exp().mean(0)
        return float(usual.max().clamp(min=1e-8))
