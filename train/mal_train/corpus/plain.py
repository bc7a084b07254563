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
from .texts import Unit, count, join, upper_first

# Where a sentence can be parted without a word too many: before what can stand as a sentence.
_ING = re.compile(
    r"This (allow|mak|help|giv|keep|reduc|improv|lead|result|ensur|provid|caus|prevent|increas|creat)ing "
)
_SILENT = ("mak", "giv", "reduc", "improv", "ensur", "provid", "caus", "increas", "creat")  # these end with an e
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
    (re.compile(r"; (?:consequently|therefore|thus|as a result),? "), "So "),
    (re.compile(rf", (?:which|as|given that|particularly since|especially since) (?={_SUBJECT})"), ""),
    (re.compile(rf", (?:while|whereas|although) (?={_SUBJECT}|the |some |many )"), "But "),
    (re.compile(r", (?:thereby |thus |which is )?(?=allowing (?:you|it|them|us|people|the)\b)"), "This "),
    (
        re.compile(
            r", (?:thereby |thus )?(?=(?:making|helping|giving|keeping|reducing|improving|leading|resulting|ensuring|"
            r"providing|causing|preventing|increasing|creating) )"
        ),
        "This ",
    ),
    (
        re.compile(
            r", and (?=(?:the|a|an|some|many|most|your|their) [a-z]+(?: [a-z]+)? (?:is|are|can|will|may|has|have)\b)"
        ),
        "",
    ),
)
_VERB_BEFORE = r"(?:to|you|we|can|will|also|then|could|would|might|should) "
_COMPARING = ("more", "most", "less", "least", "as", "too", "particularly", "very", "so", "not")
_OPENING = {  # said at the beginning of a sentence alone, before a comma
    **dict.fromkeys(
        ("however", "nevertheless", "nonetheless", "in contrast", "conversely", "on the other hand"), "But"
    ),
    **dict.fromkeys(("therefore", "thus", "hence", "consequently", "as a result", "for this reason"), "So"),
}
_LONG = 14  # words from which a sentence is parted where it can be


@cache
def _tables() -> dict[str, str]:
    return tomllib.loads((files(__package__) / "words.toml").read_text(encoding="utf-8"))


@cache
def pairs_of(name: str) -> dict[str, str]:
    """A table of words.toml: what is replaced, and by what."""
    lines = (line.split(" = ") for line in _tables()[name].splitlines() if line.strip())
    return {old.strip(): new.strip() for old, new in lines}


@cache
def words_of(name: str) -> frozenset[str]:
    """A list of words.toml."""
    return frozenset(_tables()[name].split())


@cache
def _plain() -> re.Pattern[str]:
    choices = "|".join(re.escape(old) for old in sorted({*pairs_of("plain"), *_OPENING}, key=len, reverse=True))
    return re.compile(rf"(?<![-'’])\b(?:(an?) )?({choices})\b(?![-'’])", re.IGNORECASE)


@cache
def _hard() -> re.Pattern[str]:
    verbs, others = (
        "|".join(re.escape(old) for old in sorted(pairs_of(name), key=len, reverse=True))
        for name in ("hard_verbs", "hard_words")
    )
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
    table = pairs_of("plain")

    def change(match: re.Match[str]) -> str:
        given, old = match[1], match[2]
        before = match.string[: match.start()].rstrip().rsplit(" ", 1)[-1].lower()
        if (old[0].isupper() and given) or before in _COMPARING:  # a name; "more suitable"
            return match[0]
        new = table.get(old.lower(), "")
        after = match.string[match.end() : match.end() + 1]
        if old.lower() in _OPENING:
            return _OPENING[old.lower()] if old[0].isupper() and after == "," else match[0]
        return _article(given, _as(old, new))

    found = _plain().sub(change, text)
    return re.sub(r"\b(But|So|Or), (?=[a-zI])", r"\1 ", found)


@lru_cache(maxsize=100_000)
def hard_words(text: str) -> int:
    """How many words `easy` would exchange."""
    return sum(1 for _ in _plain().finditer(text))


def harder(text: str, rng: random.Random, share: float = 0.8) -> str:
    """The text with hard words in place of everyday ones."""
    verbs, others = pairs_of("hard_verbs"), pairs_of("hard_words")

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
    rest = _ING.sub(_finite, opening + tail) if opening else upper_first(tail)
    return [*part(head.rstrip() + "."), *part(rest)]


def _finite(match: re.Match[str]) -> str:
    """ "This making ..." as "This makes ..."."""
    return f"This {match[1]}{'es' if match[1] in _SILENT else 's'} "


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


def easier(before: Sequence[Unit], after: Sequence[Unit]) -> bool:
    """Whether a rewriting gained enough to be worth learning."""
    old, new = join(before), join(after)
    changed = (
        sum(hard_words(u.text) for u in before) - sum(hard_words(u.text) for u in after) + len(after) - len(before)
    )
    return changed >= 2 and reading_ease(new) >= reading_ease(old) + 3
