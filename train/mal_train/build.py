"""`mal data build` and `mal data show`: data sets of many forms become rows, every record accounted for."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, islice
from pathlib import Path

from metaaligner_lite.errors import DataError, FileProblem, UsageError
from metaaligner_lite.objectives import Objective, builtin_catalogue
from metaaligner_lite.prompts import Message
from metaaligner_lite.records import Account, Record
from metaaligner_lite.thoughts import may_think, split_thoughts
from metaaligner_lite.transcripts import as_transcript, begins_a_turn

from . import formats
from .formats import Found, Mapped
from .gathered import Gathered
from .leaks import HeldOut
from .reference import ULTRAFEEDBACK, as_row, comparable, reference_edits
from .reformulate import signs
from .rows import Lines, Row, check_ratings, check_texts
from .scorers import Scorer, rate
from .source import records_of

Rate = Callable[[Sequence[Row]], Sequence[Row]]  # many rows at once: reward models work in batches
_BATCH = 256
_WATCHED = 20  # records of the same columns that are watched as they are read
ANSWERS = 30  # of a row that are compared where rows are looked at
_KINDS = 1000  # different sets of columns that are told apart
_THOUGHTS_OUT = "an answer without its thoughts (--keep-thoughts keeps them)"
_ANOTHERS_TURN = "an answer that begins with somebody's turn, such as 'Human:'"
_HISTORY_OUT = "an earlier turn without its thoughts"
_ALL_FOUR = f"ratings for {', '.join(sorted(ULTRAFEEDBACK))}, which --reference ultrafeedback compares"
_RATE_THEM = (
    ". If the data does not say on what one answer is better, name it with --objectives, or rate the answers with "
    "--score or --reward"
)


@dataclass(slots=True)
class Built:
    """What a build made: the rows' file, the account of the records and, for each source, the form it was taken for."""

    out: Path
    rows: int = 0
    account: Account = field(default_factory=lambda: Account(noun="records"))
    forms: dict[str, str] = field(default_factory=dict)
    objectives: Counter[str] = field(default_factory=Counter)  # rows rated on it
    unread: set[str] = field(default_factory=set)  # columns of tables that were taken for nothing
    missing: set[str] = field(default_factory=set)  # columns that the user named and no record has
    parts: Account = field(default_factory=lambda: Account(noun="parts"))  # of records that were read without them
    notes: Counter[str] = field(default_factory=Counter)  # what of records could not be kept as it was
    held_out: HeldOut | None = None
    reference: Account | None = None  # of the edits, if the reference code's choices were asked for

    def lines(self) -> list[str]:
        """What became of everything, in words."""
        found = [*self.account.lines(), *self.parts.reasons(), *(self.reference.lines() if self.reference else ())]
        found += [f"{count:,} times: {note}" for note, count in self.notes.most_common()]
        found += self.held_out.lines() if self.held_out else []
        if not self.account.read:
            found.append("there is no record in it")
        if self.unread:
            found.append(f"columns not read: {', '.join(sorted(self.unread))}")
        return found + [f"no record has the column {name!r}" for name in sorted(self.missing)]


@dataclass(frozen=True, slots=True)
class _Draft:
    """A row that so many records became, not rated by us yet; or why they become none (0 records: a part of one)."""

    where: str
    row: Row | DataError
    records: int = 1


def build(
    sources: Sequence[Path],
    out: Path,
    mapped: Mapped,
    *,
    form: str = "auto",
    scorers: Sequence[Scorer] = (),
    rewards: Rate | None = None,
    reference: str = "",
    limit: int = 0,
    seed: int = 0,
    strict: bool = False,
    force: bool = False,
    catalogue: Mapping[str, Objective] | None = None,
    held_out: Sequence[Path] = (),
    keep_thoughts: bool = False,
) -> Built:
    """Write the rows of `sources` to the JSONL file `out`, counting every record.

    Rows that ask what a file of `held_out` asks are left out. Answers lose their thoughts unless `keep_thoughts`.
    `reference` ("hh-rlhf" or "ultrafeedback") reproduces the reference code's choices. Raises DataError at the
    first unusable record if `strict`, or if none is usable; FileProblem and UsageError as their names say.
    """
    if out.exists() and not force:
        raise FileProblem(f"{out} exists already; name another --out, or replace it with --force")
    if form != "auto" and form not in formats.FORMATS:
        raise UsageError(f"unknown format {form!r}; expected auto, {', '.join(formats.FORMATS)}")
    mapped = replace(mapped, marked=reference == "hh-rlhf", notes=Counter(), unread=set())
    built = Built(out, missing=set(mapped.columns.values()), notes=mapped.notes)
    if reference:
        built.reference = Account(noun="edits as the reference makes them")
    if held_out:
        built.held_out = HeldOut()
        for path in held_out:
            built.held_out.add(path, replace(mapped, notes=Counter(), unread=set()))
    drafts = _drafts(sources, mapped, form, built)
    rated = _rated(drafts, scorers, rewards, mapped, built, strict, limit, reference, keep_thoughts)
    line = Lines(builtin_catalogue() if catalogue is None else catalogue)
    rng = random.Random(seed)
    beside = out.with_name(out.name + ".part")
    try:
        with beside.open("w", encoding="utf-8", buffering=1 << 18) as file:
            for row in rated:
                for final in _reference(row, reference, rng, built.reference) if built.reference else (row,):
                    file.write(line(final))
                    built.rows += 1
                for name in {o.name for answer in row.answers for o in answer.ratings}:
                    built.objectives[name] += 1
        if not built.rows:
            advice = "" if scorers or rewards or mapped.objectives else _RATE_THEM
            raise DataError(f"no usable record in {', '.join(map(str, sources))}. {'; '.join(built.lines())}{advice}")
        beside.replace(out)
    except OSError as error:
        raise error if isinstance(error, FileProblem) else FileProblem(f"cannot write {out}: {error}") from error
    finally:
        beside.unlink(missing_ok=True)
    return built


def sample(source: Path, mapped: Mapped, form: str, most: int) -> tuple[Built, list[Row]]:
    """What the first records of a source become, `most` at most, and the account of them; nothing is written.

    Rows that nothing rates are among them. Raises as `build`, but not for want of usable records.
    """
    mapped = replace(mapped, notes=Counter(), unread=set())
    built = Built(Path(), missing=set(mapped.columns.values()), notes=mapped.notes)
    found: list[Row] = []
    for draft in _drafts([source], mapped, form, built, most):
        draft = _readable(draft, built, False, False)
        if isinstance(draft.row, DataError):
            (built.account if draft.records else built.parts).refuse(str(draft.row), draft.where, draft.records or 1)
        else:
            built.account.used += draft.records
            found.append(draft.row)
    return built, found


def few_answers(row: Row) -> Row:
    """The row, or one of its first answers if they are very many: whoever compares all pairs would never end."""
    return row if len(row.answers) <= ANSWERS else replace(row, answers=row.answers[:ANSWERS])


def summarize(rows: Iterable[Row]) -> dict[str, object]:
    """What is in rows: counts of rows, answers, pairs and edits, and the signs per objective.

    Of a row of very many answers the pairs of the first ones.
    """
    counts: Counter[str] = Counter()
    per_objective: dict[str, Counter[str]] = {}
    for row in rows:
        counts["rows"] += 1
        counts["answers"] += len(row.answers)
        for first, second in combinations(few_answers(row).answers, 2):
            found = signs(first, second)
            counts["pairs"] += 1
            counts["improving edits"] += (1 in found.values()) + (-1 in found.values())
            counts["equal edits"] += 0 in found.values()
            for objective, sign in found.items():
                per_objective.setdefault(objective.name, Counter())["=" if not sign else "<>"[sign > 0]] += 1
    return {**counts, "signs": {name: dict(found) for name, found in sorted(per_objective.items())}}


class _Read(dict[str, object]):
    """A record that notes which of its columns are read."""

    def __init__(self, record: Record) -> None:
        super().__init__(record)
        self.read: set[str] = set()

    def get(self, key: str, default: object = None) -> object:
        self.read.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> object:
        self.read.add(key)
        return super().__getitem__(key)


class _Reading:
    """Reads records in one form; tells which columns the form has no use for, by watching what it reads at first."""

    def __init__(self, form: str, mapped: Mapped) -> None:
        self._read, self._mapped = formats.FORMATS[form], mapped
        self._unread: dict[tuple[str, ...], tuple[set[str], int]] = {}

    def __call__(self, record: Record) -> list[Found]:
        keys = tuple(record)
        left, watched = self._unread.get(keys) or (set(keys), 0)
        if watched >= _WATCHED or not left:
            return list(self._read(record, self._mapped))
        noting = _Read(record)
        found = list(self._read(noting, self._mapped))
        if len(self._unread) < _KINDS:
            self._unread[keys] = left - noting.read, watched + 1
        return found

    @property
    def unread(self) -> set[str]:
        """The columns that no record was read for."""
        return set().union(*(left for left, _ in self._unread.values())) - {"id"}


def _drafts(sources: Sequence[Path], mapped: Mapped, form: str, built: Built, most: int = 0) -> Iterator[_Draft]:
    missing = built.missing
    for path in sources:
        known, here = form, mapped
        reading: _Reading | None = None
        table: Gathered | None = None
        unknown: UsageError | None = None
        account, name, stem = built.account, path.name, path.stem
        for place, record in islice(records_of(path), most or None):
            account.read += 1
            where = f"{name}, {place}"
            if isinstance(record, DataError):
                yield _Draft(where, record)
                continue
            if missing:
                missing.difference_update(record)
            record = here.renamed(record)
            try:
                if reading is None:
                    if known == "auto":
                        known, here = formats.recognize(record, mapped)
                        record = here.renamed(record)
                    reading = _Reading(known, here)
                    built.forms.setdefault(str(path), known)
                    table = Gathered() if known in formats.GROUPED else None
                found = reading(record)
            except UsageError as error:
                if known != "auto":
                    raise UsageError(f"{where}: {error}; or describe it in a file for --objectives-file") from error
                unknown = unknown or error
                yield _Draft(where, DataError("its form is not known by its keys"))
                continue
            except DataError as error:
                yield _Draft(where, error)
                continue
            for row in found:
                if isinstance(row, DataError):
                    yield _Draft(where, row, records=0)
                elif table is not None:
                    table.add(where, row)
                else:
                    id_ = row.id or f"{stem}:{place.split()[-1]}"
                    yield _Draft(where, Row(id_, row.query, row.answers, row.history))
        if reading is not None:
            built.unread |= {here.columns.get(name, name) for name in reading.unread} | mapped.unread
        for number, (where, row) in enumerate(table.rows() if table is not None else (), 1):
            yield _Draft(where, Row(f"{stem}:{number}", row.query, row.answers, row.history), len(row.answers))
        if known == "auto" and unknown:
            raise UsageError(f"{path}: {unknown}")


def _rated(
    drafts: Iterator[_Draft],
    scorers: Sequence[Scorer],
    rewards: Rate | None,
    mapped: Mapped,
    built: Built,
    strict: bool,
    limit: int,
    reference: str,
    keep_thoughts: bool,
) -> Iterator[Row]:
    """The usable rows with all their ratings, `limit` at most; the others are counted, or raised if `strict`."""
    made, account = 0, built.account
    while some := list(islice(drafts, min(_BATCH, limit - made) if limit else _BATCH)):
        batch = [_readable(draft, built, keep_thoughts, bool(reference)) for draft in some]
        rows: Sequence[Row] = [draft.row for draft in batch if not isinstance(draft.row, DataError)]
        if scorers:
            rows = [rate(row, scorers, mapped.names) for row in rows]
        rated = iter(rewards(rows) if rewards is not None else rows)
        for draft in batch:
            try:
                if isinstance(draft.row, DataError):
                    raise draft.row
                usable = check_ratings(next(rated))
                if reference == "hh-rlhf" and len(usable.answers) != 2:
                    raise DataError("other than two answers; --reference hh-rlhf compares two")
                if reference == "ultrafeedback":
                    every, usable = usable.answers, comparable(usable)
                    left_out = len(every) - len(usable.answers)
                    if len(usable.answers) < 2:
                        raise DataError(f"fewer than two answers with {_ALL_FOUR}")
                    if left_out and strict:
                        raise DataError(f"an answer without {_ALL_FOUR}")
                    if left_out:
                        built.parts.refuse(f"an answer without {_ALL_FOUR}", draft.where, left_out)
            except DataError as error:
                if strict:
                    raise DataError(f"{draft.where}: {error}") from error
                counted = account if draft.records else built.parts
                counted.refuse(str(error), draft.where, draft.records or 1)
            else:
                account.used += draft.records
                made += 1
                yield usable
    if 0 < limit <= made and (rest := account.read - account.used - account.refused.total()):
        account.refuse("behind --limit", count=rest)


def _readable(draft: _Draft, built: Built, keep_thoughts: bool, in_one_text: bool) -> _Draft:
    """The draft, or why its texts are nothing to rate: no model is asked about those."""
    row = draft.row
    try:
        if isinstance(row, DataError):
            return draft
        if built.held_out and (reason := built.held_out.find(row)):  # before all else, so that none is missed
            raise DataError(reason)
        if not keep_thoughts:
            row = _without_thoughts(row, built)
        row = _without_others_turns(row, draft, built)
        check_texts(row)
        if in_one_text and row.history:
            row = replace(row, query=as_transcript(row.query, row.history), history=())
    except DataError as error:
        return replace(draft, row=error)
    return draft if row is draft.row else replace(draft, row=row)


def _without_others_turns(row: Row, draft: _Draft, built: Built) -> Row:
    """The row without answers that are somebody else's turn. Raises DataError if there is nothing left to compare."""
    for answer in row.answers:
        if begins_a_turn(answer.text):
            break
    else:
        return row
    kept = tuple(answer for answer in row.answers if not begins_a_turn(answer.text))
    if len(kept) < 2:
        raise DataError(_ANOTHERS_TURN)
    built.parts.refuse(f"{_ANOTHERS_TURN}; left out of its record", draft.where, len(row.answers) - len(kept))
    return replace(row, answers=kept)


def _without_thoughts(row: Row, built: Built) -> Row:
    """The row, answers and earlier turns without what the assistant thought. Raises DataError if nothing is left."""
    for answer in row.answers:
        if may_think(answer.text):
            answers = (replace(a, text=_spoken(a.text, built.notes, _THOUGHTS_OUT)) for a in row.answers)
            row = replace(row, answers=tuple(answers))
            break
    for turn in row.history:
        if turn.role == "assistant" and may_think(turn.content):
            row = replace(row, history=tuple(_spoken_turn(turn, built.notes) for turn in row.history))
            break
    return row


def _spoken_turn(turn: Message, notes: Counter[str]) -> Message:
    return Message(turn.role, _spoken(turn.content, notes, _HISTORY_OUT)) if turn.role == "assistant" else turn


def _spoken(text: str, notes: Counter[str], note: str) -> str:
    if not may_think(text):
        return text
    split = split_thoughts(text)
    if not split.finished:
        raise DataError("thoughts that never end, and no answer")
    if split.answer == text.strip():
        return text
    notes[note] += 1
    return split.answer


def _reference(row: Row, style: str, rng: random.Random, account: Account) -> Iterator[Row]:
    for number, edit in enumerate(reference_edits(row, style, rng)):
        account.read += 1
        if edit.objectives:
            account.used += 1
            yield as_row(edit, f"{row.id}/{number}")
        else:
            account.refuse("no objective to name: the reference writes it with an empty list", row.id)
