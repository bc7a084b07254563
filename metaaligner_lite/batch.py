"""Align the rows of a file: many at once, each kept as soon as it is done, the output written whole at the end.

The file is read three times, and never held: to know what waits, to do it, and to write the output in its order.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .align import Correction
from .aligners import EndpointAligner, GgufAligner
from .best import best_of
from .errors import DataError, FileProblem, MalError, UsageError
from .files import written_whole
from .gate import OPEN, Gate
from .gguf_file import read_header, sampled_digest
from .journal import Journal
from .many import Case, align_many
from .objectives import Objective
from .pieces import text_of
from .policies import EndpointPolicy, GgufPolicy, GivenAnswer
from .prompts import Message, chat_prompt, edit_prompt
from .records import SUFFIXES, WRITTEN, Fields, Record, kind_of, writing_records
from .rows import Columns, Reading, Row, is_request, read_rows

if TYPE_CHECKING:
    from .llama.engine import Engine
    from .pair import Pair

_WINDOW = 16  # times as many rows as are in flight are sorted together: neighbours share the beginnings of prompts
_REFERENCE = ("query", "goldens", "origin_responses", "aligned_responses")


@dataclass(frozen=True, slots=True)
class Job:
    """What a user wants done: which file, how its rows are read, and where the output goes.

    `in_flight` rows are written side by side, if that is faster (bench/batch.py). `retry` does rows again that failed
    in an earlier run; `start_over` sets aside what an earlier run left. `counts` adds what each row cost, which differs
    from run to run; `reference` writes the four columns of the paper's own code instead. With `best_of` the best of so
    many edits is taken (best.py). Where a server is asked, `concurrency` rows are at once.
    """

    source: Path
    out: Path
    reading: Reading = field(default_factory=Reading)
    rounds: int = 1
    gate: Gate | None = None
    in_flight: int = 1
    retry: bool = True
    start_over: bool = False
    counts: bool = True
    reference: bool = False
    best_of: int = 1
    concurrency: int = 1

    @property
    def journal(self) -> Path:
        """Where rows are kept until all are done."""
        return self.out.with_name(f"{self.out.name}.part")


@dataclass(slots=True)
class Survey:
    """What a first look at the file found."""

    rows: int = 0
    unanswered: int = 0
    requests: int = 0  # lines of OpenAI's batch format
    others: int = 0  # records of other forms
    fields: Fields = field(default_factory=Fields)
    notes: dict[str, None] = field(default_factory=dict)


@dataclass(slots=True)
class Tally:
    """What became of the rows so far: `kept` are from an earlier run, `errors` the failed ones by type."""

    rows: int = 0
    done: int = 0
    kept: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)  # type of error -> where it was met first, and its message
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        """Rows that failed."""
        return sum(self.errors.values())

    def count(self, place: str, result: Record) -> None:
        """Take note of one more row."""
        self.done += 1
        self.outcomes[result["outcome"]] += 1
        if error := result.get("error"):
            self.errors[error["type"]] += 1
            self.first.setdefault(error["type"], f"{place}: {error['message']}")

    def summary(self) -> dict[str, Any]:
        """The same as plain values."""
        here = self.done - self.kept
        return {
            "rows": self.rows,
            "kept": self.kept,
            "outcomes": dict(self.outcomes),
            "failed": self.failed,
            "errors": dict(self.errors),
            "first_errors": dict(self.first),
            "seconds": round(self.seconds, 3),
            "rows_per_second": round(here / self.seconds, 3) if self.seconds else 0.0,
        }


Progress = Callable[[Tally], None]


def survey(job: Job) -> Survey:
    """Look at every row once. Raises UsageError for paths that cannot be and a table that lacks a column."""
    _check_paths(job)
    found = Survey()
    table = kind_of(job.source) in {".csv", ".tsv", ".parquet"}
    for row in read_rows(job.source, job.reading):
        if table and not found.rows:
            _check_columns(row, job)
        found.rows += 1
        found.fields.observe(row.record)
        found.requests += is_request(row.record)
        found.others += bool(row.record) and not is_request(row.record)
        found.unanswered += row.case is not None and row.case.answer is None
        found.notes |= dict.fromkeys(row.notes)
    if not found.rows:
        raise DataError(f"{job.source} has no rows")
    if not job.reference and (hidden := [name for name in _columns(job) if name in found.fields.kinds]):
        found.notes[f"the output's own columns take the place of the source's: {', '.join(hidden)}"] = None
    return found


class Rows(Protocol):
    """What does rows, as `align_rows` does; `on_done` gets each with its result, on the caller's thread."""

    def __call__(
        self, rows: Iterator[Row], pair: Pair, job: Job, *, shared: bool, on_done: Callable[[Row, Record], None]
    ) -> None:
        """`shared`: some rows are answered first."""


def run(job: Job, found: Survey, pair: Pair, progress: Progress = lambda _: None, do: Rows | None = None) -> Tally:
    """Do what is not done yet, write the output. Rows that fail are counted and told, and stop nothing.

    `do` does rows elsewhere (ray_engine.py), with pairs like this one.

    Raises UsageError if an earlier run had other settings, FileProblem if the disk takes no more.
    """
    best_of(pair.aligner, job.best_of)  # what cannot be is told before a row is done
    tally = Tally(found.rows)
    began = time.monotonic()
    with Journal(job.journal, settings(job, found, pair), start_over=job.start_over) as journal:

        def ended(row: Row, result: Record) -> None:
            if row.case is not None:  # what cannot be read is no better in the journal
                journal.append(row.key, result)
            tally.count(row.place, result)
            tally.seconds = time.monotonic() - began
            progress(tally)

        waiting = _waiting(job, journal, tally, ended)
        (do or align_rows)(waiting, pair, job, shared=found.unanswered > 0, on_done=ended)
        _write(job, found, journal)
        tally.seconds = time.monotonic() - began
        journal.close(remove=not tally.failed)
    return tally


def align_rows(
    rows: Iterator[Row], pair: Pair, job: Job, *, shared: bool, on_done: Callable[[Row, Record], None]
) -> None:
    """Align rows with one pair of models; `on_done` gets each with its result. `shared`: some are answered first."""
    # What a model has just written is edited, or judged, from its own cache, if each text has a sequence of its own.
    again = _here(pair) and (job.gate or (shared and isinstance(pair.policy, GgufPolicy)))
    size = at_once(pair, job) * (1 if again else _WINDOW)  # a window ends with its slowest row
    while window := list(islice(rows, size)):
        window.sort(key=_beginning)
        undone = dict(enumerate(window))

        def ended(i: int, came: Correction | MalError, undone: dict[int, Row] = undone) -> None:
            on_done(undone.pop(i), result_of(came))

        try:
            align_many(_cases(window), on_done=ended, **_how(pair, job, job.in_flight))
        except FileProblem:
            raise
        except MalError:  # one row spoiled the batch: which one?
            for i, row in list(undone.items()):
                _align_alone(i, row, pair, job, ended)


def at_once(pair: Pair, job: Job) -> int:
    """How many rows are worked on at once: side by side on an engine here, or by servers."""
    return job.in_flight if _here(pair) else job.concurrency


def _here(pair: Pair) -> bool:
    return isinstance(pair.aligner, GgufAligner) and isinstance(pair.policy, GgufPolicy | GivenAnswer)


def _align_alone(i: int, row: Row, pair: Pair, job: Job, ended: Callable[[int, Correction | MalError], None]) -> None:
    came: list[Correction | MalError] = []
    try:
        align_many(_cases([row]), on_done=lambda _, it: came.append(it), **_how(pair, job, 1))
    except MalError as error:
        came = [error]
    ended(i, came[0])


def _how(pair: Pair, job: Job, in_flight: int) -> dict[str, Any]:
    return {
        "policy": pair.policy,
        "aligner": best_of(pair.aligner, job.best_of),
        "rounds": job.rounds,
        "gate": job.gate or (OPEN if job.best_of > 1 else None),
        "in_flight": in_flight,
        "concurrency": job.concurrency,
    }


def _cases(rows: Sequence[Row]) -> list[Case]:
    return [row.case for row in rows if row.case]


def _beginning(row: Row) -> tuple[Any, ...]:
    """Rows that begin alike stand together, so that the cache holds the beginning once."""
    assert row.case
    return [(turn.role, turn.content) for turn in row.case.history], row.case.query, row.case.answer or ""


def result_of(came: Correction | Exception) -> Record:
    """What is kept of a row: texts, outcome, the error with its type, what it cost."""
    if isinstance(came, Exception):
        return {"outcome": "failed", "error": {"type": type(came).__name__, "message": str(came)}}
    stages = [stage for stage in (came.answer.generation, *came.edits) if stage]
    counts = [stage.counts for stage in stages]
    error = {"type": _type_of(came), "message": came.failure} if came.failure else None
    changed = "unchanged" if came.text == came.answer.text else "aligned"
    return {
        "outcome": "failed" if error else changed,
        "error": error,
        "answer": came.answer.text,
        **({"reasoning": came.answer.reasoning} if came.answer.reasoning else {}),
        "text": came.text,
        "finish": came.edit.finish if came.edit else "",
        "preference": came.preference,
        "read": sum(one.read for one in counts),
        "reused": sum(one.reused for one in counts),
        "written": sum(one.written for one in counts),
        "seconds": round(sum(one.read_seconds + one.write_seconds for one in counts), 3),
    }


def _type_of(came: Correction) -> str:
    """The type of a correction's failure."""
    if came.error:
        return type(came.error).__name__
    if not came.answer.text.strip():
        return "EmptyAnswer"
    if came.edit and came.edit.finish in ("loop", "stopped"):
        return {"loop": "Loop", "stopped": "Stopped"}[came.edit.finish]
    return "EmptyEdit"


def settings(job: Job, found: Survey, pair: Pair) -> dict[str, Any]:
    """Everything that the texts follow from, but for the rows: by these names a changed run is refused."""
    aligner, policy = pair.aligner, pair.policy
    objectives = job.reading.objectives
    told: dict[str, Any] = {
        "objectives": {objective.name: objective.description for objective in objectives},
        "system text": job.reading.system,
        "rounds": job.rounds,
        "gate": asdict(job.gate) if job.gate else None,
        **({"best of": job.best_of} if job.best_of > 1 else {}),
        "layout": aligner.layout,
    }
    if isinstance(aligner, GgufAligner):
        sample = edit_prompt(
            aligner.layout, "query", "answer", objectives or _SAMPLE, aligner.template, known=aligner.known
        )
        told |= {
            "aligner": _file(aligner.engine.model.path),
            "adapter": _file(aligner.engine.adapter.header.path) if aligner.engine.adapter else None,
            "edit prompt": text_of(sample),
            "sampling": asdict(aligner.sampling),
            "max tokens": aligner.max_tokens,
            "context": aligner.engine.limit,
            "drafts": aligner.draft,
            "runs as": _runs_as(aligner.engine),
        }
    elif isinstance(aligner, EndpointAligner):
        told |= {"aligner": _served(aligner), "sampling": asdict(aligner.sampling), "max tokens": aligner.max_tokens}
        told["sampling that is sent"] = sorted(aligner.chosen)
    if found.unanswered and isinstance(policy, EndpointPolicy):
        told |= {"policy": _served(policy), "policy's sampling": asdict(policy.sampling)}
        told |= {"policy's max tokens": policy.max_tokens, "policy's sampling that is sent": sorted(policy.chosen)}
    if found.unanswered and isinstance(policy, GgufPolicy):
        told |= {
            "policy": _file(policy.engine.model.path),
            "policy's prompt": text_of(chat_prompt([Message("user", "query")], policy.template)),
            "policy's sampling": asdict(policy.sampling),
            "policy runs as": _runs_as(policy.engine),
        }
    return told


_SAMPLE = (Objective("name", "description"),)


def _runs_as(engine: Engine) -> list[str]:
    """What rounds differently: the type of the KV cache, a copy of the weights as F16, a GPU."""
    model = engine.model
    return [engine.kv, *(["F16"] if model.unpacked else []), *(["GPU"] if model.on_gpu else [])]


def _served(part: EndpointPolicy | EndpointAligner) -> str:
    return f"{part.endpoint.model} at {part.endpoint.server.name}"


def _file(path: Path) -> str:
    return f"{path.name} {sampled_digest(read_header(path)).hex()[:16]}"


def _waiting(job: Job, journal: Journal, tally: Tally, ended: Callable[[Row, Record], None]) -> Iterator[Row]:
    """The rows that are to be done; those that cannot be, or were before, are counted."""
    for row in read_rows(job.source, job.reading):
        if row.case is None:
            assert row.error
            ended(row, result_of(row.error))
        elif row.key in journal and not (job.retry and journal.failed(row.key)):
            tally.kept += 1
            tally.count(row.place, journal.read(row.key))
        else:
            yield row


def _write(job: Job, found: Survey, journal: Journal) -> None:
    """Write the output in the order of the source, through the disk, then under its name."""
    lines = kind_of(job.out) in {".jsonl", ".ndjson"} and not job.reference
    answers = lines and found.requests > 0 and not found.others
    fields = Fields()
    fields.kinds = dict.fromkeys(_REFERENCE, str) if job.reference else found.fields.kinds | _columns(job)
    like = job.source if kind_of(job.source) == kind_of(job.out) == ".parquet" else None
    try:
        beside = job.out.with_name(f"{job.out.name}.new")
        with written_whole(job.out, beside=beside) as file:
            with writing_records(job.out, file, fields, like) as write:
                for row in read_rows(job.source, job.reading):
                    result = result_of(row.error) if row.error else _result(row, journal, job)
                    if answers:
                        write(_response(row, result, job))
                    elif job.reference:
                        write(_referenced(row, result))
                    else:
                        write(row.record | _values(result, job, row.place))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if isinstance(error, MalError):
            raise
        raise FileProblem(
            f"cannot write {job.out}: {error.strerror or error}; what is done is kept in {job.journal.name}"
        ) from error


def _result(row: Row, journal: Journal, job: Job) -> Record:
    try:
        return journal.read(row.key)
    except KeyError:
        raise FileProblem(f"{job.source} was changed at {row.place} meanwhile; run the same again") from None


def _columns(job: Job) -> dict[str, type | None]:
    counts: dict[str, type | None] = {"tokens_read": int, "tokens_reused": int, "tokens_written": int, "seconds": float}
    names = ("weak_answer", "aligned_answer", "outcome", "error_type", "error")
    gated: dict[str, type | None] = {"preference": float} if job.gate or job.best_of > 1 else {}
    return dict.fromkeys(names, str) | gated | (counts if job.counts else {})


def _values(result: Record, job: Job, place: str) -> Record:
    error = result.get("error")
    told = {
        "weak_answer": result.get("answer"),
        "aligned_answer": result.get("text"),
        "outcome": result["outcome"],
        "error_type": error["type"] if error else None,
        "error": f"{place}: {error['message']}" if error else None,
    }
    if job.gate or job.best_of > 1:
        told["preference"] = result.get("preference")
    if job.counts:
        told |= {f"tokens_{name}": result.get(name, 0) for name in ("read", "reused", "written")}
        told["seconds"] = result.get("seconds", 0.0)
    return told


def _referenced(row: Row, result: Record) -> Record:
    return {
        "query": row.case.query if row.case else "",
        "goldens": row.record.get("goldens", ""),
        "origin_responses": result.get("answer", ""),
        "aligned_responses": result.get("text", ""),
    }


def _response(row: Row, result: Record, job: Job) -> Record:
    """A line of OpenAI's batch output. A failed row with a text has it, too, beside its error."""
    name, error = row.name or str(row.record.get("custom_id", "")), result.get("error")
    line: Record = {"id": f"batch_req_{row.key.hex() or name}", "custom_id": name, "response": None, "error": None}
    if error:
        line["error"] = {"code": error["type"], "message": f"{row.place}: {error['message']}"}
    if result.get("text"):
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": result["text"]},
            "finish_reason": "length" if result["finish"] == "length" else "stop",
        }
        prompt, written = result["read"] + result["reused"], result["written"]
        body: Record = {
            "id": f"chatcmpl-{row.key.hex()}",
            "object": "chat.completion",
            "model": row.record["body"].get("model", ""),
            "choices": [choice],
            "weak_answer": result["answer"],
            "outcome": result["outcome"],
        }
        if job.counts:
            body["usage"] = {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
        line["response"] = {"status_code": 200, "request_id": row.key.hex(), "body": body}
    return line


def _check_paths(job: Job) -> None:
    kind_of(job.source, SUFFIXES)
    kind_of(job.out, WRITTEN)
    for path in (job.out, job.journal):
        if path.resolve() == job.source.resolve() or (path.exists() and path.samefile(job.source)):
            raise UsageError(f"{job.source} is to be read and written; name another file for the output")
    if not job.out.parent.is_dir():
        raise FileProblem(f"cannot write {job.out}: there is no folder {job.out.parent}")
    if job.out.exists() and not job.journal.exists() and not job.start_over:
        raise FileProblem(f"{job.out} is there already; name another file, or `start_over` to replace it")


def _check_columns(row: Row, job: Job) -> None:
    """Columns that a table lacks are lacking in all rows."""
    columns = asdict(job.reading.columns) if row.record else {}
    for what, named in columns.items():
        if named and named not in row.record:
            raise UsageError(f"{job.source} has no column {named!r} for the {what}; it has {', '.join(row.record)}")
    if isinstance(row.error, DataError) and "no column with a query" in str(row.error):
        raise UsageError(f"{job.source} has {row.error}; name the query's with `query_column`")


__all__ = ["Columns", "Job", "Reading", "Survey", "Tally", "align_rows", "at_once", "result_of", "run", "survey"]
