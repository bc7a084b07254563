"""Do two aligners differ? Two reports over the same answers, row by row, judge by judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import UsageError
from .report import ALIGNED, ANSWER, GOLDEN, Interval, Judge, Report, Verdict, read_report, read_verdicts
from .stats import difference, holm, share
from .summary import SCORES

TEST = (
    "paired permutation test: the signs of whole queries are flipped, two-sided; "
    "p as it is and after Holm over all comparisons here"
)


@dataclass(frozen=True, slots=True)
class Contrast:
    """Two aligners on one objective, by one judge, against one reference: rates (a tie is half), their difference."""

    judge: str
    objective: str
    reference: str
    first: Interval
    second: Interval
    difference: Interval  # first minus second, paired; p and p_holm stand here

    @property
    def differ(self) -> bool:
        """Whether they differ at the 5 % level, all comparisons in mind."""
        return self.difference.p_holm is not None and self.difference.p_holm <= 0.05


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two reports have in common, and what came of it."""

    first: str
    second: str
    test: str
    rows: tuple[int, int, int]  # of the first alone, of both, of the second alone
    contrasts: tuple[Contrast, ...]
    notes: tuple[str, ...]


def compare(one: Path, other: Path) -> Comparison:
    """Compare the edits of two reports, where both judged the same row by the same judge.

    Raises UsageError if there is nothing in common, and what reading the reports raises.
    """
    reports = read_report(one), read_report(other)
    notes: list[str] = []
    shared = _same_judges(reports, notes, (one, other))
    sides = [_edits(path, report) for path, report in zip((one, other), reports, strict=True)]
    rows = [{row for _, _, _, row in side} for side in sides]
    common = rows[0] & rows[1]
    if not common:
        raise UsageError(f"{one} and {other} have no row in common: compare two aligners on the same answers")
    if apart := len(rows[0] ^ rows[1]):
        notes.append(f"{apart:,} rows are in one of the reports alone, and left out")
    found: list[Contrast] = []
    names = dict.fromkeys(key[:3] for key in sides[0] if key in sides[1])
    for judge, objective, reference in names:
        if judge not in shared:
            continue
        pairs = [
            (sides[0][key], sides[1][key])
            for row in sorted(common)
            if (key := (judge, objective, reference, row)) in sides[0] and key in sides[1]
        ]
        clear = [(a, b) for a, b in pairs if a.outcome in SCORES and b.outcome in SCORES]
        first, second = (share((pair[i].query, SCORES[pair[i].outcome]) for pair in clear) for i in (0, 1))
        net = difference((a.query, SCORES[a.outcome] - SCORES[b.outcome]) for a, b in clear)
        if first and second and net:
            found.append(Contrast(judge, objective, reference, first, second, net))
    if not found:
        raise UsageError(
            f"{one} and {other} have rows in common, but no verdict of the same judge on the same objective"
        )
    adjusted = holm([contrast.difference.p or 0.0 for contrast in found])
    contrasts = tuple(
        replace(contrast, difference=replace(contrast.difference, p_holm=p))
        for contrast, p in zip(found, adjusted, strict=True)
    )
    counts = (len(rows[0] - common), len(common), len(rows[1] - common))
    return Comparison(str(one), str(other), TEST, counts, contrasts, tuple(notes))


def _same_judges(reports: Sequence[Report], notes: list[str], paths: Sequence[Path]) -> set[str]:
    """The names of judges that are the same in both; a judge of the same name that changed is none."""
    known = [{judge.name: judge for judge in report.judges} for report in reports]
    same = set()
    for name in known[0].keys() & known[1].keys():
        if _identity(known[0][name]) == _identity(known[1][name]):
            same.add(name)
        else:
            notes.append(f"the judge {name} is not the same in both reports (file or prompt), and left out")
    for report, others, path in zip(known, reversed(known), paths, strict=True):
        if alone := sorted(report.keys() - others.keys()):
            notes.append(f"only in {path.name}: judged by {', '.join(alone)}")
    return same


def _identity(judge: Judge) -> tuple[str, str, str]:
    return judge.fingerprint, judge.template, judge.reads


def _edits(path: Path, report: Report) -> dict[tuple[str, str, str, str], Verdict]:
    return {
        (v.judge, v.objective, v.reference, v.row): v
        for v in read_verdicts(path)
        if v.variant == ALIGNED and v.reference in (GOLDEN, ANSWER)
    }
