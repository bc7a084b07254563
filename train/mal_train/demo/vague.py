"""What stands in a step in place of the user's own things when nobody is specific.

One word for each kind of thing, so that most edits can be worked out: "the thing" is whatever thing the message is
about, in any scenario. (An adjective or a preposition may have to be guessed: "somewhere" is "in Leeds" or "to Leeds".)
With a wording of its own for every step, specificity could only be learned by heart, and an aligner of this size made
things up or fell into loops (bench/LOG.md).
"""

from __future__ import annotations

import random
import re

from .slots import SLOT, kind_of

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
    "the thing": (
        "something", "the matter", "some thing or other", "the stuff", "the article", "one thing or another",
        "a certain thing",
    ),
    "the person": (
        "someone", "some person", "the individual", "a certain someone", "one person or another", "some human",
    ),
    "the firm": ("someone", "some firm", "the outfit", "the agency", "a certain firm", "one firm or another"),
    "the sum": ("some money", "the figure", "a certain sum", "one sum or another"),
    "the service": ("some service", "a certain service"),
    "the animal": ("some animal", "the creature"),
    "the language": ("some language", "a certain language"),
    "some number": ("a certain number", "one number or another"),
    "somewhere": ("some place or other", "here or there", "in a certain place", "at one place or the next"),
    "at some point": ("some day or other", "sooner or later", "one fine day", "one day or another", "before long"),
}  # fmt: skip
#: The same for held-out rows only.
_WITHHELD = {
    "the thing": ("the object",),
    "the person": ("a certain person",),
    "the firm": ("the enterprise",),
    "the sum": ("the amount",),
    "somewhere": ("in one place or another",),
    "at some point": ("one of these days",),
}

_EITHER = re.compile(r"\[([^|\]]*)\|([^\]]*)\]")
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


#: What the vague becomes when nobody is told more: a pronoun, or as little. In this order; longer phrases first.
_PRONOUNS = (
    ("the person's", "their"),
    ("the thing's", "its"),
    (r"the (?:person|firm)", "them"),
    (r"the (?:thing|animal|service|language|sum)|something", "it"),
    ("somewhere", "there"),
    ("at some point", "then"),
    (r"some (number|error|day|month|bar)", r"the \1"),
    ("some hour", "the time"),
    ("some time", "a while"),
    ("some", "a few"),
)
_OWN = re.compile(r"(?P<your>(?:\byour )?)\{(?P<a>(?:a )?)(?P<slot>[a-z]+)\}")
_ARTICLE = re.compile(r"\b(?:the|a|an|another|next|new) $")
#: A pronoun before a noun ("them support team") is no English.
_MISPLACED = re.compile(
    r"\b(?:it|them) (?!about|after|and|at|before|by|for|from|in|near|of|on|or|that|to|until|with)\b"
)


def told(step: str, slots: dict[str, str]) -> str | None:
    """A step of other advice, told with what a message holds: its own thing for "the thing", else a pronoun.

    None where the slots or the grammar do not allow it.
    """

    def own(match: re.Match[str]) -> str:
        """A slot that the message has, or else one of a kind that is as vague."""
        slot = match["slot"]
        kind, room = _WORDS.get(kind_of(slot)), kind_of(slot) == "room"
        same = [other for other in slots if kind and _WORDS.get(kind_of(other)) == kind]
        same = [other for other in same if (kind_of(other) == "room") == room]
        if slot in slots or not same or kind == "some":  # a number of other things helps nobody
            return match.group()
        your = "your " if "relation" in same[0] else "" if "name" in same[0] else match["your"]
        if kind == "the thing" and not (your or match["a"] or _ARTICLE.search(match.string[: match.start()])):
            your = "the "
        return f"{your}{{{match['a']}{same[0]}}}"

    def retell(match: re.Match[str]) -> str:
        named = _OWN.sub(own, match[1])
        if not {slot[2] for slot in SLOT.finditer(named)} <= slots.keys():
            named = match[2]
            for vague, pronoun in _PRONOUNS:
                named = re.sub(rf"\b(?:{vague})\b", pronoun, named)
        return f"[{named}|{match[2]}]"

    text = _EITHER.sub(retell, step)
    outside = {slot[2] for slot in SLOT.finditer(text)} - slots.keys()
    return None if outside or _MISPLACED.search(_EITHER.sub(r"\1", text)) else text


def loosely(rng: random.Random, text: str, withheld: bool) -> str:
    """A vague phrase, now and then with other words as vague; held-out rows have some that training never sees."""
    for words in (_LOOSE, _WITHHELD) if withheld else (_LOOSE,):
        for word, others in words.items():
            if rng.random() < 0.25:
                text = text.replace(word, rng.choice(others))
    return text
