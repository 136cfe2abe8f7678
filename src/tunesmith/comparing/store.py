"""The store of results: one file a fingerprint, written whole, shared by any number of processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError
from ..storage import atomic_file, writing
from .identity import Identity
from .result import Result


class Store:
    """A folder of results, ``FOLDER/ab/abcd....json``, named by the fingerprint of what they depend on.

    A result is there whole or not at all. Whoever computes one holds its lock, so that no two processes compute the
    same; the system lets go of the lock when the process ends, however it ends.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)

    def path(self, identity: Identity) -> Path:
        """Where a result lies, or would lie."""
        name = identity.fingerprint
        return self.folder / name[:2] / f"{name}.json"

    def get(self, identity: Identity) -> Result | None:
        """The result of this identity, or None.

        Raises:
            InputError: the file is damaged, or holds the result of another identity.
        """
        path = self.path(identity)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            result = Result.from_dict(values)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"is no result ({error})", where=path, fix="delete the file; it is computed again"
            ) from None
        if Identity(result.identity).fingerprint != identity.fingerprint:
            raise InputError("holds the result of something else", where=path, fix="delete the file")
        return result

    def put(self, result: Result) -> Path:
        """Write a result; one that is there already stays."""
        path = self.path(Identity(result.identity))
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            lines = (f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in result.to_dict().items())
            with atomic_file(path) as file:
                file.write("{\n" + ",\n".join(lines) + "\n}\n")
        return path

    @contextmanager
    def computing(self, identity: Identity) -> Iterator[bool]:
        """Inside the block nobody else computes this result; False when somebody else does already."""
        from filelock import FileLock, Timeout

        locks = self.folder / ".locks"
        with writing(locks):
            locks.mkdir(parents=True, exist_ok=True)
            (locks / ".gitignore").write_text("*\n", encoding="utf-8")
        lock = FileLock(locks / identity.fingerprint)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()
