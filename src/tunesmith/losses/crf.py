from __future__ import annotations

import torch
from torch import Tensor, nn

from . import Loss, Step
from ._common import full, must


class CRF(Loss, nn.Module):
    """A linear-chain conditional random field over a tagger's outputs: the whole sequence of tags is right or wrong.

    ``(log sum over all paths of exp(score) - score of the right path) / tokens``; a path's score is the sum of
    its emissions (the logits) and of a learned score for each tag that follows another, begins or ends. It takes
    the place of ``cross_entropy``. When the tagger is used, the best path is found (Viterbi).

    Source: Lafferty et al. 2001, "Conditional Random Fields"; on BERT: Souza et al. 2019, arXiv:1909.10649.
    """

    transitions: nn.Parameter
    begin: nn.Parameter
    end: nn.Parameter

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def start(self, step: Step) -> None:
        self._check(step)
        count = step.logits.shape[-1]
        self.transitions = nn.Parameter(torch.zeros(count, count))
        self.begin = nn.Parameter(torch.zeros(count))
        self.end = nn.Parameter(torch.zeros(count))

    def _check(self, step: Step) -> None:
        must(step.head == "token-classification", self, "a tag for every word, as task tag has it")

    def __call__(self, step: Step) -> Tensor:
        self._check(step)
        emissions, there = _by_row(full(step.logits), step)
        tags, _ = _by_row(step.targets, step)
        return (self.log_partition(emissions, there) - self.score(emissions, tags, there)).sum() / step.units

    def score(self, emissions: Tensor, tags: Tensor, there: Tensor) -> Tensor:
        """Score of one path a row, (rows,), from emissions (rows, words, tags), tags (rows, words) and a mask."""
        here = emissions.gather(-1, tags[..., None])[..., 0] * there
        moves = self.transitions[tags[:, :-1], tags[:, 1:]] * there[:, 1:]
        last = tags.gather(1, (there.sum(1, keepdim=True) - 1).clamp(min=0))[:, 0]
        ends = (self.begin[tags[:, 0]] + self.end[last]) * there[:, 0]
        return here.sum(1) + moves.sum(1) + ends

    def log_partition(self, emissions: Tensor, there: Tensor) -> Tensor:
        """Log of the sum over all paths of exp(score), (rows,), by the forward algorithm; 0 for a row without words."""
        alpha = self.begin + emissions[:, 0]
        for i in range(1, emissions.shape[1]):
            moved = torch.logsumexp(alpha[:, :, None] + self.transitions, dim=1) + emissions[:, i]
            alpha = torch.where(there[:, i, None], moved, alpha)
        return torch.logsumexp(alpha + self.end, dim=1) * there[:, 0]

    @torch.no_grad()
    def read(self, logits: Tensor, step: Step) -> Tensor:
        """Score of the best path through each tag of each word, (units, tags): the greatest ones are the best path."""
        emissions, there = _by_row(full(logits), step)
        words = emissions.shape[1]
        ahead, behind = [self.begin + emissions[:, 0]], [self.end.expand(len(emissions), -1)]
        for i in range(1, words):
            ahead.append((ahead[-1][:, :, None] + self.transitions).amax(1) + emissions[:, i])
            after = (self.transitions + (emissions[:, words - i] + behind[-1])[:, None, :]).amax(2)
            behind.append(torch.where(there[:, words - i, None], after, behind[-1]))
        best = torch.stack(ahead, 1) + torch.stack(behind[::-1], 1)
        return best[there].to(logits.dtype)


def _by_row(values: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """Values of units as (rows, words, ...) with zeros behind each row's last word, and where there is a word."""
    counts = torch.bincount(step.owners, minlength=step.rows)
    there = torch.arange(int(counts.max()), device=values.device)[None, :] < counts[:, None]
    table = values.new_zeros(*there.shape, *values.shape[1:])
    table[there] = values
    return table, there
