"""The rows to be judged: what `mal batch` wrote, or any table with a query, an answer, an edit and a golden answer."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import rows
from ..errors import DataError, FileProblem, MalError, UsageError
from ..objectives import Objective
from ..records import Record, kind_of, read_records
from ..rows import Reading, is_request, read_case
from .protocol import Item
from .report import ALIGNED, UNALIGNED, Source, is_report

# Where a column is not named, the first of these that a record has; `mal batch` writes the first ones, with --reference
# the second ones.
_ANSWERS = ("weak_answer", "origin_responses", "answer", "generated_text", "response")
_EDITS = ("aligned_answer", "aligned_responses", "edit", "edited_answer", "edited")
_GOLDENS = ("goldens", "golden", "golden_answer", "reference")
_POLICIES, _IDS = ("policy",), ("id",)
_LISTED = 15  # columns that an error names


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that were named; "" is recognised by its name."""

    query: str = ""
    answer: str = ""
    edit: str = ""
    golden: str = ""
    objectives: str = ""
    history: str = ""
    policy: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """How files of rows are read. `requested` is what the edits were asked for, where a row does not say it."""

    columns: Columns = field(default_factory=Columns)
    requested: tuple[Objective, ...] = ()
    catalogue: Mapping[str, Objective] | None = None


@dataclass(slots=True)
class Found:
    """The items of all files, what became of their rows, and whether edits went through a gate."""

    items: list[Item]
    sources: list[Source]
    gated: bool = False
    notes: list[str] = field(default_factory=list)


def read_items(paths: Sequence[Path], table: Table, *, limit: int = 0, seed: int = 0) -> Found:
    """The rows of files; of each policy at most `limit` (0: all), the same queries where policies share them.

    A policy is named by the column, or by its file. Raises UsageError for a file that lacks a column or is something
    else, FileProblem for one that cannot be read, DataError if no row can be used.
    """
    found = Found([], [])
    before: Counter[str] = Counter()
    for path in paths:
        read, refused, count, first = list[Item](), Counter[str](), 0, ""
        names: dict[str, str] = {}
        for place, record in read_records(path, lenient=True):
            count += 1
            try:
                if isinstance(record, DataError):
                    raise record
                if count == 1:
                    _check(path, record, table.columns)
                item, gated = _item(path, place, record, table, names)
            except MalError as error:
                if isinstance(error, UsageError) and count == 1:
                    raise
                refused[str(error)] += 1
                first = first or f"{place}: {error}"
                continue
            before[item.key] += 1
            read.append(item if before[item.key] == 1 else _again(item, before[item.key]))
            found.gated |= gated
        if not count:
            raise DataError(f"{path} has no rows")
        if not read:
            raise DataError(f"no row of {path} can be judged ({first})")
        found.sources.append(Source(str(path), file_digest(path), count, len(read), dict(refused)))
        found.items += read
        if refused:
            found.notes.append(f"{path.name}: {refused.total():,} of {count:,} rows are not judged (first: {first})")
    if limit:
        found.items = sample(found.items, limit, seed)
    without = sum(not item.golden for item in found.items)
    if without:
        all_ = without == len(found.items)
        rest = (
            "all is judged against the policy's answers alone" if all_ else "they are judged against the answer alone"
        )
        found.notes.append(f"{without:,} of {len(found.items):,} rows have no golden answer; {rest}")
    return found


def sample(items: Sequence[Item], limit: int, seed: int) -> list[Item]:
    """At most `limit` items of each policy, chosen by their queries; the order stays."""
    chosen: set[str] = set()
    for policy in dict.fromkeys(item.policy for item in items):
        mine = [item for item in items if item.policy == policy]
        chosen |= {item.key for item in sorted(mine, key=lambda item: (_drawn(item.asked, seed), item.key))[:limit]}
    return [item for item in items if item.key in chosen]


def read_texts(path: Path, table: Table) -> dict[tuple[str, ...], str]:
    """The edits of another results file, by (query with its turns, answer, request); raises as `read_items`.

    Where it has one of an answer, (query, answer) tells it, too.
    """
    found: dict[tuple[str, ...], str] = {}
    several: set[tuple[str, ...]] = set()
    for item in read_items([path], table).items:
        key = (item.asked, item.answer)
        several |= {key} if key in found else set()
        found[key] = found[(*key, item.request)] = item.texts[ALIGNED]
    return {key: text for key, text in found.items() if key not in several}


def file_digest(path: Path) -> str:
    """What tells a file from another. Raises FileProblem if it cannot be read."""
    digest = hashlib.blake2b(digest_size=8)
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    except OSError as error:
        raise FileProblem(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()


def _item(path: Path, place: str, record: Record, table: Table, names: dict[str, str]) -> tuple[Item, bool]:
    columns = table.columns
    name = _of(record, columns.id, _IDS)
    if name not in (None, "") and names.setdefault(str(name), place) != place:
        raise DataError("an id that an earlier row has")
    answer = _column(record, columns.answer, _ANSWERS)
    reading = Reading(
        rows.Columns(columns.query, answer or "", columns.objectives, columns.history),
        table.requested,
        table.catalogue,
    )
    case, _ = read_case(record, reading)
    if case.answer is None:
        raise DataError("there is no answer of the policy's")
    edit = _of(record, columns.edit, _EDITS)
    outcome = str(record.get("outcome") or "")
    if edit is None or (edit == "" and outcome == "failed"):
        if outcome != "failed":
            raise DataError("there is no edit")
        edit = case.answer  # what its reader got
    golden = _of(record, columns.golden, _GOLDENS)
    for what, value in (("edit", edit), ("golden answer", golden)):
        if value is not None and not isinstance(value, str):
            raise DataError(f"the {what} is no text but {type(value).__name__}")
    policy = _of(record, columns.policy, _POLICIES)
    turns = [[turn.role, turn.content] for turn in case.history]
    key = _digest([case.query, turns, case.answer, golden or None, [o.name for o in case.objectives]])
    costs = {"tokens": record.get("tokens_written"), "seconds": record.get("seconds")}
    item = Item(
        key,
        path.name,
        place,
        str(policy) if policy not in (None, "") else _stem(path),
        case.query,
        case.objectives,
        {UNALIGNED: case.answer, ALIGNED: edit},
        golden if golden and golden.strip() else None,
        case.history,
        outcome,
        {ALIGNED: {name: number for name, value in costs.items() if (number := _number(value)) is not None}},
    )
    return item, _number(record.get("preference")) is not None


def _again(item: Item, count: int) -> Item:
    return replace(item, key=_digest([item.key, count]))


def _check(path: Path, record: Record, columns: Columns) -> None:
    """What a file lacks it lacks in all rows."""
    if is_report(record):
        raise UsageError(f"{path} is a report of `mal eval`, no rows; two of them are compared with `compare`")
    if "journal" in record:
        raise UsageError(f"{path} is what an unfinished run keeps, no rows; run the same command again to finish it")
    if is_request(record) or "custom_id" in record:
        raise UsageError(f"{path} holds OpenAI batch lines; have `mal batch` write a table, such as aligned.csv")
    listed = ", ".join(map(repr, list(record)[:_LISTED])) or "none"
    for what, named, known in (("answer", columns.answer, _ANSWERS), ("edit", columns.edit, _EDITS)):
        if _column(record, named, known) is None:
            wanted = f"no column {named!r} for the {what}" if named else f"no column with an {what}"
            raise UsageError(f"{path} has {wanted}; name it with `{what}_column`. It has {listed}")
    for what in ("query", "golden", "objectives", "history", "policy", "id"):
        named = getattr(columns, what)
        if named and named not in record:
            raise UsageError(f"{path} has no column {named!r} for the {what}; it has {listed}")


def _column(record: Record, named: str, known: Sequence[str]) -> str | None:
    return next((name for name in ((named,) if named else known) if name in record), None)


def _of(record: Record, named: str, known: Sequence[str]) -> Any:
    found = _column(record, named, known)
    return record[found] if found else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value in (None, ""):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(kind_of(path)) or path.name


def _digest(parts: Any) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=12).hexdigest()


def _drawn(query: str, seed: int) -> bytes:
    return hashlib.blake2b(query.encode(), salt=seed.to_bytes(8, "little")).digest()
