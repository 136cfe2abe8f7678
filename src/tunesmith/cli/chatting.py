"""`tunesmith chat` on the screen and in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HELP = "/base and /tuned choose who answers, /both shows both, /reset forgets, /quit leaves; Ctrl-C stops an answer"


def talk(folder: Path, *, who: str, system: str, tokens: int, temperature: float, top_p: float, seed: int) -> None:
    """Read what is said line by line, and stream the answers, until the input or the user ends it."""
    from ..engine.generate import Sampling
    from ..run.api import open_run
    from ..run.conversation import Conversation

    sampling = Sampling(tokens, temperature, top_p, seed)
    Chat(Conversation(open_run(folder), sampling=sampling, system=system), who).run()


class Chat:
    """The loop of a conversation.

    Args:
        conversation: a `run.conversation.Conversation`.
        who: ``tuned``, ``base`` or ``both``: who answers.
    """

    def __init__(self, conversation: Any, who: str):
        from rich.console import Console

        self.conversation = conversation
        self.who = who
        self.console = Console(highlight=False, markup=False, soft_wrap=True)
        self.talks = sys.stdin.isatty()

    def run(self) -> None:
        """Until /quit or the end of the input."""
        if self.talks:
            self.console.print(
                f"{self.conversation.run.folder}, on {self.conversation.run.base.name}. {HELP}", style="dim"
            )
        for line in self._lines():
            if line in ("/quit", "/exit"):
                return
            if line.startswith("/"):
                self._command(line)
            elif line:
                self._answer(line)

    def _lines(self) -> Iterator[str]:
        """What is typed, or the lines of a pipe; Ctrl-C at the prompt begins a new one."""
        while True:
            try:
                line = self.console.input("you: ") if self.talks else sys.stdin.readline()
            except EOFError:
                return
            except KeyboardInterrupt:
                self.console.print("\n/quit leaves", style="dim")
                continue
            if not line and not self.talks:
                return
            yield line.strip()

    def _command(self, line: str) -> None:
        if line in ("/base", "/tuned", "/both"):
            self.who = line[1:]
            self._say({"base": "the base answers", "tuned": "the tuned model answers", "both": "both answer"}[self.who])
        elif line == "/reset":
            self.conversation.reset()
            self._say("all is forgotten")
        else:
            self._say(HELP if line == "/help" else f"{line} is no command: {HELP}")

    def _say(self, text: str) -> None:
        """A word of the program, apart from what models say: a pipe has it on stderr."""
        if self.talks:
            self.console.print(text, style="dim")
        else:
            print(text, file=sys.stderr)

    def _answer(self, text: str) -> None:
        from ..errors import InputError

        try:
            if self.who == "both":
                self._both(text)
            else:
                self._one(text, self.who, keep=True)
        except InputError as error:
            if not self.talks:
                raise
            self._say(str(error))

    def _one(self, text: str, who: str, *, keep: bool) -> None:
        written = self.conversation.ask(text, self._piece, base=who == "base", keep=keep)
        self.console.print()
        if not written.stopped and self.talks:
            self._say("(cut off)")

    def _piece(self, piece: str) -> None:
        self.console.print(piece, end="")
        self.console.file.flush()

    def _both(self, text: str) -> None:
        """The base's answer beside the tuned model's, which is the one that the conversation goes on with."""
        if not self.console.is_terminal:
            for who in ("base", "tuned"):
                self.console.print(f"{who}: ", end="")
                self._one(text, who, keep=who == "tuned")
            return
        from rich import box
        from rich.live import Live
        from rich.table import Table

        said = {"base": "", "tuned": ""}

        def table() -> Any:
            made = Table(box=box.SIMPLE, expand=True)
            for who in said:
                made.add_column(who, ratio=1, overflow="fold")
            made.add_row(*said.values())
            return made

        with Live(table(), console=self.console, refresh_per_second=10) as live:
            for who in said:

                def hear(piece: str, who: str = who) -> None:
                    said[who] += piece
                    live.update(table())

                self.conversation.ask(text, hear, base=who == "base", keep=who == "tuned")
