"""What an installation holds: everything that running needs, the aligner that ships, and no models of the tests."""

import json
import shutil
import subprocess
import sys
import zipfile

import pytest

from metaaligner_lite import models

BUILD = "from hatchling.builders.wheel import WheelBuilder; print(*WheelBuilder('.').build(directory='dist'))"
BLOCKED = """
import runpy, socket, sys

def refuse(*args, **kwargs):
    raise SystemExit("a socket was opened")

socket.socket.__init__ = socket.getaddrinfo = socket.create_connection = refuse
sys.argv[0] = "mal"
runpy.run_module("metaaligner_lite", run_name="__main__")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, pytestconfig):
    """The names in a wheel built of this source, and of an adapter and its card where an aligner ships."""
    pytest.importorskip("hatchling")
    root, source = pytestconfig.rootpath, tmp_path_factory.mktemp("source")
    for folder in ("metaaligner_lite", "convert", "train", "tests/models"):
        shutil.copytree(root / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(root / name, source / name)
    shipped = source / "metaaligner_lite" / "shipped"
    shipped.mkdir(exist_ok=True)
    for name in ("another.gguf", "another.md"):
        (shipped / name).write_text("x")
    built = subprocess.run([sys.executable, "-c", BUILD], cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return zipfile.ZipFile(source / built.stdout.strip()).namelist()


def test_it_holds_what_running_needs(wheel, pytestconfig):
    package = pytestconfig.rootpath / "metaaligner_lite"
    needed = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.relative_to(pytestconfig.rootpath).as_posix() for path in needed} <= set(wheel)
    assert {"metaaligner_lite/llama/probe.gguf", "metaaligner_lite/catalogue.toml"} <= set(wheel)
    assert {"metaaligner_lite/shipped/another.gguf", "metaaligner_lite/shipped/another.md"} <= set(wheel)
    assert {"mal_convert/plan.py", "mal_train/run.py", "mal_train/recipes/smoke.toml"} <= set(wheel)


def test_it_holds_no_model_but_the_probe_and_what_ships(wheel):
    places = {name.rpartition("/")[0] for name in wheel if name.endswith(".gguf")}
    assert places == {"metaaligner_lite/llama", "metaaligner_lite/shipped"}
    assert not [name for name in wheel if "demo" in name.split("/") or name.startswith(("tests", "bench"))]


@pytest.mark.slow
@pytest.mark.skipif(models.BASE.path is None, reason=f"needs the base: {models.BASE.command}")
@pytest.mark.parametrize("more", [(), ("--aligner", "self")])
def test_the_installed_base_answers_and_edits_without_a_network(more):
    query, wanted = "My parcel is a week late and nobody answers my emails.", ("-o", "empathy", "--max-tokens", "40")
    command = [sys.executable, "-c", BLOCKED, "align", query, *wanted, "--json", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stderr  # 1: the edit failed, and the answer stays
    result = json.loads(done.stdout)
    assert result["answer"].strip()
    assert result["aligned"] or result["failure"]
    assert result["aligner"]["reused"] > result["policy"]["read"]  # policy and aligner on one model
