"""Edits: an answer with some defects, and the same answer without those that a request asks to mend.

One weak answer is asked for several things in turn, so that what is not asked for is seen to stay. An answer that
needs nothing is written again word for word.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

from . import defects as d
from . import shorten
from .courtesy import closer, closing, courteous, opener, ours, phrases, resource, rude, sympathetic
from .edit import Case, Edit
from .plain import clear, easier, plain
from .texts import Unit, count, join, normal, split

PLAIN = ("clarity", "readability", "simplicity")
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
    "brevity": 0.19, "politeness": 0.15, "empathy": 0.0, "clarity": 0.09, "readability": 0.09, "simplicity": 0.04,
    "repetition": 0.10, "structure": 0.08, "positivity": 0.045, "encouragement": 0.045, "harmlessness": 0.05,
    "helpfulness": 0.14, "honesty": 0.045, "formality": 0.035,
}  # fmt: skip
_SIZES = ((1, 2, 3, 4), (0.58, 0.24, 0.12, 0.06))
_DEFECTS = {  # of an objective, and how often each is put in when it is asked for
    "brevity": {"filler": 0.45},
    "politeness": {"rude": 0.5},
    "empathy": {"dismissive": 0.25},
    "clarity": {"vague": 0.55, "hard": 0.5, "joined": 0.5},
    "readability": {"hard": 0.6, "joined": 0.5},
    "simplicity": {"hard": 0.6, "joined": 0.5},
    "repetition": {"repeat": 0.65, "loop": 0.4},
    "positivity": {"gloomy": 0.8},
    "encouragement": {"discouraging": 0.7},
    "harmlessness": {"nasty": 0.95},
    "honesty": {"boastful": 1.0},
}
_LONGEST = 300  # words of history, query and weak answer
_ADVICE = re.compile(
    r"\b(?:how (?:do|can|to|should|would)|what should i|help me|i want to|i need to|"
    r"i'm trying|learn|tips|advice|ways to|ideas for|get better|start)\b",
    re.I,
)


def edits(item: Case, seed: int, copies: int) -> Iterator[Edit]:
    """The edits of a case: `copies` weak answers, each asked for up to three things."""
    if item.words <= shorten.SHORT:
        if not d.padded(item.base.text):
            yield Edit(f"{item.base.id}/short", item.base, item.base.text, item.base.text, ("brevity",))
        copies = 1
    for number in range(copies):
        key = f"{seed}/{item.base.id}/{number}"
        rng = random.Random(key)
        lead = _lead(item, rng)
        units = _prepared(item, lead, rng)
        if not units:
            continue
        put = _put(lead, rng)
        weak_units = d.worse(units, put, key)
        weak = join(weak_units)
        if sum(count(text) for _, text in item.base.history) + count(item.query) + count(weak) > _LONGEST:
            put -= {"filler", "loop"}
            weak_units = d.worse(units, put, key)
            weak = join(weak_units)
            if sum(count(text) for _, text in item.base.history) + count(item.query) + count(weak) > _LONGEST:
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
        if rng.random() < 0.6:
            yield from _stays(item, units, put, key, weak, rng)


def _stays(item: Case, units: Sequence[Unit], put: set[str], key: str, weak: str, rng: random.Random) -> Iterator[Edit]:
    """The same weak answer asked for one or two things that it has already."""
    tried = ["brevity", "politeness", rng.choice(("clarity", "readability", "repetition")), rng.choice(TRAINED[5:-1])]
    if item.felt or rng.random() < 0.15:
        tried.append("empathy")
    names = [name for name in tried if mended(item, units, put, (name,), key) == weak]
    if names:
        asked = rng.sample(names, min(len(names), rng.choice((1, 1, 2))))
        yield Edit(
            f"{item.base.id}/{key.rsplit('/', 1)[-1]}/stay",
            item.base,
            weak,
            weak,
            tuple(sorted(asked, key=TRAINED.index)),
        )


def _lead(item: Case, rng: random.Random) -> str:
    if item.felt and rng.random() < 0.75:
        return "empathy"
    if item.words > 60 and rng.random() < 0.25:
        return "brevity"
    names = [name for name, weight in _WEIGHTS.items() if weight]
    return rng.choices(names, [_WEIGHTS[name] for name in names])[0]


def _prepared(item: Case, lead: str, rng: random.Random) -> list[Unit]:
    """The base without what the request is to bring; sometimes with it already there, so that it stays."""
    units = list(item.units)
    if lead in {"politeness", "empathy"} or rng.random() < 0.15:
        units = d.curt(units) if rng.random() < 0.8 else units
    elif rng.random() < 0.25 and not any(courteous(u.text) for u in units):
        units = _opened(units, opener(item.query, rng))
    if item.felt:
        units = d.sober(units)
        if units and rng.random() < (0.2 if lead == "empathy" else 0.35):
            units = _opened(units, item.felt)
    if (lead == "structure" and rng.random() < 0.75) or rng.random() < 0.03:
        units = d.flat(units)
    elif lead != "structure" and rng.random() < 0.4:
        units = d.restyled(units, rng)
    if lead in PLAIN and rng.random() < 0.22:
        units = plain(units)
    if lead == "helpfulness" and resource(item.query) and rng.random() < 0.2:
        units = [*units, Unit(resource(item.query), _end(units))]
    return units


def _put(lead: str, rng: random.Random) -> set[str]:
    put = {name for name, share in _DEFECTS.get(lead, {}).items() if rng.random() < share}
    if lead == "repetition" and not put and rng.random() < 0.6:
        put.add("repeat")
    if rng.random() < 0.35:  # something else that is wrong, too
        other = rng.choice(
            ("filler", "rude", "vague", "hard", "joined", "repeat", "gloomy", "boastful", "discouraging", "nasty")
        )
        put.add(other)
    if rng.random() < 0.03:
        put.add(rng.choice(("loop", "turn")))
    return put


def _beside(item: Case, put: set[str], rng: random.Random) -> str:
    """Another objective to ask of the same answer: one that has something to do, as a rule."""
    due = [o for name in sorted(put) for o in sorted(d.FIXED_BY[name] or ()) if o != "empathy" or item.felt]
    pool = due * 2 + [
        "brevity",
        "brevity",
        "politeness",
        "politeness",
        "readability",
        "clarity",
        "structure",
        "formality",
        "repetition",
    ]
    pool += ["empathy"] * 6 if item.felt else []
    return rng.choice(pool)


def _request(lead: str, item: Case, put: set[str], rng: random.Random) -> tuple[str, ...]:
    size = rng.choices(*_SIZES)[0]
    request = [lead]
    for _ in range(12):
        if len(request) == size:
            break
        other = _beside(item, put, rng)
        if other not in request and not (other in PLAIN and set(request) & set(PLAIN)):
            request.append(other)
    return tuple(sorted(request, key=TRAINED.index))


def mended(item: Case, units: Sequence[Unit], put: set[str], request: Sequence[str], key: str) -> str | None:
    """The answer with what was asked for mended and nothing else; None if that cannot be had for all of it."""
    gone = d.fixed(put, request)
    if set(request) & set(PLAIN):
        gone -= {"hard", "joined"}  # taken back by the same rules as in any answer
    left = put - gone
    before = d.worse(units, put, key)
    found = d.worse(units, left, key)
    done = {o for name in gone for o in (d.FIXED_BY[name] or ()) if o in request}
    if "repetition" in request and put & {"loop"}:
        done.add("repetition")
    rng = random.Random(f"{key}/{'+'.join(request)}")
    wanted = set(request)
    if wanted & set(PLAIN):
        plainer = plain(found)
        if easier(found, plainer) or (put & {"hard", "joined"} and join(plainer) != join(found)):
            found = plainer
            done |= wanted & set(PLAIN)
        elif not clear(join(found)) and not gone & {"vague"}:
            return None
    if "formality" in wanted and d.contracted(join(found)):
        found = d.formal(found)
        done.add("formality")
    if "brevity" in wanted and count(before) >= shorten.SHORT:
        cut = shorten.unpadded(found)
        if not cut or count(cut) > 0.6 * count(before):
            cut = shorten.shorten(found, item.query) or []
        if not cut or count(cut) > shorten.MOST * count(before):
            return None
        found = cut
        done.add("brevity")
    if "structure" in wanted and not any(u.item for u in found):
        if not (listed := d.itemized(found)):
            return None
        found = listed
        done.add("structure")
    found, added = _brought(item, found, wanted, rng)
    done |= added
    text = join(found)
    if not done:
        return text if text == join(before) and _satisfied(item, text, wanted) else None
    for name in wanted - done:
        if not _satisfied(item, text, {name}):
            return None
    return text if text != join(before) and count(text) >= 5 else None


def _brought(item: Case, found: list[Unit], wanted: set[str], rng: random.Random) -> tuple[list[Unit], set[str]]:
    """What a request adds: courtesy, sympathy, courage, hope, a place where more help is."""
    done: set[str] = set()
    text = join(found)
    short = count(text) < 20
    table = phrases()
    if "positivity" in wanted and not short and not _said("gloomy", "hopeful", text) and _ADVICE.search(item.query):
        found = [*found, Unit(rng.choice(table["gloomy"]["hopeful"]), _end(found))]
        done.add("positivity")
    if (
        "encouragement" in wanted
        and not short
        and not _said("discouraging", "courage", text)
        and _ADVICE.search(item.query)
    ):
        found = [*found, Unit(rng.choice(table["discouraging"]["courage"]), _end(found))]
        done.add("encouragement")
    if "helpfulness" in wanted and (more := resource(item.query)) and more not in text:
        found = [*found, Unit(more, _end(found))]
        done.add("helpfulness")
    if "politeness" in wanted and not any(courteous(u.text) for u in found):
        found = _opened(found, opener(item.query, rng))
        if "brevity" not in wanted and count(text) >= 70 and not closing(found[-1].text):
            found = [*found, Unit(closer(rng), _end(found))]
        done.add("politeness")
    if "empathy" in wanted and item.felt and not sympathetic(text):
        found = _opened(found, item.felt)
        done.add("empathy")
    return found, done


def _said(group: str, key: str, text: str) -> bool:
    return any(line in text for line in phrases()[group][key])


def _end(found: Sequence[Unit]) -> str:
    return "\n\n" if found and "\n" in "".join(u.lead for u in found[1:]) else " "


def _opened(units: Sequence[Unit], sentence: str) -> list[Unit]:
    """The answer behind an opening sentence, in its line if it begins with prose."""
    if not units:
        return [Unit(sentence, "\n\n")]
    several = any("\n" in u.lead for u in units[1:])
    lead = "\n\n" if units[0].item or units[0].heading or (several and count(units[0].text) > 25) else " "
    return [Unit(sentence, "\n\n"), Unit(units[0].text, lead, units[0].origin), *units[1:]]


def _satisfied(item: Case, text: str, wanted: set[str]) -> bool:
    """Whether an answer needs nothing done for these objectives."""
    units = split(text)
    checks = {
        "brevity": lambda: count(text) <= shorten.SHORT + 5 and not d.padded(text),
        "politeness": lambda: any(courteous(u.text) for u in units) and not any(rude(u.text) for u in units),
        "empathy": lambda: sympathetic(text) if item.felt else not _remarks("dismissive", units),
        "repetition": lambda: not d.repeats(units),
        "structure": lambda: sum(u.item for u in units) >= 2,
        "formality": lambda: not d.contracted(text),
        "harmlessness": lambda: not _remarks("nasty", units) and not any(rude(u.text) for u in units),
        "honesty": lambda: not _remarks("boastful", units),
        "positivity": lambda: not _remarks("gloomy", units),
        "encouragement": lambda: not _remarks("discouraging", units),
        "helpfulness": lambda: bool(resource(item.query)) and resource(item.query) in text,
        **dict.fromkeys(PLAIN, lambda: clear(text) and not _remarks("vague", units)),
    }
    return all(checks[name]() for name in wanted if name in checks)


def _remarks(group: str, units: Sequence[Unit]) -> bool:
    return any(normal(unit.text) in ours(group) for unit in units)
