"""The records in a JSON text, one at a time: of a list, of an object around one, or values one behind the other.

Nothing is parsed at once that is longer than `packed.LONGEST`, so a file of gigabytes takes the memory of one record.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from .errors import DataError, FileProblem
from .packed import LONGEST

_SPACE = re.compile(r"[ \t\r\n\ufeff]*")
_STEP = 1 << 16
# An object with one of these keys is a wrapper around its list; with any other list it is a record.
_WRAPPERS = {"data", "rows", "records", "examples", "items", "instances", "samples", "entries", "results", "dataset"}
_SPLITS = {"train", "test", "validation", "valid", "dev", "eval"}
_COLUMNS = {"chosen", "rejected", "prompt", "query", "instruction", "question", "messages", "response", "answer"}


class _Broken(Exception):
    """No JSON at this place."""


def json_records(file: IO[str], path: Path) -> Iterator[Any]:
    """Each value that should be a record; a DataError in place of one that is damaged, where others came before.

    Raises FileProblem for what is no JSON.
    """
    text = _Text(file)
    number = 0
    held: list[Any] = []  # the first object: alone it may be a wrapper, followed by others it is a record
    while True:
        try:
            if not (mark := text.peek()):
                break
            if mark == "[" and not number:
                yield from _items(text)
                number = 2
            else:
                try:
                    value = text.value()
                except _TooLong:
                    if number or mark != "{":
                        raise
                    yield from _members(text)
                    number = 2
                    continue
                if number:
                    yield from held
                    held.clear()
                    yield value
                else:
                    held.append(value)
                number += 1
        except _Broken as error:
            if number < 2 and not (number and text.at_line):
                raise FileProblem(
                    f"{path} is not valid JSON ({error}); JSON lines are expected to end in .jsonl"
                ) from None
            yield from held
            held.clear()
            yield DataError("not valid JSON; expected one object per line")
            text.skip_line()
            number = 2
    for value in held:
        yield from _unwrapped(value, path) if isinstance(value, dict) else [value]


class _TooLong(_Broken):
    """A value longer than any record."""


class _Text:
    """A text that is read as far as its values are asked for."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self._held, self._place, self._ended = file, "", 0, False
        self._decode = json.JSONDecoder().raw_decode

    @property
    def at_line(self) -> bool:
        """Whether what comes next begins a line."""
        return self._held[: self._place].rstrip(" \t").endswith(("\n", "\r"))

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            match = _SPACE.match(self._held, self._place)
            self._place = match.end() if match else self._place
            if self._place < len(self._held):
                return self._held[self._place]
            if not self._more(_STEP):
                return ""

    def skip(self) -> None:
        """Go behind the character that `peek` gave."""
        self._place += 1

    def skip_line(self) -> None:
        """Go behind the end of the line."""
        while (end := self._held.find("\n", self._place)) < 0:
            self._place = len(self._held)
            if not self._more(_STEP):
                return
        self._place = end + 1

    def value(self) -> Any:
        """The next value. Raises _Broken."""
        while True:
            try:
                value, end = self._decode(self._held, self._place)
            except json.JSONDecodeError as error:
                cut = error.pos >= len(self._held) - 16 or error.msg.startswith("Unterminated string")
                if self._ended or not cut:
                    raise _Broken(error.msg) from None
            except (ValueError, RecursionError) as error:
                raise _Broken(type(error).__name__) from None
            else:
                if end < len(self._held) or self._ended or not isinstance(value, int | float):
                    self._place = end
                    return value
            held = len(self._held) - self._place
            if held >= LONGEST:
                raise _TooLong(f"a value of over {LONGEST:,} characters")
            self._more(min(max(_STEP, held), LONGEST - held))

    def _more(self, size: int) -> bool:
        if self._ended:
            return False
        more = self._file.read(size)
        self._ended = not more
        keep = max(0, self._place - 64)  # for `at_line`
        self._held, self._place = self._held[keep:] + more, self._place - keep
        return bool(more)


def _items(text: _Text) -> Iterator[Any]:
    """The items of a list that begins here."""
    text.skip()
    while (mark := text.peek()) != "]":
        if not mark:
            raise _Broken("it ends inside of a list")
        yield text.value()
        if text.peek() == ",":
            text.skip()
        elif text.peek() != "]":
            raise _Broken("expected a comma between the items of a list")
    text.skip()


def _members(text: _Text) -> Iterator[Any]:
    """The records in an object too long to be held: the items of its lists, and the objects in it."""
    text.skip()
    while (mark := text.peek()) != "}":
        if mark != '"':
            raise _Broken("expected a name in an object")
        text.value()
        if text.peek() != ":":
            raise _Broken("expected a colon in an object")
        text.skip()
        if text.peek() == "[":
            yield from (item for item in _items(text) if isinstance(item, dict))
        elif isinstance(value := text.value(), dict):
            yield value
        if text.peek() == ",":
            text.skip()
    text.skip()


def _unwrapped(raw: Mapping[str, Any], path: Path) -> Iterator[Any]:
    """The records of an object that is a file's only one: of its list, of a table by columns or ids; or itself."""
    lists = {key: value for key, value in raw.items() if isinstance(value, list) and value}
    records = [key for key, value in lists.items() if isinstance(value[0], dict)]
    if len(splits := [key for key in records if key.lower() in _SPLITS]) > 1:
        raise FileProblem(
            f"{path} holds several sets ({', '.join(splits)}); write each to a file of its own, so that no test text "
            "is trained on"
        )
    if len(records) == 1 and (
        records[0].lower() in _WRAPPERS | _SPLITS or (len(raw) == 1 and not _is_chat(lists[records[0]]))
    ):
        yield from lists[records[0]]
    elif len(raw) > 1 and len(lists) == len(raw) and len({len(value) for value in lists.values()}) == 1 and not records:
        yield from (dict(zip(raw, values, strict=True)) for values in zip(*raw.values(), strict=True))  # columns
    elif raw and all(isinstance(value, dict) and value for value in raw.values()):
        tables = list(raw.values())
        if all(key.isdigit() for key in tables[0]) and all(table.keys() == tables[0].keys() for table in tables):
            yield from ({name: raw[name][key] for name in raw} for key in tables[0])  # columns, as pandas writes them
        elif raw.keys() & _COLUMNS:
            yield raw
        else:
            yield from tables  # by ids
    else:
        yield raw


def _is_chat(turns: list[Any]) -> bool:
    return isinstance(turns[0], dict) and bool(turns[0].keys() & {"role", "from"})
