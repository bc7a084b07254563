"""The choices of the reference code (SteveKGYang/MetaAligner at 26d8dad), faults included, for comparison alone.

Its two scripts differ from Algorithm 1:
  HH_RLHF_make_aligner_data.py       the equal prompts name the objectives on which the input answer wins; the
                                     context of a pair's second and third prompt is the whole prompt before it,
                                     and so holds the answer to be written
  UltraFeedback_make_aligner_data.py one direction per pair, the larger set; the equal edit only for the last
                                     partner of each answer; completions without all four ratings are left out
Each edit becomes a row that Algorithm 1 turns into that edit and no other. Edits without any objective, which
the reference writes too, cannot be: they are counted by whoever asks.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from metaaligner_lite.prompts import edit_prompt

from .reformulate import Edit, signs
from .rows import Answer, Row

#: What its UltraFeedback script compares.
ULTRAFEEDBACK = frozenset({"instruction following", "honesty", "truthfulness", "helpfulness"})


def reference_edits(row: Row, style: str, rng: random.Random) -> Iterator[Edit]:
    """The edits the reference makes of a row; `style` is "hh-rlhf" or "ultrafeedback". Objectives may be none."""
    yield from _hh_rlhf(row, rng) if style == "hh-rlhf" else _ultrafeedback(row, rng)


def comparable(row: Row) -> Row:
    """The row with what the UltraFeedback script compares: its four ratings, of the answers that have them all."""
    four = (replace(a, ratings={o: r for o, r in a.ratings.items() if o.name in ULTRAFEEDBACK}) for a in row.answers)
    return replace(row, answers=tuple(answer for answer in four if len(answer.ratings) == len(ULTRAFEEDBACK)))


def as_row(edit: Edit, id_: str) -> Row:
    """The row whose only edit is this one: its target rated above its answer, or equal to it."""
    ratings = dict.fromkeys(edit.objectives, 1.0)
    weaker = ratings if edit.equal else dict.fromkeys(edit.objectives, 0.0)
    return Row(id_, edit.query, (Answer(edit.target, ratings), Answer(edit.answer, weaker)))


def _hh_rlhf(row: Row, rng: random.Random) -> Iterator[Edit]:
    first, second = row.answers[:2]
    preference = signs(first, second)
    better, worse, equal = ([o for o, sign in preference.items() if sign == wanted] for wanted in (1, -1, 0))
    rng.shuffle(better)
    rng.shuffle(worse)
    query = row.query
    if better:
        edit = Edit(query, second.text, first.text, tuple(better))
        yield edit
        query = _prompt(edit)  # sic: the prompt just made is the context of the next
    if worse:
        edit = Edit(query, first.text, second.text, tuple(worse))
        yield edit
        query = _prompt(edit)
    if equal:
        yield Edit(query, second.text, first.text, tuple(worse), equal=True)  # sic: not the equal ones


def _prompt(edit: Edit) -> str:
    return "".join(piece.text for piece in edit_prompt("paper/hh-rlhf", edit.query, edit.answer, edit.objectives))


def _ultrafeedback(row: Row, rng: random.Random) -> Iterator[Edit]:
    answers = row.answers
    for i, first in enumerate(answers[:-1]):
        equal = []
        for second in answers[i + 1 :]:
            preference = signs(first, second)
            better, worse, equal = ([o for o, sign in preference.items() if sign == wanted] for wanted in (1, -1, 0))
            if len(better) >= len(worse):
                rng.shuffle(better)
                yield Edit(row.query, second.text, first.text, tuple(better))
            else:
                rng.shuffle(worse)
                yield Edit(row.query, first.text, second.text, tuple(worse))
        if equal:
            rng.shuffle(equal)
            yield Edit(row.query, answers[-1].text, first.text, tuple(equal), equal=True)
