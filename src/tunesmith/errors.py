"""The errors that a user sees: one clear line, and an exit code that scripts can rely on."""

from __future__ import annotations

from collections.abc import Iterable


class TunesmithError(Exception):
    """A failure with a message meant for the user. ``exit_code`` is what the command line returns."""

    exit_code = 1


class InputError(TunesmithError):
    """The user's input is wrong: a file, a row, a column, an option, a recipe.

    The message is one line: where, what was found, what was expected, and the fix.

    >>> print(InputError("column 'lable' is missing", where="reviews.csv", expected="label", fix="rename it"))
    reviews.csv: column 'lable' is missing; expected label; rename it
    """

    exit_code = 2

    def __init__(self, found: str, *, where: object = None, expected: str | None = None, fix: str | None = None):
        self.found, self.where, self.expected, self.fix = found, where, expected, fix
        line = f"{where}: {found}" if where is not None else found
        line += f"; expected {expected}" if expected else ""
        line += f"; {fix}" if fix else ""
        super().__init__(" ".join(line.split()))


class RunError(TunesmithError):
    """The run itself failed (a loss that is not finite, a save that does not reload, no memory left)."""


class Interrupted(TunesmithError):
    """The user or the system asked the run to stop; what was done is saved. ``exit_code`` is 128 + signal."""

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.exit_code = 128 + signal


def unknown(what: str, name: object, valid: Iterable[object], *, where: object = None) -> InputError:
    """The error for a name that is not one of ``valid``, with the nearest valid name first.

    >>> print(unknown("adapter", "lroa", ["lora", "ia3"]))
    unknown adapter 'lroa'; expected one of ia3, lora; did you mean 'lora'?
    """
    import difflib

    names = sorted(str(v) for v in valid)
    letters = sorted(str(name))
    swapped = [n for n in names if sorted(n) == letters]
    near = swapped or difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    return InputError(
        f"unknown {what} {str(name)!r}",
        where=where,
        expected=f"one of {', '.join(names)}" if names else "none",
        fix=f"did you mean {near[0]!r}?" if near else None,
    )
