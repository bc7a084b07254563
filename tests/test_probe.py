import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from metaaligner_lite.gguf_file import read_header
from metaaligner_lite.llama import probe as probes
from metaaligner_lite.llama.context import Context
from metaaligner_lite.llama.library import library
from metaaligner_lite.llama.model import open_model
from metaaligner_lite.llama.probe_child import PROBE
from metaaligner_lite.paths import cache_dir

DIE = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"]
LIVE = [sys.executable, "-c", "pass"]
MAKER = Path(__file__).parents[1] / "bench" / "probe_model.py"
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


def test_the_real_probe_reads_a_batch_of_its_own_model():
    result = probes.probe()
    assert result.outcome in ("safe", "crash"), result.detail


def test_the_probes_model_is_what_its_script_makes(tmp_path):
    subprocess.run([sys.executable, MAKER, tmp_path / "again.gguf"], check=True, capture_output=True)
    assert (tmp_path / "again.gguf").read_bytes() == PROBE.read_bytes()
    assert PROBE.stat().st_size < 150_000
    matrices = [tensor for tensor in read_header(PROBE).tensors if len(tensor.shape) == 2]
    assert {tensor.type_name for tensor in matrices} == {"Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"}
    assert all(tensor.shape[1] % 32 == 0 for tensor in matrices)  # else AMX leaves it alone


def test_the_probes_model_holds_a_vocabulary_and_finite_weights():
    with open_model(PROBE, gpu_layers=0, repack=False) as model, Context(model, 256, threads=1) as context:
        tokens = model.encode_text("The parcel is late; nobody answers. Grüße!")
        assert model.text(tokens) == "The parcel is late; nobody answers. Grüße!"
        context.read(tokens)
        logits = context.logits(-1)
    assert np.isfinite(logits).all()
    assert logits.std() > 0.01


def test_the_probe_comes_where_weights_are_rearranged():
    if "REPACK = 1" not in library().llama_print_system_info().decode():
        pytest.skip("this build of llama.cpp rearranges nothing")
    code = (
        "import sys, llama_cpp.llama_cpp as lib\n"
        "params = lib.llama_model_default_params()\n"
        "params.n_gpu_layers, params.use_extra_bufts = 0, sys.argv[2] == 'repack'\n"
        "lib.llama_model_load_from_file(sys.argv[1].encode(), params)\n"
    )

    def buffers(how):
        child = subprocess.run([sys.executable, "-c", code, PROBE, how], capture_output=True, text=True, check=False)
        return {line.split()[1] for line in child.stderr.splitlines() if "model buffer size" in line}

    assert buffers("plain")
    if probes.probe().outcome == "safe":
        assert buffers("repack") & {"CPU_REPACK", "AMX"}
    assert not buffers("plain") & {"CPU_REPACK", "AMX"}


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSEGV to send")
def test_a_crashing_machine_loads_models_without_repacking(tiny_path, monkeypatch):
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
