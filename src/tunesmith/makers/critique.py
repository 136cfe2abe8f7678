from __future__ import annotations

from collections.abc import Sequence

from . import Answer, Desk, Judged, Maker


class Critique(Maker):
    """To say what is wrong with an answer: the model's own stands in the prompt, the judge's words are the target.

    The tuned model is asked as before. The paper's words are people's and a large model's.

    Source: "LaFFi: Leveraging Hybrid Natural Language Feedback for Fine-tuning Language Models", 2023.

    Settings:
        asks: what stands behind the prompt, with ``{answer}``.
        right: the target for an answer of which the judge says nothing.
    """

    def __init__(
        self, *, asks: str = "Proposed answer: {answer}\nWhat is wrong with it?", right: str = "Nothing. It is right."
    ):
        self.asks = asks
        self.right = right

    def __call__(self, judged: Sequence[Judged], desk: Desk) -> list[Answer]:
        return [
            Answer(one.question, verdict.feedback or self.right, self._asked(one.question.prompt, text))
            for one in judged
            for text, verdict in one.ranked()
            if text.strip()
        ]

    def _asked(self, prompt: str, answer: str) -> str:
        return f"{prompt}\n\n{self.asks.replace('{answer}', answer)}"
