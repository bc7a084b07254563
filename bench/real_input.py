"""Align answers of real policies, row by row, and account for every row: does the machinery hold?

    python bench/real_input.py ANSWERS.csv [MORE.csv] [--rows 50] [--aligner FILE.gguf] [--adapter FILE.gguf]

A CSV has the columns query and generated_text (the format of the paper's samples/ folder). Prints a table, the row
that took longest of each file with what it read and wrote, and, as its last line, one JSON document. No text is
printed: what counts here is that no row crashes, hangs or gets lost, not what is written. Who edits if nothing is
named is who edits in `mal align --answer`.
"""

import argparse
import csv
import json
import resource
import statistics
import time
from collections import Counter
from pathlib import Path

from metaaligner_lite import Aligner, Correction, GivenAnswer, MalError, align
from metaaligner_lite.pair import Choice, open_pair


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--rows", type=int, default=50)
    parser.add_argument("--objectives", default="empathy,clarity")
    parser.add_argument("--aligner", type=Path)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()

    csv.field_size_limit(1 << 24)
    summary = {}
    choice = Choice(None, options.aligner, options.adapter, answer="", engine={"threads": options.threads})
    with open_pair(choice, say=print) as pair:
        for file in options.files:
            with file.open(newline="", encoding="utf-8") as source:
                rows = [row for row, _ in zip(csv.DictReader(source), range(options.rows), strict=False)]
            summary[file.stem] = run(rows, pair.aligner, options.objectives)
    columns = f"{'read':>8}{'reused':>8}{'written':>9}{'s/row':>8}{'max s':>8}"
    print(f"{'file':<20}{'rows':>6}{'empty':>7}  {'outcomes':<44}{columns}")
    for name, s in summary.items():
        outcomes = ", ".join(f"{count} {what}" for what, count in s["outcomes"].items())
        print(
            f"{name:<20}{s['rows']:>6}{s['empty_answers']:>7}  {outcomes:<44}{s['read']:>8}{s['reused']:>8}"
            f"{s['written']:>9}{s['median_seconds']:>8.2f}{s['max_seconds']:>8.2f}"
        )
    print()
    for name, s in summary.items():
        print(f"{name}, slowest row: {', '.join(f'{key} {value}' for key, value in s['slowest'].items())}")
    summary["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(summary))


def run(rows: list[dict[str, str]], aligner: Aligner, objectives: str) -> dict[str, object]:
    outcomes: Counter[str] = Counter()
    seconds, read, reused, written = [], 0, 0, 0
    slowest: dict[str, object] = {}
    for number, row in enumerate(rows):
        correction = None
        began = time.perf_counter()
        try:
            correction = align(row["query"], objectives, policy=GivenAnswer(row["generated_text"]), aligner=aligner)
        except MalError as error:
            outcomes[type(error).__name__] += 1
            continue
        finally:
            seconds.append(time.perf_counter() - began)
            if seconds[-1] == max(seconds):
                slowest = {"row": number, "seconds": round(seconds[-1], 3)} | _cost(correction)
        if correction.failure:
            assert correction.text == row["generated_text"]  # nothing is lost
            outcomes["kept: " + ("too long" if "context" in correction.failure else correction.failure)] += 1
        if correction.edit:
            outcomes["edited, " + correction.edit.finish] += not correction.failure
            counts = correction.edit.counts
            read, reused, written = read + counts.read, reused + counts.reused, written + counts.written
    assert sum(outcomes.values()) == len(rows)
    return {
        "rows": len(rows),
        "empty_answers": sum(not row["generated_text"].strip() for row in rows),
        "outcomes": {k: v for k, v in outcomes.items() if v},
        "read": read,
        "reused": reused,
        "written": written,
        "median_seconds": statistics.median(seconds),
        "max_seconds": max(seconds),
        "slowest": slowest,
    }


def _cost(correction: Correction | None) -> dict[str, object]:
    """What a row cost, if it came to writing."""
    if correction is None or correction.edit is None:
        return {}
    counts = correction.edit.counts
    return {
        "finish": correction.edit.finish,
        "read": counts.read,
        "written": counts.written,
        "drafted": counts.drafted,
        "accepted": counts.accepted,
        "read_seconds": round(counts.read_seconds, 3),
        "write_seconds": round(counts.write_seconds, 3),
        "tokens_per_second": round(counts.written / counts.write_seconds) if counts.write_seconds else 0,
    }


if __name__ == "__main__":
    main()
