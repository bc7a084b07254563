"""The estimate of `mal info` against the measured peak of a process of its own, on models of 35 to 110 MB."""

import json
import subprocess
import sys

import pytest
import tiny
from gguf import GGMLQuantizationType

from metaaligner_lite.describe import memory_needed
from metaaligner_lite.gguf_file import read_header

CHILD = """
import json, resource, sys
from metaaligner_lite.llama.engine import Engine
from metaaligner_lite.llama.model import open_model
from metaaligner_lite.llama.tune import Tuning
path, sizes, kv, flash = json.loads(sys.argv[1])
tuning = Tuning(flash, 1, 1, True, ())
with Engine(open_model(path, gpu_layers=0), threads=1, kv=kv, tuning=tuning) as engine:
    for n_ctx in sizes:
        context = engine._context_for(n_ctx, 1)
        context.read([3 + i % 250 for i in range(context.n_ctx - 8)])
        for token in range(8):
            context.extend([(0, [token])])
try:  # on Linux ru_maxrss remembers the process that started this one
    peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
except OSError:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak)
"""
SHAPES = {
    "f32": {},
    "q4_0 with a large vocabulary": {"unused": 32000 - 259, "quantization": GGMLQuantizationType.Q4_0, "tied": False},
    "... that gives the logits too": {"unused": 32000 - 259, "quantization": GGMLQuantizationType.Q4_0},
}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="needs getrusage")]


@pytest.fixture(scope="module", params=SHAPES)
def path(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    shape = {"width": 1024, "heads": 16, "kv_heads": 8, "layers": 3, "n_ctx": 4096} | SHAPES[request.param]
    return tiny.write_model(folder / "m.gguf", **shape)


def peak(path, sizes, kv, flash):
    """Bytes that a process held at most which ran contexts of these sizes, one growing out of the other."""
    options = json.dumps([str(path), sizes, kv, flash])
    child = subprocess.run([sys.executable, "-c", CHILD, options], capture_output=True, text=True, check=True)
    return int(child.stdout)


@pytest.mark.parametrize(("kv", "flash"), [("f16", False), ("f16", True), ("q8_0", False)])
@pytest.mark.parametrize("sizes", [[1024], [2048], [1024, 2048]])
def test_the_estimate_is_within_a_tenth_of_the_measured_peak(path, sizes, kv, flash):
    """A context that grows counts as one of its last size: what the smaller one held is given back."""
    estimate = memory_needed(read_header(path), sizes[-1], kv, flash)
    assert estimate["total"] == pytest.approx(peak(path, sizes, kv, flash), rel=0.1), estimate


@pytest.mark.skipif(sys.platform != "linux", reason="other allocators decide for themselves")
def test_a_context_that_grew_holds_little_more_than_one_made_large(path):
    assert peak(path, [1024, 2048], "f16", True) < 1.08 * peak(path, [2048], "f16", True)
