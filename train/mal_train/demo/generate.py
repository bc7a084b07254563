"""Write the demo data: ``python -m mal_train.demo.generate --out DIR --seed 0``.

* ``pairs.jsonl``: a query and two answers rated under all objectives, for the aligner.
* ``chats.jsonl``: conversations for the base model, which is also the policy.
* ``heldout.jsonl``: a query, a weak answer, objectives and the answer they ask for, from withheld material.

Each file has its own generator derived from the seed, so the size of one does not change another. Rows are
streamed to a temporary file that takes its name when complete.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .chats import make_chat
from .scenarios import WITHHELD
from .writing import OBJECTIVES, Plan, fits, make_plan, render, write

Row = dict[str, Any]


def ratings(satisfied: frozenset[str]) -> dict[str, int]:
    """All objectives with 1 or 0."""
    return {name: int(name in satisfied) for name in OBJECTIVES}


def _sets(rng: random.Random) -> tuple[frozenset[str], frozenset[str]]:
    """What the weaker and the better answer satisfy; the difference is one to four objectives."""
    common = rng.sample(OBJECTIVES, rng.choices((0, 1, 2, 3, 4), (60, 20, 10, 6, 4))[0])
    rest = [name for name in OBJECTIVES if name not in common]
    added = rng.sample(rest, min(len(rest), rng.choices((1, 2, 3, 4), (25, 35, 25, 15))[0]))
    return frozenset(common), frozenset(common + added)


def _tie(rng: random.Random) -> tuple[Plan, list[Row]]:
    """Two wordings of the same advice that satisfy the same objectives."""
    good = frozenset(rng.sample(OBJECTIVES, rng.choices((0, 1, 2, 3, 4, 5), (35, 20, 15, 14, 10, 6))[0]))
    while True:
        plan = write(rng, (good,))[0]
        other = make_plan(rng, plan.case)
        texts = [render(plan, good), render(other, good)]
        if texts[0] != texts[1] and all(map(fits, texts)):
            return plan, [{"text": text, "ratings": ratings(good)} for text in texts]


def make_pair(rng: random.Random) -> Row:
    """One row of ``pairs.jsonl``, without its id."""
    if rng.random() < 0.15:
        plan, answers = _tie(rng)
    else:
        sets = _sets(rng)
        plan, texts = write(rng, sets)
        answers = [{"text": text, "ratings": ratings(good)} for text, good in zip(texts, sets, strict=True)]
        rng.shuffle(answers)
    return {"query": plan.case.query, "answers": answers}


def make_heldout(rng: random.Random) -> Row:
    """One row of ``heldout.jsonl``: withheld messages, slot values and weak phrases; in part, whole scenarios."""
    good = frozenset(rng.sample(OBJECTIVES, rng.choices((1, 2, 3, 4), (30, 35, 25, 10))[0]))
    plan, (weak, strong) = write(rng, (frozenset(), good), withheld=True)
    return {
        "query": plan.case.query,
        "weak": weak,
        "objectives": [name for name in OBJECTIVES if name in good],
        "strong": strong,
        "kind": "scenario" if plan.case.scenario.name in WITHHELD else "message",
    }


def _rows(kind: str, seed: int, count: int, make: Callable[[random.Random], Row]) -> Iterator[Row]:
    rng = random.Random(f"{seed}/{kind}")
    for index in range(count):
        yield {"id": f"{kind}-{index:06d}", **make(rng)} if kind == "pair" else make(rng)


def _save(path: Path, rows: Iterator[Row]) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    partial.replace(path)
    print(f"wrote {path}", file=sys.stderr)


def generate(
    out: Path, seed: int = 0, pairs: int = 60000, chats: int = 60000, heldout: int = 300, copying: float = 0.25
) -> None:
    """Write the three files into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    _save(out / "heldout.jsonl", _rows("heldout", seed, heldout, make_heldout))
    _save(out / "chats.jsonl", _rows("chat", seed, chats, lambda rng: {"messages": make_chat(rng, copying)}))
    _save(out / "pairs.jsonl", _rows("pair", seed, pairs, make_pair))


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m mal_train.demo.generate", description="Write the demo data.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=60000, help="rows for the aligner")
    parser.add_argument("--chats", type=int, default=60000, help="conversations for the base model")
    parser.add_argument("--heldout", type=int, default=300, help="rows for checks")
    parser.add_argument("--copying", type=float, default=0.25, help="share of conversations that copy")
    args = parser.parse_args(argv)
    generate(args.out, args.seed, args.pairs, args.chats, args.heldout, args.copying)
    return 0


if __name__ == "__main__":
    sys.exit(main())
