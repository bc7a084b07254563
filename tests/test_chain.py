"""The whole circle as a user walks it: data, base, mal train-lora, mal convert, mal align; each its own process."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[1] / "train" / "recipes" / "smoke.toml"


def run(*arguments):
    result = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def mal(*arguments):
    return run("-m", "metaaligner_lite", *arguments)


def converted(said, folder):
    """The file that comes of the command which `mal train-lora` ends with, run as it stands."""
    program, *command = shlex.split(said.splitlines()[-1])
    assert program == "mal"
    mal(*command)
    (file,) = folder.rglob("*.gguf")
    return file


@pytest.mark.slow
def test_data_to_aligned_answer(tmp_path):
    data, base, aligner = tmp_path / "data", tmp_path / "base", tmp_path / "aligner"
    run("-m", "mal_train.demo.generate", "--out", data, "--pairs", 200, "--chats", 200, "--heldout", 5)
    run("-m", "mal_train.demo.base", "--chats", data / "chats.jsonl", "--out", base, "--steps", 3, "--layers", 2)
    training = ("train-lora", "--base", base, "--data", data / "pairs.jsonl", "--recipe", RECIPE)
    policy_file = tmp_path / "policy.gguf"
    mal("convert", base, "--q4_k_m", "--out", policy_file)
    aligner_file = converted(mal(*training, "--out", aligner), aligner)

    info = json.loads(mal("info", aligner_file, "--json"))
    assert info["quantization"] == "Q4_K_M"
    assert info["manifest"]["layout"] == "conversation"
    assert "empathy" in info["manifest"]["objectives"]
    pair = ("--policy", policy_file, "--aligner", aligner_file, "--max-tokens", 20, "--json")
    result = json.loads(mal("align", "My parcel is late.", "-o", "empathy,clarity", *pair))
    assert result["aligned"] or result["failure"] == "the aligner wrote nothing"
    assert result["policy"]["read"] > 0

    # The same over the policy's own base: an adapter that takes over where the edit request begins.
    activated = tmp_path / "activated"
    adapter = converted(mal(*training, "--out", activated, "--kind", "activated"), activated)
    shared = ("--policy", policy_file, "--adapter", adapter, "--max-tokens", 20, "--json")
    result = json.loads(mal("align", "My parcel is late.", "-o", "empathy,clarity", *shared))
    assert result["aligned"] or result["failure"] == "the aligner wrote nothing"
