"""Courtesy, sympathy and filler: how they are told, and how they are written."""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

from .texts import Unit, count, normal

_COURTEOUS = re.compile(
    r"\b(?:please|thank(?:s| you)|you(?:'re| are) welcome|(?:happy|glad|pleased|delighted|"
    r"love) to (?:help|assist|hear|talk|answer|explain|share|give|tell|do|try|provide|offer|"
    r"discuss)|"
    r"my pleasure|it is a pleasure|with pleasure|gladly|happy to|I appreciate|glad you asked|"
    r"welcome to ask|kindly)\b",
    re.I,
)
_OPENING = re.compile(
    r"^(?:(?:that'?s|that is|what|this is) (?:a |an )?(?:very |really |such a )?(?:good|great|"
    r"excellent|interesting|wonderful|fantastic|lovely|nice|tough|hard|"
    r"important)(?: and \w+)? (?:question|idea|thing to ask)\b[^.!?]*[.!?]|"
    r"(?:sure|certainly|of course|absolutely|okay|ok|great|yes, of course|no problem|"
    r"sure thing|great question|good question|i see|got it)[.!])$",
    re.I,
)
_CLOSING = re.compile(
    r"^(?:(?:please )?(?:let me know|feel free|don't hesitate)\b|i hope (?:this|that|these|"
    r"it)\b.*\b(?:help|useful|answer)|(?:does|is) (?:that|this) (?:help|make sense|answer|"
    r"what you)|"
    r"do you (?:have any|need any|want to know|need help)|would you like (?:me to|to know|"
    r"more|to hear)|is there anything|if you (?:have any|have more|need any|need more|"
    r"would like|want) .*(?:let me know|ask|happy|glad)|"
    r"(?:what do you think|can i help)|good luck\b|what else)",
    re.I,
)
_FILLER = re.compile(
    r"^(?:in conclusion|to sum up|in summary|all in all|at the end of the day|overall|"
    r"as you may or may not know|needless to say|it goes without saying)\b",
    re.I,
)
_SYMPATHETIC = re.compile(
    r"\b(?:(?:so |very |really |truly |deeply )?sorry (?:to hear|for your|that|"
    r"about|you)|sorry for|my condolences|that must (?:be|have|feel|hurt)|"
    r"that sounds (?:really |so |very )?(?:hard|tough|difficult|painful|frustrating|stressful|"
    r"awful|exhausting|wonderful|lonely|scary|exciting)|"
    r"i can (?:imagine|understand|see|hear) (?:how|why|that|your)|i understand (?:how|why|"
    r"that you|your)|it is (?:completely |very |only )?(?:understandable|natural)|"
    r"it's (?:completely |perfectly |totally |very |only |okay |ok )?(?:understandable|"
    r"natural|okay|normal) (?:to|that)|no wonder|congratulations|"
    r"(?:so |really |very )?(?:happy|glad|pleased|delighted|excited|proud) (?:for|of|to hear|"
    r"that) (?:you|it|this|that)?|must be (?:so |very |really )?(?:hard|proud|happy|tough|"
    r"difficult|painful|thrilled))\b",
    re.I,
)
_QUESTION = re.compile(
    r"\?\s*$|^(?:what|how|why|who|when|where|which|is|are|do|does|did|can|could|should|would|will)\b", re.I
)
_REQUEST = re.compile(
    r"^(?:please |can you |could you |would you |will you |i need (?:you|help|a|some|to)|"
    r"i want (?:you|to|a)|i'd like|i would like|help|tell|give|write|list|explain|show|"
    r"describe|make|create|find|suggest|name|let's|provide|recommend|summarize|teach|walk me)",
    re.I,
)


@cache
def phrases() -> dict[str, dict[str, Any]]:
    """phrases.toml, its blocks as tuples of lines."""
    text = (files(__package__) / "phrases.toml").read_text(encoding="utf-8")
    return {
        group: {
            key: tuple(line for line in value.splitlines() if line.strip()) if "\n" in value else value
            for key, value in table.items()
        }
        for group, table in tomllib.loads(text).items()
    }


@cache
def ours(group: str) -> frozenset[str]:
    """Our own lines of a group of phrases.toml, for telling them again."""
    return frozenset(normal(line) for lines in phrases()[group].values() for line in lines)


@lru_cache(maxsize=50_000)
def courteous(text: str) -> bool:
    """Whether a sentence holds courtesy."""
    return bool(_COURTEOUS.search(text))


@lru_cache(maxsize=50_000)
def opening(text: str) -> bool:
    """Whether a sentence is a courtesy or nothing but praise of the question."""
    return bool(_OPENING.match(text.strip())) or (
        courteous(text) and count(text) <= 14 and not text.rstrip().endswith(":")
    )


@lru_cache(maxsize=50_000)
def closing(text: str) -> bool:
    """Whether a sentence closes the talk: offers more, hopes that it helped."""
    return bool(_CLOSING.match(text.strip()))


@lru_cache(maxsize=50_000)
def filler(text: str) -> bool:
    """Whether a sentence says nothing of the matter."""
    bare = text.strip()
    return (
        normal(bare) in ours("filler")
        or bool(_FILLER.match(bare))
        or (bool(_OPENING.match(bare)) and not courteous(bare))
    )


@lru_cache(maxsize=50_000)
def sympathetic(text: str) -> bool:
    """Whether a text acknowledges a feeling."""
    return bool(_SYMPATHETIC.search(text))


@lru_cache(maxsize=50_000)
def rude(text: str) -> bool:
    """Whether a sentence is one of our rude or nasty remarks."""
    return normal(text) in ours("rude") or normal(text) in ours("nasty")


def kind(query: str) -> str:
    """What a message is: a question, a request or a statement."""
    last = query.strip().split("\n")[-1]
    if _REQUEST.match(query.strip()):
        return "request"
    return "question" if _QUESTION.search(last) or _QUESTION.search(query) else "statement"


def opener(query: str, rng: random.Random, troubled: bool = False) -> str:
    """A courteous first sentence that fits the message; `troubled` if a feeling is in it."""
    return str(rng.choice(phrases()["courtesy"]["troubled" if troubled else kind(query)]))


def closer(rng: random.Random) -> str:
    """A courteous last sentence."""
    return str(rng.choice(phrases()["courtesy"]["closers"]))


_CANNOT = re.compile(r"I (?=(?:can't|cannot|won't|will not|don't|do not|am not|must|would not|wouldn't|shouldn't)\b)")


def declining(units: Sequence[Unit], rng: random.Random, lead: str) -> list[Unit]:
    """A refusal with regret before its "I cannot", or with an offer behind it: it is not happy to help."""
    first = units[0].text
    if _CANNOT.match(first) and rng.random() < 0.6:
        return [units[0].worded(rng.choice(_REGRETS) + first), *units[1:]]
    return [*units, Unit(str(rng.choice(phrases()["courtesy"]["declined"])), lead)]


_REGRETS = ("I am sorry, but ", "I'm sorry, but ", "I apologize, but ", "I am very sorry, but ", "I'm so sorry, but ")


def rude_remark(rng: random.Random) -> str:
    """A rude sentence, whole or put together."""
    table = phrases()["rude"]
    return (
        str(rng.choice(table["whole"]))
        if rng.random() < 0.6
        else f"{rng.choice(table['starts'])} {rng.choice(table['claims'])}"
    )


def resource(query: str) -> str:
    """Where more help on the query's topic is to be had, or nothing."""
    for line in phrases()["resources"].values():
        pattern, sentence = str(line).split(" => ")
        if re.search(rf"\b(?:{pattern})", query, re.I):
            return sentence
    return ""
