"""Real answers and what to ask of them, for `python -m mal_train.best_of`: no edit is made here.

    python -m mal_train.corpus.asks --data DIR [--own-answers own.jsonl] --out asks.jsonl

Each row is one that `mal batch` reads, too: a query, an answer as people and models wrote it, and one to three
objectives of which by the rules at least one does not hold yet. Answers for which all of them hold are written beside
(`asks-stay.jsonl`) as rows that stay word for word. The queries are those of the corpus: none is kept for evaluation.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from metaaligner_lite.errors import MalError
from metaaligner_lite.files import write_whole

from .defects import worse
from .edit import Edit, case, own_cases
from .judge import holds, ruled, said
from .making import bases
from .sources import Base, dump
from .texts import count, join

_WEIGHTS = {
    "brevity": 5, "politeness": 4, "empathy": 9, "clarity": 5, "readability": 6, "simplicity": 1.5, "repetition": 5,
    "structure": 1.5, "positivity": 1, "encouragement": 1, "formality": 1,
}  # fmt: skip
_SIZES = ((1, 2, 3), (0.68, 0.24, 0.08))
_SHORTEST, _LONGEST = 20, 230  # words
_LEFT = ("hh-rlhf harmless", "WikiSplit", "rm-bench")  # offensive, single sentences, refusals
_STAY = 0.18  # of all requests


def asks(found: Iterable[Base], seed: int, each: int = 2) -> Iterator[Edit]:
    """Up to `each` requests of every base, those that stay among them (weak and target the same)."""
    for base in found:
        if base.source.startswith(_LEFT) or (base.objectives and base.objectives != ("repetition",)):
            continue
        text = base.worse if base.objectives else base.text
        if not _SHORTEST <= count(text) <= _LONGEST:
            continue
        rng = random.Random(f"{seed}/asks/{base.id}")
        for number in range(each):
            weak = text
            if rng.random() < 0.12:  # what real answers seldom have: said twice, or padded
                put = {rng.choice(("repeat", "filler"))}
                weak = join(worse(list(case(base, seed).units), put, f"{seed}/{base.id}/{number}"))
            names = ruled(_WEIGHTS, said(base))
            there = {name: holds(name, said(base), weak) for name in names}
            stay = rng.random() < _STAY
            lead = [name for name in names if there[name] is stay]
            if not lead:
                continue
            request = [_one(lead, rng)]
            others = [name for name in names if there[name] or not stay]
            for _ in range(rng.choices(*_SIZES)[0] - 1):
                if others := [name for name in others if name not in request]:
                    request.append(_one(others, rng))
            asked = tuple(name for name in _WEIGHTS if name in request)
            yield Edit(f"{base.id}/ask/{number}", base, weak, weak if stay else "", asked)


def _one(names: Sequence[str], rng: random.Random) -> str:
    return rng.choices(list(names), [_WEIGHTS[name] for name in names])[0]


def row(edit: Edit) -> dict[str, Any]:
    """The row of a request; of one that stays, the row that trains it."""
    found = edit.row()
    if not edit.stays:
        del found["answers"]
        found |= {"answer": edit.weak, "objectives": list(edit.objectives)}
    return found


def main() -> None:
    """Write both files, and how often what is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m mal_train.corpus.asks", description="Real answers and what to ask of them."
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--own-answers", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--most", type=int, default=6000, help="asks (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        found = [*bases(options.data, options.own_answers)[0], *own_cases(options.seed)]
        random.Random(options.seed).shuffle(found)
        edits = list(asks(found, options.seed))
    except MalError as error:
        sys.exit(f"error: {error}")
    random.Random(options.seed).shuffle(edits)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    beside = options.out.with_name(f"{options.out.stem}-stay{options.out.suffix}")
    for path, some in ((options.out, [e for e in edits if not e.stays]), (beside, [e for e in edits if e.stays])):
        some = some[: options.most]
        write_whole(path, "".join(dump(row(edit)) + "\n" for edit in some))
        told = Counter(name for edit in some for name in edit.objectives)
        print(f"{len(some):,} in {path}: {', '.join(f'{name} {number:,}' for name, number in told.most_common())}")


if __name__ == "__main__":
    main()
