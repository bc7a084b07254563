"""What stands in a step in place of the user's own things when nobody is specific.

One word for each kind of thing, so that most edits can be worked out: "the thing" is whatever thing the message is
about, in any scenario. (An adjective or a preposition may have to be guessed: "somewhere" is "in Leeds" or "to Leeds".)
With a wording of its own for every step, specificity could only be learned by heart, and an aligner of this size made
things up or fell into loops (bench/LOG.md).
"""

from __future__ import annotations

import random
import re

from .slots import kind_of

_THINGS = """
item parcel dish cake plant instrument subject device phone clothes drink food project bag sofa bike car room contact
"""
_WORDS = dict.fromkeys(_THINGS.split(), "the thing") | {
    "pet": "the animal",
    "petname": "the animal",
    "name": "the person",
    "relation": "the person",
    "shop": "the firm",
    "app": "the service",
    "language": "the language",
    "job": "something",
    "price": "the sum",
    "order": "some number",
    "code": "some error",
    "day": "some day",
    "month": "some month",
}
_CLOCK, _SPANS = ("time", "wake", "evening", "night"), ("dur", "days", "mins")
_WORDS |= dict.fromkeys(_CLOCK, "some hour") | dict.fromkeys(_SPANS, "some time")
_WORDS |= dict.fromkeys(("n", "few", "big", "km", "degrees"), "some")
_POINTS = frozenset({*_CLOCK, "day", "month"})
_LOOSE = {
    "the thing": ("something", "the matter", "some thing or other"),
    "the person": ("someone", "some person"),
    "the firm": ("someone", "some firm"),
    "the sum": ("some money",),
    "somewhere": ("some place or other",),
    "at some point": ("some day or other",),
}
#: The same for held-out rows only.
_WITHHELD = {
    "the thing": ("the object",),
    "the person": ("a certain person",),
    "the firm": ("the enterprise",),
    "the sum": ("the amount",),
    "somewhere": ("in one place or another",),
    "at some point": ("one of these days",),
}

_CHOICE = re.compile(r"\[([^|\]]*)\]")
_PHRASE = re.compile(
    r"(?:\b(?P<lead>in|to|at|from|near|for|of|on|before|by|until|since|after|every) )?"
    r"(?:\b(?:the|your|a|another) (?:(?!landlord)\w+ )?|\b(?:Doctor|your landlord) |"
    r"(?:\b(?:order|return|tag|customer|contract|ticket|case|model|member|serial|user|booking code|error) )?"
    r"(?:\bnumber )?)"
    r"\{(?:a )?(?P<slot>[a-z]+)\}"
)


def _retold(match: re.Match[str]) -> str:
    lead, kind = match["lead"] or "", kind_of(match["slot"])
    if kind == "city" or (kind == "room" and lead):
        return "somewhere"
    if (kind in _POINTS and lead) or (kind in _SPANS and lead == "every"):
        return "at some point"
    text = "some days" if kind in _SPANS and "the {" in match.group() else _WORDS[kind]
    return f"{lead} {text}".strip()


def vague_of(named: str) -> str:
    """A phrase with slots, retold without them."""
    return _PHRASE.sub(_retold, named)


def with_vague(step: str) -> str:
    """A step with each ``[named]`` completed to ``[named|vague]``; a choice with both sides stays."""
    return _CHOICE.sub(lambda match: f"[{match[1]}|{vague_of(match[1])}]", step)


def loosely(rng: random.Random, text: str, withheld: bool) -> str:
    """A vague phrase, now and then with other words as vague; held-out rows have some that training never sees."""
    for words in (_LOOSE, _WITHHELD) if withheld else (_LOOSE,):
        for word, others in words.items():
            if rng.random() < 0.25:
                text = text.replace(word, rng.choice(others))
    return text
