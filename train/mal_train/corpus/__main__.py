"""Make the corpus of the real aligner, from the folders as they are:

    python -m mal_train.corpus --data DIR --out rows.jsonl [--own-answers own.jsonl]

Writes the rows, `rows-heldout.jsonl` with the queries held out, and `rows-manifest.json`: every source with what was
read, used and refused, its origin and its licence.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from metaaligner_lite.errors import MalError

from .making import make, write


def main() -> None:
    """Read, compose, write, and say what became of everything."""
    parser = argparse.ArgumentParser(
        prog="python -m mal_train.corpus", description="Make the corpus of the real aligner."
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder with hh-rlhf/, rm-bench/, rows/ ...")
    parser.add_argument("--out", type=Path, required=True, help="the rows (JSONL); others are written beside it")
    parser.add_argument("--own-answers", type=Path, help="what python -m mal_train.corpus.own_answers wrote")
    parser.add_argument("--edits", type=int, default=15_000, help="about so many (default %(default)s)")
    parser.add_argument("--held-out", type=float, default=0.03, help="share of the queries (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        corpus = make(options.data, own=options.own_answers, size=options.edits, seed=options.seed)
        for line in write(corpus, options.out, held_out=options.held_out, seed=options.seed):
            print(line)
    except MalError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
