"""Reading rows of every format, and splitting them without a leak."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from tunesmith.data.rows import Rows, read
from tunesmith.data.split import drop_leaks, split
from tunesmith.errors import InputError

ROWS = [{"text": f"text {i}, with a comma", "label": i % 3} for i in range(12)]


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path_factory.mktemp("home")))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def as_file(folder: Path, kind: str) -> Path:
    """`ROWS` in one of the formats."""
    path = folder / f"rows.{kind}"
    table = pa.Table.from_pylist(ROWS)
    csv = "text,label\n" + "".join(f'"{r["text"]}",{r["label"]}\n' for r in ROWS)
    lines = "".join(json.dumps(r) + "\n" for r in ROWS)
    match kind:
        case "csv":
            return write(path, csv)
        case "csv.gz":
            path.write_bytes(gzip.compress(csv.encode()))
        case "tsv":
            return write(path, "text\tlabel\n" + "".join(f"{r['text']}\t{r['label']}\n" for r in ROWS))
        case "jsonl":
            return write(path, lines)
        case "json":
            return write(path, json.dumps({"version": 1, "data": ROWS}))
        case "parquet":
            pa.parquet.write_table(table, path)
        case "feather":
            pa.feather.write_feather(table, path)
        case "arrow":
            with pa.ipc.new_stream(path, table.schema) as writer:
                writer.write_table(table)
    return path


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv", "jsonl", "json", "parquet", "feather", "arrow"])
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    rows = read(as_file(tmp_path, kind))
    assert rows.columns == ["text", "label"] and len(rows) == 12
    assert [rows[i] for i in range(12)] == ROWS
    assert [r for batch in rows.batches(size=5) for r in batch] == ROWS


def test_text_has_one_row_a_line(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "a.txt", "one\n\n  two \n"))
    assert [rows[0], rows[1]] == [{"text": "one"}, {"text": "two"}] and rows.where(1) == "a.txt line 3"


@pytest.mark.parametrize("source", [ROWS, pa.Table.from_pylist(ROWS)])
def test_tables_in_memory(source: Any) -> None:
    assert read(source)[3] == ROWS[3]


def test_pandas_and_datasets(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    datasets = pytest.importorskip("datasets")
    assert read(pandas.DataFrame(ROWS))[3] == ROWS[3]
    dataset = datasets.Dataset.from_list(ROWS)
    assert read(dataset)[3] == ROWS[3]
    assert read(dataset.select([5, 6]))[0] == ROWS[5]
    dataset.save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved")[3] == ROWS[3]


@pytest.mark.parametrize("values,expected", [
    (["1", "2", ""], [1, 2, None]), (["1", "2.5", "3"], [1.0, 2.5, 3.0]), (["1", "x", ""], ["1", "x", ""]),
    (["007", "008", "009"], [7.0, 8.0, 9.0]), (["nan", "1.5", "2"], [None, 1.5, 2.0]),
])  # fmt: skip
def test_types_of_csv_columns(tmp_path: Path, values: list[str], expected: list[Any]) -> None:
    rows = read(write(tmp_path / "a.csv", "a,b\n" + "".join(f"{v},x\n" for v in values)))
    assert [rows[i]["a"] for i in range(3)] == expected


def test_types_are_settled_over_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.data.files.CHUNK", 2)
    rows = read(write(tmp_path / "a.csv", "a,b\n1,1\n2,2\n3.5,x\n4,5\n"))
    assert [rows[i] for i in (0, 2)] == [{"a": 1.0, "b": "1"}, {"a": 3.5, "b": "x"}]
    late = read(write(tmp_path / "b.jsonl", '{"a":1}\n{"a":2}\n{"a":3.5,"b":[1]}\n'))
    assert [late[i] for i in (0, 2)] == [{"a": 1.0, "b": None}, {"a": 3.5, "b": [1]}]


def test_lines_of_quoted_fields(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "a.csv", 'a,b\n"one\nline",1\ntwo,2\n'))
    assert rows[0]["a"] == "one\nline" and rows.where(1) == "a.csv line 4"


BAD = {
    "broken jsonl": ("a.jsonl", '{"a":1}\n' * 6 + '{"a":\n', r"a.jsonl line 7: not valid JSON \(Expecting value"),
    "a list in jsonl": ("a.jsonl", "[1]\n", r"line 1: a list; expected a JSON object"),
    "mixed types": ("a.jsonl", '{"a":1}\n{"a":"x"}\n', r"line 2: column 'a' is a str here and a int elsewhere"),
    "empty": ("a.csv", "", "a.csv: is empty"),
    "header only": ("a.csv", "text,label\n", "holds no rows"),
    "ragged": ("a.csv", "a,b\n1,2\n1,2,3\n", r"line 3: 3 fields; expected 2 as in the header"),
    "open quote": ("a.csv", 'a,b\n"1,2\n', "line 2: unexpected end of data"),
    "twice": ("a.csv", "a,a\n1,2\n", "column 'a' stands twice"),
    "suffix": ("a.xlsx", "x", "unknown suffix .xlsx; expected one of .csv"),
    "no list": ("a.json", '{"a": 1}', "holds no list of rows"),
    "broken json": ("a.json", '{"a": 1,}', "a.json line 1: not valid JSON"),
    "not parquet": ("a.parquet", "x", "is not a parquet file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_clear_line(tmp_path: Path, case: str) -> None:
    name, content, message = BAD[case]
    with pytest.raises(InputError, match=message) as caught:
        read(write(tmp_path / name, content))
    assert "\n" not in str(caught.value)


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text\nGrüße\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"is not UTF-8 \(byte 0xfc\).*iconv"):
        read(tmp_path / "a.csv")


def test_a_missing_file_offers_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "reviews.csv", "a\n1\n")
    with pytest.raises(InputError, match=r"no such file; did you mean 'reviews.csv'"):
        read(tmp_path / "review.csv")


def test_nothing_is_left_of_a_failed_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    with pytest.raises(InputError):
        read(write(tmp_path / "a.csv", "a,b\n1,2\n1\n"))
    assert not list((tmp_path / "home").rglob("*.arrow"))


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    first = read(write(tmp_path / "a.csv", "a\n1\n2\n")).fingerprint
    assert read(write(tmp_path / "b.csv", "a\n1\n2\n")).fingerprint == first
    assert read(write(tmp_path / "a.csv", "a\n2\n1\n")).fingerprint != first


def test_many_rows_need_no_more_memory(tmp_path: Path) -> None:
    """Peak memory of reading 400,000 rows is that of 20,000, but for what the system maps and can let go of."""
    script = (
        "import sys, resource, random\n"
        "with open(sys.argv[1], 'w') as f:\n"
        "    f.write('text,label\\n')\n"
        "    for i in range(int(sys.argv[2])): f.write(f'a text of some words number {i},{i % 5}\\n')\n"
        "from tunesmith.data.rows import read\n"
        "from tunesmith.data.split import split\n"
        "rows = read(sys.argv[1])\n"
        "split(rows, ['text'])\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0],"
        " open('/proc/self/status').read().split('RssAnon:')[1].split()[0])\n"
    )
    anonymous = []
    for count in ("20000", "400000"):
        made = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / f"{count}.csv"), count], capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        anonymous.append(int(made.stdout.split()[0]) / 1024)
    assert anonymous[1] - anonymous[0] < 60, anonymous


def table(texts: list[str]) -> Rows:
    return read([{"text": t, "label": i % 2, "who": t[0]} for i, t in enumerate(texts)])


def test_splits_cover_all_rows_once_in_their_shares() -> None:
    made = split(table([f"text {i}" for i in range(3000)]), ["text"])
    everything = np.concatenate([made.train, made.validation, made.test])
    assert sorted(everything) == list(range(3000)) and made.duplicates == 0
    assert abs(len(made.test) / 3000 - 0.2) < 0.03 and abs(len(made.validation) / 3000 - 0.1) < 0.02


def test_duplicates_stay_together() -> None:
    texts = [f"Text  {i % 100}" if i < 500 else f"text {i % 100} " for i in range(1000)]
    made = split(table(texts), ["text"])
    sides = [{" ".join(texts[i].lower().split()) for i in part} for part in (made.train, made.validation, made.test)]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    assert made.duplicates == 900


def test_more_rows_move_none_of_the_others() -> None:
    few, many = (split(table([f"text {i}" for i in range(n)]), ["text"]) for n in (200, 400))
    assert [i for i in many.test if i < 200] == list(few.test)


def test_another_seed_is_another_split_and_groups_stay_whole() -> None:
    rows = table([f"{chr(97 + i % 26)} {i}" for i in range(520)])
    assert list(split(rows, ["text"], seed=1).test) != list(split(rows, ["text"], seed=2).test)
    made = split(rows, ["text"], group="who")
    assert not {rows[int(i)]["who"] for i in made.test} & {rows[int(i)]["who"] for i in made.train}


def test_small_tables_fill_every_split_or_say_why_not() -> None:
    made = split(table([f"t{i}" for i in range(10)]), ["text"])
    assert all(len(p) for p in (made.train, made.validation, made.test))
    with pytest.raises(InputError, match="9 rows cannot be split; expected at least 10"):
        split(table([f"t{i}" for i in range(9)]), ["text"])
    with pytest.raises(InputError, match="1 different rows cannot be split"):
        split(table(["same"] * 30), ["text"])


def test_leaks_are_found() -> None:
    kept = drop_leaks(table(["a", "b", "C ", "d"]), table(["c", "x"]), ["text"])
    assert list(kept) == [0, 1, 3]
