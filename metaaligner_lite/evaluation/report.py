"""What an evaluation found, as plain records: the JSON of `mal eval`, and the two files of lines beside it.

    NAME.json             one Report
    NAME.verdicts.jsonl   a Verdict per row, judge, objective, variant and reference
    NAME.rows.jsonl       a RowRecord per row: the query, every variant's text

Shares and differences of shares are between 0 and 1 (-1 and 1); a point of the paper's is a hundredth. Intervals are
of 95 %, clustered by query. A field that could not be told is null, never 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from ..errors import DataError, FileProblem, UsageError
from ..files import read_text, write_whole, written_whole
from ..records import json_line

FORM = 1  # of these files
ALL = "*"  # as a policy or a request: all of them together

ALIGNED, UNALIGNED, TIDIED = "aligned", "unaligned", "tidied"
PROMPT_ONLY, EQUAL, GATED, UNGATED = "prompt only", "equal mode", "with the gate", "without the gate"
GOLDEN, ANSWER = "golden", "answer"  # references: the data set's answer, the policy's own
OUTCOMES = ("win", "tie", "lose", "unparsed", "failed")


@dataclass(frozen=True, slots=True)
class Interval:
    """A share, a mean or a paired difference, with its 95 % interval."""

    value: float
    low: float | None  # null where one query alone tells nothing of the spread
    high: float | None
    n: int  # pairs behind it
    queries: int  # clusters: answers to one query stand and fall together
    p: float | None = None  # of "no difference", by flipping the signs of whole queries; only of differences
    p_holm: float | None = None  # after Holm, over one judge's comparisons of one variant; asked for and not are apart


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the pairs of a cell; the first five add up to all of them."""

    win: int = 0
    tie: int = 0
    lose: int = 0
    unparsed: int = 0  # the judge said something that is no verdict, in at least one order
    failed: int = 0  # the judge could not be asked, in at least one order
    identical: int = 0  # of the ties: the texts are the same, and nobody was asked
    disagreed: int = 0  # of the ties: the two orders contradict each other

    @property
    def n(self) -> int:
        """Pairs with a verdict."""
        return self.win + self.tie + self.lose


@dataclass(frozen=True, slots=True)
class Cell:
    """One variant against one reference, on one objective, by one judge.

    Reports hold cells of each policy with all requests, of all policies together (policy "*"), and, where rows asked
    for different things, of each request with all policies.
    """

    policy: str  # or "*"
    request: str  # names joined by commas, as the rows asked for them; or "*"
    judge: str  # Judge.name
    objective: str
    asked: bool  # whether every row behind it asked for this objective; never of an objective measured for the tax
    variant: str  # Variant.name
    reference: str  # "golden" or "answer"
    counts: Counts
    wins: Interval | None  # share of wins: the tie rule of the paper's Algorithm 2
    wins_and_ties: Interval | None  # share of wins and ties: the tie rule of its code
    halves: Interval | None  # share of wins, a tie counted as half
    net: Interval | None  # share of wins minus share of losses, with p
    length_controlled: Interval | None = None  # `halves` as it would be at equal length; null for brevity and length


@dataclass(frozen=True, slots=True)
class Gain:
    """What a variant gained over the unaligned answers, both against the golden ones: the paper's Table 2.

    Paired row by row; only rows with a verdict on both count.
    """

    policy: str  # or "*"
    judge: str
    objective: str
    asked: bool
    variant: str
    wins: Interval  # by Algorithm 2, ties not counted; p and p_holm stand here
    wins_and_ties: Interval  # by the paper's code


@dataclass(frozen=True, slots=True)
class Tax:
    """What a request did to an objective, asked for or not: an entry of the alignment-tax matrix."""

    request: str
    objective: str
    asked: bool
    judge: str
    net: Interval  # wins minus losses of "aligned" against the policy's answers


@dataclass(frozen=True, slots=True)
class Quality:
    """What a variant's texts are like, whatever the objectives. Shares of `n` rows."""

    policy: str  # or "*"
    variant: str
    n: int
    unchanged: float  # word for word the answer
    copied: float  # mean share of the text that stands in the answer, in runs of three words
    length_ratio: float | None  # words of the text over words of the answer, median
    empty: float
    loops: float
    run_ons: float  # goes on into an invented turn
    tokens: float | None = None  # mean tokens that writing it took, on top of the answer's own
    seconds: float | None = None  # mean seconds that it took, likewise
    failed: int = 0  # edits that failed: there the text is the answer
    meaning: float | None = None  # median cosine to the answer (MiniLM), null where it was not asked for
    meaning_lost: float | None = None  # share below 0.75: the text says something else


@dataclass(frozen=True, slots=True)
class Position:
    """How often a judge went by position: over pairs with a verdict in both orders, texts that differ."""

    pairs: int
    agreed: int  # the same text, or a tie, in both orders
    first: int  # whichever stood first, both times
    second: int  # whichever stood second, both times
    mixed: int  # a tie in one order, a text in the other

    @property
    def share_first(self) -> float | None:
        """The share of pairs in which the first place won twice."""
        return self.first / self.pairs if self.pairs else None

    @property
    def share_second(self) -> float | None:
        """The share of pairs in which the second place won twice."""
        return self.second / self.pairs if self.pairs else None


@dataclass(frozen=True, slots=True)
class Rerun:
    """A share of the verdicts, asked again."""

    asked: int
    agreed: int


@dataclass(frozen=True, slots=True)
class Meta:
    """A judge against people's votes, on one set or a part of it."""

    set: str
    part: str  # "*": all of the set
    n: int  # pairs asked
    counts: Counts  # of the answer that people preferred against the other; pairs that people tied are left out
    accuracy: Interval | None  # a judge's tie is half right; 0.5 is chance
    kappa: float | None  # Cohen's, over first, second and tie, pairs without a verdict left out
    position: Position
    at_chance: bool | None  # whether the interval of the accuracy reaches down to 0.5; null without verdicts


@dataclass(frozen=True, slots=True)
class Judge:
    """Who judged, how, and how far to be trusted."""

    name: str
    kind: str  # "gguf", "server", "reward", "rules" or "likelihood"
    fingerprint: str  # of the file, or the model's name on its server; another one is another judge
    prompt: str  # the name of its prompt, "" if it has none
    template: str  # its exact text
    reads: str  # how a verdict is read, in words
    objectives: tuple[str, ...] | None  # those it can judge; null: any
    wanted: int = 0  # judgements that the report needs; a pair takes two of a judge that goes by position
    asked: int = 0  # of those, asked in this run
    kept: int = 0  # of those, kept from an earlier one
    unparsed: int = 0
    failed: int = 0
    seconds: float = 0.0  # of the asking in this run
    on_answers: float | None = None  # mean probability that it gives to its answer tokens; near 0: it never would
    position: Position | None = None
    rerun: Rerun | None = None
    meta: tuple[Meta, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Variant:
    """A way from an answer to a text."""

    name: str
    what: str  # in words
    made_by: str  # the model, the file, or "" for a rule
    rows: int  # that have such a text


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A baseline that could not be had, and what would bring it."""

    name: str
    why: str
    how: str


@dataclass(frozen=True, slots=True)
class Source:
    """A file of rows."""

    path: str
    digest: str
    rows: int
    used: int
    refused: dict[str, int]  # reason -> rows


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many of the pairs that should be judged have a verdict."""

    wanted: int
    judged: int

    @property
    def share(self) -> float:
        """The share of them, 1 of nothing."""
        return self.judged / self.wanted if self.wanted else 1.0


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that an evaluation found, without the texts."""

    form: int
    version: str  # of this program
    made: str  # date and time, ISO 8601, UTC
    settings: dict[str, Any]  # limit, seed, tie rule and the like
    sources: tuple[Source, ...]
    rows: int  # that were judged
    policies: tuple[str, ...]
    requests: tuple[str, ...]
    objectives: dict[str, str]  # name -> description, of all that were judged
    variants: tuple[Variant, ...]
    left_out: tuple[LeftOut, ...]
    judges: tuple[Judge, ...]
    cells: tuple[Cell, ...]
    gains: tuple[Gain, ...]
    tax: tuple[Tax, ...]
    quality: tuple[Quality, ...]
    coverage: Coverage
    notes: tuple[str, ...]  # what a reader has to know, most important first
    files: dict[str, str] = field(default_factory=dict)  # "verdicts", "rows" -> names beside the report


@dataclass(frozen=True, slots=True)
class Asked:
    """What a judge said of a pair in one order."""

    order: int  # 1: the variant's text stood first; 2: the reference did; 0: no order, texts were scored
    verdict: str  # "first", "second", "tie", "unparsed" or "failed"
    raw: str = ""  # what it wrote, or the probabilities or scores that were read
    error: str = ""
    seconds: float = 0.0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """One text against another, in both orders."""

    row: str  # RowRecord.key
    policy: str
    query: str  # a short name of the query: the cluster
    request: str
    judge: str
    objective: str
    variant: str
    reference: str
    outcome: str  # one of OUTCOMES, as the variant sees it
    identical: bool = False
    orders: tuple[Asked, ...] = ()


@dataclass(frozen=True, slots=True)
class RowRecord:
    """One row: its texts."""

    key: str
    source: str
    place: str  # in that file
    policy: str
    query: str
    request: str
    texts: dict[str, str]  # Variant.name -> text; "unaligned" is the policy's answer
    golden: str | None = None
    outcome: str = ""  # what `mal batch` said became of it


# --- to and from JSON ---

_T = TypeVar("_T")


def plain(value: Any) -> Any:
    """A record as JSON has it."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def record_of(kind: type[_T], raw: Any) -> _T:
    """A record of plain values. Raises DataError for values that are none; fields of a later form are passed over."""
    try:
        return cast(_T, _read(kind, raw))
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(f"this is no {kind.__name__.lower()} of `mal eval`: {error}") from error


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _read(kind: Any, raw: Any) -> Any:
    if is_dataclass(kind):
        if not isinstance(raw, dict):
            raise TypeError(f"expected an object, found {type(raw).__name__}")
        hints = _hints(cast(Any, kind))
        known = {f.name: _read(hints[f.name], raw[f.name]) for f in fields(kind) if f.name in raw}
        return cast(type[Any], kind)(**known)
    origin, args = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if raw is None else _read(next(one for one in args if one is not NoneType), raw)
    if origin is tuple:
        return tuple(_read(args[0], item) for item in raw)
    if origin is dict:
        return {name: _read(args[1], item) for name, item in raw.items()}
    if kind is float and isinstance(raw, int) and not isinstance(raw, bool):
        return float(raw)
    if kind is not Any and not isinstance(raw, kind):
        raise TypeError(f"expected {kind.__name__}, found {type(raw).__name__}")
    return raw


def beside(path: Path, what: str) -> Path:
    """The file of lines (`verdicts` or `rows`) or the store (`kept`) that belongs to a report."""
    return path.with_name(f"{path.name.removesuffix('.json')}.{what}.jsonl")


def write_report(path: Path, report: Report, verdicts: Iterable[Verdict], rows: Iterable[RowRecord]) -> None:
    """Write a report and the lines beside it, each whole. Raises FileProblem if it cannot be."""
    try:
        for what, lines in (("verdicts", verdicts), ("rows", rows)):
            with written_whole(beside(path, what)) as file:
                for line in lines:
                    file.write(json_line(plain(line)))
        write_whole(path, json.dumps(plain(report), ensure_ascii=False, indent=1) + "\n")
    except OSError as error:
        raise FileProblem(f"cannot write {path}: {error.strerror or error}") from error


def read_report(path: Path) -> Report:
    """A report as it was written. Raises FileProblem, DataError for a file that is none."""
    try:
        raw = json.loads(read_text(path, "the report"))
    except ValueError as error:
        raise DataError(f"{path} is no report of `mal eval`: not JSON ({error})") from error
    if not is_report(raw):
        raise DataError(f"{path} is no report of `mal eval`, but other JSON")
    if raw["form"] != FORM:
        raise UsageError(f"{path} was written by another version of this program; evaluate again")
    try:
        return record_of(Report, raw)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def is_report(raw: Any) -> bool:
    """Whether a JSON document is a report, of whatever form."""
    return isinstance(raw, Mapping) and "form" in raw and "cells" in raw and "judges" in raw


def read_verdicts(path: Path) -> Iterator[Verdict]:
    """The verdicts beside a report. Raises as `read_rows_of`."""
    return _lines(beside(path, "verdicts"), Verdict)


def read_rows_of(path: Path) -> Iterator[RowRecord]:
    """The rows beside a report. Raises FileProblem if they are not there, DataError for a line that is none."""
    return _lines(beside(path, "rows"), RowRecord)


def _lines(path: Path, kind: type[_T]) -> Iterator[_T]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield record_of(kind, json.loads(line))
                except ValueError as error:
                    raise DataError(f"{path}, line {number}: {error}") from error
    except OSError as error:
        if isinstance(error, FileProblem):
            raise
        raise FileProblem(f"cannot read {path}: {error.strerror or error}; it belongs beside the report") from error
