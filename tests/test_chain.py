"""The whole circle as a user walks it: data, base, mal train-lora, mal convert, mal align; each its own process."""

import json
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


@pytest.mark.slow
def test_data_to_aligned_answer(tmp_path):
    data, base, aligner = tmp_path / "data", tmp_path / "base", tmp_path / "aligner"
    run("-m", "mal_train.demo.generate", "--out", data, "--pairs", 200, "--chats", 200, "--heldout", 5)
    run("-m", "mal_train.demo.base", "--chats", data / "chats.jsonl", "--out", base, "--steps", 3, "--layers", 2)
    mal("train-lora", "--base", base, "--data", data / "pairs.jsonl", "--recipe", RECIPE, "--out", aligner)
    policy_file, aligner_file = tmp_path / "policy.gguf", tmp_path / "aligner.gguf"
    mal("convert", base, "--q4_k_m", "--out", policy_file)
    mal("convert", aligner / "merged", "--q4_k_m", "--out", aligner_file)

    info = json.loads(mal("info", aligner_file, "--json"))
    assert info["quantization"] == "Q4_K_M"
    assert info["manifest"]["layout"] == "conversation"
    assert "empathy" in info["manifest"]["objectives"]
    pair = ("--policy", policy_file, "--aligner", aligner_file, "--max-tokens", 20, "--json")
    result = json.loads(mal("align", "My parcel is late.", "-o", "empathy,clarity", *pair))
    assert result["aligned"] or result["failure"] == "the aligner wrote nothing"
    assert result["policy"]["read"] > 0
