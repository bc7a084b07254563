"""Judging answers by rule: which objectives a text satisfies, and which facts it holds.

The rules read the text alone, so they also serve for answers that a model wrote. They know the phrases of
``phrases`` by their telling words, not by whole sentences; tests hold them against the writer.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable

from . import phrases
from .scenarios import load
from .slots import DAYS, MONTHS, PRODUCTS

#: What vague steps hold in place of the user's own words.
VAGUE = re.compile(
    r"\bsome(?:one|thing|where|how)?\b|\ba certain person\b|\bin one place or another\b|\bone of these days\b|"
    r"\bthe (?:other )?(?:matter|things?|object|person|sum|amount|service|firm|enterprise|language|animal)\b",
    re.I,
)

_EMPATHY = re.compile(
    r"\b(?:I am|I'm)(?: \w+)? sorry (?:that|to hear|about|for)|\bI can imagine how|\bI feel for you|"
    r"\bI understand how|\bmust be (?:so |very |really )?(?:hard|frustrating|upsetting|stressful)",
    re.I,
)
_ORDERED = re.compile(
    r"(?:^|[.!?:] |\n)(?:First(?: of all)?|To begin with),.*[.!?] (?:Then|After that,|Next,) |(?:^|\n)1\. .*\n2\. ",
    re.S,
)
_HEDGE = re.compile(
    r", (?:or not|it all depends|more or less|sort of|if at all|whichever it is|it is hard to say|"
    r"as the case may be|I suppose|kind of)\b"
)
_ASIDES = {text.partition(",")[0] + "," for text in phrases.OTHER_ASIDE}
_RAMBLE = re.compile("|".join(re.escape(lead.strip()) for lead in (*phrases.WEAK_RAMBLE, *sorted(_ASIDES))))
_THANKS = re.compile(r"\bplease\b|\bthank(?:s| you)\b|\bkindly\b", re.I)
_LIMIT = re.compile(r"\bI (?:cannot|can't|do not know|don't know|am unable|am not able)\b", re.I)
_CHEER = re.compile(
    r"\byou can do (?:this|it)\b|\bkeep going\b|\bI believe in you\b|\bbetter than you think\b|"
    r"\bon the right track\b|\byou have what it takes\b|\bhang in there\b|\bstronger than this\b",
    re.I,
)
_JOKE = re.compile("|".join(re.escape(lead.strip()) for lead in phrases.JOKE_LEADS))
_CALM = re.compile(r"\bcan usually be\b|\brarely ends badly\b|\bno need to (?:panic|worry)\b", re.I)
_OFFER = re.compile(r"\bI can (?:go through|help)\b", re.I)
_FORMAL = re.compile(r"\bGood day\b|\bkind regards\b|\bYours faithfully\b", re.I)

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_WORD = re.compile(r"[A-Za-z]+(?:-[A-Za-z]+)*|\d+")
_COMMON = frozenset(
    re.findall(
        r"\S+",
        """
        the and for are was were has have had but not you your with that this from they them will would can
        cannot could should what when where which who how any all get got give take make let out off about
        after before since until into over under than then there here its it's been being does did done
        every because while only also just still more most very too again please help hello good morning
        evening know want need like keep see ask tell my day days week weeks month months time times one two
        """,
    )
)


def before_run_on(text: str) -> str:
    """The text up to its first sentence that rambles or hedges: what cutting alone can do for an answer."""
    kept = []
    for part in sentences(text):
        if _RAMBLE.search(part) or _HEDGE.search(part):
            break
        kept.append(part)
    return " ".join(kept) or text


def loops(text: str) -> bool:
    """Whether four words in a row come three times, or one character sixteen times in a row."""
    words = text.split()
    runs = Counter(tuple(words[start : start + 4]) for start in range(len(words) - 3))
    return max(runs.values(), default=0) >= 3 or bool(re.search(r"(\S)\1{15}", text))


def remarks(text: str) -> list[frozenset[str]]:
    """For each remark of some scenario in a text (feelings, limits, jokes) the names of the scenarios that have it."""
    lowered = text.lower()
    return [names for remark, names in _remarks().items() if remark in lowered]


@functools.cache
def _remarks() -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for scenario in load():
        for remark in (*scenario.feelings, *scenario.limits, *scenario.jokes):
            found.setdefault(remark.lower().rstrip("."), set()).add(scenario.name)
    return {remark: frozenset(names) for remark, names in found.items()}


def sentences(text: str) -> list[str]:
    """The sentences of a text."""
    return [part for part in _SENTENCE.split(text.strip()) if part]


def _advice(text: str) -> str:
    """The text without the sentences that belong to other objectives than specificity."""
    other = (_EMPATHY, _RAMBLE, _JOKE, _LIMIT, _CHEER)
    return " ".join(part for part in sentences(text) if not any(rule.search(part) for rule in other))


def _specific(query: str, text: str) -> bool:
    """Whether the advice takes up the user's own words and leaves nothing at "someone" or "something"."""
    advice = _advice(text)
    if VAGUE.search(advice):
        return False
    if facts(query) & facts(advice):
        return True
    words = {word.lower() for word in _WORD.findall(query) if len(word) > 2} - _COMMON
    return bool(words & {word.lower() for word in _WORD.findall(advice)})


_RULES: dict[str, Callable[[str, str], bool]] = {
    "empathy": lambda query, text: bool(_EMPATHY.search(text)),
    "clarity": lambda query, text: bool(_ORDERED.search(text)) and not _HEDGE.search(text),
    "brevity": lambda query, text: not _RAMBLE.search(text),
    "politeness": lambda query, text: bool(_THANKS.search(text)),
    "specificity": _specific,
    "encouragement": lambda query, text: bool(_CHEER.search(text)),
    "honesty": lambda query, text: bool(_LIMIT.search(text)),
    "humor": lambda query, text: bool(_JOKE.search(text)),
    "reassurance": lambda query, text: bool(_CALM.search(text)),
    "structure": lambda query, text: bool(re.search(r"(?:^|\n)1\. .*\n2\. ", text)),
    "helpfulness": lambda query, text: bool(_OFFER.search(text)),
    "formality": lambda query, text: bool(_FORMAL.search(text)),
}


def satisfies(objective: str, query: str, text: str) -> bool:
    """Whether ``text``, as an answer to ``query``, satisfies ``objective``; unknown names are a ``KeyError``."""
    return _RULES[objective](query, text)


_FACT = re.compile(
    r"[$€£]\d+(?:\.\d+)?|\b\d+(?:\.\d+)? (?:euros|pounds|dollars|minutes|hours|days|weeks|months|years|kilometres)\b|"
    r"\b\d{1,2}(?::\d\d)? ?[ap]m\b|\b[A-Z]{1,2}-?\d+\b|\b\d+\b|"
    r"\b(?:a|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen) "
    r"(?:minutes?|hours?|days?|weeks?|months?|years?)\b|\ba fortnight\b"
)
_PROPER = re.compile(r"(?<=[a-z,;:] )[A-Z][A-Za-z]+(?: (?:& )?[A-Z][A-Za-z]+)*")
_CALENDAR = re.compile(r"\b(?:" + "|".join(DAYS + MONTHS) + r")\b")


_PRODUCT = re.compile(r"\b(?:" + "|".join(sorted(map(re.escape, PRODUCTS), key=len, reverse=True)) + r")\b")


def facts(text: str) -> set[str]:
    """Numbers, order numbers, prices, times, durations, names and products in a text.

    A capitalised word counts as a name inside a sentence only; list numbers ("1.") count as nothing. Small talk and
    jokes hold no products: an edit may drop or add them.
    """
    text = re.sub(r"(?m)^\d+\. ", "", text)
    found = set(_FACT.findall(text)) | set(_CALENDAR.findall(text))
    found |= {name for name in _PROPER.findall(text) if name not in {"I"}}
    serious = (part for part in sentences(text) if not (_RAMBLE.search(part) or _JOKE.search(part)))
    return found | {product for part in serious for product in _PRODUCT.findall(part)}


def keeps(text: str, fact: str) -> bool:
    """Whether a fact stands in a text as a word of its own: "3" is not kept in "13"."""
    return bool(re.search(rf"(?<!\w){re.escape(fact)}(?!\w)", text))
