"""The rows of a batch on a local Ray cluster of two workers: the same outputs, a killed worker, a killed run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trained import ALIGNER, POLICY, prompts

from metaaligner_lite.batch import Job, run, survey
from metaaligner_lite.errors import ModelError
from metaaligner_lite.objectives import resolve
from metaaligner_lite.pair import Choice, open_pair
from metaaligner_lite.rows import Reading

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray", reason="pip install 'metaaligner-lite[ray]'")
psutil = pytest.importorskip("psutil")

from metaaligner_lite.ray_engine import RayRows  # noqa: E402

EMPATHY = tuple(resolve("empathy"))
CHOICE = Choice(POLICY, ALIGNER, max_tokens=16, engine={"threads": 1})


@pytest.fixture(scope="module")
def cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    here = {} if os.environ.get("RAY_ADDRESS") else {"address": "local", "num_cpus": 2, "include_dashboard": False}
    ray.init(log_to_driver=False, logging_level="error", **here)
    yield
    ray.shutdown()


def source_of(tmp_path, count=48):
    rows = [{"query": query, "objectives": ",".join(names)} for query, names in prompts()[:count]]
    for row in rows[::3]:
        row["answer"] = "Check the tracking page first."
    rows[4] = {"query": "long " * 5000}
    rows[5] = {"query": "two", "objectives": "nonsens"}
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def done(source, out, elsewhere=None, progress=lambda _: None, choice=CHOICE):
    job = Job(source, out, Reading(objectives=EMPATHY), counts=False)
    with open_pair(choice, [EMPATHY]) as pair:
        return run(job, survey(job), pair, progress, elsewhere)


def workers():
    """The processes that hold a pair each."""
    return [process for process in psutil.process_iter(["cmdline"])
            if "MapWorker" in " ".join(process.info["cmdline"] or ())]  # fmt: skip


def test_the_same_outputs_also_when_a_worker_is_killed(cluster, tmp_path):
    source = source_of(tmp_path)
    here = done(source, tmp_path / "here.jsonl")
    there = done(source, tmp_path / "there.jsonl", RayRows(CHOICE, [EMPATHY], workers=2))
    assert (tmp_path / "here.jsonl").read_bytes() == (tmp_path / "there.jsonl").read_bytes()
    assert (here.failed, here.errors) == (there.failed, there.errors) and here.failed == 2
    killed = []

    def kill(tally):
        if tally.done >= 12 and not killed:
            victim = workers()[0]
            victim.kill()
            killed.append(victim.pid)

    survived = done(source, tmp_path / "survived.jsonl", RayRows(CHOICE, [EMPATHY], workers=2), kill)
    assert killed and survived.errors == here.errors
    assert (tmp_path / "here.jsonl").read_bytes() == (tmp_path / "survived.jsonl").read_bytes()


def test_a_pair_that_no_worker_can_open_is_an_error_in_one_line(cluster, tmp_path):
    gone = Choice(tmp_path / "gone.gguf", ALIGNER)
    with pytest.raises(ModelError, match="the Ray cluster failed: .*gone.gguf"):
        done(source_of(tmp_path, 8), tmp_path / "out.jsonl", RayRows(gone, [EMPATHY], workers=1))


def test_a_killed_run_goes_on_with_the_same_command(tmp_path):
    source, out = source_of(tmp_path), tmp_path / "out.jsonl"
    done(source, tmp_path / "here.jsonl")
    command = [sys.executable, "-m", "metaaligner_lite", "batch", source, out, "-o", "empathy", "--policy", POLICY]
    command += ["--aligner", ALIGNER, "--max-tokens", "16", "--no-counts", "--engine", "ray", "--workers", "2"]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    begun = subprocess.Popen(list(map(str, command)), env=environment, start_new_session=True)
    part, limit = Path(f"{out}.part"), time.monotonic() + 300
    while begun.poll() is None and time.monotonic() < limit:
        if part.exists() and part.read_bytes().count(b"\n") > 8:
            break
        time.sleep(0.05)
    os.kill(begun.pid, signal.SIGKILL)
    begun.wait()
    kept = part.read_bytes().count(b"\n") - 1
    assert 0 < kept < 47 and not out.exists()
    again = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=400)
    assert again.returncode == 1 and "from an earlier run" in again.stderr, again.stderr
    assert out.read_bytes() == (tmp_path / "here.jsonl").read_bytes()
