"""The log for Inspect: its form by known values, and read by inspect_ai itself where it is at hand."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import eval_example
import pytest

from metaaligner_lite.errors import FileProblem, UsageError
from metaaligner_lite.evaluation.inspect_log import check_log, write_log

# inspect_ai brings 200 MB, and pip finds no versions that suit it and this project: it has an environment of its own.
PYTHON = os.environ.get("MAL_INSPECT", sys.executable)
READ = """
import json, sys
try:
    from inspect_ai.log import read_eval_log
except ImportError:
    sys.exit(77)
log = read_eval_log(sys.argv[1])
print(json.dumps({
    "status": log.status,
    "task": log.eval.task,
    "packages": log.eval.packages,
    "totals": {one.name: {name: metric.value for name, metric in one.metrics.items()} for one in log.results.scores},
    "unscored": [one.unscored_samples for one in log.results.scores],
    "samples": [
        [s.id, s.input, s.target, s.output.completion, s.metadata["policy"],
         {name: [score.value, score.reason] for name, score in s.scores.items()}]
        for s in log.samples
    ],
}))
"""


def written(path: Path) -> dict[str, Any]:
    write_log(path, eval_example.report(), eval_example.verdicts(), eval_example.rows())
    log: dict[str, Any] = json.loads(path.read_text())
    return log


def test_a_log_by_known_values(tmp_path: Path) -> None:
    log = written(tmp_path / "log.json")
    assert list(log) == ["version", "status", "eval", "plan", "results", "stats", "samples"]  # in Inspect's order
    assert (log["version"], log["status"], log["results"]["total_samples"]) == (2, "success", 8)
    sample = log["samples"][3]
    assert (sample["id"], sample["input"], sample["target"]) == ("0003", "Question 3?", "Golden 3.")
    assert sample["output"]["choices"][0]["message"]["content"] == "Answer 3."
    assert sample["metadata"]["answer"] == "A long answer, number 3."
    one = sample["scores"]["tiny.gguf: brevity, aligned against golden"]
    assert math.isnan(one["value"])  # Inspect's own sign for what has no score
    assert (one["reason"], one["metadata"]["outcome"]) == ("grader_failed", "unparsed")
    values = [log["samples"][i]["scores"]["tiny.gguf: brevity, aligned against golden"]["value"] for i in range(3)]
    assert values == [1.0, 0.5, 0.0]
    assert len(log["results"]["scores"]) == 10  # over all policies
    metrics = {name: metric["value"] for name, metric in log["results"]["scores"][0]["metrics"].items()}
    assert metrics["mean"] == 0.625
    assert metrics["net"] == 0.25
    assert math.isclose(metrics["net_high"], 0.55)


def test_inspect_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    wrote = written(path)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([PYTHON, "-c", READ, path], capture_output=True, text=True, timeout=300, env=environment)
    if done.returncode == 77:
        pytest.skip("needs inspect_ai in an environment of its own; name its python with MAL_INSPECT")
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert (read["status"], read["task"]) == ("success", "metaaligner_lite/eval")
    assert read["packages"] == {"metaaligner_lite": "0"}
    for total in wrote["results"]["scores"]:
        assert read["totals"][total["name"]] == {name: one["value"] for name, one in total["metrics"].items()}
    for sample, (key, query, golden, edit, policy, scores) in zip(wrote["samples"], read["samples"], strict=True):
        assert (key, query, golden) == (sample["id"], sample["input"], sample["target"])
        assert (edit, policy) == (sample["output"]["completion"], sample["metadata"]["policy"])
        assert scores.keys() == sample["scores"].keys()
        for name, (value, reason) in scores.items():
            meant = sample["scores"][name]
            assert value == meant["value"] or (math.isnan(value) and math.isnan(meant["value"]))
            assert reason == meant.get("reason")


@pytest.mark.parametrize(
    ("name", "there", "error", "told"),
    [
        ("log.eval", None, UsageError, "ends in .json"),
        ("nowhere/log.json", None, FileProblem, "no folder"),
        ("log.json", '{"mine": 1}', FileProblem, "no such log"),
    ],
)
def test_where_no_log_can_go(tmp_path: Path, name: str, there: str | None, error: type[Exception], told: str) -> None:
    path = tmp_path / name
    if there:
        path.write_text(there)
    with pytest.raises(error, match=told):
        check_log(path, force=False)


def test_a_log_is_replaced_and_others_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    written(path)
    check_log(path, force=False)
    path.write_text("{}")
    check_log(path, force=True)


def test_hostile_texts_and_odd_names(tmp_path: Path) -> None:
    text = "\ud800 \u2028 </script> \x00"
    rows = [replace(row, query=text, texts=dict.fromkeys(row.texts, text)) for row in eval_example.rows()]
    report = replace(eval_example.report(), variants=())
    write_log(tmp_path / "log.json", report, [], rows)
    assert json.loads((tmp_path / "log.json").read_text())["samples"][0]["input"] == text
