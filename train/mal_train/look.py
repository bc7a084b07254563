"""`mal data show` for any file: what it is taken for, what of it is used, and what is not, in one screen."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from metaaligner_lite.errors import DataError, UsageError

from .build import Built, sample, summarize
from .formats import MEANING, Mapped, lacks
from .rows import Row
from .source import is_hub_id, records_of

_MOST = 1000  # records that are looked at
_WIDE = 110  # characters of a line
_REASONS = 6
_WHAT_TO_DO = (
    "name its form with --format and its columns with --column OURS=THEIRS, such as --column query=instruction; "
    "if several columns hold an answer each, mal data build takes them by --answer-column; "
    "texts without a query make no rows"
)


@dataclass(frozen=True, slots=True)
class Seen:
    """The first records of a source, and what became of them; `form` is "" if it is not known."""

    source: Path
    form: str
    reason: str
    built: Built
    rows: Sequence[Row]
    columns: Sequence[str]
    all_of_it: bool

    def summary(self) -> dict[str, Any]:
        """The signs in the rows; of a row of very many answers those of the first ones."""
        return summarize(self.rows)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        account = self.built.account
        return {
            "form": self.form,
            "reason": self.reason,
            "read": account.read,
            "used": account.used,
            "refused": dict(account.refused),
            "parts_refused": dict(self.built.parts.refused),
            "columns": list(self.columns),
            "columns_not_read": sorted(self.built.unread),
            "notes": dict(self.built.notes),
            **self.summary(),
        }

    def lines(self) -> list[str]:
        """For people."""
        size = "" if is_hub_id(self.source) else f" ({self.source.stat().st_size / 1e6:,.1f} MB)"
        if not self.form:
            return [
                f"{self.source}{size}: {self.reason}",
                *([_fold("columns", self.columns)] if self.columns else []),
                *([_fold("what to do", [_WHAT_TO_DO])] if self.columns else []),
            ]
        account, built = self.built.account, self.built
        used = [name for name in self.columns if name not in built.unread and account.used]
        of = "" if self.all_of_it else f"; of more, the first {account.read:,} were looked at"
        found = [
            f"{self.source}{size}: {self.form}: {MEANING[self.form]}",
            _fold("columns read", used),
            _fold("columns not read", sorted(built.unread)),
            f"{account.used:,} of {account.read:,} records can be used{of}",
            *[f"  {line}" for line in [*account.reasons(), *built.parts.reasons()][:_REASONS]],
            *[f"  {count:,} times: {note}" for note, count in built.notes.most_common(3)],
        ]
        if self.rows:
            found += self._content()
        return [line for line in found if line]

    def _content(self) -> list[str]:
        answers = Counter(min(len(row.answers), 9) for row in self.rows)
        with_turns = sum(bool(row.history) for row in self.rows)
        most = ", ".join(f"{n:,} with {'9 or more' if size == 9 else size}" for size, n in sorted(answers.items()))
        found = [f"{len(self.rows):,} rows; answers: {most}; {with_turns:,} have turns before the query"]
        signs = self.summary()["signs"]
        for name, counts in list(signs.items())[:8]:
            found.append(f"  {name:22} " + "  ".join(f"{sign} {counts.get(sign, 0):,}" for sign in "><="))
        if not signs:
            found.append(
                "  rated on nothing: name what the better answer is better at (--objectives), or rate (--score)"
            )
        row = next((row for row in self.rows if row.history), self.rows[0])
        found.append(f"such as {row.id}:")
        for turn in row.history[-3:]:
            found.append(_short(f"  {turn.role}: ", turn.content))
        found.append(_short("  query: ", row.query))
        for answer in row.answers[:3]:
            rated = ", ".join(f"{o.name} {value:g}" for o, value in answer.ratings.items())
            found.append(_short(f"  answer{f' ({rated})' if rated else ''}: ", answer.text))
        return found


def look(source: Path, mapped: Mapped, form: str = "auto") -> Seen:
    """Read the beginning of a source. Raises FileProblem, UsageError for what cannot be read at all."""
    columns: dict[str, None] = {}
    for _, record in islice(records_of(source), 20):
        if isinstance(record, dict):
            columns.update(dict.fromkeys(map(str, record)))
    try:
        built, rows = sample(source, mapped, form, _MOST)
    except UsageError as error:
        if not columns:
            raise
        reason = (lacks(columns) or "its form is not known by its keys") if form == "auto" else str(error)
        return Seen(source, "", reason, Built(Path()), (), list(columns), True)
    known = built.forms.get(str(source), "")
    reason = ""
    if not known:
        reason = "; ".join(built.account.reasons()) or "there is no record in it"
    return Seen(source, known, reason, built, rows, list(columns), built.account.read < _MOST)


def are_rows(path: Path) -> bool:
    """Whether a file holds rows as `mal data build` writes them."""
    if path.suffix.lower() not in (".jsonl", ".ndjson") or not path.is_file():
        return False
    try:
        first = next((record for _, record in islice(records_of(path), 20) if not isinstance(record, DataError)), {})
    except (OSError, ValueError):
        return False
    answers = first.get("answers")
    return (
        first.keys() <= {"id", "query", "answers", "history"}
        and isinstance(answers, list)
        and all(isinstance(answer, dict) and answer.keys() <= {"text", "ratings", "good"} for answer in answers)
    )


def _fold(what: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    text = textwrap.shorten(", ".join(names), 3 * _WIDE, placeholder=" ...")
    return textwrap.fill(f"{what}: {text}", _WIDE, subsequent_indent="  ")


def _short(start: str, text: str) -> str:
    return start + json.dumps(
        textwrap.shorten(text, max(20, _WIDE - len(start)), placeholder=" ..."), ensure_ascii=False
    )
