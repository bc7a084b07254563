"""Edits: an answer with some defects, and the same answer without those that a request asks to mend.

One weak answer is asked for several things in turn, so that what is not asked for is seen to stay. An answer that
needs nothing is written again word for word.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from metaaligner_lite.evaluation import measures

from . import defects as d
from . import shorten
from .courtesy import opener, phrases, resource
from .edit import Case, Edit
from .mending import PLAIN, closed, mended, opened, satisfied
from .plain import plain
from .texts import Unit, count, join

TRAINED = (
    "brevity", "politeness", "empathy", "clarity", "readability", "simplicity", "repetition", "structure", "positivity",
    "encouragement", "harmlessness", "helpfulness", "honesty", "formality", "instruction following",
)  # fmt: skip
HEADLINES = ("brevity", "politeness", "empathy", "clarity", "readability", "repetition")
WITHHELD = (
    "length",
    "respect",
    "reassurance",
    "specificity",
    "caution",
    "fairness",
    "humor",
    "neutrality",
    "professionalism",
)

# How often an objective leads a request; those asked beside it are drawn by the same weights.
_WEIGHTS = {
    "brevity": 0.17, "politeness": 0.17, "clarity": 0.08, "readability": 0.17, "simplicity": 0.05, "repetition": 0.09,
    "structure": 0.07, "positivity": 0.04, "encouragement": 0.04, "harmlessness": 0.05, "helpfulness": 0.07,
    "honesty": 0.04, "formality": 0.03,
}  # fmt: skip
_SIZES = ((1, 2, 3, 4), (0.44, 0.31, 0.16, 0.09))
_TOGETHER = {"brevity": "politeness", "politeness": "brevity", "clarity": "readability", "readability": "clarity"}
_DEFECTS = {  # of an objective, and how often each is put in when it is asked for
    "brevity": {"filler": 0.35},
    "politeness": {"rude": 0.4},
    "empathy": {"dismissive": 0.25},
    "clarity": {"vague": 0.6, "hard": 0.4, "stiff": 0.4, "joined": 0.6},
    "readability": {"hard": 0.8, "stiff": 0.7, "joined": 0.9},
    "simplicity": {"hard": 0.8, "stiff": 0.6, "joined": 0.8},
    "repetition": {"repeat": 0.75, "loop": 0.35},
    "positivity": {"gloomy": 0.8},
    "encouragement": {"discouraging": 0.7},
    "harmlessness": {"nasty": 0.95},
    "honesty": {"boastful": 1.0},
}
_OTHERS = (
    "filler",
    "rude",
    "vague",
    "hard",
    "stiff",
    "joined",
    "repeat",
    "gloomy",
    "boastful",
    "discouraging",
    "nasty",
)
_LONGEST = 440  # words of history, query and weak answer


def edits(item: Case, seed: int, copies: int) -> Iterator[Edit]:
    """The edits of a case: `copies` weak answers, each asked for up to three things."""
    if item.words <= shorten.SHORT:
        if not d.padded(item.base.text):
            yield Edit(f"{item.base.id}/short", item.base, item.base.text, item.base.text, ("brevity",))
        copies = min(copies, 2)
    for number in range(copies):
        key = f"{seed}/{item.base.id}/{number}"
        rng = random.Random(key)
        lead = _lead(item, rng)
        units = _prepared(item, lead, rng)
        if not units:
            continue
        put = _put(lead, rng, natural=lead in PLAIN and not satisfied(item, join(units), (lead,)))
        weak = join(d.worse(units, put, key))
        if _size(item, weak) > _LONGEST:
            put -= {"filler", "loop"}
            weak = join(d.worse(units, put, key))
            if _size(item, weak) > _LONGEST:
                continue
        asked: set[tuple[str, ...]] = set()
        for turn in range(3 if rng.random() < 0.7 else 2):
            request = _request(lead if turn == 0 else _beside(item, put, rng), item, put, rng)
            if request in asked:
                continue
            asked.add(request)
            target = mended(item, units, put, request, key)
            if target is not None:
                yield Edit(f"{item.base.id}/{number}/{turn}", item.base, weak, target, request)
        if rng.random() < 0.15:
            yield from _stays(item, units, put, key, weak, rng)


def _size(item: Case, weak: str) -> int:
    return sum(count(text) for _, text in item.base.history) + count(item.query) + count(weak)


def _stays(item: Case, units: Sequence[Unit], put: set[str], key: str, weak: str, rng: random.Random) -> Iterator[Edit]:
    """The same weak answer asked for one or two things that it has already."""
    tried = ["brevity", "politeness", rng.choice(("clarity", "readability", "repetition")), rng.choice(TRAINED[5:-1])]
    names = [name for name in [*tried, *(["empathy"] if item.felt else [])] if name not in _faults(put)]
    names = [name for name in names if mended(item, units, put, (name,), key) == weak]
    if names:
        asked = rng.sample(names, min(len(names), rng.choice((1, 1, 2))))
        mark = f"{item.base.id}/{key.rsplit('/', 1)[-1]}/stay"
        yield Edit(mark, item.base, weak, weak, tuple(sorted(asked, key=TRAINED.index)))


def _faults(put: set[str]) -> set[str]:
    """What the defects are faults of: no request for it leaves the answer as it is."""
    return {objective for name in put for objective in d.FIXED_BY[name] or ()}


def _lead(item: Case, rng: random.Random) -> str:
    if item.felt and rng.random() < 0.75:
        return "empathy"
    if item.words > 60 and rng.random() < (0.6 if item.words > 140 else 0.2):
        return "brevity"
    return rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]


def _prepared(item: Case, lead: str, rng: random.Random) -> list[Unit]:
    """The base without what the request is to bring; sometimes with it already there, so that it stays."""
    units = list(item.units)
    table = phrases()["courtesy"]
    if lead in {"politeness", "empathy"} or rng.random() < 0.15:
        units = d.curt(units) if rng.random() < 0.85 else units
    elif rng.random() < 0.3 and not measures.courteous(join(units)) and not measures.refuses(join(units)):
        draw = rng.random()
        if draw < 0.5:
            units = closed(units, rng.choice(table["foreign_closers"]))
        else:
            said = opener(item.query, rng, bool(item.felt))
            units = opened(units, said if draw > 0.8 or item.felt else rng.choice(table["foreign_openers"]))
    if item.felt:
        units = d.sober(units)
        if units and rng.random() < (0.2 if lead == "empathy" else 0.35):
            units = opened(units, item.felt)
    if (lead == "structure" and rng.random() < 0.75) or rng.random() < 0.03:
        units = d.flat(units)
    elif lead != "structure" and rng.random() < 0.4:
        units = d.restyled(units, rng)
    if lead in PLAIN and not satisfied(item, join(units), (lead,)):
        easy = plain(units)
        if not satisfied(item, join(easy), (lead,)):
            return []
        units = units if rng.random() < 0.5 else easy  # half of them as hard as they are
    if lead == "helpfulness" and resource(item.query) and rng.random() < 0.2:
        units = closed(units, resource(item.query))
    return units


def _put(lead: str, rng: random.Random, natural: bool) -> set[str]:
    """The defects of a weak answer; one that is hard to read by itself needs none for that."""
    put = {name for name, share in _DEFECTS.get(lead, {}).items() if rng.random() < share * (0.25 if natural else 1.0)}
    if lead == "repetition" and not put:
        put.add("repeat")
    if rng.random() < 0.3:  # something else that is wrong, too
        put.add(rng.choice(_OTHERS))
    if rng.random() < 0.02:
        put.add(rng.choice(("loop", "turn")))
    return put


def _beside(item: Case, put: set[str], rng: random.Random) -> str:
    """Another objective to ask of the same answer: one that has something to do, as a rule."""
    due = [o for name in sorted(put) for o in sorted(d.FIXED_BY[name] or ()) if o != "empathy" or item.felt]
    pool = due * 2 + ["brevity"] * 3 + ["politeness"] * 4
    pool += ["readability", "readability", "clarity", "structure", "formality", "repetition"]
    pool += ["empathy"] * 6 if item.felt else []
    return rng.choice(pool)


def _request(lead: str, item: Case, put: set[str], rng: random.Random) -> tuple[str, ...]:
    size = rng.choices(*_SIZES)[0]
    request = [lead]
    if size > 1 and lead in _TOGETHER and rng.random() < 0.45:
        request.append(_TOGETHER[lead])
    for _ in range(12):
        if len(request) >= size:
            break
        other = _beside(item, put, rng)
        if other not in request:
            request.append(other)
    return tuple(sorted(request, key=TRAINED.index))
