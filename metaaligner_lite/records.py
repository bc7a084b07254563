"""Files of records (CSV, TSV, JSON, JSONL, Parquet; all but the last packed, too), read and written, and accounts."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from .errors import DataError, FileProblem, UsageError, require_extra
from .json_values import json_records
from .packed import LONGEST, PACKED, inner_name, lines_of, open_text, packing, refuse_impostors

Record = dict[str, Any]
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
WRITTEN = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")  # kinds that can be written one record after the other
_HINTS = {
    ".xlsx": "; a spreadsheet can be saved as CSV",
    ".xls": "; a spreadsheet can be saved as CSV",
    ".ods": "; a spreadsheet can be saved as CSV",
    ".arrow": "; a data set in this form can be written with datasets' to_parquet",
    ".txt": "; plain text does not say what answers what: write a table, such as CSV with columns query and answer",
    ".docx": "; its texts can be written as a table, such as CSV with columns query and answer",
    ".pdf": "; its texts can be written as a table, such as CSV with columns query and answer",
    ".pkl": "; a pickle can run any program and is never opened",
    ".pickle": "; a pickle can run any program and is never opened",
}
_SNIFFED = 32  # lines that tell what separates the fields of a table
_MOST_COLUMNS = 10_000
_ROWS_AT_ONCE = 256  # of a Parquet table
_ARROW = (ValueError, NotImplementedError, OSError, KeyError, TypeError, IndexError)  # pyarrow's errors are such


@dataclass(slots=True)
class Account:
    """What became of the things counted (`noun`): how many were used, and why the others were not."""

    noun: str = "rows"
    read: int = 0
    used: int = 0
    shortened: int = 0  # used, but with the front of the query cut away
    refused: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)  # reason -> where it was met first

    def refuse(self, reason: str, where: str = "", count: int = 1) -> None:
        """Count what could not be used."""
        self.refused[reason] += count
        self.first.setdefault(reason, where)

    def lines(self) -> list[str]:
        """The account in words: a line for the total, a line for each reason."""
        total = f"{self.used:,} of {self.read:,} {self.noun} used"
        shortened = [f"{self.shortened:,} with the front of the query shortened to fit"] if self.shortened else []
        return [total, *shortened, *self.reasons()]

    def reasons(self) -> list[str]:
        """A line for each reason, with the place it was met first."""
        return [
            f"{count:,} refused: {reason}" + (f" (first: {self.first[reason]})" if self.first[reason] else "")
            for reason, count in self.refused.most_common()
        ]


def read_records(path: Path, *, lenient: bool = False) -> Iterator[tuple[str, Record | DataError]]:
    """Each record with the place it stands at; in place of one that cannot be read, the reason.

    A byte that is no UTF-8 spoils the file or, if `lenient`, its record. Raises FileProblem if the file as a whole
    cannot be read, UsageError for a kind of file that is not known.
    """
    if lenient:
        for place, record in _read(path, "surrogateescape"):
            yield place, record if isinstance(record, DataError) or _is_text(record) else DataError("not UTF-8 text")
    else:
        yield from _read(path, "strict")


def kind_of(path: Path, known: Iterable[str] = SUFFIXES) -> str:
    """A file's kind, one of the suffixes, however it is packed. Raises UsageError for another."""
    kind = Path(inner_name(path)).suffix.lower()
    if kind not in known or (known == WRITTEN and path.suffix.lower() in PACKED[1:]):
        packed = ".gz" if known == WRITTEN else ", ".join(PACKED)
        raise UsageError(
            f"{path}: unknown kind of file; expected one that ends in {', '.join(known)} (or {packed} behind it)"
            + _HINTS.get(kind, "")
        )
    return kind


def _read(path: Path, errors: str) -> Iterator[tuple[str, Record | DataError]]:
    if path.is_dir():
        raise FileProblem(f"{path} is a folder; {_in_folder(path)}")
    try:
        kind = kind_of(path)
        if kind == ".parquet" and not packing(path):
            yield from _parquet(path)
            return
        if kind == ".parquet":
            raise FileProblem(f"{path} is packed, as Parquet is already inside; unpack it")
        with open_text(path, errors) as file:
            if kind in {".csv", ".tsv"}:
                yield from _table(file, path, "\t" if kind == ".tsv" else ",")
            elif kind == ".json":
                yield from _json(file, path)
            else:
                yield from _jsonl(file, path)
    except (OSError, csv.Error, MemoryError) as error:
        if isinstance(error, FileProblem):
            raise
        raise FileProblem(f"cannot read {path}: {error}") from error


def _in_folder(path: Path) -> str:
    """What of a folder can be read, in words."""
    files = sorted(file for file in path.iterdir() if file.is_file())
    names = [file.name for file in files if Path(inner_name(file)).suffix.lower() in (*SUFFIXES, *PACKED)]
    if names:
        return f"name the files in it ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
    kinds = [Path(inner_name(file)).suffix.lower() for file in files]
    hint = next((_HINTS[kind] for kind in kinds if kind in _HINTS), "")
    known = f"it has none of the kinds that can be read ({', '.join(SUFFIXES)})"
    return f"{known}, but {', '.join(file.name for file in files[:5])}{hint}" if files else known


def _is_text(record: Record) -> bool:
    """Whether all texts of a record can be written as UTF-8: no byte that was none, no half of a pair."""
    try:
        json.dumps(record, ensure_ascii=False, default=str).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _jsonl(file: IO[str], path: Path) -> Iterator[tuple[str, Record | DataError]]:
    lines = lines_of(file, path)
    blank, head = 0, ""
    for head in lines:  # whatever the name says: a list, or an object over several lines, is JSON
        if not head.isspace():
            break
        blank += 1
    first = head.lstrip("\ufeff \t")
    if first[:1] == "[" or first.strip() == "{":
        rest = _Again(head, lines)
        if first[:1] != "[" or first.strip() == "[" or first.lstrip("[ \t\r\n").startswith("{"):
            yield from _json(cast("IO[str]", rest), path)
            return
    decode = json.JSONDecoder().raw_decode
    for number, line in enumerate(chain([head] if head else (), lines), 1 + blank):
        if not line.isspace():
            try:
                record, end = decode(line) if line[0] == "{" else (json.loads(line), len(line))
                if end < len(line) and not line[end:].isspace():
                    raise ValueError
            except (ValueError, RecursionError):
                yield f"line {number}", DataError("not valid JSON; expected one object per line")
            else:
                yield f"line {number}", record if type(record) is dict else _object(record)


class _Again:
    """A text of which some lines have been read already."""

    def __init__(self, head: str, rest: Iterator[str]) -> None:
        self._lines = chain([head], rest)

    def read(self, size: int) -> str:
        """Some lines, about as many characters as asked for."""
        found: list[str] = []
        while size > 0 and (line := next(self._lines, "")):
            found.append(line)
            size -= len(line)
        return "".join(found)


def _json(file: IO[str], path: Path) -> Iterator[tuple[str, Record | DataError]]:
    for number, item in enumerate(json_records(file, path), 1):
        yield f"item {number}", item if isinstance(item, DataError) else _object(item)


def _table(file: IO[str], path: Path, delimiter: str) -> Iterator[tuple[str, Record | DataError]]:
    csv.field_size_limit(LONGEST)
    lines = lines_of(file, path)
    head = list(islice(lines, _SNIFFED))
    if head and (named := re.fullmatch(r"\ufeff?sep=(.)\s*", head[0])):  # as Excel writes it
        delimiter = named[1]
        head = head[1:]
    else:
        delimiter = _delimiter(head, delimiter)
    reader = csv.reader(chain(head, lines), delimiter=delimiter)
    names: list[str] = next((fields for fields in reader if fields), [])
    if len(names) > _MOST_COLUMNS:
        raise FileProblem(f"{path} has {len(names):,} columns; expected a header and at most {_MOST_COLUMNS:,}")
    names = [name.strip() for name in names]
    expected = len(names)
    number = 0
    for fields in reader:
        if not fields:
            continue
        number += 1
        if len(fields) != expected:
            yield f"record {number}", DataError(f"not {expected} fields, as the header has; a quote may be missing")
        else:
            yield (
                f"record {number}",
                dict(zip(names, fields, strict=True)),
            )  # an empty field is an empty text, not "nan"


def _delimiter(head: list[str], usual: str) -> str:
    """What separates the fields of a table: the mark by which its first lines have the most, and equally many."""

    def width(mark: str) -> int:
        try:
            # The last may be a part of a record; where there is no other, the header has to tell.
            first, *others = [len(fields) for fields in csv.reader(head, delimiter=mark) if fields][
                : len(head) - 1
            ] or [1]
        except csv.Error:
            return 0
        return first if first > 1 and others.count(first) * 2 >= len(others) else 0

    return max((usual, *(mark for mark in ",;\t|" if mark != usual)), key=width) if head else usual


def _parquet(path: Path) -> Iterator[tuple[str, Record | DataError]]:
    require_extra("parquet", "pyarrow")
    from pyarrow import parquet

    number = 0
    try:
        with path.open("rb") as raw:
            refuse_impostors(raw.read(512), path)
        file = parquet.ParquetFile(
            path,
            pre_buffer=False,  # a row group may be gigabytes; its pages are not
            buffer_size=1 << 20,
            thrift_string_size_limit=LONGEST,
            thrift_container_size_limit=1 << 20,
        )
        batches = file.iter_batches(batch_size=_ROWS_AT_ONCE)
    except (*_ARROW, MemoryError) as error:
        raise FileProblem(f"{path} is no Parquet file: {_first_line(error)}") from error
    while True:
        try:
            records = next(batches).to_pylist()
        except StopIteration:
            return
        except (*_ARROW, MemoryError) as error:
            raise FileProblem(
                f"{path} cannot be read after record {number}: {_first_line(error)}; is it damaged?"
            ) from error
        for record in records:
            number += 1
            yield f"record {number}", record


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _object(raw: Any) -> Record | DataError:
    return raw if isinstance(raw, dict) else DataError("not a JSON object")


_AT_ONCE = 1024  # records of a Parquet row group
_LINE_ENDS = ("\x85", "\u2028", "\u2029")  # to some readers; JSON leaves them as they are


class Fields:
    """The columns of records that pass by, in the order met, and the kind of value each holds."""

    def __init__(self) -> None:
        self.kinds: dict[str, type | None] = {}  # None: nothing but nulls so far; object: several kinds

    def observe(self, record: Mapping[str, Any]) -> None:
        """Take note of one more record."""
        for name, value in record.items():
            before = self.kinds.setdefault(name, None)
            if value is None or before is object:
                continue
            kind = type(value) if isinstance(value, str | bool | int | float) else object
            if before in (None, kind):
                self.kinds[name] = kind
            else:
                self.kinds[name] = float if {before, kind} == {int, float} else object


def json_line(record: Mapping[str, Any]) -> bytes:
    """A record as one line of JSON that stays one line, however it is split."""
    text = json.dumps(record, ensure_ascii=False, default=str)
    for end in _LINE_ENDS:
        text = text.replace(end, f"\\u{ord(end):04x}")
    return f"{text}\n".encode()


@contextmanager
def writing_records(
    path: Path, file: BinaryIO, fields: Fields, like: Path | None = None
) -> Iterator[Callable[[Record], None]]:
    """Write records to an open file, in the kind that its final `path` names, one after the other.

    Tables have the columns `fields`; a Parquet table `like` lends its types. A value that a table has no cell for is
    written as JSON. Raises UsageError for a kind that cannot be written.
    """
    kind = kind_of(path, WRITTEN)
    with ExitStack() as opened:
        if kind == ".parquet":
            yield opened.enter_context(_writing_parquet(file, fields, like))
            return
        if path.suffix.lower() == ".gz":
            file = cast(BinaryIO, opened.enter_context(gzip.GzipFile("", "wb", fileobj=file, mtime=0)))
        if kind in {".jsonl", ".ndjson"}:
            yield lambda record: _written(file.write(json_line(record)))
            return
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        opened.callback(text.detach)
        table = csv.writer(text, delimiter="\t" if kind == ".tsv" else ",", lineterminator="\n")
        table.writerow(fields.kinds)
        yield lambda record: _written(table.writerow([_cell(record.get(name)) for name in fields.kinds]))


def _written(_: object) -> None:
    pass


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


@contextmanager
def _writing_parquet(file: BinaryIO, fields: Fields, like: Path | None) -> Iterator[Callable[[Record], None]]:
    require_extra("parquet", "pyarrow")
    import pyarrow as pa
    from pyarrow import parquet

    lent = parquet.read_schema(like) if like else pa.schema([])
    own = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    types = {
        name: lent.field(name).type if name in lent.names else own.get(cast(type, kind), pa.string())
        for name, kind in fields.kinds.items()
    }
    texts = {name for name in types if types[name] == pa.string()}
    held: list[Record] = []
    with parquet.ParquetWriter(file, pa.schema(list(types.items()))) as table:

        def flush() -> None:
            if held:
                table.write_table(pa.Table.from_pylist(held, schema=table.schema))
                held.clear()

        def write(record: Record) -> None:
            row = {name: record.get(name) for name in types}
            held.append({name: _cell(it) if name in texts and it is not None else it for name, it in row.items()})
            if len(held) == _AT_ONCE:
                flush()

        yield write
        flush()
