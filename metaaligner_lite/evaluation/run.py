"""The whole of an evaluation: items and judges in, a report out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import DataError, FileProblem, MalError, UsageError
from ..objectives import Objective
from .judges import Judge
from .meta import Vote, judge_votes, warnings_of
from .protocol import Item, Progress, judge_pairs, pairs_of
from .report import (
    ALIGNED,
    FORM,
    Coverage,
    LeftOut,
    Meta,
    Report,
    RowRecord,
    Source,
    Variant,
    Verdict,
    beside,
    read_report,
    write_report,
)
from .report import Judge as Told
from .summary import LOST, cells_of, coverage_of, gains_of, quality_of, tax_of
from .verdicts import Kept

_LITTLE = 0.5  # of its probability on the answers; below, a judge would have said something else
_MUCH = 0.05  # of the edits
_BIASED = 0.5  # of the pairs in which one place won twice


@dataclass(slots=True)
class Evaluation:
    """What is to be judged, and what is known of it beforehand.

    `measured` objectives are judged of every item; `taxes` only by rules, which cost nothing. `suspects` says why a
    judge is no stranger to what it judges, by its name; `meaning` tells how much two texts mean the same.
    """

    items: Sequence[Item]
    sources: Sequence[Source]
    measured: Sequence[Objective]
    taxes: Sequence[Objective] = ()
    variants: Sequence[Variant] = ()
    left_out: Sequence[LeftOut] = ()
    failed: Mapping[str, int] = field(default_factory=dict)  # variant -> edits that failed
    votes: Sequence[Vote] = ()
    suspects: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    rerun_share: float = 0.0
    seed: int = 0
    meaning: Callable[[str, str], float] | None = None


def evaluate(
    work: Evaluation, judges: Iterable[Callable[[], Judge]], kept: Kept, progress: Progress = lambda *_: None
) -> tuple[Report, list[Verdict]]:
    """Judge everything. Each judge is made when it is its turn: two models need not be in memory at once.

    Raises what opening a judge raises; a judgement that cannot be had is counted, and stops nothing.
    """
    items = {item.key: item for item in work.items}
    names = [variant.name for variant in work.variants]
    told: list[Told] = []
    verdicts: list[Verdict] = []
    taken: set[str] = set()
    for make in judges:
        judge = make()
        suspicions = tuple(work.suspects.get(judge.told.name, ()))
        judge.told = _told_apart(judge.told, told)
        objectives = [*work.measured, *(work.taxes if judge.told.kind == "rules" else ())]
        pairs = pairs_of(work.items, objectives, names)
        judged = judge_pairs(judge, pairs, kept, progress, rerun_share=work.rerun_share, seed=work.seed)
        known, metas = judged.told, tuple[Meta, ...]()
        if work.votes and known.kind not in ("rules", "likelihood"):  # votes are on quality; and began from no answer
            asked, metas = judge_votes(judge, work.votes, kept, progress)
            known = known if work.items else asked
        taken |= {verdict.objective for verdict in judged.verdicts}
        taken |= {objective.name for objective in objectives if judge.told.objectives is None}
        known = replace(known, meta=metas)
        told.append(replace(known, warnings=(*suspicions, *warnings_of(known, metas), *_warnings(known))))
        verdicts += judged.verdicts
    asked_for = {objective.name for item in work.items for objective in item.requested}
    missing = [objective for objective in work.measured if objective.name not in taken]
    unjudged = len(pairs_of(work.items, missing, names))
    notes = [warning for judge in told for warning in judge.warnings]
    if missing and work.items:
        listed = ", ".join(objective.name for objective in missing)
        notes.append(f"not judged: {listed}; no judge that was given takes it (a model judges any: `judge`)")
    quality = quality_of(work.items, names, work.failed, work.meaning) if items else []
    lost = next((one.meaning_lost for one in quality if (one.variant, one.n) == (ALIGNED, len(items))), None)
    if lost and lost >= _MUCH:
        notes.append(
            f"{100 * lost:.0f} % of the edits no longer mean what the answer meant (cosine below {LOST}): where they "
            "win, they may win for that"
        )
    sentences = {o.name: o.description for o in [*work.measured, *work.taxes]}
    report = Report(
        FORM,
        __version__,
        datetime.now(UTC).isoformat(timespec="seconds"),
        dict(work.settings),
        tuple(work.sources),
        len(items),
        tuple(dict.fromkeys(item.policy for item in work.items)),
        tuple(dict.fromkeys(item.request for item in work.items)),
        {name: text for name, text in sentences.items() if name in taken or name in asked_for},
        tuple(work.variants),
        tuple(work.left_out),
        tuple(told),
        tuple(cells_of(verdicts, items)) if verdicts else (),
        tuple(gains_of(verdicts, items)),
        tuple(tax_of(verdicts)),
        tuple(quality),
        _coverage(verdicts, unjudged, told, bool(work.items)),
        (*notes, *work.notes),
    )
    return report, verdicts


def _told_apart(judge: Told, before: Sequence[Told]) -> Told:
    """A judge under a name that no other has. Raises UsageError for one that was given twice."""
    same = (judge.fingerprint, judge.reads, judge.objectives)
    if any((other.fingerprint, other.reads, other.objectives) == same for other in before):
        raise UsageError(f"the judge {judge.name} was given twice; leave one out")
    named = judge.name
    if any(other.name == named for other in before):
        named = f"{named} ({judge.fingerprint.split()[-1][:8]})"
    return replace(judge, name=named)


def _coverage(verdicts: Sequence[Verdict], unjudged: int, judges: Sequence[Told], rows: bool) -> Coverage:
    """Of the rows, if there are any, else of people's votes."""
    if rows:
        return coverage_of(verdicts, unjudged)
    metas = [meta for judge in judges for meta in judge.meta if meta.part == "*"]
    lost = sum(meta.counts.unparsed + meta.counts.failed for meta in metas)
    whole = sum(meta.n for meta in metas)
    return Coverage(whole, whole - lost)


def _warnings(told: Told) -> list[str]:
    found = []
    place = told.position
    if place and place.pairs >= 10:
        for name, count in (("first", place.first), ("second", place.second)):
            if count / place.pairs >= _BIASED:
                found.append(
                    f"{told.name} goes by position: in {100 * count / place.pairs:.0f} % of {place.pairs:,} pairs it "
                    f"chose whatever stood {name}, in both orders; those are ties"
                )
    if told.on_answers is not None and told.on_answers < _LITTLE:
        found.append(
            f"{told.name} gives its answers 1, 2 and 0 only {100 * told.on_answers:.0f} % of its probability: left "
            "alone it would say something else"
        )
    if told.kind == "likelihood":
        found.append(f"{told.name} is the model under test: it tells what the aligner prefers, not what is better")
    return found


def row_records(items: Iterable[Item]) -> Iterable[RowRecord]:
    """The items as the report keeps them."""
    for item in items:
        yield RowRecord(
            item.key,
            item.source,
            item.place,
            item.policy,
            item.asked,
            item.request,
            dict(item.texts),
            item.golden,
            item.outcome,
        )


def check_out(out: Path, sources: Sequence[Path], *, force: bool) -> None:
    """Raise UsageError or FileProblem if a report cannot go there, or would replace something else.

    A report on the same files is replaced: that is how a run goes on.
    """
    if out.suffix != ".json":
        raise UsageError(f"{out}: a report is JSON; name a file that ends in .json with `out`")
    if not out.parent.is_dir():
        raise FileProblem(f"cannot write {out}: there is no folder {out.parent}")
    if any(out.resolve() == path.resolve() for path in sources):
        raise UsageError(f"{out} is to be read and written; name another file with `out`")
    if not out.exists() or force:
        return
    try:
        before = read_report(out)
    except MalError as error:
        raise FileProblem(f"{out} is there already, and {_short(error)}; name another file with `out`") from error
    if [source.path for source in before.sources] != [str(path) for path in sources]:
        held = ", ".join(source.path for source in before.sources) or "people's votes alone"
        raise FileProblem(f"{out} is a report on other rows ({held}); name another file with `out`, or `force`")


def _short(error: Exception) -> str:
    return "no report" if isinstance(error, DataError) else "of another version"


def save(out: Path, report: Report, verdicts: Sequence[Verdict], items: Sequence[Item]) -> Report:
    """Write a report and what belongs to it; the report, with the names of its files."""
    files = {what: beside(out, what).name for what in ("verdicts", "rows")}
    named = replace(report, files=files)
    write_report(out, named, verdicts, row_records(items))
    return named
