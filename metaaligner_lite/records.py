"""Files of records (CSV, TSV, JSON, JSONL, Parquet; all but the last gzipped, too), and the account of each record."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

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


def read_records(path: Path) -> Iterator[tuple[str, Record | DataError]]:
    """Each record with the place it stands at; in place of one that cannot be read, the reason.

    Raises FileProblem if the file as a whole cannot be read, UsageError for a kind of file that is not known.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else "".join(suffixes[-1:])
    if kind not in SUFFIXES:
        raise UsageError(f"{path}: unknown kind of file; expected one that ends in {', '.join(SUFFIXES)} (or .gz)")
    try:
        if kind == ".parquet":
            yield from _parquet(path)
            return
        with _open(path) as file:
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


def _open(path: Path) -> IO[str]:
    # newline="": a CSV field may hold line ends of its own
    if path.suffix.lower() == ".gz":
        return cast("IO[str]", gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    return path.open(encoding="utf-8-sig", newline="")


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
