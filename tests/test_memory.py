"""The estimate of `mal info` against the measured peak of a process of its own, on a model of about 110 MB."""

import json
import subprocess
import sys

import pytest
import tiny

from metaaligner_lite.describe import memory_needed
from metaaligner_lite.gguf_file import read_header

CHILD = """
import json, resource, sys
from metaaligner_lite.llama.context import Context
from metaaligner_lite.llama.model import open_model
path, n_ctx, kv, repack = json.loads(sys.argv[1])
with open_model(path, gpu_layers=0, repack=repack) as model, Context(model, n_ctx, threads=1, kv=kv) as context:
    context.read([3 + i % 250 for i in range(n_ctx - 8)])
    for token in range(8):
        context.extend([(0, [token])])
try:  # on Linux ru_maxrss remembers the process that started this one
    peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
except OSError:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak)
"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="needs getrusage")]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tiny.write_model(
        tmp_path_factory.mktemp("memory") / "m.gguf", width=1024, heads=16, kv_heads=8, layers=3, n_ctx=4096
    )


@pytest.mark.parametrize("kv", ["f16", "q8_0"])
@pytest.mark.parametrize("n_ctx", [512, 2048])
def test_the_estimate_is_within_a_tenth_of_the_measured_peak(path, n_ctx, kv):
    options = json.dumps([str(path), n_ctx, kv, True])
    child = subprocess.run([sys.executable, "-c", CHILD, options], capture_output=True, text=True, check=True)
    estimate = memory_needed(read_header(path), n_ctx, kv)
    assert estimate["total"] == pytest.approx(int(child.stdout), rel=0.1), estimate
