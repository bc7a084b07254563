"""Rows: one query, two or more answers, and for each answer a rating per objective.

A row on disk is one JSON object per line:

    {"id": "7", "query": "...", "answers": [{"text": "...", "ratings": {"empathy": 3}},
                                            {"text": "...", "ratings": {"empathy": 1}, "good": ["brevity"]}],
     "history": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}

`history` holds the turns before the query. `good` names objectives that an answer satisfies already: an edit toward
them leaves it as it is. Both may be left out, and a row whose answers have some `good` needs no second answer.

Only the sign of the difference of two ratings is ever used (paper, section 3.1), so any scale will do. A row that
cannot be used is counted with its reason in an `Account`; it is never dropped in silence.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any

from metaaligner_lite.errors import DataError, FileProblem, UsageError
from metaaligner_lite.objectives import Objective, builtin_catalogue, resolve
from metaaligner_lite.prompts import LAYOUTS, Message
from metaaligner_lite.records import Account

_ROW_KEYS = {"id", "query", "answers", "history"}
_ANSWER_KEYS = {"text", "ratings", "good"}
_ROLES = ("system", "user", "assistant")
_HALF = re.compile("[\ud800-\udfff]")  # JSON can spell it, no file can hold it

_spell: Callable[[str], str] = encode_basestring
with suppress(ImportError):  # a fifth of a build's time is spent on this, next to nothing with it
    import orjson  # type: ignore[import-not-found,unused-ignore]

    _spell = lambda text: str(orjson.dumps(text), "utf-8")  # noqa: E731


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to a query; `ratings` by objective, higher is better; what it is `good` enough at."""

    text: str
    ratings: Mapping[Objective, float]
    good: tuple[Objective, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One query with its rated answers, and the turns before it; `id` seeds everything drawn for it."""

    id: str
    query: str
    answers: tuple[Answer, ...]
    history: tuple[Message, ...] = ()


def read_rows(
    path: Path, catalogue: Mapping[str, Objective] | None = None, *, strict: bool = False
) -> tuple[list[Row], Account]:
    """The usable rows of a JSONL file and the account of all of them.

    `strict` makes the first unusable row a DataError. Raises FileProblem if the file cannot be read, UsageError
    for a rating of an objective that the catalogue does not know, DataError if not one row is usable.
    """
    account = Account()
    rows: list[Row] = []
    objectives = Names(catalogue)
    for number, line in _lines(path):
        account.read += 1
        where = f"line {number}"
        try:
            rows.append(_row(_json(line), number, objectives))
        except UsageError as error:
            raise UsageError(
                f"{path}, {where}: {error}; or give the file that describes it with --objectives-file"
            ) from error
        except DataError as error:
            if strict:
                raise DataError(f"{path}, {where}: {error}") from error
            account.refuse(str(error), where)
    account.used = len(rows)
    if not account.read:
        raise DataError(f"{path} is empty; expected rows, one JSON object per line, as mal data build writes them")
    if not rows:
        raise DataError(f"{path} holds no usable row. {'; '.join(account.lines())}")
    return rows, account


def fingerprint(path: Path) -> str:
    """The SHA-256 of a file, as the manifest records it."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FileProblem(f"cannot read the training rows: {error}") from error


def split(rows: list[Row], share: float, seed: int, by: str = "query") -> tuple[list[Row], list[Row]]:
    """Training and validation rows; all rows of one query fall on the same side (the reference code splits pairs).

    `by` = "row" draws each row by itself, as the reference code does: then queries are on both sides.
    """
    training: list[Row] = []
    validation: list[Row] = []
    for number, row in enumerate(rows):
        first = row.history[0].content if row.history else row.query  # turns of one dialogue are no strangers
        key = " ".join(first.split()) if by == "query" else f"row {number}"
        digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
        held_out = int.from_bytes(digest[:8], "big") < share * 2**64
        (validation if held_out else training).append(row)
    return training, validation


class Names:
    """Objective names as the data spells them, each resolved once."""

    def __init__(self, catalogue: Mapping[str, Objective] | None) -> None:
        self._catalogue = builtin_catalogue() if catalogue is None else catalogue
        self._found: dict[str, Objective] = {}
        self._unknown: set[str] = set()
        self._wordings: dict[str, Objective] | None = None

    def __getitem__(self, name: str) -> Objective:
        if name not in self._found:
            self._found[name] = resolve([name], self._catalogue)[0]
        return self._found[name]

    def get(self, name: str) -> Objective | None:
        """The objective of this name, if there is one."""
        if name not in self._found and name not in self._unknown:
            with suppress(UsageError):
                return self[name]
            self._unknown.add(name)  # to look for the nearest name takes long
        return self._found.get(name)

    def worded(self, text: str) -> Objective:
        """The objective that a prompt words so ("Marker: sentence"), in any layout; else a new one of that text."""
        if self._wordings is None:
            self._wordings = {
                _bare(objective.worded(layout)): objective
                for objective in self._catalogue.values()
                for layout in LAYOUTS
            }
        return self._wordings.get(_bare(text)) or self[text.strip()]


def to_json(row: Row, catalogue: Mapping[str, Objective] | None = None) -> dict[str, Any]:
    """A row as the object that `read_rows` reads back; objectives the catalogue lacks are written out in full."""
    known = builtin_catalogue() if catalogue is None else catalogue
    answers = [
        {"text": a.text, "ratings": {_key(o, known): value for o, value in a.ratings.items()}}
        | ({"good": [_key(o, known) for o in a.good]} if a.good else {})
        for a in row.answers
    ]
    turns = [{"role": turn.role, "content": turn.content} for turn in row.history]
    return {"id": row.id, "query": row.query, "answers": answers} | ({"history": turns} if turns else {})


class Lines:
    """Rows as lines of JSON: what `to_json` says, in a fraction of the time."""

    def __init__(self, catalogue: Mapping[str, Objective]) -> None:
        self._known = catalogue
        self._keys: dict[int, tuple[Objective, str]] = {}  # by id: Objective hashes in Python, and there are many

    def __call__(self, row: Row) -> str:
        """The line, with its end."""
        answers = []
        for answer in row.answers:
            rated = ", ".join([f"{self._key(o)}: {value!r}" for o, value in answer.ratings.items()])
            good = f', "good": [{", ".join([self._key(o) for o in answer.good])}]' if answer.good else ""
            answers.append(f'{{"text": {_spell(answer.text)}, "ratings": {{{rated}}}{good}}}')
        history = ""
        if row.history:
            turns = [f'{{"role": "{turn.role}", "content": {_spell(turn.content)}}}' for turn in row.history]
            history = f', "history": [{", ".join(turns)}]'
        return f'{{"id": {_spell(row.id)}, "query": {_spell(row.query)}, "answers": [{", ".join(answers)}]{history}}}\n'

    def _key(self, objective: Objective) -> str:
        if (found := self._keys.get(id(objective))) is None:
            found = self._keys[id(objective)] = objective, _spell(_key(objective, self._known))
        return found[1]


def _key(objective: Objective, known: Mapping[str, Objective]) -> str:
    found = known.get(objective.name)
    if found is objective or found == objective:
        return objective.name
    return f"{objective.name}: {objective.description}"


def check(row: Row) -> Row:
    """The row itself if there is something to compare in it. Raises DataError with the reason if not."""
    check_texts(row)
    return check_ratings(row)


def check_ratings(row: Row) -> Row:
    """The row itself if one of its answers is good already, or two can be compared. Raises DataError if not."""
    seen: set[Objective] = set()
    for answer in row.answers:
        rated = set(answer.ratings)  # sets compare the hashes they hold
        if answer.good or not seen.isdisjoint(rated):
            return row
        seen |= rated
    raise DataError("no objective is rated in two of its answers; expected ratings to compare")


def check_texts(row: Row) -> None:
    """What can be told before anything rates the answers. Raises DataError with the reason."""
    if not row.query.strip():
        raise DataError("no query; expected a text that is not empty")
    for text in (row.id, row.query, *[turn.content for turn in row.history], *[answer.text for answer in row.answers]):
        if not text.isascii() and _HALF.search(text):
            raise DataError("a text with half a character (a lone surrogate); expected valid Unicode")
    if len(row.answers) < 2 and not any(answer.good for answer in row.answers):
        raise DataError("fewer than two answers; expected a list of at least two to compare")


def _bare(text: str) -> str:
    return text.strip().rstrip(".").casefold()


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise FileProblem(f"{path} is not UTF-8 text ({error}); expected JSONL, one object per line") from error
    except OSError as error:
        raise FileProblem(f"cannot read the training rows: {error}") from error


def _json(line: str) -> dict[str, Any]:
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError("not valid JSON; expected one object per line") from error
    if not isinstance(raw, dict):
        raise DataError("not a JSON object; expected query and answers")
    return raw


def _row(raw: dict[str, Any], line: int, objectives: Names) -> Row:
    if unknown := sorted(set(raw) - _ROW_KEYS):
        raise DataError(f"unknown key {unknown[0]!r}; expected {', '.join(sorted(_ROW_KEYS))} (see mal data build)")
    query, answers = raw.get("query"), raw.get("answers")
    if not isinstance(query, str):
        raise DataError("no query; expected a text that is not empty")
    if not isinstance(answers, list):
        raise DataError("fewer than two answers; expected a list of at least two to compare")
    found = tuple(_answer(answer, objectives) for answer in answers)
    return check(Row(str(raw.get("id", line)), query, found, turns_before(raw.get("history"))))


def turns_before(raw: Any) -> tuple[Message, ...]:
    """The turns before a row's query; a system turn may come first. Raises DataError for what is no list of turns."""
    turns = [] if raw is None else raw
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and turn.get("role") in _ROLES and isinstance(turn.get("content"), str) for turn in turns
    ):
        raise DataError('a history that is no list of turns; expected [{"role": "user", "content": "..."}, ...]')
    return tuple(Message(turn["role"], turn["content"]) for turn in turns)


def _answer(raw: Any, objectives: Names) -> Answer:
    if not isinstance(raw, dict) or not isinstance(raw.get("text"), str):
        raise DataError('an answer without text; expected {"text": "...", "ratings": {...}}')
    if unknown := sorted(set(raw) - _ANSWER_KEYS):
        raise DataError(f"unknown key {unknown[0]!r} in an answer; expected {', '.join(sorted(_ANSWER_KEYS))}")
    good = raw.get("good", [])
    if not isinstance(good, list) or not all(isinstance(name, str) for name in good):
        raise DataError('an answer whose good is no list of names; expected one such as ["brevity"]')
    ratings = raw.get("ratings", {} if good else None)
    if not isinstance(ratings, dict):
        raise DataError("an answer without ratings; expected a table of objective: number")
    rated = {objectives[name]: number(value, name) for name, value in ratings.items()}
    return Answer(raw["text"], rated, tuple(dict.fromkeys(objectives[name] for name in good)))


def number(value: Any, name: str) -> float:
    """A rating as a number. Raises DataError if it is none."""
    if type(value) is float and math.isfinite(value):
        return value
    if not isinstance(value, bool) and isinstance(value, int | float):
        with suppress(OverflowError):  # a whole number of hundreds of digits
            if math.isfinite(value):
                return float(value)
    raise no_number(name)


def no_number(name: str) -> DataError:
    """The error for a rating that is none."""
    return DataError(f"the rating of {name!r} is not a number; expected one such as 3 or 0.5")
