"""Queries that are held out for evaluation, and whether a row asks one of them: word for word, or nearly.

Compared are letters and digits, lower case, of all the turns up to the answer. Nearly means: the user said the same in
all, or asked the same at last; or of the runs of three words that the user said in the shorter of two conversations,
7 in 10 stand in the longer one, too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from metaaligner_lite.errors import DataError, FileProblem, UsageError
from metaaligner_lite.prompts import Message
from metaaligner_lite.records import Record, read_records

from . import formats
from .formats import Mapped
from .rows import Row
from .turns import Asked, asked

# Chinese, Japanese and Korean characters are words here.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+")
_RUN = 3  # words
_SHARE = 0.7
_LEAST = 6  # runs of the shorter text: fewer tell nothing
_ALONE = 6  # words that the last question of a conversation needs to be looked for by itself
_COMMON = 500  # queries that share a run: it is a phrase of a template, and tells nothing


def words(text: str) -> list[str]:
    """What is compared of a text."""
    return _WORD.findall(text.casefold().replace("’", "'").replace("'", ""))


@dataclass(slots=True)
class HeldOut:
    """The queries of some files, to be kept out of rows; it counts which of them were met."""

    _whole: dict[str, list[int]] = field(default_factory=dict)
    _parts: dict[str, list[int]] = field(default_factory=dict)  # what the user said in all, or at last
    _by_run: dict[int, list[int]] = field(default_factory=dict)
    _sizes: list[int] = field(default_factory=list)  # runs of each query
    _files: list[str] = field(default_factory=list)  # of each query
    _met: dict[int, bool] = field(default_factory=dict)  # query -> whether word for word

    def add(self, path: Path, mapped: Mapped) -> None:
        """Keep the queries of a file. Raises FileProblem if it cannot be read, DataError if there is none in it."""
        before = len(self._files)
        form, here = "", mapped
        for _, record in read_records(path):
            if isinstance(record, DataError):
                continue
            record = here.renamed(record)
            if not form:
                try:
                    form, here = formats.recognize(record, mapped)
                    record = here.renamed(record)
                except UsageError:
                    form = "none"
            for query, history in _asked(record, here, form):
                self._keep(query, history, path.name)
        if len(self._files) == before:
            raise DataError(f"{path} has no query to hold out; expected a column such as query or prompt, or dialogues")

    def find(self, row: Row) -> str:
        """Why a row must not be trained on; "" if nothing speaks against it."""
        whole, parts = _texts(row.query, row.history)
        if found := self._whole.get(whole):
            self._met.update(dict.fromkeys(found, True))
            return f"its query occurs in {self._files[found[0]]}, which is held out"
        near = next((numbers for part in parts if (numbers := self._parts.get(" ".join(part)))), None)
        if near is None:
            near = next((numbers for part in parts if (numbers := self._near(_runs(part)))), [])
        for number in near:
            self._met.setdefault(number, False)
        return f"its query nearly occurs in {self._files[near[0]]}, which is held out" if near else ""

    def lines(self) -> list[str]:
        """For each file how many of its queries were met, word for word and, of the others, nearly."""
        found = []
        for name, count in Counter(self._files).items():
            met = [exact for number, exact in self._met.items() if self._files[number] == name]
            found.append(
                f"of the {count:,} queries of {name}, {met.count(True):,} occur in the data word for word "
                f"(case and marks aside), {met.count(False):,} more nearly"
            )
        return found

    def _keep(self, query: str, history: tuple[Message, ...], name: str) -> None:
        whole, parts = _texts(query, history)
        number = len(self._files)
        self._files.append(name)
        self._whole.setdefault(whole, []).append(number)
        for part in parts:
            self._parts.setdefault(" ".join(part), []).append(number)
        runs = _runs(parts[0])
        self._sizes.append(len(runs))
        for run in runs:
            self._by_run.setdefault(run, []).append(number)

    def _near(self, runs: set[int]) -> list[int]:
        if len(runs) < _LEAST:
            return []
        counts: Counter[int] = Counter()
        for run in runs:
            if (places := self._by_run.get(run)) and len(places) <= _COMMON:
                counts.update(places)
        return [
            number
            for number, count in counts.most_common(8)
            if self._sizes[number] >= _LEAST and count >= _SHARE * min(len(runs), self._sizes[number])
        ]


def _texts(query: str, history: tuple[Message, ...]) -> tuple[str, list[list[str]]]:
    """What is compared of a conversation: all of it, and the words that the user said in all and at last."""
    last = words(query)
    if not history:
        return " ".join(last), [last]
    whole = " ".join(words(" ".join([*(turn.content for turn in history if turn.role != "system"), query])))
    said = words(" ".join([*(turn.content for turn in history if turn.role == "user"), query]))
    return whole, [said, last] if len(last) >= _ALONE else [said]


def _runs(found: list[str]) -> set[int]:
    return {hash(run) for run in zip(*(found[i:] for i in range(_RUN)), strict=False)}


def _asked(record: Record, mapped: Mapped, form: str) -> Iterable[Asked]:
    """Each query of a record, with the turns before it."""
    try:
        if form == "dialogues":
            rows = formats.FORMATS[form](record, mapped)
            return [(row.query, row.history) for row in rows if isinstance(row, Row)]
        return [asked(record, mapped.notes)]
    except (DataError, UsageError, FileProblem):
        return []
