from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from .. import confined
from ..errors import InputError
from ..settings import Count, Positive
from . import Judge, Question, Verdict
from ._texts import program


class UnitTests(Judge):
    """1 where a program passes its row's tests, 0 elsewhere, with the error message as feedback.

    Nothing that a model wrote is run unless ``allow`` says so. It then runs in a process of its own that has an empty
    folder, no environment, no network, and may start nothing; where the system cannot hold it so, it is not run.
    Answers may be fenced; only the standard library can be imported.

    Source: Austin et al. 2021, arXiv:2108.07732 (tests that stand beside each problem).

    Settings:
        allow: ``no``; ``confined``, where the kernel can hold the program; ``limited``, with no more than limits of time
            and memory, for a machine that may be lost.
        column: the rows' tests: assert statements, as one text or as a list.
        before: the column of code that stands before the answer, such as imports; empty for none.
        seconds: CPU time of one program.
        memory: megabytes that it may take.
    """

    def __init__(
        self, *, allow: Literal["no", "confined", "limited"] = "no", column: str = "tests", before: str = "",
        seconds: Positive = 5.0, memory: Count = 512,
    ):  # fmt: skip
        self.allow = allow
        self.column = column
        self.before = before
        self.limits = confined.Limits(seconds, memory)

    def check(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if self.allow == "no":
            raise InputError(
                "judge unit_tests would run programs that a model wrote", expected="leave to do so",
                fix="--set judge.unit_tests.allow=confined",
            )  # fmt: skip
        for column in filter(None, (self.column, self.before)):
            if any(not row.get(column) for row in rows):
                raise InputError(f"a row has nothing in column {column!r}", expected="tests in every row")

    def verdict(self, question: Question, text: str) -> Verdict:
        self.check([question.row])
        tests = question.row[self.column]
        lines = [str(question.row[self.before])] if self.before else []
        lines += [program(text), *([tests] if isinstance(tests, str) else tests)]
        must = confined.MEASURES if self.allow == "confined" else ("limits",)
        ended = confined.run("\n".join(lines) + "\n", self.limits, must=must)
        last = ended.error.strip().splitlines()[-1:] or [""]
        return Verdict(float(ended.done), "" if ended.done else last[0])
