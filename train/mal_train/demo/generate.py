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

from . import free, phrases
from .asking import is_apart, some
from .chats import make_chat
from .scenarios import WITHHELD
from .slots import GOODS, draw, fill, slots_in
from .writing import OBJECTIVES, SHORTEST, Plan, fits, make_bare, make_plan, render, write

Row = dict[str, Any]


def ratings(satisfied: frozenset[str], rated: Sequence[str]) -> dict[str, int]:
    """The objectives that are rated, with 1 or 0."""
    return {name: int(name in satisfied) for name in rated}


def _rated(rng: random.Random, *sets: frozenset[str]) -> list[str]:
    """What is rated in answers satisfying ``sets``: all that differs, and up to four others, never kept apart.

    An equal edit names all that is level (Algorithm 1), so what is level decides which are named together.
    """
    asked = frozenset.union(*sets) - frozenset.intersection(*sets)
    while True:
        level = rng.sample([name for name in OBJECTIVES if name not in asked], rng.randint(1, 4))
        if not is_apart(frozenset(level)):
            return [name for name in OBJECTIVES if name in asked or name in level]


def _sets(rng: random.Random, withheld: bool = False, bare: bool = False) -> tuple[frozenset[str], frozenset[str]]:
    """What the weaker and the better answer satisfy; the difference, one to four objectives, is what is asked for.

    The weaker answer often names the user's own things: without that there is little for an edit to spoil. A bare one
    does not ramble unless brevity is asked for.
    """
    while True:
        asked = some(rng, OBJECTIVES, rng.choices((1, 2, 3, 4), (25, 35, 25, 15))[0])
        rest = [name for name in OBJECTIVES if name not in asked]
        others = rng.choices((0, 1, 2, 3), (60, 20, 12, 8))[0]
        common = set(rng.sample(rest, min(len(rest), others)))
        if "specificity" in rest and rng.random() < 0.6:
            common.add("specificity")
        if "brevity" in rest and (bare or (not withheld and rng.random() < 0.3)):
            common.add("brevity")
        if withheld or not is_apart(asked):
            return frozenset(common), asked | common


def _invented(rng: random.Random) -> tuple[str, str, bool]:
    """An objective that exists in one row only: its name and wording, the sentence it wants, and whether it begins."""
    saying = rng.choice(phrases.SAYINGS)
    values: dict[str, str] = {}
    for slot in slots_in(saying):
        values[slot] = draw(rng, slot, frozenset(values.values()))
    text = fill(saying, values)
    ask = rng.choice(phrases.ASKS_FOR)
    sentence = text[0].upper() + text[1:]
    name = rng.choice(GOODS).replace(" ", "-")
    return f"{name}: {ask.format(saying=text, Saying=sentence)}", f"{sentence}.", "begin" in ask


def _with_invented(rng: random.Random, answers: list[Row], better: int) -> None:
    """Let the better answer also say what an invented objective asks for."""
    name, sentence, first = _invented(rng)
    for index, answer in enumerate(answers):
        if index == better:
            answer["text"] = f"{sentence} {answer['text']}" if first else f"{answer['text']} {sentence}"
        answer["ratings"][name] = int(index == better)


def _tie(rng: random.Random) -> tuple[Plan, list[Row]]:
    """Two wordings of the same advice that satisfy the same objectives."""
    good = frozenset(rng.sample(OBJECTIVES, rng.choices((0, 1, 2, 3, 4, 5), (35, 20, 15, 14, 10, 6))[0]))
    while True:
        how = free.draw_shape(rng)
        plan, (text,) = write(rng, (good,), **how)
        other = how["change"](rng, make_plan(rng, plan.case, steps=plan.steps, shaped=True))
        texts = [text, render(other, good)]
        if texts[0] != texts[1] and fits(texts[1], SHORTEST):
            rated = _rated(rng, good)
            return plan, [{"text": text, "ratings": ratings(good, rated)} for text in texts]


def make_pair(rng: random.Random) -> Row:
    """One row of ``pairs.jsonl``, without its id."""
    if rng.random() < 0.1:
        plan, answers = _tie(rng)
    else:
        how = free.draw_shape(rng)
        sets = _sets(rng, bare=how["change"] is make_bare)
        plan, texts = write(rng, sets, **how)
        rated = _rated(rng, *sets)
        answers = [{"text": text, "ratings": ratings(good, rated)} for text, good in zip(texts, sets, strict=True)]
        if rng.random() < 0.15:
            _with_invented(rng, answers, better=1)
        rng.shuffle(answers)
    return {"query": plan.case.query, "answers": answers}


def make_heldout(rng: random.Random) -> Row:
    """One row of ``heldout.jsonl``: withheld messages, slot values and weak phrases; in part, whole scenarios.

    ``weak`` and ``other`` are weak answers in the policy's style and in another; ``strong`` is the edit of ``weak``.
    """
    common, good = _sets(rng, withheld=True)
    plan, (weak, strong) = write(rng, (common, good), withheld=True)
    return {
        "query": plan.case.query,
        "weak": weak,
        "other": other_style(rng, plan, "specificity" in common),
        "objectives": [name for name in OBJECTIVES if name in good - common],
        "strong": strong,
        "scenario": plan.case.scenario.name,
        "kind": "scenario" if plan.case.scenario.name in WITHHELD else "message",
    }


def other_style(rng: random.Random, plan: Plan, named: bool) -> str:
    """A weak answer of the same advice as another policy would word it; training sees none of its phrases."""
    steps = list(plan.named if named else plan.vague)
    advice = f"{rng.choice(phrases.OTHER_LEAD)}{'; '.join(steps)}."
    parts = [rng.choice(phrases.OTHER_REMARK), advice[0].upper() + advice[1:], rng.choice(phrases.OTHER_ASIDE)]
    if rng.random() < 0.3:
        parts[1], parts[2] = parts[2], parts[1]
    return " ".join(part for part in [*parts, rng.choice(phrases.OTHER_CLOSE)] if part)


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
    out: Path, seed: int = 0, pairs: int = 50000, chats: int = 55000, heldout: int = 300, copying: float = 0.5
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
    parser.add_argument("--pairs", type=int, default=50000, help="rows for the aligner")
    parser.add_argument("--chats", type=int, default=55000, help="conversations for the base model")
    parser.add_argument("--heldout", type=int, default=300, help="rows for checks")
    parser.add_argument("--copying", type=float, default=0.5, help="share of conversations that copy")
    args = parser.parse_args(argv)
    generate(args.out, args.seed, args.pairs, args.chats, args.heldout, args.copying)
    return 0


if __name__ == "__main__":
    sys.exit(main())
