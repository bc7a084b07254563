"""Files of records (CSV, TSV, JSON, JSONL, Parquet; all but the last gzipped, too), read and written, and accounts."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from .errors import DataError, FileProblem, UsageError, require_extra

Record = dict[str, Any]
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


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
    """A file's kind, one of the suffixes. Raises UsageError for another."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else "".join(suffixes[-1:])
    if kind not in known:
        raise UsageError(f"{path}: unknown kind of file; expected one that ends in {', '.join(known)} (or .gz)")
    return kind


def _read(path: Path, errors: str) -> Iterator[tuple[str, Record | DataError]]:
    kind = kind_of(path)
    try:
        if kind == ".parquet":
            yield from _parquet(path)
            return
        with _open(path, errors) as file:
            if kind in {".csv", ".tsv"}:
                yield from _table(file, "\t" if kind == ".tsv" else ",")
            elif kind == ".json":
                yield from _json(file, path)
            else:
                yield from _jsonl(file)
    except UnicodeDecodeError as error:
        raise FileProblem(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    except (OSError, EOFError, csv.Error, zlib.error) as error:
        raise FileProblem(f"cannot read {path}: {error}") from error


def _is_text(record: Record) -> bool:
    """Whether all texts of a record can be written as UTF-8: no byte that was none, no half of a pair."""
    try:
        json.dumps(record, ensure_ascii=False, default=str).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _open(path: Path, errors: str) -> IO[str]:
    # newline="": a CSV field may hold line ends of its own
    if path.suffix.lower() == ".gz":
        return cast("IO[str]", gzip.open(path, "rt", encoding="utf-8-sig", errors=errors, newline=""))
    return path.open(encoding="utf-8-sig", errors=errors, newline="")


def _jsonl(file: IO[str]) -> Iterator[tuple[str, Record | DataError]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                yield f"line {number}", _object(json.loads(line))
            except (ValueError, RecursionError):
                yield f"line {number}", DataError("not valid JSON; expected one object per line")


def _json(file: IO[str], path: Path) -> Iterator[tuple[str, Record | DataError]]:
    try:
        raw = json.load(file)
    except (ValueError, RecursionError) as error:
        raise FileProblem(f"{path} is not valid JSON ({error}); JSON lines are expected to end in .jsonl") from error
    if isinstance(raw, dict):
        lists = [value for value in raw.values() if isinstance(value, list)]
        raw = lists[0] if len(lists) == 1 else [raw]
    for number, item in enumerate(raw if isinstance(raw, list) else [raw], 1):
        yield f"item {number}", _object(item)


def _table(file: IO[str], delimiter: str) -> Iterator[tuple[str, Record | DataError]]:
    csv.field_size_limit(1 << 30)
    reader = csv.DictReader(file, delimiter=delimiter, restkey="", strict=False)
    for number, record in enumerate(reader, 1):
        if "" in record or None in record.values():
            expected = len(reader.fieldnames or ())
            yield f"record {number}", DataError(f"not {expected} fields, as the header has; a quote may be missing")
        else:
            yield f"record {number}", dict(record)  # an empty field is an empty text, never "nan"


def _parquet(path: Path) -> Iterator[tuple[str, Record | DataError]]:
    require_extra("parquet", "pyarrow")
    from pyarrow import parquet

    number = 0
    try:
        file = parquet.ParquetFile(path)
    except ValueError as error:  # pyarrow's errors are ValueErrors
        raise FileProblem(f"{path} is no Parquet file: {error}") from error
    batches = file.iter_batches(batch_size=1024)
    while True:
        try:
            records = next(batches).to_pylist()
        except StopIteration:
            return
        except (ValueError, NotImplementedError, OSError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise FileProblem(f"{path} cannot be read after record {number}: {reason}; is it damaged?") from error
        for record in records:
            number += 1
            yield f"record {number}", record


def _object(raw: Any) -> Record | DataError:
    return raw if isinstance(raw, dict) else DataError("not a JSON object")


WRITTEN = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")  # kinds that can be written one record after the other
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
