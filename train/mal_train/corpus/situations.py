"""Messages with a feeling, sober advice on them, and the sentences that acknowledge the feeling."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files


@dataclass(slots=True)
class Kind:
    """A kind of situation: how an answer opens (`tone`), sentences that name the feeling, sober advice."""

    name: str
    tone: str = "sorry"
    feel: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    situations: list[Situation] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Situation:
    """What an answer says back ("your dog died"), and a short and a long message of it."""

    you: str
    short: str
    long: str
    kind: Kind = field(repr=False, compare=False)


_OPENERS = {
    "sorry": (
        "I'm so sorry that {you}.",
        "I am so sorry to hear that {you}.",
        "I'm sorry that {you}.",
        "I am very sorry to hear that {you}.",
        "It must be hard for you that {you}.",
        "I can imagine how hard it is that {you}.",
    ),
    "worry": (
        "I understand how much it weighs on you that {you}.",
        "I can understand how hard it is that {you}.",
        "It must be hard for you that {you}.",
        "I can see how stressful it is that {you}.",
    ),
    "glad": ("Congratulations! I am so happy for you that {you}.", "How wonderful that {you}, congratulations!"),
}
_INTROS = (
    "Here are some things that you can do:",
    "These steps can help:",
    "Some things are useful now:",
    "You can do the following:",
)
_LABELS = {
    "sleep": "Rest", "write": "Write it down", "talk": "Talk", "tell": "Tell someone", "ask": "Ask", "call": "Call",
    "keep": "Keep a routine", "take": "Take your time", "do": "Small steps", "eat": "Eat", "let": "Accept help",
}  # fmt: skip

# What people write of themselves in real queries, and what an answer may safely say back.
_FELT = (
    (
        re.compile(
            r"\bmy ((?:best |old |little |older |younger )?(?:dog|cat|mom|mother|dad|father|grandma|"
            r"grandmother|grandpa|grandfather|brother|sister|friend|wife|husband|uncle|aunt|hamster|"
            r"bird|horse|rabbit|son|daughter|puppy|kitten))(?: has| just| recently| suddenly)* (died|"
            r"passed away)\b",
            re.I,
        ),
        "I'm so sorry that your {0} {1}.",
    ),
    (
        re.compile(
            r"\bmy (boyfriend|girlfriend|husband|wife|partner|fianc[eé]e?)(?: has| just|"
            r" recently)* (left|dumped|cheated on) me\b",
            re.I,
        ),
        "I'm so sorry that your {0} {1} you.",
    ),
    (
        re.compile(
            r"\bmy (boyfriend|girlfriend|husband|wife|partner)(?: and I)?(?: have| just|"
            r" recently)* broke up\b",
            re.I,
        ),
        "I'm so sorry about your breakup.",
    ),
    (
        re.compile(r"\bI(?: just| recently| have| was)* (?:lost my job|laid off|got fired|been fired)\b", re.I),
        "I'm so sorry that you lost your job.",
    ),
    (
        re.compile(
            r"\bI(?:'m| am|'ve been| have been| feel| felt| am feeling|'m feeling|"
            r"'ve been feeling)(?: so| very| really| just| quite| pretty| always| often| a little|"
            r" a bit| kind of| feeling| extremely)* (sad|lonely|depressed|anxious|nervous|scared|"
            r"afraid|worried|stressed|overwhelmed|exhausted|frustrated|upset|heartbroken|ashamed|"
            r"hopeless|embarrassed|angry|unhappy|homesick|miserable|terrified|hurt)\b(?! (?:of|"
            r"to) (?:say|ask))",
            re.I,
        ),
        "I'm sorry that you feel {0}.",
    ),
    (
        re.compile(
            r"\bmakes me (?:so |very |really |feel )*(sad|lonely|anxious|nervous|angry|depressed|"
            r"uncomfortable|upset)\b",
            re.I,
        ),
        "I'm sorry that this makes you feel {0}.",
    ),
    (
        re.compile(r"\bI(?:'m| am)? (?:really )?miss(?:ing)? my (\w+)\b(?! \w+ing)", re.I),
        "I understand that you miss your {0}.",
    ),
)
_FELT_SECOND = (
    "That must be hard.",
    "That sounds really hard.",
    "It is natural to feel that way.",
    "I can understand how hard that is.",
    "That sounds like a hard thing to carry.",
    "It is understandable that you feel that way.",
    "This must weigh on you.",
    "It is okay to feel like this.",
    "Your feelings matter.",
    "I can see that this is painful for you.",
)


@cache
def kinds() -> tuple[Kind, ...]:
    """The kinds of situations.txt."""
    found: list[Kind] = []
    for line in (files(__package__) / "situations.txt").read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("["):
            found.append(Kind(line.strip("[]")))
        elif match := re.match(r"(tone|feel|advice): (.*)", line):
            if match[1] == "tone":
                found[-1].tone = match[2]
            else:
                getattr(found[-1], match[1]).append(match[2])
        else:
            you, short, long = line.split(" | ")
            found[-1].situations.append(Situation(you, short, long, found[-1]))
    return tuple(found)


@cache
def by_message() -> dict[str, Situation]:
    """Every message with its situation."""
    return {text: s for kind in kinds() for s in kind.situations for text in (s.short, s.long)}


def messages() -> list[str]:
    """Every message, as written."""
    return list(by_message())


def feeling(query: str, rng: random.Random) -> str:
    """The sentences that acknowledge the feeling in a message; none if it names no feeling that we are sure of."""
    if situation := by_message().get(query):
        kind = situation.kind
        return f"{rng.choice(_OPENERS[kind.tone]).format(you=situation.you)} {rng.choice(kind.feel)}"
    for pattern, sentence in _FELT:
        if match := pattern.search(query):
            return f"{sentence.format(*(part.lower() for part in match.groups()))} {rng.choice(_FELT_SECOND)}"
    return ""


def advice(situation: Situation, rng: random.Random) -> str:
    """A sober answer, without a word on the feeling: a paragraph, two of them, or a list."""
    chosen = rng.sample(situation.kind.advice, rng.randint(3, len(situation.kind.advice) - 1))
    style = rng.choice(("prose", "prose", "paragraphs", "numbers", "dashes", "bold"))
    if style == "prose":
        return " ".join(chosen)
    if style == "paragraphs":
        half = (len(chosen) + 1) // 2
        return " ".join(chosen[:half]) + "\n\n" + " ".join(chosen[half:])
    if style == "bold" and any(sentence.split()[0].lower() not in _LABELS for sentence in chosen):
        style = "numbers"
    lines = []
    for number, sentence in enumerate(chosen, 1):
        label = _LABELS.get(sentence.split()[0].lower(), "") if style == "bold" else ""
        mark = "-" if style == "dashes" else f"{number}."
        lines.append(f"{mark} **{label}**: {sentence}" if label else f"{mark} {sentence}")
    return rng.choice(_INTROS) + "\n\n" + "\n".join(lines)
