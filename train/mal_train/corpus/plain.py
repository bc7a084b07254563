"""Plain words and short sentences, and the way back: the rules of clarity, readability and simplicity."""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, lru_cache
from importlib.resources import files

from ..scorers import reading_ease
from .texts import MARKER, Unit, count, join, lower_first, split, upper_first

# Where a sentence can be parted without a word too many: before what can stand as a sentence.
_SUBJECT = (
    r"(?:it|they|you|we|this|there|these|he|she|I|it's|they're|you're|you'll|there's|I'm|I'd|"
    r"that (?:is|was|will|can|means))\b"
)
_PARTINGS = (
    (re.compile(rf"[,;] and (?={_SUBJECT})"), ""),
    (re.compile(rf"[,;] but (?={_SUBJECT})"), "But "),
    (re.compile(rf", so (?={_SUBJECT})(?!that\b)"), "So "),
    (re.compile(rf",? because (?={_SUBJECT})"), "This is because "),
    (re.compile(r"; (?:however|moreover|furthermore|additionally|in addition|nevertheless|also|but),? "), ""),
    (re.compile(rf"; (?={_SUBJECT}|the |a )"), ""),
    (re.compile(r", which (?=(?:is|can|will|means|makes|helps|has|may|could|would|allows|causes|gives)\b)"), "This "),
    (re.compile(r", which (?=are\b)"), "These "),
    (re.compile(r" ?[—–] (?=(?:it|they|you|we|this|that|there)\b)"), ""),
)
_JOINTS = ("; furthermore, ", ", and ", "; moreover, ", "; in addition, ", "; additionally, ")
_JOINED = re.compile(rf"(?:{_SUBJECT}|(?:the|a|an|some|many|your|my|most|another)\b)", re.IGNORECASE)
_VERB_BEFORE = r"(?:to|you|we|can|will|also|then|could|would|might|should) "
_COMPARING = ("more", "most", "less", "least", "as", "too", "particularly")
_LONG = 14  # words from which a sentence is parted where it can be


@cache
def _pairs(name: str) -> dict[str, str]:
    text = (files(__package__) / "words.toml").read_text(encoding="utf-8")
    lines = (line.split(" = ") for line in tomllib.loads(text)[name].splitlines() if line.strip())
    return {old.strip(): new.strip() for old, new in lines}


@cache
def _plain() -> re.Pattern[str]:
    choices = "|".join(re.escape(old) for old in sorted(_pairs("plain"), key=len, reverse=True))
    return re.compile(rf"(?<![-'’])\b(?:(an?) )?({choices})\b(?![-'’])", re.IGNORECASE)


@cache
def _hard() -> re.Pattern[str]:
    verbs, others = ("|".join(map(re.escape, _pairs(name))) for name in ("hard_verbs", "hard_words"))
    verb = rf"\b({_VERB_BEFORE})({verbs})\b(?! (?:to|up|in|out|on|with|for)\b)"
    return re.compile(rf"(?:{verb}|\b({others})\b(?! (?:of|to)\b))(?![-'’])")


def _as(old: str, new: str) -> str:
    return upper_first(new) if old[0].isupper() else new


def _article(given: str | None, new: str) -> str:
    if not given:
        return new
    right = "an" if new[0].lower() in "aeiou" else "a"
    return f"{_as(given, right)} {new}"


@lru_cache(maxsize=100_000)
def easy(text: str) -> str:
    """The text in everyday words; capitals, articles and all else stay."""
    table = _pairs("plain")

    def change(match: re.Match[str]) -> str:
        given, old = match[1], match[2]
        before = match.string[: match.start()].rstrip().rsplit(" ", 1)[-1].lower()
        if (old[0].isupper() and given) or before in _COMPARING:  # a name; "more suitable"
            return match[0]
        new = table[old.lower()]
        after = match.string[match.end() : match.end() + 1]
        if old.lower() in {"however", "nevertheless", "nonetheless"}:
            return "But" if old[0].isupper() and after == "," else match[0]
        if old.lower() in {"therefore", "thus", "hence", "consequently"} and not old[0].isupper():
            return match[0]
        return _article(given, _as(old, new))

    found = _plain().sub(change, text)
    return re.sub(r"\b(But|So|Or), (?=[a-zI])", r"\1 ", found)


@lru_cache(maxsize=100_000)
def hard_words(text: str) -> int:
    """How many words `easy` would exchange."""
    return sum(1 for _ in _plain().finditer(text))


def harder(text: str, rng: random.Random, share: float = 0.8) -> str:
    """The text with hard words in place of everyday ones."""
    verbs, others = _pairs("hard_verbs"), _pairs("hard_words")

    def change(match: re.Match[str]) -> str:
        if rng.random() > share:
            return match[0]
        return match[1] + verbs[match[2]] if match[2] else others[match[3]]

    def article(match: re.Match[str]) -> str:
        return _article(match[1], match[2]) if match[2] in fancy else match[0]

    fancy = {*verbs.values(), *others.values()}
    return re.sub(r"\b([Aa]n?) (\w+)", article, _hard().sub(change, text))


def part(sentence: str) -> list[str]:
    """A long sentence as two or three that can each stand; a short one as it is."""
    if (count(sentence) < _LONG and "; " not in sentence) or "(" in sentence or '"' in sentence:
        return [sentence]
    best: tuple[int, re.Match[str], str] | None = None
    for pattern, opening in _PARTINGS:
        for match in pattern.finditer(sentence):
            first, second = count(sentence[: match.start()]), count(sentence[match.end() :])
            early = re.match(r"(?:if|when|while|although|because|as|since|after|before|that|whether)\b", sentence, re.I)
            if first < 3 or second < 3 or (early and "," not in sentence[: match.start()]):
                continue
            if best is None or abs(first - second) < best[0]:
                best = (abs(first - second), match, opening)
    if best is None:
        return [sentence]
    _, match, opening = best
    head, tail = sentence[: match.start()], sentence[match.end() :]
    return [*part(head.rstrip() + "."), *part(opening + tail if opening else upper_first(tail))]


def plain(units: Sequence[Unit]) -> list[Unit]:
    """The units in everyday words and short sentences. Headings and code stay."""
    found: list[Unit] = []
    for unit in units:
        if unit.heading or "`" in unit.text:
            found.append(unit)
            continue
        first, *others = part(easy(unit.text))
        found += [replace(unit, text=first), *(Unit(text, " ", unit.origin) for text in others)]
    return found


def clear(text: str) -> bool:
    """Whether a text is easy to read as it is: few hard words, short sentences, a fair reading ease."""
    length = count(text)
    return sum(hard_words(unit.text) for unit in split(text)) <= max(1, length // 60) and reading_ease(text) >= 60


def joined(units: Sequence[Unit], rng: random.Random) -> list[Unit]:
    """The units with neighbouring sentences run together into long ones."""
    found: list[Unit] = []
    links = 0
    for unit in units:
        before = found[-1] if found else None
        tail = lower_first(unit.text) if unit.lead == " " else None
        if (
            before
            and tail
            and _JOINED.match(tail)
            and links < 2
            and before.text.endswith(".")
            and not before.origin
            and not unit.origin
            and rng.random() < 0.75
        ):
            found[-1] = before.worded(
                before.text[:-1] + rng.choice([j for j in _JOINTS if ";" in j or re.match(_SUBJECT, tail)]) + tail
            )
            links += 1
        else:
            found.append(unit)
            links = 0
    return found


def easier(before: Sequence[Unit], after: Sequence[Unit]) -> bool:
    """Whether a rewriting gained enough to be worth learning."""
    old, new = join(before), join(after)
    changed = (
        sum(hard_words(u.text) for u in before) - sum(hard_words(u.text) for u in after) + len(after) - len(before)
    )
    return changed >= 2 and reading_ease(new) >= reading_ease(old) + 3


def bare(text: str) -> str:
    """A list item without its marker."""
    return MARKER.sub("", text)
