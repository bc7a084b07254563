"""Records of one answer each, put together by what they answer: in memory, or on disk where there are too many."""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from metaaligner_lite.objectives import Objective
from metaaligner_lite.prompts import Message

from .rows import Answer, Row

_HELD = 1 << 25  # characters in memory
_PARTS = 64


class Gathered:
    """Answers, each with the place it came from, by query and the turns before it."""

    def __init__(self, held: int = _HELD) -> None:
        self._held = held
        self._found: dict[tuple[str, tuple[Message, ...]], tuple[str, list[Answer]]] = {}
        self._objectives: dict[str, Objective] = {}
        self._size = 0
        self._parts: list[IO[str]] = []
        self._opened = ExitStack()

    def add(self, where: str, row: Row) -> None:
        """Keep a row of one answer."""
        if self._parts:
            self._write(where, row)
            return
        key = row.query, row.history
        if key not in self._found:
            self._found[key] = where, []
            self._size += 200 + len(row.query) + sum(len(turn.content) for turn in row.history)
        self._found[key][1].extend(row.answers)
        self._size += 400 + sum(len(answer.text) for answer in row.answers)
        if self._size > self._held:
            self._spill()

    def rows(self) -> Iterator[tuple[str, Row]]:
        """A row for each query with the place of its first answer, in the order met; beyond memory, in parts of it."""
        if not self._parts:
            yield from _rows(self._found)
            return
        with self._opened:
            for part in self._parts:
                part.seek(0)
                found: dict[tuple[str, tuple[Message, ...]], tuple[str, list[Answer]]] = {}
                for line in part:
                    where, query, history, answers = json.loads(line)
                    key = query, tuple(Message(role, content) for role, content in history)
                    kept = [
                        Answer(text, {self._objectives[name]: rating for name, rating in ratings})
                        for text, ratings in answers
                    ]
                    found.setdefault(key, (where, []))[1].extend(kept)
                yield from _rows(found)

    def _spill(self) -> None:
        folder = Path(self._opened.enter_context(tempfile.TemporaryDirectory(prefix="mal-data-")))
        self._parts = [
            self._opened.enter_context((folder / str(number)).open("w+", encoding="utf-8")) for number in range(_PARTS)
        ]
        for where, row in _rows(self._found):
            self._write(where, row)
        self._found.clear()

    def _write(self, where: str, row: Row) -> None:
        turns = [(turn.role, turn.content) for turn in row.history]
        part = self._parts[zlib.crc32(json.dumps([row.query, turns]).encode()) % _PARTS]
        self._objectives.update((objective.name, objective) for answer in row.answers for objective in answer.ratings)
        answers = [(a.text, [(objective.name, rating) for objective, rating in a.ratings.items()]) for a in row.answers]
        part.write(json.dumps([where, row.query, turns, answers]) + "\n")


def _rows(found: dict[Any, tuple[str, list[Answer]]]) -> Iterable[tuple[str, Row]]:
    for (query, history), (where, answers) in found.items():
        yield where, Row("", query, tuple(answers), history)
