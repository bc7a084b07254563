"""`mal data build` and `mal data show`: data sets of many forms become rows, every record accounted for."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, islice
from pathlib import Path

from metaaligner_lite.errors import DataError, FileProblem, UsageError
from metaaligner_lite.objectives import Objective
from metaaligner_lite.records import Account, read_records

from . import formats
from .formats import Mapped
from .reference import ULTRAFEEDBACK, as_row, comparable, reference_edits
from .reformulate import signs
from .rows import Answer, Row, check, check_texts, to_json
from .scorers import Scorer, rate

Rate = Callable[[Sequence[Row]], Sequence[Row]]  # many rows at once: reward models work in batches
_BATCH = 256
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
    reference: Account | None = None  # of the edits, if the reference code's choices were asked for

    def lines(self) -> list[str]:
        """What became of everything, in words."""
        found = [*self.account.lines(), *self.parts.reasons(), *(self.reference.lines() if self.reference else ())]
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
) -> Built:
    """Write the rows of `sources` to the JSONL file `out`, counting every record.

    `reference` ("hh-rlhf" or "ultrafeedback") reproduces the reference code's choices. Raises DataError at the
    first unusable record if `strict`, or if none is usable; FileProblem and UsageError as their names say.
    """
    if out.exists() and not force:
        raise FileProblem(f"{out} exists already; name another --out, or replace it with --force")
    if form != "auto" and form not in formats.FORMATS:
        raise UsageError(f"unknown format {form!r}; expected auto, {', '.join(formats.FORMATS)}")
    built = Built(out, missing=set(mapped.columns.values()))
    if reference:
        built.reference = Account(noun="edits as the reference makes them")
        mapped = replace(mapped, marked=reference == "hh-rlhf")
    rng = random.Random(seed)
    beside = out.with_name(out.name + ".part")
    try:
        with beside.open("w", encoding="utf-8") as file:
            drafts = _drafts(sources, mapped, form, built)
            for row in _rated(drafts, scorers, rewards, mapped, built, strict, limit, reference):
                for final in _reference(row, reference, rng, built.reference) if built.reference else [row]:
                    file.write(json.dumps(to_json(final, catalogue), ensure_ascii=False) + "\n")
                    built.rows += 1
                built.objectives.update(dict.fromkeys(o.name for answer in row.answers for o in answer.ratings).keys())
        if not built.rows:
            advice = "" if scorers or rewards or mapped.objectives else _RATE_THEM
            raise DataError(f"no usable record in {', '.join(map(str, sources))}. {'; '.join(built.lines())}{advice}")
        beside.replace(out)
    except OSError as error:
        raise error if isinstance(error, FileProblem) else FileProblem(f"cannot write {out}: {error}") from error
    finally:
        beside.unlink(missing_ok=True)
    return built


def summarize(rows: Iterable[Row]) -> dict[str, object]:
    """What is in rows: counts of rows, answers, pairs and edits, and the signs per objective."""
    counts: Counter[str] = Counter()
    per_objective: dict[str, Counter[str]] = {}
    for row in rows:
        counts["rows"] += 1
        counts["answers"] += len(row.answers)
        for first, second in combinations(row.answers, 2):
            found = signs(first, second)
            counts["pairs"] += 1
            counts["improving edits"] += (1 in found.values()) + (-1 in found.values())
            counts["equal edits"] += 0 in found.values()
            for objective, sign in found.items():
                per_objective.setdefault(objective.name, Counter())["=" if not sign else "<>"[sign > 0]] += 1
    return {**counts, "signs": {name: dict(found) for name, found in sorted(per_objective.items())}}


def _drafts(sources: Sequence[Path], mapped: Mapped, form: str, built: Built) -> Iterator[_Draft]:
    for path in sources:
        known = form
        table: dict[str, list[tuple[str, Answer]]] = {}
        unknown: UsageError | None = None
        for place, record in read_records(path):
            built.account.read += 1
            where = f"{path.name}, {place}"
            if isinstance(record, DataError):
                yield _Draft(where, record)
                continue
            built.missing -= record.keys()
            record = mapped.renamed(record)
            try:
                if known == "auto":
                    known = formats.detect(record, mapped)
                if known in formats.TABLES:
                    built.unread |= mapped.unread(record)
                found = list(formats.FORMATS[known](record, mapped))
            except UsageError as error:
                if known != "auto":
                    raise UsageError(f"{where}: {error}; or describe it in a file for --objectives-file") from error
                unknown = unknown or error
                yield _Draft(where, DataError("its form is not known by its keys"))
                continue
            except DataError as error:
                yield _Draft(where, error)
                continue
            built.forms.setdefault(str(path), known)
            for row in found:
                if isinstance(row, DataError):
                    yield _Draft(where, row, records=0)
                elif known == "ratings":
                    table.setdefault(row.query, []).append((where, row.answers[0]))
                else:
                    id_ = row.id or f"{path.stem}:{place.split()[-1]}"
                    yield _Draft(where, Row(id_, row.query, row.answers))
        for number, (query, answers) in enumerate(table.items(), 1):
            row = Row(f"{path.stem}:{number}", query, tuple(answer for _, answer in answers))
            yield _Draft(answers[0][0], row, len(answers))
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
) -> Iterator[Row]:
    """The usable rows with all their ratings, `limit` at most; the others are counted, or raised if `strict`."""
    made, account = 0, built.account
    while batch := [_readable(d) for d in islice(drafts, min(_BATCH, limit - made) if limit else _BATCH)]:
        rated = iter(
            [rate(draft.row, scorers, mapped.names) for draft in batch if not isinstance(draft.row, DataError)]
        )
        if rewards is not None:
            rated = iter(rewards(list(rated)))
        for draft in batch:
            try:
                if isinstance(draft.row, DataError):
                    raise draft.row
                usable = check(next(rated))
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


def _readable(draft: _Draft) -> _Draft:
    """The draft, or why its texts are nothing to rate: no model is asked about those."""
    try:
        if isinstance(draft.row, Row):
            check_texts(draft.row)
    except DataError as error:
        return replace(draft, row=error)
    return draft


def _reference(row: Row, style: str, rng: random.Random, account: Account) -> Iterator[Row]:
    for number, edit in enumerate(reference_edits(row, style, rng)):
        account.read += 1
        if edit.objectives:
            account.used += 1
            yield as_row(edit, f"{row.id}/{number}")
        else:
            account.refuse("no objective to name: the reference writes it with an empty list", row.id)
