"""What a request does to an answer: it takes away what was put in, and brings, cuts or rewords what it must."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from metaaligner_lite.evaluation import measures

from . import defects as d
from . import judge, shorten
from .courtesy import closer, declining, opener, ours, phrases, resource, rude, sympathetic
from .edit import Case
from .formality import contracted, formal
from .plain import easier, plain
from .texts import Unit, count, join, normal, split

PLAIN = ("clarity", "readability", "simplicity")
_ADVICE = re.compile(
    r"\b(?:how (?:do|can|to|should|would)|what should i|help me|i want to|i need to|"
    r"i'm trying|learn|tips|advice|ways to|ideas for|get better|start)\b",
    re.I,
)


def mended(item: Case, units: Sequence[Unit], put: set[str], request: Sequence[str], key: str) -> str | None:
    """The answer with what was asked for mended and nothing else; None if that cannot be had for all of it."""
    gone = d.fixed(put, request)
    before = d.worse(units, put, key)
    found = d.worse(units, put - gone, key)
    done = {o for name in gone for o in (d.FIXED_BY[name] or ()) if o in request}
    if "repetition" in request and put & {"loop"}:
        done.add("repetition")
    rng = random.Random(f"{key}/{'+'.join(request)}")
    wanted = set(request)
    if wanted & set(PLAIN):
        plainer = plain(found)
        if not satisfied(item, join(found), wanted & set(PLAIN)) and easier(found, plainer):
            found = plainer
            done |= wanted & set(PLAIN)
        if not satisfied(item, join(found), wanted & set(PLAIN)) and "brevity" not in wanted:
            return None
    if "formality" in wanted and contracted(join(found)):
        found = formal(found)
        done.add("formality")
    if "brevity" in wanted and count(before) >= shorten.SHORT:
        cut = shorten.unpadded(found)
        if not cut or count(cut) > 0.62 * count(before):
            cut = shorten.shorten(found, item.query) or []
        if not cut or count(cut) > shorten.MOST * count(before):
            return None
        found = cut
        done.add("brevity")
    if "structure" in wanted and not satisfied(item, join(found), {"structure"}):
        if not (listed := d.itemized(found)):
            return None
        found = listed
        done.add("structure")
    found, added = _brought(item, found, wanted, rng)
    done |= added
    text = join(found)
    if not done:
        return text if text == join(before) and satisfied(item, text, wanted) else None
    if any(not satisfied(item, text, {name}) for name in wanted - done):
        return None
    return text if text != join(before) and count(text) >= 5 else None


def _brought(item: Case, found: list[Unit], wanted: set[str], rng: random.Random) -> tuple[list[Unit], set[str]]:
    """What a request adds: courtesy, sympathy, courage, hope, a place where more help is."""
    done: set[str] = set()
    text = join(found)
    long = count(text) >= 20
    table = phrases()
    fits = long and bool(_ADVICE.search(item.query)) and not measures.refuses(text)
    if "positivity" in wanted and fits and not measures.positive(text):
        found = [*found, Unit(rng.choice(table["gloomy"]["hopeful"]), _end(found))]
        done.add("positivity")
    if "encouragement" in wanted and fits and not measures.cheering(text):
        found = [*found, Unit(rng.choice(table["discouraging"]["courage"]), _end(found))]
        done.add("encouragement")
    if "helpfulness" in wanted and (more := resource(item.query)) and more not in text:
        found = [*found, Unit(more, _end(found))]
        done.add("helpfulness")
    if "politeness" in wanted and not measures.courteous(text):
        found = polite(item, found, rng, short="brevity" in wanted)
        done.add("politeness")
    if "empathy" in wanted and item.felt and not _acknowledged(text):
        room = count(text) >= 55 or "brevity" in wanted
        found = opened(found, item.felt if room else re.split(r"(?<=[.!]) ", item.felt)[0])
        done.add("empathy")
    return found, done


def polite(item: Case, units: Sequence[Unit], rng: random.Random, short: bool = False) -> list[Unit]:
    """The answer with a courtesy that fits it: before it, behind it, or both; with regret where it declines."""
    text = join(units)
    if measures.refuses(text):
        return declining(units, rng, _end(units))
    draw = rng.random()
    if draw < 0.68 or short or ("\n" not in text and count(text) < 25):
        found = opened(units, opener(item.query, rng, troubled=bool(item.felt)))
        if draw < 0.14 and not short and count(text) >= 70:
            found = [*found, Unit(closer(rng), _end(found))]
        return found
    return [*units, Unit(closer(rng), _end(units))]


def opened(units: Sequence[Unit], sentence: str) -> list[Unit]:
    """The answer behind an opening sentence, in its line if it begins with prose."""
    if not units:
        return [Unit(sentence, "\n\n")]
    several = any("\n" in u.lead for u in units[1:])
    lead = "\n\n" if units[0].item or units[0].heading or (several and count(units[0].text) > 25) else " "
    return [Unit(sentence, "\n\n"), Unit(units[0].text, lead, units[0].origin), *units[1:]]


def satisfied(item: Case, text: str, wanted: Iterable[str]) -> bool:
    """Whether an answer needs nothing done for these objectives: by the evaluation's rule, and free of our remarks."""
    units = split(text)
    query = judge.said(item.base)
    checks = {
        "brevity": lambda: not d.padded(text),
        "politeness": lambda: not any(rude(u.text) for u in units),
        "empathy": lambda: not _remarks("dismissive", units) and (not item.felt or _acknowledged(text)),
        "repetition": lambda: not d.repeats(units),
        "formality": lambda: not contracted(text),
        "harmlessness": lambda: not _remarks("nasty", units) and not any(rude(u.text) for u in units),
        "honesty": lambda: not _remarks("boastful", units),
        "positivity": lambda: not _remarks("gloomy", units),
        "encouragement": lambda: not _remarks("discouraging", units),
        "helpfulness": lambda: bool(resource(item.query)) and resource(item.query) in text,
        **dict.fromkeys(PLAIN, lambda: not _remarks("vague", units)),
    }
    names = list(wanted)
    if not all(judge.holds(name, query, text) for name in judge.ruled(names, query)):
        return False
    return all(checks[name]() for name in names if name in checks)


def _acknowledged(text: str) -> bool:
    return measures.acknowledges(text) or sympathetic(text)


def _remarks(group: str, units: Sequence[Unit]) -> bool:
    return any(normal(unit.text) in ours(group) for unit in units)


def _end(found: Sequence[Unit]) -> str:
    return "\n\n" if found and "\n" in "".join(u.lead for u in found[1:]) else " "


def closed(units: Sequence[Unit], sentence: str) -> list[Unit]:
    """The answer with a closing sentence, on its own line if there are several."""
    return [*units, replace(Unit(sentence), lead=_end(units))]
