"""Slips in what a model has written so far, so that it learns to find its way back.

Trained on its texts alone, a small model never reads its own mistakes. Having written one wrong token it copies on from
a wrong place, and having written a word twice it goes on writing it. Here some answers hold such slips: a stutter, a
wrong token, a step taken twice. Nothing is learned from the slip itself; what follows is what should have stood there.
Only a conversation's last answer holds any: what later turns copy from stays as it is.
"""

from __future__ import annotations

import random
from array import array

from .drills import Row
from .tokens import IM_END

#: The most slips in one conversation, and the longest run that is taken twice.
MOST, LONGEST = 3, 8


def slipped(rng: random.Random, row: Row) -> Row:
    """The row with one to three slips inside its last answer; unchanged if it has none of two tokens or more."""
    ids, targets = row
    last = targets.rfind(1) + 1
    start = targets.rfind(0, 0, last) + 1
    inside = range(start + 1, last)
    if not inside:
        return row
    slips = {at: _slip(rng, ids, at, start) for at in rng.sample(inside, min(rng.randint(1, MOST), len(inside)))}
    new_ids, new_targets = array("H"), bytearray()
    for at, (token, target) in enumerate(zip(ids, targets, strict=True)):
        slip = slips.get(at, [])
        new_ids.extend([*slip, token])
        new_targets.extend([*bytes(len(slip)), target])
    return new_ids, bytes(new_targets)


def _slip(rng: random.Random, ids: array[int], at: int, start: int) -> list[int]:
    """What stands before position ``at`` by mistake, in an answer from ``start`` on; never a special token."""
    chance = rng.random()
    if chance < 0.4:  # the last token, over and over
        return [ids[at - 1]] * rng.choice((1, 1, 2, 3, 4, 6))
    if chance < 0.7:  # a token from elsewhere in the conversation
        return [rng.choice([token for token in ids[:at] if token > IM_END])]
    length = min(rng.randint(2, LONGEST), at - start)  # the last few tokens, once more or twice
    return list(ids[at - length : at]) * rng.choice((1, 1, 2))
