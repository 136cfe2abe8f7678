from __future__ import annotations

from collections.abc import Sequence

from ..settings import Whole
from . import Framing, Kept, Trial


class Evidence(Framing):
    """Let the model write what speaks to a question first, put it before the question, and let several answers vote.

    Source: Li et al. 2023, arXiv:2309.13165: task-relevant instruction, generated evidence, diverse answers and their vote.

    Settings:
        ask: how evidence is asked for, behind the prompt; empty asks for none.
        relevance: what stands before every prompt, such as what the task is good for.
        shift: the evidence of the prompt so many places later is taken, as a control; 0 takes a prompt's own.
    """

    def __init__(
        self, *, ask: str = "Write one fact that helps to answer this.", relevance: str = "", shift: Whole = 0
    ):  # fmt: skip
        self.ask = ask
        self.relevance = relevance
        self.shift = shift

    def __call__(self, prompts: Sequence[str], kept: Kept, trial: Trial) -> list[str]:
        said = trial.write([f"{prompt}\n{self.ask}" for prompt in prompts]) if self.ask else ["" for _ in prompts]
        said = [said[(i + self.shift) % len(said)] for i in range(len(said))]
        return [
            "\n".join(filter(None, (self.relevance, text.strip(), prompt)))
            for text, prompt in zip(said, prompts, strict=True)
        ]
