"""A conversation with a run: turn by turn in the form in which it was trained, by the tuned model or by its base."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from ..engine.generate import Sampling, Written, stream
from ..errors import InputError
from .opened import Run

Message = dict[str, str]


class Conversation:
    """Holds what was said, and asks the model to go on.

    A run that was trained on conversations, or on prompts in the turns of a chat template, hears all that was said
    before; of a conversation that is too long for it, the oldest turns are left out. Any other run hears the last words alone.

    Args:
        run: the run.
        sampling: how the next token is chosen, and the most tokens of an answer.
        system: what stands before all turns; empty for nothing.

    Raises:
        InputError: the run's task writes no text, or it can hear no system's words.
    """

    def __init__(self, run: Run, *, sampling: Sampling = Sampling(), system: str = ""):  # noqa: B008
        if run.task.name not in ("generate", "chat", "lm", "prefer"):
            raise InputError(f"task {run.task.name} writes no text", where=run.folder, fix="use predict")
        self.run = run
        self.sampling = sampling
        chats = bool(run.task.settings.get("chat")) and run.reader.has_template and run.base.architecture == "decoder"
        self.remembers = run.task.name == "chat" or chats
        if system and not self.remembers:
            raise InputError("the run has no turns, and hears no system", where=run.folder, fix="leave --system out")
        self._begin: list[Message] = [{"role": "system", "content": system}] if system else []
        self.messages: list[Message] = list(self._begin)

    def reset(self) -> None:
        """Forget what was said."""
        self.messages = list(self._begin)

    def ask(self, text: str, hear: Callable[[str], None], *, base: bool = False, keep: bool = True) -> Written:
        """Say something and stream the answer.

        Args:
            text: what the user says.
            hear: hears the answer piece by piece.
            base: let the base answer, which is the same model with its adapters off.
            keep: remember both for the next turn.

        Returns:
            The answer; one that a KeyboardInterrupt ended is kept as far as it came.

        Raises:
            InputError: the run holds no base beside its model.
        """
        said: list[str] = []

        def both(piece: str) -> None:
            said.append(piece)
            hear(piece)

        messages = [*self.messages, {"role": "user", "content": text}]
        with self.run.base_only() if base else contextlib.nullcontext():
            tokenizer, dtype = self.run.reader.tokenizer, self.run.reading.dtype
            prompt = self._prompt(messages)
            written = stream(self.run.host, prompt, tokenizer, both, sampling=self.sampling, dtype=dtype)
        if keep:
            answer = "".join(said).strip()
            self.messages = [*messages, {"role": "assistant", "content": answer}] if answer else self.messages
        return written

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids after which the answer follows, with as many of the last turns as the model can read."""
        task: Any = self.run.task
        reader = self.run.reader.unlimited()
        room = max(8, (self.run.base.max_length or 1024) - self.sampling.max_tokens)
        if not self.remembers:
            row = self.run.as_row(messages[-1]["content"])
            return reader.shorten(task.prompt_ids(row, reader), room)
        if task.name != "chat":
            messages = [m if m["role"] != "user" else {**m, "content": self._worded(m["content"])} for m in messages]
        turns = messages[len(self._begin) :]
        ids = reader.chat_prompt([*self._begin, *turns])
        while len(ids) > room and len(turns) > 2:
            turns = turns[2:]
            ids = reader.chat_prompt([*self._begin, *turns])
        return reader.shorten(ids, room)

    def _worded(self, text: str) -> str:
        """A turn of the user as the run's prompts are worded."""
        task: Any = self.run.task
        return str(task.prompt(self.run.as_row(text)))
