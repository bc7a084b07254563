"""Scenarios: what users write about, read from ``scenarios.toml``.

A message marks the problem with ``<...>``. From it come the user's text and, with the persons shifted, the clause
that an answer can name: ``<My {parcel} is late>`` gives "your parcel is late".
"""

from __future__ import annotations

import functools
import random
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from .slots import SLOT, draw, fill, slots_in
from .vague import with_vague

#: The sentence of the README demo; no training message may be it.
README_MESSAGE = "My parcel is a week late and nobody answers my emails."
#: Scenarios that appear in the held-out rows only.
WITHHELD = frozenset({"broken_printer", "lost_wallet", "homesick"})
#: Share of the held-out rows about them.
FRESH = 0.25

_MARK = re.compile(r"<([^>]*)>")
_SHIFTS = {
    "i am": "you are",
    "i was": "you were",
    "i": "you",
    "me": "you",
    "my": "your",
    "mine": "yours",
    "myself": "yourself",
    "we are": "you are",
    "we were": "you were",
    "we": "you",
    "us": "you",
    "our": "your",
    "ours": "yours",
    "ourselves": "yourselves",
}
_SHIFT = re.compile(
    r"\{[^}]*\}|\b(?:I am|I was|I|me|[Mm]y|mine|myself|[Ww]e (?:are|were)|[Ww]e|us|[Oo]urs?|ourselves)\b"
)
#: Words that keep their capital inside a sentence.
_NAMES_FIRST = frozenset({"I", "Doctor", "Mr", "Mrs"})
_OPENERS = ("Hello, ", "Hi, ", "Good morning. ", "Good evening. ", "Hi there. ", "Help! ", "Sorry to bother you. ")
_ASKS = (
    "What should I do?",
    "What can I do now?",
    "Can you help me?",
    "Any advice?",
    "What would you do?",
    "What do you suggest?",
    "How should I handle this?",
    "I do not know what to do.",
    "Please help.",
)


@dataclass(frozen=True)
class Message:
    """One way of telling a problem: the text and the clause that retells it, both with slots."""

    text: str
    clause: str


@dataclass(frozen=True)
class Scenario:
    """Everything that can be said about one everyday problem."""

    name: str
    messages: tuple[Message, ...]
    details: tuple[str, ...]
    feelings: tuple[str, ...]
    steps: tuple[str, ...]
    limits: tuple[str, ...]
    jokes: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """A scenario with one message chosen and its slots filled."""

    scenario: Scenario
    query: str
    clause: str
    slots: dict[str, str]


def _shift(match: re.Match[str]) -> str:
    word = match.group(0)
    return word if word.startswith("{") else _SHIFTS[word.lower()]


def to_second_person(text: str) -> str:
    """Retell a first-person clause to the person who wrote it; slots are left alone."""
    if text[:1].isupper() and text.split()[0] not in _NAMES_FIRST:
        text = text[0].lower() + text[1:]
    return _SHIFT.sub(_shift, text)


def read_message(line: str) -> Message:
    """One line of a scenario's messages."""
    clauses = [to_second_person(part) for part in _MARK.findall(line)]
    text = _MARK.sub(r"\1", line)
    return Message(text[0].upper() + text[1:] if text[0] != "{" else text, " and ".join(clauses))


def _lines(table: dict[str, str], key: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in table[key].splitlines() if line.strip())


@functools.cache
def load() -> tuple[Scenario, ...]:
    """All scenarios in file order."""
    with Path(__file__).with_name("scenarios.toml").open("rb") as file:
        tables = tomllib.load(file)
    return tuple(
        Scenario(
            name,
            tuple(read_message(line) for line in _lines(table, "messages")),
            _lines(table, "details"),
            _lines(table, "feelings"),
            tuple(map(with_vague, _lines(table, "steps"))),
            _lines(table, "limits"),
            _lines(table, "jokes"),
        )
        for name, table in tables.items()
    )


def training() -> tuple[Scenario, ...]:
    """The scenarios that training may use."""
    return tuple(scenario for scenario in load() if scenario.name not in WITHHELD)


def _pick(rng: random.Random, withheld: bool) -> tuple[Scenario, Message]:
    """A scenario and a message of it; the last message of each is kept for the held-out rows."""
    if not withheld:
        scenario = rng.choice(training())
        return scenario, rng.choice(scenario.messages[:-1])
    fresh = rng.random() < FRESH
    scenario = rng.choice([scenario for scenario in load() if (scenario.name in WITHHELD) == fresh])
    return scenario, rng.choice(scenario.messages) if fresh else scenario.messages[-1]


def _detail(rng: random.Random, scenario: Scenario, known: list[str]) -> str:
    """A further sentence, if it brings a fact that the message does not hold yet."""
    fresh = [line for line in scenario.details if not slots_in(line) or set(slots_in(line)) - set(known)]
    return rng.choice(fresh) if fresh and rng.random() < 0.45 else ""


def usable_steps(scenario: Scenario, known: frozenset[str]) -> list[str]:
    """The steps that need no slot beyond those the user's message gave."""
    return [step for step in scenario.steps if known.issuperset(slots_in(step))]


def make_case(rng: random.Random, withheld: bool = False) -> Case:
    """Draw a scenario, a message and slot values; never the README sentence."""
    while True:
        scenario, message = _pick(rng, withheld)
        detail = _detail(rng, scenario, slots_in(message.text))
        slots: dict[str, str] = {}
        for slot in slots_in(f"{message.text} {detail}"):
            slots[slot] = draw(rng, slot, frozenset(slots.values()), withheld)
        parts = [fill(message.text, slots), fill(detail, slots)]
        if rng.random() < 0.4 and not message.text.endswith("?"):
            parts.append(rng.choice(_ASKS))
        query = " ".join(part for part in parts if part)
        if rng.random() < 0.3:
            query = _open(rng.choice(_OPENERS), query, message.text)
        if README_MESSAGE.lower().rstrip(".") not in query.lower():
            return Case(scenario, query, fill(message.clause, slots), slots)


def _open(opener: str, query: str, template: str) -> str:
    """Put a greeting first; after a comma the message goes on in lower case."""
    keep = SLOT.match(template) or template.split()[0] in _NAMES_FIRST
    return opener + (query if keep or not opener.endswith(", ") else query[0].lower() + query[1:])
