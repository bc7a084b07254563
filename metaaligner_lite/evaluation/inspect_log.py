"""A report as a log of Inspect (inspect_ai): for `inspect view`, `read_eval_log`, data frames of logs.

Written by its documented form (an EvalLog, version 2, https://inspect.aisi.org.uk/eval-logs.html), without the package:
it brings some 200 MB along, and pip finds no versions that it and the rest of this project both take.

A sample is a row: its input the query, its target the golden answer, its output the edit. A score of it is one judge's
verdict on one objective, "JUDGE: OBJECTIVE, TEXT against REFERENCE": 1 won, 0.5 tied, 0 lost. What has no verdict is
NaN, which Inspect keeps and leaves out of every mean, as here; its reason says whether it was unparsed or failed. All
rows and all verdicts are in it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ..errors import FileProblem, UsageError
from ..files import written_whole
from .report import ALIGNED, ALL, UNALIGNED, Cell, Interval, Report, RowRecord, Verdict, plain
from .summary import SCORES

_TASK = "metaaligner_lite/eval"
_REASONS = {"unparsed": "grader_failed", "failed": "scoring_failed"}  # as Inspect calls them
_HEAD = 4096  # bytes in which a log of ours names its task


def log_of(report: Report, verdicts: Iterable[Verdict], rows: Sequence[RowRecord]) -> dict[str, Any]:
    """The log as plain values."""
    by_row: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        by_row[verdict.row].append(verdict)
    edits = next((variant.made_by for variant in report.variants if variant.name == ALIGNED), "")
    model = f"mal/{edits or ALIGNED}"
    name = ", ".join(Path(source.path).name for source in report.sources)
    sources = " ".join(source.digest for source in report.sources)
    digest = blake2b(f"{report.made} {sources}".encode(), digest_size=11).hexdigest()
    told = ("settings", "sources", "policies", "requests", "objectives", "variants", "left_out", "judges", "coverage")
    record = plain(report)
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "task": _TASK,
            "eval_id": digest,
            "run_id": digest,
            "task_id": digest,
            "created": report.made,
            "task_version": report.form,
            "dataset": {
                "name": name,
                "location": report.sources[0].path if report.sources else None,
                "samples": report.rows,
                "sample_ids": [row.key for row in rows],
                "shuffled": False,
            },
            "model": model,
            "config": {},
            "packages": {"metaaligner_lite": report.version},
            "metadata": {name: record[name] for name in told} | {"notes": list(report.notes)},
        },
        "plan": {"name": "plan", "steps": [], "config": {}},
        "results": {
            "total_samples": report.rows,
            "completed_samples": report.rows,
            "scores": [_total(cell) for cell in _totals(report)],
        },
        "stats": {"started_at": report.made, "completed_at": report.made, "model_usage": {}},
        "samples": [_sample(row, by_row[row.key], model) for row in rows],
    }


def write_log(path: Path, report: Report, verdicts: Iterable[Verdict], rows: Sequence[RowRecord]) -> None:
    """Write that log, whole. Raises FileProblem if it cannot be."""
    try:
        with written_whole(path) as file:
            for part in json.JSONEncoder(default=str).iterencode(log_of(report, verdicts, rows)):
                file.write(part.encode("ascii"))
    except OSError as error:
        raise FileProblem(f"cannot write {path}: {error.strerror or error}") from error


def check_log(path: Path, *, force: bool) -> None:
    """Raise UsageError or FileProblem if a log cannot go there, or would replace what is none of `mal eval`."""
    if path.suffix.lower() != ".json":
        raise UsageError(f"{path}: a log for Inspect is JSON; name a file that ends in .json with `inspect`")
    if not path.parent.is_dir():
        raise FileProblem(f"cannot write {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise FileProblem(f"cannot write {path}: it is a folder")
    if path.exists() and not force:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if f'"task": "{_TASK}"'.encode() not in head:
            raise FileProblem(f"{path} is there already, and no such log; name another file with `inspect`, or `force`")


def _named(one: Verdict | Cell) -> str:
    return f"{one.judge}: {one.objective}, {one.variant} against {one.reference}"


def _totals(report: Report) -> list[Cell]:
    """The cells over all rows."""
    whole = ALL if len(report.policies) > 1 else next(iter(report.policies), ALL)
    return [cell for cell in report.cells if (cell.policy, cell.request) == (whole, ALL)]


def _total(cell: Cell) -> dict[str, Any]:
    counts = cell.counts
    metrics: dict[str, float | None] = {"mean": cell.halves.value if cell.halves else None}
    for name, found in (("halves", cell.halves), ("net", cell.net)):
        metrics |= _ends(name, found)
    metrics |= {"wins": cell.wins.value if cell.wins else None, "net": cell.net.value if cell.net else None}
    metrics |= {"p_holm": cell.net.p_holm if cell.net else None}
    return {
        "name": _named(cell),
        "scorer": cell.judge,
        "scored_samples": counts.n,
        "unscored_samples": counts.unparsed + counts.failed,
        "metrics": {
            name: {"name": name, "value": value, "params": {}} for name, value in metrics.items() if value is not None
        },
        "metadata": {
            "objective": cell.objective,
            "variant": cell.variant,
            "reference": cell.reference,
            "asked_for": cell.asked,
            "counts": plain(counts),
        },
    }


def _ends(name: str, found: Interval | None) -> dict[str, float | None]:
    """The ends of a 95 % interval, clustered by query."""
    return {f"{name}_low": found.low, f"{name}_high": found.high} if found else {}


def _sample(row: RowRecord, verdicts: Iterable[Verdict], model: str) -> dict[str, Any]:
    edit = row.texts.get(ALIGNED, "")
    said = {"role": "assistant", "content": edit, "source": "generate"}
    return {
        "id": row.key,
        "epoch": 1,
        "input": row.query,
        "target": row.golden or "",
        "messages": [{"role": "user", "content": row.query, "source": "input"}, said],
        "output": {"model": model, "choices": [{"message": said, "stop_reason": "stop"}], "completion": edit},
        "scores": {_named(verdict): _score(verdict, row) for verdict in verdicts},
        "metadata": {
            "policy": row.policy,
            "asked_for": row.request,
            "source": row.source,
            "place": row.place,
            "outcome": row.outcome,
            "answer": row.texts.get(UNALIGNED, ""),
            "texts": {name: text for name, text in row.texts.items() if name not in (ALIGNED, UNALIGNED)},
        },
        "store": {},
        "events": [],
        "model_usage": {},
        "attachments": {},
    }


def _score(verdict: Verdict, row: RowRecord) -> dict[str, Any]:
    said = [f"order {one.order}: {one.error or one.raw or one.verdict}" for one in verdict.orders]
    found: dict[str, Any] = {
        "value": SCORES.get(verdict.outcome, float("nan")),
        "answer": row.texts.get(verdict.variant, ""),
        "explanation": "\n".join(said) if said else "the texts are the same; nobody was asked",
        "metadata": {"outcome": verdict.outcome, "orders": {str(one.order): one.verdict for one in verdict.orders}},
    }
    if verdict.outcome in _REASONS:
        found["reason"] = _REASONS[verdict.outcome]
    return found
