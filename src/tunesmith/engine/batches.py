"""Which rows go into which optimizer step, and how a step is cut into micro-batches that fit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

WINDOW = 64
"""Steps whose rows are sorted by length together: long enough that little is padded, short enough to stay random."""

_ON_CPU, _WRITING_ON_CPU, _MOST_TOKENS = 512, 1024, 8192


def most_tokens(device: str, *, writes: bool) -> int:
    """Most tokens of a micro-batch where a recipe leaves it open.

    On a CPU the activations of 512 tokens take half the memory of those of 1,024, for up to a tenth more time a token
    (``bench/micro_batches.json``, docs/performance.md); steps of few and short rows are not cut at all. A model that writes
    has 1,024, since each micro-batch goes over the whole matrix of its vocabulary. A GPU has to be given more at a time to
    be busy; its figure is not measured.

    Args:
        device: type of the device.
        writes: whether the model has a word for each token, so that its outputs are as wide as its vocabulary.
    """
    if device != "cpu":
        return _MOST_TOKENS
    return _WRITING_ON_CPU if writes else _ON_CPU


def epoch_steps(lengths: np.ndarray, rows: int, *, seed: int, epoch: int) -> list[np.ndarray]:
    """The rows of each optimizer step of one epoch, every row once, rows of like length together.

    The order depends on nothing but the seed and the epoch, so that a resumed run finds its place again. The step with the
    longest row is the first of a run: memory that does not do stops it at once, and what fits later steps is there already
    (``bench/tried.py``).

    Args:
        lengths: tokens of each row, shape (n,).
        rows: rows of one step; the last step of the epoch has what is left.
        seed: the run's seed.
        epoch: number of the epoch, from 0.

    Returns:
        Arrays of indices, in the order of the steps.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    full = len(order) - len(order) % rows
    steps: list[np.ndarray] = []
    for start in range(0, full, rows * WINDOW):
        window = order[start : min(start + rows * WINDOW, full)]
        ranked = window[np.argsort(lengths[window], kind="stable")]
        cut = ranked.reshape(-1, rows)
        steps.extend(cut[random.permutation(len(cut))])
    if epoch == 0 and steps:
        longest = int(np.argmax([lengths[step].max() for step in steps]))
        steps[0], steps[longest] = steps[longest], steps[0]
    if full < len(order):
        steps.append(order[full:])
    return steps


_BALANCED = 16
"""Micro-batches up to which they are made of like size; of more, only the last is small."""


def micro_batches(
    indices: np.ndarray, lengths: np.ndarray, tokens: int, *, packed: bool = False
) -> Iterator[np.ndarray]:
    """Cut a step's rows into as few groups as hold at most ``tokens`` tokens each, of like size; one row always fits.

    A step that is a little too large for one is so cut in halves, which take half at a time, and no pass is for a few tokens.

    Args:
        indices: the rows of the step.
        lengths: tokens of every row of the data.
        tokens: the token budget of one micro-batch, padding counted.
        packed: whether there is no padding to be counted.
    """
    ranked = indices[np.argsort(-lengths[indices], kind="stable")]
    found = _cut(ranked, lengths, tokens, packed)
    if not 1 < len(found) <= _BALANCED:
        yield from found
        return
    low, high = 0, tokens
    while high - low > 1:
        middle = (low + high) // 2
        tried = _cut(ranked, lengths, middle, packed)
        if len(tried) == len(found):
            found, high = tried, middle
        else:
            low = middle
    yield from found


def _cut(ranked: np.ndarray, lengths: np.ndarray, tokens: int, packed: bool) -> list[np.ndarray]:
    """Rows from the longest to the shortest, each group as full as it may be."""
    groups, start = [], 0
    while start < len(ranked):
        if packed:
            fitting = int(np.searchsorted(np.cumsum(lengths[ranked[start:]]), tokens, side="right"))
        else:
            fitting = tokens // max(1, int(lengths[ranked[start]]))
        groups.append(ranked[start : start + max(1, fitting)])
        start += max(1, fitting)
    return groups
