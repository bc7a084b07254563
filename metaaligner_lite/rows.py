"""A record of a table, a conversation or an OpenAI batch request -> what is to be aligned.

A query stands in a column, or is the last turn of the user's in a conversation; an answer that is there already is
edited, a null (or no such column) is answered first. An empty answer is an answer, and has nothing to edit.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .chats import read_chat
from .errors import DataError, MalError
from .many import Case
from .objectives import Objective, resolve
from .prompts import Message
from .records import Record, read_records
from .transcripts import read_transcript

# Where a column is not named, the first of these that a record has. "generated_text" is the reference repository's.
_QUERIES = ("query", "prompt", "question", "instruction")
_ANSWERS = ("answer", "generated_text", "origin_responses", "response")
_OBJECTIVES, _HISTORY = ("objectives",), ("history",)
_CHATS = ("messages", "conversations", "conversation", "turns", "chat", "dialogue")
CHAT_URL = "/v1/chat/completions"  # what an OpenAI batch line asks for
_OPEN_TRANSCRIPT = re.compile(r"\n\nAssistant:\s*\Z")
_BODY = {"messages", "objectives", "metadata", "model"}  # what is read of such a request


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that were named; "" is recognised by its name, and no id is looked for."""

    query: str = ""
    answer: str = ""
    objectives: str = ""
    history: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """How rows are read: their columns, and what holds where a row says nothing of its own."""

    columns: Columns = field(default_factory=Columns)
    objectives: tuple[Objective, ...] = ()
    catalogue: Mapping[str, Objective] | None = None
    system: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: where it stands, its id ("" without), the record as it was read, and the case or why there is none.

    `key` is of what the case holds and how often the same came before: the same row elsewhere in the file has it, too.
    """

    place: str
    name: str
    record: Record
    case: Case | None
    error: MalError | None = None
    notes: tuple[str, ...] = ()
    key: bytes = b""


def read_rows(path: Path, reading: Reading) -> Iterator[Row]:
    """Each row of a file, whatever is wrong with it. Raises FileProblem for a file that cannot be read at all."""
    before: Counter[bytes] = Counter()
    names: dict[bytes, str] = {}
    for place, record in read_records(path, lenient=True):
        if isinstance(record, DataError):
            yield Row(place, "", {}, None, record)
            continue
        name = ""
        try:
            name = _name(record, reading.columns)
            if name and (other := names.setdefault(_digest(name), place)) != place:
                raise DataError(f"the id {name[:80]!r} occurs before, in {other}")
            case, notes = read_case(record, reading)
        except MalError as error:
            yield Row(place, name, record, None, error)
            continue
        key = _digest(name, case.query, case.answer, [[o.name, o.description] for o in case.objectives], _plain(case))
        before[key] += 1
        yield Row(place, name, record, case, None, notes, _digest(key.hex(), before[key]))


def read_case(record: Record, reading: Reading) -> tuple[Case, tuple[str, ...]]:
    """What a record asks for, and what of it could not be kept as it was. Raises DataError, UsageError."""
    columns, notes = reading.columns, list[str]()
    source = record
    if is_request(record):
        source = record["body"]
        if record.get("url") not in (None, CHAT_URL):
            raise DataError(f"the url is {record['url']!r}; only {CHAT_URL} can be asked for")
        if unread := sorted(set(source) - _BODY):
            notes.append(f"not read in `body` of a request: {', '.join(unread)}")
    answer: str | None = None
    if (found := _column(source, columns.query, _QUERIES)) is not None:
        query = _text(source[found], found)
        if (named := _column(source, columns.history, _HISTORY)) and source[named] not in (None, ""):
            chat = read_chat(_parsed(source[named], named), f"the column {named!r}")
            notes += chat.notes
            turns = chat.turns
            if turns and turns[-1].role == "user":
                raise DataError(f"the column {named!r} ends with the user's turn; that one is the query")
        else:
            turns = ()
        if (
            not turns
            and _OPEN_TRANSCRIPT.search(query)
            and (read := read_transcript(query))
            and read[-1].role == "user"
        ):
            *before, asked = read  # as data sets keep conversations in one text: turns, as in training
            query, turns = asked.content, tuple(before)
    else:
        query, answer, turns, told = _conversation(source, columns)
        notes += told
    if (named := _column(source, columns.answer, _ANSWERS)) is not None and source[named] is not None:
        answer = _text(source[named], named)
    if not query.strip():
        raise DataError("the query is empty")
    if reading.system and not any(turn.role == "system" for turn in turns):
        turns = (Message("system", reading.system), *turns)
    return Case(query, _objectives(record, source, reading), turns, answer), tuple(notes)


def is_request(record: Record) -> bool:
    """Whether a record is a line of OpenAI's batch format."""
    return "custom_id" in record and isinstance(record.get("body"), dict)


def _conversation(source: Record, columns: Columns) -> tuple[str, str | None, tuple[Message, ...], tuple[str, ...]]:
    """Query, answer if there is one, the turns before and the notes, of a record that holds a conversation."""
    found = next((key for key in _CHATS if isinstance(_maybe_parsed(source.get(key)), list | dict)), None)
    if columns.query or found is None:
        wanted = f"no column {columns.query!r}" if columns.query else "no column with a query, and no conversation"
        raise DataError(f"{wanted}; it has {', '.join(map(repr, list(source)[:12])) or 'none'}")
    system = {key: source[key] for key in ("system", "system_prompt") if source.get(key)}
    held = _maybe_parsed(source[found])
    chat = read_chat({found: held, **system} if isinstance(held, list) else held, f"the column {found!r}")
    turns = list(chat.turns)
    answer = turns.pop().content if turns and turns[-1].role == "assistant" else None
    if not turns or turns[-1].role != "user":
        raise DataError(f"the conversation in {found!r} has no turn of the user's to answer")
    return turns.pop().content, answer, tuple(turns), chat.notes


def _objectives(record: Record, source: Record, reading: Reading) -> tuple[Objective, ...]:
    metadata = source.get("metadata")
    for place in (source, metadata, record):
        if isinstance(place, dict) and (named := _column(place, reading.columns.objectives, _OBJECTIVES)):
            wanted = _maybe_parsed(place[named])
            if isinstance(wanted, dict):
                wanted = [f"{name}: {text}" if text else name for name, text in wanted.items()]
            if isinstance(wanted, list) and not all(isinstance(item, str) for item in wanted):
                raise DataError(f"the column {named!r} holds no list of names")
            if isinstance(wanted, str | list) and wanted:
                return tuple(resolve(wanted, reading.catalogue))
            if wanted not in (None, "", []):
                raise DataError(f"the column {named!r} holds {type(wanted).__name__} where objectives should be")
    return reading.objectives or tuple(resolve("", reading.catalogue))


def _name(record: Record, columns: Columns) -> str:
    named = columns.id or ("custom_id" if is_request(record) else "")
    if not named:
        return ""
    if record.get(named) in (None, ""):
        raise DataError(f"no id in the column {named!r}")
    return str(record[named])


def _column(record: Record, named: str, known: tuple[str, ...]) -> str | None:
    """The name of a column that a record has: the one named, else the first that is known."""
    return next((name for name in ((named,) if named else known) if name in record), None)


def _text(value: Any, named: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"the column {named!r} holds {type(value).__name__} where a text should be")
    return value


def _parsed(value: Any, named: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise DataError(f"the column {named!r} is no JSON; expected a list of turns") from None


def _maybe_parsed(value: Any) -> Any:
    """A cell of a table may hold a list as JSON."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _plain(case: Case) -> list[list[str]]:
    return [[turn.role, turn.content] for turn in case.history]


def _digest(*parts: Any) -> bytes:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).digest()
