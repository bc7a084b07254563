"""Records of one answer each, put together by what they answer: in memory, or on disk where there are too many."""

from __future__ import annotations

import marshal
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from metaaligner_lite.objectives import Objective
from metaaligner_lite.prompts import Message

from .rows import Answer, Row

_HELD = 1 << 25  # characters in memory
_PARTS = 64

_Found = dict[tuple[str, tuple[Message, ...]], tuple[str, list[Answer]]]


class Gathered:
    """Answers, each with the place it came from, by query and the turns before it."""

    def __init__(self, held: int = _HELD) -> None:
        self._held = held
        self._found: _Found = {}
        self._size = 0
        self._objectives: dict[str, Objective] = {}
        self._parts: list[IO[bytes]] = []
        self._opened = ExitStack()

    def add(self, where: str, row: Row) -> None:
        """Keep a row of one answer."""
        key = row.query, row.history
        if (found := self._found.get(key)) is None:
            found = self._found[key] = where, []
            self._size += 200 + len(row.query) + sum([len(turn.content) for turn in row.history])
        found[1].extend(row.answers)
        self._size += 400 + sum([len(answer.text) for answer in row.answers])
        if self._size > self._held:
            self._spill()

    def rows(self) -> Iterator[tuple[str, Row]]:
        """A row for each query with the place of its first answer, in the order met; beyond memory, in parts of it."""
        if not self._parts:
            yield from _rows(self._found)
            return
        self._spill()
        with self._opened:
            for part in self._parts:
                yield from _rows(self._read(part))

    def _spill(self) -> None:
        """Write what is in memory to the parts, by query, each as a piece of its own."""
        if not self._parts:
            folder = Path(self._opened.enter_context(tempfile.TemporaryDirectory(prefix="mal-data-")))
            self._parts = [self._opened.enter_context((folder / str(n)).open("w+b")) for n in range(_PARTS)]
        pieces: list[list[object]] = [[] for _ in self._parts]
        for (query, history), (where, answers) in self._found.items():
            known = self._objectives
            turns = [(turn.role, turn.content) for turn in history]
            rated = [(a.text, [(known.setdefault(o.name, o).name, r) for o, r in a.ratings.items()]) for a in answers]
            number = zlib.crc32(query.encode("utf-8", "surrogatepass")) % _PARTS
            pieces[number].append((where, query, turns, rated))
        for part, piece in zip(self._parts, pieces, strict=True):
            data = marshal.dumps(piece)  # read by this process alone, and several times as fast as JSON
            part.write(len(data).to_bytes(8, "little") + data)
        self._found.clear()
        self._size = 0

    def _read(self, part: IO[bytes]) -> _Found:
        found: _Found = {}
        part.seek(0)
        while size := part.read(8):
            for where, query, turns, rated in marshal.loads(part.read(int.from_bytes(size, "little"))):
                key = query, tuple([Message(role, content) for role, content in turns])
                answers = [Answer(text, {self._objectives[name]: value for name, value in r}) for text, r in rated]
                found.setdefault(key, (where, []))[1].extend(answers)
        return found


def _rows(found: _Found) -> Iterator[tuple[str, Row]]:
    for (query, history), (where, answers) in found.items():
        yield where, Row("", query, tuple(answers), history)
