"""The whole circle as a user walks it: rows, a base, mal train-lora, mal convert, mal align; each its own process."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_train import make_base, some_rows, write_rows

RECIPE = Path(__file__).parents[1] / "train" / "recipes" / "smoke.toml"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}  # threads cost models this small more than they give


def mal(*arguments, ends=(0,)):
    command = [sys.executable, "-m", "metaaligner_lite", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900, env=ENVIRONMENT)
    assert result.returncode in ends, result.stderr
    return result.stdout


def aligned(*files):
    """The result of a correction; weights as random as these may write nothing, which is a failure that is told."""
    asked = ("align", "My parcel is late.", "-o", "empathy,clarity", "--max-tokens", 20, "--json")
    result = json.loads(mal(*asked, *files, ends=(0, 1)))
    assert result["aligned"] or result["failure"] == "the aligner wrote nothing"
    return result


def converted(said, folder):
    """The file that comes of the command which `mal train-lora` ends with, run as it stands."""
    program, *command = shlex.split(said.splitlines()[-1])
    assert program == "mal"
    mal(*command)
    (file,) = folder.rglob("*.gguf")
    return file


@pytest.mark.slow
def test_data_to_aligned_answer(tmp_path):
    base, aligner = make_base(tmp_path / "base", spread=0.3), tmp_path / "aligner"
    rows = write_rows(tmp_path / "rows.jsonl", some_rows(60))
    training = ("train-lora", "--base", base, "--data", rows, "--recipe", RECIPE)
    policy_file = tmp_path / "policy.gguf"
    mal("convert", base, "--q4_k_m", "--out", policy_file)
    aligner_file = converted(mal(*training, "--out", aligner), aligner)

    info = json.loads(mal("info", aligner_file, "--json"))
    assert info["quantization"] == "Q4_K_M"
    assert info["manifest"]["layout"] == "conversation"
    assert "empathy" in info["manifest"]["objectives"]
    assert aligned("--policy", policy_file, "--aligner", aligner_file)["policy"]["read"] > 0

    # The same over the policy's own base: an adapter that takes over where the edit request begins.
    activated = tmp_path / "activated"
    adapter = converted(mal(*training, "--out", activated, "--kind", "activated"), activated)
    assert aligned("--policy", policy_file, "--adapter", adapter)["policy"]["read"] > 0
