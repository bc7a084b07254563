"""The files of an evaluation: written and read again, and what is none of them refused."""

import json

import eval_example
import pytest

from metaaligner_lite.errors import DataError, FileProblem, UsageError
from metaaligner_lite.evaluation.report import (
    Report,
    beside,
    plain,
    read_report,
    read_rows_of,
    read_verdicts,
    record_of,
    write_report,
)


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "example.json"
    write_report(path, eval_example.report(), eval_example.verdicts(), eval_example.rows())
    return path


def test_a_report_is_read_as_it_was_written(written):
    assert read_report(written) == eval_example.report()
    assert list(read_verdicts(written)) == eval_example.verdicts()
    assert list(read_rows_of(written)) == eval_example.rows()
    assert {path.name for path in written.parent.iterdir()} == {
        "example.json",
        "example.verdicts.jsonl",
        "example.rows.jsonl",
    }


def test_fields_of_a_later_form_are_passed_over():
    raw = plain(eval_example.report()) | {"new": 1}
    raw["cells"][0]["new"] = {"deeper": []}
    assert record_of(Report, raw) == eval_example.report()


@pytest.mark.parametrize(
    ("text", "error", "told"),
    [
        ("not JSON", DataError, "not JSON"),
        ("[]", DataError, "other JSON"),
        ('{"form": 99, "cells": [], "judges": []}', UsageError, "another version"),
        ('{"form": 1, "cells": [], "judges": []}', DataError, "no report"),
    ],
)
def test_what_is_no_report(tmp_path, text, error, told):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(error, match=told):
        read_report(path)


def test_a_number_that_is_none(written):
    raw = json.loads(written.read_text())
    raw["rows"] = "eight"
    written.write_text(json.dumps(raw))
    with pytest.raises(DataError, match="expected int, found str"):
        read_report(written)


def test_lines_that_are_missing_or_torn(written):
    beside(written, "rows").unlink()
    with pytest.raises(FileProblem, match="beside the report"):
        list(read_rows_of(written))
    lines = beside(written, "verdicts").read_text().splitlines()
    beside(written, "verdicts").write_text("\n".join([*lines, lines[0][:40]]))
    with pytest.raises(DataError, match="line 33"):
        list(read_verdicts(written))
