import json
import sys

import pytest

from metaaligner_lite.llama import probe as probes
from metaaligner_lite.paths import cache_dir

DIE = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"]
LIVE = [sys.executable, "-c", "pass"]
FAIL = [sys.executable, "-c", "raise SystemExit('no model')"]


@pytest.fixture(autouse=True)
def _no_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("MAL_HOME", str(tmp_path))
    probes.repack_is_safe.cache_clear()
    yield
    probes.repack_is_safe.cache_clear()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSEGV to send")
def test_a_crash_is_survived_and_remembered():
    assert probes.probe(DIE).outcome == "crash"
    assert probes.probe(LIVE).outcome == "crash"  # remembered
    assert not probes.repack_is_safe()
    assert probes.probe(LIVE, again=True).outcome == "safe"


def test_another_library_build_is_probed_anew(monkeypatch):
    assert probes.probe(LIVE).outcome == "safe"
    monkeypatch.setattr(probes, "library_build", lambda: "another build")
    assert probes.probe(FAIL).outcome == "unknown"


def test_a_probe_that_cannot_run_is_not_remembered():
    result = probes.probe(FAIL)
    assert (result.outcome, "no model" in result.detail) == ("unknown", True)
    assert probes.probe(LIVE).outcome == "safe"


@pytest.mark.parametrize("content", ["", "[]", '{"x": {"y": 1}}', '{"x": 3}'])
def test_a_damaged_memory_is_replaced(content):
    memory = cache_dir() / "probe.json"
    memory.write_text(content)
    assert probes.probe(LIVE).outcome == "safe"
    assert len(json.loads(memory.read_text())) == 1


def test_the_real_probe_runs_the_embedded_model():
    result = probes.probe()
    assert result.outcome in ("safe", "crash"), result.detail


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSEGV to send")
def test_a_crashing_machine_loads_models_without_repacking(tiny_path, monkeypatch):
    from metaaligner_lite.llama.library import library
    from metaaligner_lite.llama.model import open_model

    probes.probe(DIE)
    asked = []
    load = library().llama_model_load_from_file
    monkeypatch.setattr(
        library(),
        "llama_model_load_from_file",
        lambda path, params: asked.append(params.use_extra_bufts) or load(path, params),
    )
    open_model(tiny_path).close()
    assert asked == [False]
