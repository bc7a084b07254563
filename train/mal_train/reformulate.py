"""Dynamic objectives reformulation: rated answers become edits to learn (paper, Algorithm 1).

Of each pair of answers the objectives on which the first is better, worse and equal are collected. The better
ones ask for an edit from the second answer to the first, the worse ones for the edit back, the equal ones for
an equal edit; an empty collection asks for nothing. An answer that is good enough already makes an edit of its own,
whose target is the answer. Pure Python: no torch, no files, everything seeded.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from metaaligner_lite.objectives import Objective
from metaaligner_lite.prompts import Message

from .rows import Answer, Row


@dataclass(frozen=True, slots=True)
class Edit:
    """One thing to learn: given `query` and the weak `answer`, write `target` toward `objectives`."""

    query: str
    answer: str
    target: str
    objectives: tuple[Objective, ...]
    equal: bool = False  # t = equal: as good as the answer on these objectives, not better
    stay: bool = False  # the answer satisfies these objectives: to improve it is to leave it
    history: tuple[Message, ...] = ()  # the turns before the query


@dataclass(frozen=True, slots=True)
class EditSets:
    """The two sets of Algorithm 1: D_c, edits that improve (or find nothing to), and D_e, edits that keep."""

    contrastive: tuple[Edit, ...]
    equal: tuple[Edit, ...]


def signs(first: Answer, second: Answer) -> dict[Objective, int]:
    """The preference for `first` per objective rated in both: 1 better, -1 worse, 0 equal."""
    shared = [objective for objective in first.ratings if objective in second.ratings]
    return {o: (first.ratings[o] > second.ratings[o]) - (first.ratings[o] < second.ratings[o]) for o in shared}


def reformulate(
    query: str, first: str, second: str, preference: Mapping[Objective, int], rng: random.Random
) -> Iterator[Edit]:
    """The edits of one pair: at most one forward, one backward and one equal (Algorithm 1, lines 3 to 11)."""
    better, worse, equal = ([o for o, sign in preference.items() if sign == wanted] for wanted in (1, -1, 0))
    for collection in (better, worse, equal):
        rng.shuffle(collection)
    if better:
        yield Edit(query, second, first, tuple(better))
    if worse:
        yield Edit(query, first, second, tuple(worse))
    if equal:
        yield Edit(query, second, first, tuple(equal), equal=True)


def reformulate_rows(
    rows: Iterable[Row], seed: int = 0, *, epoch: int = 0, pairs_per_row: int = 0, most_objectives: int = 0
) -> EditSets:
    """The edit sets of all pairs of answers of all rows, each set shuffled.

    `pairs_per_row` limits the pairs drawn from one row (0: all). `most_objectives` draws a random non-empty part
    of each edit's objectives, that large at most (0: all of them, as in the paper). Another `epoch` draws orders
    and parts anew, for the same edits in the same places.
    """
    contrastive: list[Edit] = []
    equal: list[Edit] = []
    for row in rows:
        rng = random.Random(f"{seed}/{epoch}/{row.id}/{row.query}")
        pairs = list(combinations(row.answers, 2))
        if 0 < pairs_per_row < len(pairs):
            pairs = random.Random(f"{seed}/{row.id}/{row.query}").sample(pairs, pairs_per_row)
        for first, second in pairs:
            for edit in reformulate(row.query, first.text, second.text, signs(first, second), rng):
                drawn = _part(edit, most_objectives, rng) if most_objectives else edit
                (equal if edit.equal else contrastive).append(replace(drawn, history=row.history))
        for answer in row.answers:
            if answer.good:
                good = rng.sample(answer.good, len(answer.good))
                stays = Edit(row.query, answer.text, answer.text, tuple(good), stay=True, history=row.history)
                contrastive.append(_part(stays, most_objectives, rng) if most_objectives else stays)
    order = random.Random(f"{seed}")  # not the epoch's: a share of the edits must be the same edits in each
    order.shuffle(contrastive)
    order.shuffle(equal)
    return EditSets(tuple(contrastive), tuple(equal))


def identity(edits: Sequence[Edit]) -> list[Edit]:
    """Edits to warm up on: the target is the answer itself (paper section 3.2, step 1)."""
    return [replace(edit, target=edit.answer) for edit in edits]


def _part(edit: Edit, most: int, rng: random.Random) -> Edit:
    count = rng.randint(1, min(most, len(edit.objectives)))
    return replace(edit, objectives=edit.objectives[:count])  # they are shuffled already
