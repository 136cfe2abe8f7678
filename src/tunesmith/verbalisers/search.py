from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from ..settings import Count
from . import Verbaliser, View, Words, likeliest


class Search(Verbaliser):
    """One word a label, searched on the few labelled rows with the untuned base (LM-BFF).

    Of each label the ``top`` words with the largest sum of log-probabilities at the blanks of its rows; among those the
    assignment that tells most rows right, the likelier one where two tell the same. Assignments are climbed label by
    label rather than counted out, since there are ``top ** labels`` of them. Source: Gao, Fisch and Chen 2021,
    arXiv:2012.15723; its last step, tuning with each of the best assignments, is left to a comparison of recipes.

    Settings:
        top: words of each label that are tried.
        rounds: passes over the labels at most.
    """

    def __init__(self, *, top: Count = 100, rounds: Count = 10):
        self.top, self.rounds = top, rounds

    def __call__(self, view: View) -> Words:
        tried = [likeliest(view.said[view.classes == c].sum(0), view, self.top) for c in range(len(view.labels))]
        short = [label for label, words in zip(view.labels, tried, strict=True) if len(words) < len(view.labels)]
        if short:
            raise InputError(
                f"too few words to choose from for label {short[0]!r}", where="task.cloze.words.search",
                expected="a base with whole words in its vocabulary", fix="write the words yourself",
            )  # fmt: skip
        chosen = self._climb([view.said[:, words] for words in tried], tried, view.classes)
        return {label: {str(view.word(token)): 1.0} for label, token in zip(view.labels, chosen, strict=True)}

    def _climb(self, said: list[Tensor], tried: list[list[int]], classes: Tensor) -> list[int]:
        """The token of each class.

        Args:
            said: of each class the log-probabilities of its words, (rows, words).
            tried: the tokens of these words.
            classes: of the rows.
        """
        places = [0] * len(tried)
        for c, words in enumerate(tried):  # the first that no other label has yet
            taken = {tried[b][places[b]] for b in range(c)}
            places[c] = next(i for i, token in enumerate(words) if token not in taken)
        for _ in range(self.rounds):
            before = list(places)
            for c, words in enumerate(tried):
                taken = {tried[b][places[b]] for b in range(len(tried)) if b != c}
                score = self._told(said, places, c, classes)
                score[torch.tensor([token in taken for token in words])] = -torch.inf
                if score.max() > score[places[c]]:
                    places[c] = int(score.argmax())
            if places == before:
                break
        return [words[i] for words, i in zip(tried, places, strict=True)]

    @staticmethod
    def _told(said: list[Tensor], places: list[int], c: int, classes: Tensor) -> Tensor:
        """Rows told right, plus a likelihood below 1 that decides between equals, with each word of class ``c``."""
        columns = [values[:, i, None].expand(-1, said[c].shape[1]) for values, i in zip(said, places, strict=True)]
        columns[c] = said[c]
        scores = torch.stack(columns, -1).log_softmax(-1)  # (rows, words, classes)
        right = (scores.argmax(-1) == classes[:, None]).sum(0).double()
        likely = scores.gather(-1, classes[:, None, None].expand(-1, scores.shape[1], 1))[..., 0].mean(0)
        return right + 0.99 * likely.double().exp()
