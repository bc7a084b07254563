"""llama.cpp's own converters and vocabularies, from llama-cpp-python's source distribution; never kept here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest
from filelock import FileLock

# Read here, at import: the tests' own environment has no MAL_ variables.
_GIVEN = os.environ.get("MAL_LLAMA_CPP")
_CACHE = Path(__file__).parent.parent / ".pytest_cache" / "llama-cpp"
_WANTED = ("vendor/llama.cpp/convert", "vendor/llama.cpp/conversion/", "vendor/llama.cpp/gguf-py/")
_VOCABULARIES = "vendor/llama.cpp/models/ggml-vocab"

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


def sources() -> Path:
    """llama.cpp's folder in the source distribution of the installed llama-cpp-python, fetched by pip once.

    MAL_LLAMA_CPP names a copy to use instead; "none" leaves out the tests that need it. Without either, a failing
    download fails the test: what is claimed of llama.cpp's converters must not go unchecked unnoticed.
    """
    if _GIVEN == "none":
        pytest.skip("MAL_LLAMA_CPP is none: the comparison with llama.cpp's own converters is left out on request")
    if _GIVEN:
        return Path(_GIVEN)
    release = version("llama-cpp-python")
    root = _CACHE / release
    _CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(_CACHE / "lock"):  # of several processes that test, one fetches them
        if not root.is_dir():
            with tempfile.TemporaryDirectory(dir=_CACHE) as scratch:
                _unpack(_download(release, Path(scratch)), Path(scratch) / "unpacked")
                (Path(scratch) / "unpacked").rename(root)
    return next(root.glob("*/vendor/llama.cpp"))


def _download(release: str, folder: Path) -> Path:
    package = "llama-cpp-python"
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", package, "-d", str(folder)]
    got = subprocess.run([*pip, f"{package}=={release}"], capture_output=True, text=True, timeout=900)
    found = list(folder.glob("*.tar.gz"))
    if got.returncode or not found:
        pytest.fail(
            f"cannot fetch llama-cpp-python's sources: {got.stderr.strip()[-300:]}; without a network set "
            "MAL_LLAMA_CPP to a folder with llama.cpp's sources, or to none to leave these tests out"
        )
    return found[0]


def _unpack(archive: Path, folder: Path) -> None:
    """The converters and the vocabularies alone; the rest is ten times as much."""
    with tarfile.open(archive) as tar:
        for member in tar:
            inner = member.name.partition("/")[2]
            if inner.startswith((*_WANTED, _VOCABULARIES)):
                tar.extract(member, folder, filter="data")


def run(root: Path, jobs: list[tuple[str, str, list[str]]]) -> None:
    """Run their scripts one after the other: (script, pre-tokenizer, arguments)."""
    environment = {**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", _RUN, str(root), json.dumps(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
