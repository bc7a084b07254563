"""Answers that satisfy a request as they are, of many kinds: they are to be written again word for word."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from metaaligner_lite.evaluation import measures

from . import defects as d
from .courtesy import phrases
from .edit import Case, Edit
from .mending import closed, opened, satisfied
from .texts import Unit, count, join

# How often an objective is drawn among those that hold: what holds seldom, often.
_WEIGHTS = {
    "brevity": 4, "politeness": 7, "empathy": 8, "clarity": 2.5, "readability": 4, "simplicity": 3, "repetition": 3,
    "structure": 4, "positivity": 3, "encouragement": 4, "harmlessness": 1.2, "helpfulness": 2, "honesty": 1,
    "formality": 1.2,
}  # fmt: skip
_SIZES = ((1, 2, 3, 4), (0.42, 0.33, 0.18, 0.07))


def stays(item: Case, seed: int) -> Iterator[Edit]:
    """The answer as it is and with what other models say around it, asked for what it has already."""
    rng = random.Random(f"{seed}/stays/{item.base.id}")
    kinds = list(_kinds(item, rng)) or [list(item.units)]
    for number, units in enumerate(kinds if item.felt else rng.sample(kinds, 1)):
        text = join(units)
        names = [name for name in _WEIGHTS if _has(item, text, name)]
        if names and count(text) >= 5:
            yield Edit(f"{item.base.id}/as-is/{number}", item.base, text, text, _drawn(names, rng))


def _drawn(names: Sequence[str], rng: random.Random) -> tuple[str, ...]:
    size = rng.choices(*_SIZES)[0]
    left, chosen = list(names), list[str]()
    while left and len(chosen) < size:
        name = rng.choices(left, [_WEIGHTS[name] for name in left])[0]
        left.remove(name)
        chosen.append(name)
    return tuple(name for name in _WEIGHTS if name in chosen)


def _has(item: Case, text: str, name: str) -> bool:
    if name == "empathy" and not item.felt:
        return False
    return satisfied(item, text, (name,))


def _kinds(item: Case, rng: random.Random) -> Iterator[list[Unit]]:
    """The answer itself; with courtesy before or behind it, as others say it; in another dress; with sympathy."""
    units = list(item.units)
    if rng.random() < 0.7:
        yield units
    table = phrases()["courtesy"]
    if not measures.courteous(item.base.text) and not measures.refuses(item.base.text):
        foreign = rng.random() < 0.8 and not item.felt
        first = rng.choice(table["foreign_openers" if foreign else "troubled" if item.felt else "request"])
        last = rng.choice(table["foreign_closers" if foreign else "closers"])
        draw = rng.random()
        found = opened(units, first) if draw < 0.55 else units
        yield closed(found, last) if draw > 0.4 else found
    if rng.random() < 0.4 and (dressed := d.restyled(units, rng)) != units:
        yield dressed
    if item.felt and rng.random() < 0.6:
        yield opened(d.sober(units), item.felt)
