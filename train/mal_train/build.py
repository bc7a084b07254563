"""`mal data build` and `mal data show`: data sets of many forms become rows, every record accounted for."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice
from pathlib import Path

from metaaligner_lite.errors import DataError, FileProblem, UsageError
from metaaligner_lite.objectives import Objective

from . import formats
from .formats import Mapped
from .reference import as_row, reference_edits
from .reformulate import signs
from .rows import Account, Answer, Row, check, to_json
from .scorers import Scorer, rate
from .sources import read_records

Rate = Callable[[Sequence[Row]], Sequence[Row]]  # many rows at once: reward models work in batches
_BATCH = 256
_RATE_THEM = (
    ". If the data does not say on what one answer is better, name it with --objectives, or rate the answers with "
    "--score or --reward"
)


@dataclass(slots=True)
class Built:
    """What a build made: the rows' file, the account of the records and, for each source, the form it was taken for."""

    out: Path
    account: Account
    forms: dict[str, str] = field(default_factory=dict)
    objectives: Counter[str] = field(default_factory=Counter)  # answers rated


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
    built = Built(out, Account(noun="records"))
    rng = random.Random(seed)
    beside = out.with_name(out.name + ".part")
    try:
        with beside.open("w", encoding="utf-8") as file:
            drafts = _drafts(sources, mapped, form, built, strict)
            for row in islice(_rated(drafts, scorers, rewards, mapped, built, strict), limit or None):
                for final in _reference(row, reference, rng, built.account) if reference else [row]:
                    file.write(json.dumps(to_json(final, catalogue), ensure_ascii=False) + "\n")
                built.objectives.update({o.name for answer in row.answers for o in answer.ratings})
        if not built.account.used:
            advice = "" if scorers or rewards or mapped.objectives else _RATE_THEM
            raise DataError(
                f"no usable record in {', '.join(map(str, sources))}. {'; '.join(built.account.lines())}{advice}"
            )
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


def _drafts(
    sources: Sequence[Path], mapped: Mapped, form: str, built: Built, strict: bool
) -> Iterator[tuple[str, Row | DataError]]:
    """Each row that a record becomes, not rated by us yet, or why it becomes none."""
    for path in sources:
        known = form
        table: dict[str, list[tuple[str, Answer]]] = {}
        for place, record in read_records(path):
            built.account.read += 1
            where = f"{path.name}, {place}"
            if isinstance(record, DataError):
                yield where, record
                continue
            if known == "auto":
                known = formats.detect(record, mapped)
            built.forms.setdefault(str(path), known)
            try:
                found = list(formats.FORMATS[known](record, mapped))
            except DataError as error:
                yield where, error
                continue
            for row in found:
                if known == "ratings":
                    table.setdefault(row.query, []).append((where, row.answers[0]))
                else:
                    id_ = row.id or f"{path.stem}:{place.split()[-1]}"
                    yield where, Row(id_, row.query, row.answers)
        for number, (query, answers) in enumerate(table.items(), 1):
            # A table's records are its answers: the row is counted as one, the others are part of it.
            built.account.read -= len(answers) - 1
            yield answers[0][0], Row(f"{path.stem}:{number}", query, tuple(answer for _, answer in answers))


def _rated(
    drafts: Iterator[tuple[str, Row | DataError]],
    scorers: Sequence[Scorer],
    rewards: Rate | None,
    mapped: Mapped,
    built: Built,
    strict: bool,
) -> Iterator[Row]:
    """The usable rows with all their ratings; the others are counted, or raised if `strict`."""
    while batch := list(islice(drafts, _BATCH)):
        rows = [(where, rate(d, scorers, mapped.names) if isinstance(d, Row) else d) for where, d in batch]
        if rewards is not None:
            scored = iter(rewards([row for _, row in rows if isinstance(row, Row)]))
            rows = [(where, next(scored) if isinstance(row, Row) else row) for where, row in rows]
        for where, row in rows:
            try:
                if isinstance(row, DataError):
                    raise row
                usable = check(row)
            except DataError as error:
                if strict:
                    raise DataError(f"{where}: {error}") from error
                built.account.refuse(str(error), where)
            else:
                built.account.used += 1
                yield usable


def _reference(row: Row, style: str, rng: random.Random, account: Account) -> Iterator[Row]:
    for number, edit in enumerate(reference_edits(row, style, rng)):
        if edit.objectives:
            yield as_row(edit, f"{row.id}/{number}")
        else:
            account.refuse(
                "an edit without any objective, as the reference writes them (an edit, not a record)", row.id
            )
