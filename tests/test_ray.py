"""The rows of a batch on a local Ray cluster of two workers: the same outputs, killed workers, a killed run."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import pytest
from trained import ALIGNER, POLICY, prompts

from metaaligner_lite import ray_engine
from metaaligner_lite.batch import Job, run, survey
from metaaligner_lite.cli import main
from metaaligner_lite.errors import MissingExtra, ModelError
from metaaligner_lite.objectives import resolve
from metaaligner_lite.pair import Choice, open_pair
from metaaligner_lite.ray_engine import RayRows, Worker
from metaaligner_lite.rows import Reading, read_rows

EMPATHY = tuple(resolve("empathy"))
CHOICE = Choice(POLICY, ALIGNER, max_tokens=16, engine={"threads": 1})
LIMIT = 500  # seconds that a run may take where other programs want the cores, too

TOO_SLOW = "timed out during startup"  # Ray gives its own processes 30 seconds, whoever else wants the cores

MISSING = "needs Ray (`pip install 'metaaligner-lite[ray]'`)"


def slow(test):
    return pytest.mark.slow(pytest.mark.skipif(find_spec("ray") is None, reason=MISSING)(test))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The address of a cluster on this machine, which this process is connected to."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("MAL_HOME", str(tmp_path_factory.getbasetemp() / "home"))
        patch.delenv("RAY_ADDRESS", raising=False)
        for left in (2, 1, 0):
            try:
                ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=50)
                break
            except Exception as error:
                ray.shutdown()
                if TOO_SLOW not in str(error):
                    raise
                if not left:
                    pytest.skip("Ray does not come up within 30 seconds: other programs hold the cores")
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def source_of(folder, count=48, poison=()):
    rows = [{"query": query, "objectives": ",".join(names)} for query, names in prompts()[:count]]
    for row in rows[::3]:
        row["answer"] = "Check the tracking page first."
    rows[1] = dict(rows[0])  # the same row twice counts twice
    rows[4] = {"query": "long " * 5000}
    rows[5] = {"query": "two", "objectives": "nonsens"}
    for number in poison:
        rows[number] = {"query": "poison"}
    return write(folder / "in.jsonl", rows)


def done(source, out, do=None, progress=lambda _: None):
    job = Job(source, out, Reading(objectives=EMPATHY), counts=False)
    with open_pair(CHOICE, [EMPATHY]) as pair:
        return run(job, survey(job), pair, progress, do)


def records(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def workers():
    """The processes that hold a pair each."""
    psutil = pytest.importorskip("psutil")
    ours = psutil.Process().children(recursive=True)
    return [process for process in ours if "MapWorker" in " ".join(process.cmdline())]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--engine", "spark"], r"'spark' is not one of.*'here',.*'ray'"),
        (["--workers", "3"], "--workers and --worker-gpus are those of a Ray cluster; give --engine ray, too"),
    ],
)
def test_options_that_cannot_be(monkeypatch, capsys, options, told):
    monkeypatch.setattr(sys, "argv", ["mal", "batch", "in.jsonl", "out.jsonl", "-o", "empathy", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert re.search(told, capsys.readouterr().err, re.DOTALL)


def test_what_installs_ray_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"ray not installed; .* pip install 'metaaligner-lite\[ray\]'"):
        RayRows(CHOICE)


def test_objectives_can_be_given_to_other_processes():
    again = pickle.loads(pickle.dumps(EMPATHY))
    assert again == EMPATHY
    assert again[0].worded("paper/hh-rlhf") == EMPATHY[0].worded("paper/hh-rlhf")


class Counting(Worker):
    """A worker whose counts of deaths are given, not an actor's."""

    def __init__(self, times):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ray_engine, "open_pair", lambda choice: nullcontext(None))
            super().__init__(CHOICE, Job(Path("in"), Path("out")), False, None)
        self.times = times

    def _times(self, key, more=1):
        self.times[key] = self.times.get(key, 0) + more
        return self.times[key]


def given(worker, rows):
    packed = ray_engine._table((row.key, pickle.dumps(row)) for row in rows)
    return {key: json.loads(result) for key, result in ray_engine._pairs(worker(packed))}


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """Three rows, the second of which is more than a worker can take; and the sizes of the blocks they came in."""
    pytest.importorskip("pyarrow")
    blocks = []

    def align_rows(rows, pair, job, *, shared, on_done):
        rows = list(rows)
        blocks.append(len(rows))
        for row in rows:
            if row.case.query == "two":
                raise KeyError("a fault of ours")
            on_done(row, {"outcome": "aligned", "text": row.case.query.upper()})

    monkeypatch.setattr(ray_engine, "align_rows", align_rows)
    source = write(
        tmp_path / "in.jsonl", [{"query": query, "objectives": "empathy"} for query in ("one", "two", "three")]
    )
    return list(read_rows(source, Reading())), blocks


def test_whatever_goes_wrong_in_a_worker_is_a_result(rows):
    (one, two, three), blocks = rows
    results = given(Counting({}), [one, two, three])
    assert blocks == [3]
    assert results[one.key] == {"outcome": "aligned", "text": "ONE"}
    error = {"outcome": "failed", "error": {"type": "KeyError", "message": "'a fault of ours'"}}
    assert results[two.key] == results[three.key] == error


def test_after_a_death_rows_are_done_alone_and_deadly_ones_fail(rows):
    (one, two, three), blocks = rows
    worker = Counting({b"block of " + one.key: 1, one.key: 1, two.key: 2})
    results = given(worker, [one, two, three])
    assert blocks == [1, 1]
    assert [results[row.key]["outcome"] for row in (one, two, three)] == ["aligned", "failed", "aligned"]
    assert results[two.key]["error"]["message"].startswith("3 workers died")
    assert (worker.times[one.key], worker.times[three.key]) == (1, 0)  # what ended counts no more


@slow
def test_the_same_outputs_also_when_a_worker_is_killed(cluster, tmp_path):
    source = source_of(tmp_path)
    here = done(source, tmp_path / "here.jsonl")
    assert here.errors == {"PromptTooLong": 1, "UsageError": 1}
    killed, counts = [], []

    def kill(tally):
        counts.append(tally.done)
        if tally.done >= 12 and not killed:
            victim = workers()[0]
            victim.kill()
            killed.append(victim.pid)

    there = done(source, tmp_path / "there.jsonl", RayRows(CHOICE), kill)
    assert killed
    assert there.errors == here.errors
    assert counts == list(range(1, 49))  # each row once
    assert (tmp_path / "here.jsonl").read_bytes() == (tmp_path / "there.jsonl").read_bytes()


@slow
def test_a_row_that_kills_every_worker_fails_alone(cluster, tmp_path, monkeypatch):
    class Poisoned(Worker):  # here, so that it goes to the workers as it is: they know no tests
        """A worker that a row kills, as a fault in llama.cpp would."""

        def _align(self, rows, results):
            if any(row.case.query == "poison" for row in rows):
                os.kill(os.getpid(), signal.SIGKILL)
            Worker._align(self, rows, results)

    monkeypatch.setattr(ray_engine, "Worker", Poisoned)
    source = source_of(tmp_path, 12, poison=[7])
    tally = done(source, tmp_path / "out.jsonl", RayRows(CHOICE))
    assert tally.errors == {"PromptTooLong": 1, "UsageError": 1, "ModelError": 1}
    failed = [row for row in records(tmp_path / "out.jsonl") if row["outcome"] == "failed"]
    assert failed[2]["query"] == "poison"
    assert failed[2]["error"].startswith("line 8: 3 workers died while they did this row")


@slow
def test_a_pair_that_no_worker_can_open_is_an_error_in_one_line(cluster, tmp_path):
    gone = RayRows(Choice(tmp_path / "gone.gguf", ALIGNER), workers=1)
    with pytest.raises(
        ModelError, match=r"\Athe Ray cluster failed: metaaligner_lite\.errors\.FileProblem: .*gone\.gguf.*\Z"
    ):
        done(source_of(tmp_path, 8), tmp_path / "out.jsonl", gone)


@slow
def test_a_killed_run_goes_on_with_the_same_command_with_ray_or_without(cluster, tmp_path):
    source, out, part = source_of(tmp_path), tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    done(source, tmp_path / "here.jsonl")
    command = [sys.executable, "-m", "metaaligner_lite", "batch", source, out, "-o", "empathy", "--policy", POLICY]
    command += ["--aligner", ALIGNER, "--max-tokens", "16", "--no-counts", "--threads", "1"]
    command = list(map(str, command))
    on_ray = [*command, "--engine", "ray"]
    own = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    there = own | {"RAY_ADDRESS": cluster}

    begun = subprocess.Popen(on_ray, env=there, stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + LIMIT
    while begun.poll() is None and time.monotonic() < limit:
        if part.exists() and part.read_bytes().count(b"\n") > 8:
            break
        time.sleep(0.05)
    begun.kill()
    _, said = begun.communicate()
    assert begun.returncode == -signal.SIGKILL, said
    assert f"2 workers on the Ray cluster at {cluster}, with 1 CPU each" in said
    kept = part.read_bytes()
    rows = [json.loads(line) for line in kept.splitlines(keepends=True)[1:] if line.endswith(b"\n")]
    assert 8 <= len(rows) < 47
    assert not out.exists()

    for other, environment in ((on_ray, there), (on_ray, own), (command, own)):
        part.write_bytes(kept)
        ended = subprocess.run(other, env=environment, capture_output=True, text=True, timeout=LIMIT)
        if environment is own and TOO_SLOW in ended.stderr:
            continue
        assert (ended.returncode, ended.stdout) == (1, ""), ended.stderr
        assert f"{sum(not row['error'] for row in rows)} from an earlier run" in ended.stderr
        assert out.read_bytes() == (tmp_path / "here.jsonl").read_bytes()
        assert "Traceback" not in ended.stderr
        assert "ray.data" not in ended.stderr
        out.unlink()
