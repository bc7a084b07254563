"""Make the embedded pair anew: data, base, aligner, conversion. `make pair`, or

    python -m mal_train.demo --out runs/pair --recipe train/recipes/demo-aligner.toml

Every step is one of this project's own commands, run as a process and printed, so that each can be rerun alone.
A step whose result is there already is skipped; delete its folder to redo it. About an hour on two CPU cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

_MAL = ("-m", "metaaligner_lite")


def main() -> None:
    """Run the five steps, each from the files of the one before."""
    parser = argparse.ArgumentParser(prog="python -m mal_train.demo", description="Make the embedded pair anew.")
    parser.add_argument("--out", type=Path, default=Path("runs/pair"))
    parser.add_argument("--recipe", type=Path, default=Path("train/recipes/demo-aligner.toml"))
    parser.add_argument("--minutes", type=float, default=1.0, help="how much longer than usual each training runs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    out: Path = options.out
    talk, base, aligner = out / "talk", out / "base", out / "aligner"
    policy_file, aligner_file = out / "policy.gguf", out / "aligner.gguf"
    generate, train_base = ("-m", "mal_train.demo.generate"), ("-m", "mal_train.demo.base")

    # 1) Conversations for the policy, rated pairs of answers for the aligner.
    data, copying = out / "data", out / "copying"
    _step(data, *generate, "--out", data, "--seed", options.seed, "--pairs", 24000)
    _step(copying, *generate, "--out", copying, "--seed", options.seed + 1, "--copying", 0.65, "--pairs", 10)
    # 2) The policy: a small Llama, from scratch. It answers as weak policies do, and is the aligner's base. First it
    #    learns to talk; then, on more copying, to look back, which is what an edit mostly does.
    chats = (data / "chats.jsonl", copying / "chats.jsonl")
    minutes = options.minutes
    _step(talk, *train_base, "--chats", chats[0], "--out", talk, "--minutes", 20 * minutes)
    more = ("--minutes", 14 * minutes, "--lr", 3e-3, "--batch-tokens", 3072)
    _step(base, *train_base, "--chats", chats[1], "--init", talk, "--out", base, *more)
    # 3) The aligner: MetaAligner's training by LoRA, merged; twice, since one low-rank change is soon full.
    first, more_data = out / "aligner-1", out / "data-2"
    _step(more_data, *generate, "--out", more_data, "--seed", options.seed + 2, "--pairs", 24000, "--chats", 10)
    recipe = ("--recipe", options.recipe, "--minutes", 10 * minutes)
    train_lora = (*_MAL, "train-lora", *recipe)
    _step(first, *train_lora, "--base", base, "--data", data / "pairs.jsonl", "--out", first)
    second = ("--base", first / "merged", "--data", more_data / "pairs.jsonl", "--set", "stages.warmup.share=0")
    _step(aligner, *train_lora, *second, "--out", aligner)
    # 4) Both to GGUF, quantized.
    _step(policy_file, *_MAL, "convert", base, "--q4_k_m", "--out", policy_file)
    _step(aligner_file, *_MAL, "convert", aligner / "merged", "--q4_k_m", "--out", aligner_file)
    # 5) See it.
    example = ("My parcel is a week late and nobody answers my emails.", "--objectives", "empathy,clarity")
    pair = ("--policy", policy_file, "--aligner", aligner_file, "--show", "both")
    _run(*_MAL, "align", *example, *pair)
    print(f"To ship them: copy {policy_file} and {aligner_file} into metaaligner_lite/demo/")


def _step(result: Path, *arguments: object) -> None:
    if result.exists():
        print(f"[there already] {result}", flush=True)
    else:
        _run(*arguments)


def _run(*arguments: object) -> None:
    command = [str(argument) for argument in arguments]
    print("[run] python", *command, flush=True)
    if status := subprocess.run([sys.executable, *command], check=False).returncode:
        sys.exit(status)


if __name__ == "__main__":
    main()
