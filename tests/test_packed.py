"""Files as people have them: packed, encoded, named otherwise than they are; hostile ones end in one line."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import io
import json
import lzma
import random
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from mal_train.formats import Mapped
from mal_train.look import look
from mal_train.rows import Names
from metaaligner_lite import packed, records
from metaaligner_lite.errors import DataError, FileProblem, MalError, UsageError
from metaaligner_lite.objectives import resolve
from metaaligner_lite.records import read_records

RECORDS = [{"query": "q, with\na line", "answer": "ä 😀"}, {"query": "p", "answer": 'say "x"'}]
LINES = "\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS) + "\n"
HELPFUL = Mapped(Names(None), objectives=tuple(resolve("helpfulness")))


def read(path):
    return [record for _, record in read_records(path)]


def zipped(files):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return held.getvalue()


def zstandard(data):
    import pyarrow

    return pyarrow.compress(data, codec="zstd", asbytes=True)


PACKED = {
    "a.jsonl.gz": lambda data: gzip.compress(data),
    "b.jsonl.gz": lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:]),
    "a.jsonl.xz": lzma.compress,
    "b.jsonl.xz": lambda data: lzma.compress(data[:9]) + lzma.compress(data[9:]) + b"\0" * 8,
    "a.jsonl.bz2": bz2.compress,
    "a.jsonl.zst": zstandard,
    "b.jsonl.zst": lambda data: zstandard(data[:9]) + zstandard(data[9:]),
    "a.zip": lambda data: zipped({"README.md": b"x", "data/train.jsonl": data, "__MACOSX/._x.jsonl": b"y"}),
    "a.jsonl.zip": lambda data: zipped({"a.jsonl": data}),
    "c.jsonl": lambda data: gzip.compress(data),  # packed, whatever its name says
}


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_packed_and_encoded(tmp_path, name, encoding):
    data = PACKED[name](LINES.encode(encoding))
    (tmp_path / name).write_bytes(data)
    assert read(tmp_path / name) == RECORDS
    for cut in (len(data) // 2, len(data.rstrip(b"\0")) - 3, 7):
        (tmp_path / name).write_bytes(data[:cut])
        with pytest.raises(MalError):
            read(tmp_path / name)


def test_a_zip_of_several_files_is_refused_with_their_names(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({"train.jsonl": LINES, "test.jsonl": LINES}))
    with pytest.raises(UsageError, match=r"holds 2 files \(train.jsonl, test.jsonl\); unpack it"):
        read(tmp_path / "a.zip")


JSON = {
    "list.json": json.dumps(RECORDS),
    "list.jsonl": json.dumps(RECORDS),
    "indented.jsonl": json.dumps(RECORDS, indent=2),
    "lines.json": LINES,
    "objects.json": "\n".join(json.dumps(record, indent=1) for record in RECORDS),
    "objects.jsonl": "\n".join(json.dumps(record, indent=1) for record in RECORDS),
    "wrapped.json": json.dumps({"version": 1, "data": RECORDS}),
    "alone.json": json.dumps({"anything": RECORDS}),
    "split.json": json.dumps({"train": RECORDS, "about": "x"}),
    "ids.json": json.dumps({"one": RECORDS[0], "two": RECORDS[1]}),
    "columns.json": json.dumps({key: [record[key] for record in RECORDS] for key in RECORDS[0]}),
    "pandas.json": json.dumps({key: {str(i): r[key] for i, r in enumerate(RECORDS)} for key in RECORDS[0]}),
}


@pytest.mark.parametrize("name", JSON)
def test_every_shape_of_json(tmp_path, name, monkeypatch):
    (tmp_path / name).write_text(JSON[name], encoding="utf-8")
    assert read(tmp_path / name) == RECORDS
    monkeypatch.setattr("metaaligner_lite.json_values._STEP", 3)  # whatever the pieces are that it comes in
    assert read(tmp_path / name) == RECORDS


@pytest.mark.parametrize(
    "record",
    [
        {"query": "q", "answers": [{"text": "a", "ratings": {}}]},
        {"messages": [{"role": "user", "content": "q"}]},
        {"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "a"}]},
        {"chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}},
        {"query": "q"},
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_one_record_alone(tmp_path, record, indent):
    for name in ("a.json", "a.jsonl"):
        (tmp_path / name).write_text(json.dumps(record, indent=indent))
        assert read(tmp_path / name) == [record]


def test_damaged_json(tmp_path):
    (tmp_path / "a.json").write_text(f'{LINES}{{"query": \n{LINES}')
    found = read(tmp_path / "a.json")
    assert [type(one) for one in found] == [dict, dict, DataError, dict, dict]
    (tmp_path / "a.json").write_text(json.dumps(RECORDS)[:-9])
    with pytest.raises(FileProblem, match="not valid JSON"):
        read(tmp_path / "a.json")
    (tmp_path / "a.json").write_text(json.dumps({"train": RECORDS, "test": RECORDS}))
    with pytest.raises(FileProblem, match=r"several sets \(train, test\)"):
        read(tmp_path / "a.json")


def test_an_object_longer_than_memory_allows_is_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("metaaligner_lite.json_values.LONGEST", 200)
    monkeypatch.setattr("metaaligner_lite.json_values._STEP", 50)
    many = RECORDS * 20
    (tmp_path / "a.json").write_text(json.dumps({"about": {"n": 40}, "data": many}))
    assert read(tmp_path / "a.json") == [{"n": 40}, *many]
    (tmp_path / "a.json").write_text(json.dumps({str(n): record for n, record in enumerate(many)}))
    assert read(tmp_path / "a.json") == many
    (tmp_path / "a.json").write_text(json.dumps(["x" * 300]))
    with pytest.raises(FileProblem, match="over 200 characters"):
        read(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("mark", ",;\t|")
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_whatever_separates_their_fields(tmp_path, name, mark, end):
    rows = ["query answer note", 'q "a, b; c | d" x', "p e y", '"r\ns" f z']
    text = end.join(mark.join(row.split(" ") if '"' not in row else SPLIT[row]) for row in rows) + end
    (tmp_path / name).write_bytes(text.encode("utf-16"))
    found = read(tmp_path / name)
    assert [list(record) for record in found] == [["query", "answer", "note"]] * 3
    assert [record["answer"] for record in found] == ["a, b; c | d", "e", "f"]


SPLIT = {'q "a, b; c | d" x': ["q", '"a, b; c | d"', "x"], '"r\ns" f z': ['"r\ns"', "f", "z"]}


def test_a_table_as_excel_writes_it(tmp_path):
    (tmp_path / "a.csv").write_text("\ufeffsep=;\r\nquery;answer\r\nq, r;a\r\n", encoding="utf-8")
    assert read(tmp_path / "a.csv") == [{"query": "q, r", "answer": "a"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n", "git lfs pull"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n", "git lfs pull"),
        ("a.csv", b"<!DOCTYPE html><html>", "a web page"),
        ("a.jsonl", LINES.encode("utf-16-le"), "UTF-16 without a byte order mark.*iconv"),
        ("a.xlsx", b"PK\x03\x04", "saved as CSV"),
        ("a.pkl", b"\x80", "never opened"),
        ("a.json.gz", b"{}", "no .gz file"),
        ("a.csv", b"a," * 20_000 + b"\n1\n", "columns"),
    ],
)
def test_what_is_something_else_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MalError, match=message):
        read(tmp_path / name)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress, zstandard])
@pytest.mark.parametrize("byte", [b"\n", b" ", b"["])
def test_decompression_bombs_end_early(tmp_path, pack, byte):
    bomb = pack(byte * (200 << 20)) if pack is not bz2.compress else pack(byte * (100 << 20))
    for name in ("a.jsonl", "a.json", "a.csv"):
        (tmp_path / name).write_bytes(bomb)
        began = time.process_time()
        with pytest.raises(FileProblem, match=r"times its size|line of over|not valid JSON|field larger|columns"):
            read(tmp_path / name)
        assert time.process_time() - began < 20  # a fifth of what the whole takes; other threads count, too


def test_an_xz_that_asks_for_gigabytes_is_refused(tmp_path):
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]
    try:
        data = lzma.compress(LINES.encode(), filters=filters)
    except MemoryError:
        pytest.skip("no memory to make one")
    (tmp_path / "a.jsonl.xz").write_bytes(data)
    with pytest.raises(FileProblem, match="cannot read"):
        read(tmp_path / "a.jsonl.xz")


def test_memory_does_not_grow_with_a_file(tmp_path):
    def peak(count):
        with (tmp_path / "a.json").open("w") as file:
            file.write("[" + ",".join([json.dumps({"query": "q" * 500})] * count) + "]")
        tracemalloc.start()
        assert sum(1 for _ in read_records(tmp_path / "a.json")) == count
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(40_000) < peak(2_000) + (1 << 20)


def test_a_folder_names_its_files(tmp_path):
    (tmp_path / "train.jsonl").write_text(LINES)
    with pytest.raises(FileProblem, match=r"is a folder; name the files in it \(train.jsonl\)"):
        read(tmp_path)
    texts = tmp_path / "texts"
    texts.mkdir()
    with pytest.raises(FileProblem, match=r"is a folder; it has none of the kinds that can be read \([a-z., ]+\)$"):
        read(texts)
    (texts / "ADV-ELE.txt.gz").write_text("easy or hard")
    with pytest.raises(FileProblem, match=r"none of the kinds .*, but ADV-ELE.txt.gz; plain text does not say"):
        read(texts)


# --- data sets of the Hub ---


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="datasets is not installed")
def test_data_sets_of_the_hub(tmp_path, monkeypatch):
    import datasets

    from mal_train.source import records_of

    train, test = (datasets.Dataset.from_list(RECORDS[:n]) for n in (2, 1))
    asked = []

    def load(name, *config):
        asked.append((name, *config))
        return datasets.DatasetDict({"train": train, "test": test})

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert [record for _, record in records_of(Path("owner/name"))] == RECORDS
    assert [record for _, record in records_of(Path("owner/name/part:test"))] == RECORDS[:1]
    assert asked == [("owner/name",), ("owner/name", "part")]
    with pytest.raises(FileProblem, match="has the splits train, test; name one"):
        list(records_of(Path("owner/name:nothing")))


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="datasets is not installed")
def test_offline_is_honoured(tmp_path):
    code = (
        "from pathlib import Path\nfrom mal_train.source import records_of\n"
        "from metaaligner_lite.errors import FileProblem\n"
        "try: list(records_of(Path('nobody-at-all/no-such-set')))\nexcept FileProblem as error: print(error)"
    )
    env = {**__import__("os").environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert "cannot load the data set nobody-at-all/no-such-set" in done.stdout, done.stderr


def test_a_hub_id_without_datasets_names_the_extra(monkeypatch):
    from mal_train.source import records_of
    from metaaligner_lite import errors

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(errors.MissingExtra, match=r"metaaligner-lite\[datasets\]"):
        list(records_of(Path("owner/name")))


# --- damaged files ---


def samples():
    """A small file of every kind, by name."""
    rows = [
        {"prompt": f"question {n}", "chosen": "good " * n, "rejected": "bad", "score_chosen": n, "score_rejected": 1.5}
        for n in range(12)
    ]
    chats = [
        {"conversation_a": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "winner": "tie"}
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    table = ("prompt,completion,label\n" + "".join(f'q{n % 3},"a, {n}",{n % 2}\n' for n in range(12))).encode()
    found = {
        "a.jsonl": lines,
        "a.json": json.dumps(rows, indent=1).encode(),
        "b.json": json.dumps({"data": rows + chats}).encode(),
        "a.csv": table,
        "b.csv": table.replace(b",", b";").decode().encode("utf-16"),
        "a.tsv": table.replace(b",", b"\t"),
        "a.jsonl.gz": gzip.compress(lines),
        "a.jsonl.xz": lzma.compress(lines),
        "a.jsonl.bz2": bz2.compress(lines),
        "a.zip": zipped({"a.jsonl": lines}),
    }
    if importlib.util.find_spec("pyarrow"):
        import pyarrow
        from pyarrow import parquet

        for name, options in (("a.parquet", {}), ("b.parquet", {"use_dictionary": False, "compression": "zstd"})):
            held = io.BytesIO()
            parquet.write_table(pyarrow.Table.from_pylist(rows + chats), held, row_group_size=5, **options)
            found[name] = held.getvalue()
        found["a.jsonl.zst"] = zstandard(lines)
    return found


PARTS = (b'"', b"[" * 5000, b"{", b"\0", b"9" * 5000, b"\\u", b"NaN,", b"\n")


def damaged(data, rng):
    """A copy with some of what goes wrong with files: bytes changed, cut, doubled, moved, joined by others."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        place, size = rng.randrange(len(data) or 1), rng.choice((1, 1, 2, 4, 16, 64))
        kind = rng.randrange(7)
        if kind == 0:
            data[place : place + size] = rng.randbytes(size)
        elif kind == 1:
            del data[place : place + size]
        elif kind == 2:
            data[place:place] = data[place : place + size] * rng.choice((1, 2, 1000))
        elif kind == 3:
            data[place : place + 1] = bytes([data[place] ^ 1 << rng.randrange(8)]) if data else b""
        elif kind == 4:
            del data[place:]
        elif kind == 5:
            data[place:place] = rng.choice(PARTS)
        else:
            data[place : place + 4] = rng.choice((b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\0\0\0\0"))
    return bytes(data)


def try_damaged(folder, seeds):
    """Look at damaged files of every kind: nothing but a MalError may come. The slowest in seconds; the refused."""
    kinds, slowest, refused = samples(), 0.0, 0
    for seed in seeds:
        rng = random.Random(seed)
        name = sorted(kinds)[seed % len(kinds)]
        path = folder / name
        path.write_bytes(damaged(kinds[name], rng))
        began = time.process_time()
        try:
            seen = look(path, HELPFUL)
            seen.lines()
            seen.as_json()
        except MalError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}, {name}: {type(error).__name__}: {error}") from error
        slowest = max(slowest, time.process_time() - began)
    return slowest, refused


def test_damaged_files_are_read_or_refused(tmp_path):
    slowest, refused = try_damaged(tmp_path, range(260))
    assert slowest < 10 and refused > 20


@pytest.mark.slow
def test_ten_thousand_damaged_files(tmp_path):
    """In a process of its own, so that its memory can be told: under 1 GB, none takes 10 seconds, no traceback."""
    resource = pytest.importorskip("resource")
    assert resource
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom test_packed import try_damaged\n"
        "slowest, refused = try_damaged(Path(sys.argv[1]), range(10_000))\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == 'darwin' else 1024) / 1024\n"
        "print(slowest, refused, peak)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    slowest, refused, peak = map(float, done.stdout.split())
    print(f"slowest {slowest:.1f} s, {refused:.0f} refused, {peak:.0f} MB at most")
    assert slowest < 10 and peak < 1024 and refused > 1000


def test_limits_are_what_the_messages_say():
    assert packed.LONGEST == 1 << 24 and records._MOST_COLUMNS == 10_000
