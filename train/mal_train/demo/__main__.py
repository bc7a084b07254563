"""Make the embedded pair anew: data, policy, both kinds of aligner, conversion, measurement. `make pair`, or

    python -m mal_train.demo --out runs/pair

Every step is one of this project's own commands, run as a process and printed, so that each can be rerun alone.
A step whose result is there already is skipped; delete its folder to redo it. Budgets are counted in tokens and edits,
not in minutes. On two CPU cores without AMX all of it took 81 minutes: the base 38, the aligner 17, the adapter 23;
--compare, some 20 more, adds what the model card compares with.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

_MAL = ("-m", "metaaligner_lite")
_EXAMPLE = "My parcel is a week late and nobody answers my emails."
_TYPE = "q6_k"  # of the aligner: Q4_K_M costs it some three facts in a hundred (bench/LOG.md, sixth round)
_UNSEEN = 60  # held-out messages for objectives never trained
BASE_TOKENS = 10_000_000  # it copies facts after one million; the rest is for its advice


def main() -> None:
    """Run the steps, each from the files of the one before."""
    parser = argparse.ArgumentParser(prog="python -m mal_train.demo", description="Make the embedded pair anew.")
    parser.add_argument("--out", type=Path, default=Path("runs/pair"))
    parser.add_argument("--recipe", type=Path, default=Path("train/recipes/demo-aligner.toml"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare", action="store_true", help="also other types, a single step, and baselines")
    options = parser.parse_args()
    out: Path = options.out
    data, base, policy = out / "data", out / "base", out / "policy.gguf"
    rows = data / "pairs.jsonl"

    # 1) Conversations for the policy, rated pairs of answers for the aligner, held-out messages for both.
    _step(rows, "-m", "mal_train.demo.generate", "--out", data, "--seed", options.seed)
    # 2) The policy: a small Llama, from scratch. It answers as weak policies do, and is the aligner's base.
    budget = ("--tokens", BASE_TOKENS, "--seed", options.seed)
    _step(base, "-m", "mal_train.demo.base", "--chats", data / "chats.jsonl", "--out", base, *budget)
    _step(policy, *_MAL, "convert", base, "--q4_k_m", "--out", policy)
    # 3) MetaAligner's training by LoRA: merged into an aligner of its own, and as an adapter over the policy.
    recipe = ("--recipe", options.recipe, "--set", f"seed={options.seed}")
    train = (*_MAL, "train-lora", "--base", base, "--data", rows, *recipe)
    aligner, adapter = out / f"aligner-{_TYPE}.gguf", out / "adapter.gguf"
    _step(out / "aligner", *train, "--out", out / "aligner")
    _step(aligner, *_MAL, "convert", out / "aligner" / "merged", f"--{_TYPE}", "--out", aligner)
    _step(out / "activated", *train, "--out", out / "activated", "--kind", "activated")
    folder = ("convert", out / "activated" / "adapter", "--adapter-only", "--base", base, "--f16")
    _step(adapter, *_MAL, *folder, "--out", adapter)
    # 4) For comparison: in other types, and trained in a single step.
    contestants: list[object] = ["--aligner", aligner]
    if options.compare:
        types = {kind: out / f"aligner-{kind}.gguf" for kind in ("q4_k_m", "f16")}
        for kind, path in types.items():
            _step(path, *_MAL, "convert", out / "aligner" / "merged", f"--{kind}", "--out", path)
        single = out / f"single-step-{_TYPE}.gguf"
        only = ("--set", "stages.warmup.share=0", "--set", "stages.equal.share=0")
        _step(out / "single", *train, "--out", out / "single", *only)
        _step(single, *_MAL, "convert", out / "single" / "merged", f"--{_TYPE}", "--out", single)
        for path in (*types.values(), single):
            contestants += ["--aligner", path]
        contestants += ["--baselines", "--unseen", _UNSEEN]
    # 5) What they are worth, and what it looks like.
    heldout = ("bench/quality.py", data / "heldout.jsonl", "--policy", policy)
    _run(*heldout, *contestants, "--adapter", adapter)
    files = ("--policy", policy, "--aligner", aligner)
    _run(*_MAL, "align", _EXAMPLE, "--objectives", "clarity,honesty,brevity", *files, "--show", "both")
    print(f"To ship them: copy {policy}, {aligner} and {adapter} into metaaligner_lite/demo/")


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
