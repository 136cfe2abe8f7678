from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..errors import InputError
from ..settings import Count
from . import Audit, Finding, Pair
from ._compare import by_rows, errors
from ._texts import asked, prompt_of
from .format_spread import _layouts


class PromptSensitivity(Audit):
    """How much less likely a model's own answer becomes when the prompt is only laid out in another way.

    A model answers each layout of a prompt, and every answer is scored after every layout: the figure is the mean
    distance of an answer's log-likelihood a token from that after its own layout (POSIX). No reference answer is needed.

    Source: Chatterjee et al. 2024, arXiv:2410.02185, with layouts drawn from the grammar of `format_spread`.

    Settings:
        rows: held-out prompts.
        formats: layouts of each, at least 2.
        tokens: most tokens of an answer.
    """

    tasks: ClassVar[tuple[str, ...]] = ("generate", "chat")

    def __init__(self, *, rows: Count = 8, formats: Count = 3, tokens: Count = 16):
        if formats < 2:
            raise InputError(f"{formats} layout", where="audit.prompt_sensitivity.formats", expected="at least 2")
        self.rows, self.formats, self.tokens = rows, formats, tokens

    def __call__(self, pair: Pair) -> list[Finding]:
        prompts = [prompt_of(pair.task, row) for row in pair.held_out(self.rows)]
        frames = _layouts(self.formats, pair.seed)
        laid_out = [[frame % prompt for frame in frames] for prompt in prompts]
        index = [self._index(pair, laid_out, tuned) for tuned in (False, True)]
        return [by_rows(pair, "prompt_sensitivity", index[0], index[1])]

    def _index(self, pair: Pair, laid_out: list[list[str]], tuned: bool) -> np.ndarray:
        """The index of each prompt, shape (prompts,)."""
        written = pair.write([x for layouts in laid_out for x in layouts], tuned=tuned, tokens=self.tokens)
        said = iter([text for text, _ in written])
        answers = [[next(said) for _ in layouts] for layouts in laid_out]
        rows = [asked(pair.task, x, y) for xs, ys in zip(laid_out, answers, strict=True) for x in xs for y in ys]
        scored = errors(pair.task, pair.answers(rows, tuned=tuned))
        loss = scored.reshape(len(laid_out), self.formats, self.formats)
        own = np.diagonal(loss, axis1=1, axis2=2)[:, None, :]
        return np.asarray(np.abs(loss - own).sum((1, 2)) / (self.formats * (self.formats - 1)))
