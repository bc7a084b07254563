"""A report as one HTML file that opens from the disk and loads nothing: charts, tables, examples to search.

The page is page.html, which page/build.py makes of page/report/: markup, styles, our scripts and Chart.js. It is the
same in every report; only the data are written into it here, as JSON in a block that no browser runs, spelled so that
no text can end that block. Everything is drawn in the browser, by text nodes and attributes alone: the page's content
policy lets its own scripts run and no others, and forbids them to make HTML of a text.

Chart.js, inlined: it is kept up, small (210 kB; Plotly takes 4 MB, ECharts 1 MB), has radars and bars, and draws on a
canvas, so that it needs neither inline styles nor eval. matplotlib would be a heavy extra for pictures that know
neither dark nor narrow; the train report's few lines of SVG have no axes that fit themselves to 20 objectives.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import FileProblem, UsageError
from ..files import write_whole
from .report import ALL, GOLDEN, OUTCOMES, Report, RowRecord, Verdict, plain

MOST_ROWS = 400  # examples in a file
MOST_LETTERS = 6_000_000  # of JSON for all of them
LONGEST = 20_000  # letters of a text
_LONGEST_RAW = 160  # letters of what a judge said
_UNSAFE = re.compile("[<>&\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_OURS = b'name="generator" content="metaaligner-lite, mal eval"'
_MARK = 4096  # bytes in which that stands


def page_of(report: Report, verdicts: Iterable[Verdict], rows: Sequence[RowRecord]) -> str:
    """The HTML of a report. Cells of single requests stay in the JSON; of many rows some are shown, and counted."""
    shown = replace(report, cells=tuple(cell for cell in report.cells if cell.request == ALL))
    data = {"report": plain(shown), "examples": _examples(report, verdicts, rows)}
    page = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    before, after = page.split("{{DATA}}")
    return f"{before}{_json(data)}{after}"


def write_page(path: Path, report: Report, verdicts: Iterable[Verdict], rows: Sequence[RowRecord]) -> None:
    """Write that HTML, whole. Raises FileProblem if it cannot be."""
    try:
        write_whole(path, page_of(report, verdicts, rows))
    except OSError as error:
        raise FileProblem(f"cannot write {path}: {error.strerror or error}") from error


def check_page(path: Path, *, force: bool) -> None:
    """Raise UsageError or FileProblem if a page cannot go there, or would replace what is none of `mal eval`."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{path}: name a file that ends in .html with `html`")
    if not path.parent.is_dir():
        raise FileProblem(f"cannot write {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise FileProblem(f"cannot write {path}: it is a folder")
    if path.exists() and not force:
        with path.open("rb") as file:
            head = file.read(_MARK)
        if _OURS not in head:
            raise FileProblem(f"{path} is there already, and no report; name another file with `html`, or `force`")


def _examples(report: Report, verdicts: Iterable[Verdict], rows: Sequence[RowRecord]) -> dict[str, Any]:
    """As many rows as a file should hold, drawn by their keys, in the order of the files; numbers stand for names."""
    judges = [judge.name for judge in report.judges]
    variants = [variant.name for variant in report.variants]
    by_row: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        by_row[verdict.row].append(verdict)
    objectives = list(dict.fromkeys(cell.objective for cell in report.cells))
    places = [{name: i for i, name in enumerate(names)} for names in (judges, objectives, variants)]
    drawn = sorted(range(len(rows)), key=lambda i: hashlib.blake2b(rows[i].key.encode()).digest())
    held: dict[int, dict[str, Any]] = {}
    room = MOST_LETTERS
    for i in drawn[:MOST_ROWS]:
        example = _example(rows[i], by_row[rows[i].key], places)
        room -= len(_json(example))
        if room < 0 and held:
            break
        held[i] = example
    return {
        "of": len(rows),
        "longest": LONGEST,
        "cut": sum(example.pop("cut") for example in held.values()),
        "judges": judges,
        "objectives": objectives,
        "rows": [held[i] for i in sorted(held)],
    }


def _example(row: RowRecord, verdicts: Iterable[Verdict], places: Sequence[Mapping[str, int]]) -> dict[str, Any]:
    judges, objectives, variants = places
    texts = [row.query, *row.texts.values(), row.golden or ""]
    return {
        "policy": row.policy,
        "query": _cut(row.query),
        "request": row.request,
        "source": Path(row.source).name,
        "place": row.place,
        "outcome": row.outcome,
        "golden": None if row.golden is None else _cut(row.golden),
        "texts": {name: _cut(text) for name, text in row.texts.items()},
        "cut": sum(len(text) > LONGEST for text in texts),
        "verdicts": [
            [
                judges[one.judge],
                objectives[one.objective],
                variants[one.variant],
                int(one.reference == GOLDEN),
                OUTCOMES.index(one.outcome),
                int(one.identical),
                [[said.order, said.verdict, (said.error or said.raw)[:_LONGEST_RAW]] for said in one.orders],
            ]
            for one in verdicts
        ],
    }


def _cut(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]} [cut here: {LONGEST:,} of {len(text):,} letters]"


def _json(value: Any) -> str:
    """JSON for a script element: nothing in it is read as HTML, and whatever it holds can be encoded."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
