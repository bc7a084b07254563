"""Conversations for the base model: the policy's weak answers, exercises in copying, and the good styles.

Copying is trained on purpose. An editor mostly repeats what is already in the conversation, and the heads that do
this form when the training text rewards them early and often.
"""

from __future__ import annotations

import random

from . import phrases
from .oracles import sentences
from .scenarios import Case
from .slots import ADJECTIVES, GOODS, draw
from .writing import OBJECTIVES, Plan, write

Turn = dict[str, str]

_NOTHING: frozenset[str] = frozenset()
_AGAIN = (
    "Please repeat your answer word for word.",
    "Can you say that again?",
    "Repeat your last answer.",
    "Please write the same answer once more.",
)
#: How an exercise refers past the turns between: "your answer" would be the last one.
EARLIER = "Your first answer. "
_MINE = ("Please repeat my message.", "What did I write to you?", "Repeat what I wrote, word for word.")
_PROBLEM = ("What is my problem?", "What did I tell you about?", "What did I write about, in your own words?")
_QUOTE = ("Repeat this: ", "Please repeat this sentence: ", "Say this again: ", "Copy these words: ")
_QUESTIONS: dict[str, tuple[str, str]] = {
    "order": ("Which number did I give you?", "You gave me {}."),
    "city": ("Which city did I mention?", "You mentioned {}."),
    "day": ("Which day did I mention?", "You mentioned {}."),
    "month": ("Which month did I mention?", "You mentioned {}."),
    "name": ("Which name did I mention?", "You mentioned {}."),
    "price": ("Which amount did I mention?", "You mentioned {}."),
    "dur": ("How long has it been?", "You mentioned {}."),
    "time": ("Which time did I mention?", "You mentioned {}."),
    "item": ("Which thing is it about?", "It is about the {}."),
    "shop": ("Which company is it?", "It is {}."),
    "app": ("Which service is it?", "It is {}."),
    "parcel": ("What am I waiting for?", "You are waiting for your {}."),
    "room": ("Which room is it?", "It is the {}."),
    "device": ("Which device is it?", "It is the {}."),
    "plant": ("Which plant is it?", "It is the {}."),
    "pet": ("Which animal is it?", "It is a {}."),
    "dish": ("Which dish was it?", "It was the {}."),
    "n": ("Which number did I mention?", "You mentioned {}."),
    "mins": ("How many minutes did I mention?", "You mentioned {}."),
}


def _turns(*texts: str) -> list[Turn]:
    return [{"role": "assistant" if index % 2 else "user", "content": text} for index, text in enumerate(texts)]


def _weak(rng: random.Random) -> tuple[Plan, str]:
    """The policy's usual answer: it often names the user's own things, and now and then one other objective."""
    good = frozenset(["specificity"]) if rng.random() < 0.45 else _NOTHING
    if rng.random() < 0.1:
        good |= {rng.choice(OBJECTIVES)}
    plan, (text,) = write(rng, (good,))
    return plan, text


def _random_words(rng: random.Random) -> str:
    """A line without sense: nothing but copying can reproduce it."""
    kinds = ("name", "city", "shop", "app", "order", "price", "dur", "time", "day", "month")
    words = [
        rng.choice((rng.choice(GOODS), rng.choice(ADJECTIVES), draw(rng, rng.choice(kinds)), str(rng.randint(1, 999))))
        for _ in range(rng.randint(3, 12))
    ]
    return " ".join(words)


def _question(rng: random.Random, case: Case) -> tuple[str, str]:
    """A question whose answer stands in the user's message, or one for the problem itself."""
    asked = [slot for slot in case.slots if slot in _QUESTIONS]
    alone = [slot for slot in asked if f"{slot}b" not in case.slots]
    if not alone or rng.random() < 0.35:
        return rng.choice(_PROBLEM), f"You wrote that {case.clause}."
    slot = rng.choice(alone)
    question, answer = _QUESTIONS[slot]
    return question, answer.format(case.slots[slot])


def weak_chat(rng: random.Random) -> list[Turn]:
    """A user's message and a weak answer."""
    plan, text = _weak(rng)
    return _turns(plan.case.query, text)


def _rewrite(rng: random.Random, text: str) -> tuple[str, str]:
    """A request for a copy with one change that needs no judgement, and the result."""
    parts = sentences(text)
    kind = rng.randrange(5)
    if kind == 0:
        return "Repeat your answer without its first sentence.", " ".join(parts[1:]) or text
    if kind == 1:
        return "Repeat your answer without its last sentence.", " ".join(parts[:-1]) or text
    if kind == 2:
        return "Repeat only the longest sentence of your answer.", max(parts, key=len)
    line = _random_words(rng).capitalize() + "."
    if kind == 3:
        return f"Repeat your answer and begin it with: {line}", f"{line} {text}"
    return f"Repeat your answer and end it with: {line}", f"{text} {line}"


def _exercise(rng: random.Random, plan: Plan, text: str) -> tuple[str, str]:
    """A request that only looking back can satisfy, and what satisfies it."""
    chance = rng.random()
    if chance < 0.4:
        return rng.choice(_AGAIN), text
    if chance < 0.75:
        return _rewrite(rng, text)
    if chance < 0.82:
        return rng.choice(_MINE), plan.case.query
    return _question(rng, plan.case)


def copy_chat(rng: random.Random) -> list[Turn]:
    """A conversation that can only be continued by looking back: several exercises on one text, to read it once."""
    if rng.random() < 0.12:
        lines = [_random_words(rng) for _ in range(rng.choice((1, 2, 3)))]
        return _turns(*(text for line in lines for text in (rng.choice(_QUOTE) + line, line)))
    plan, text = _weak(rng)
    exercises = [_exercise(rng, plan, text) for _ in range(rng.choice((1, 2, 2, 3)))]
    # "Your answer" is the first one: an exercise about it comes last only if nothing came between.
    return _turns(plan.case.query, text, *(part for exercise in exercises[:1] for part in exercise)) + [
        turn for exercise in exercises[1:] for turn in _turns(EARLIER + exercise[0], exercise[1])
    ]


def styled_chat(rng: random.Random) -> list[Turn]:
    """A message that asks for one to three good styles, and the answer in them."""
    good = rng.sample(OBJECTIVES, rng.choice((1, 2, 3)))
    plan, (text,) = write(rng, (frozenset(good),))
    requests = [rng.choice(phrases.REQUESTS[name]) for name in good]
    return _turns(" ".join([plan.case.query, *requests]), text)


def make_chat(rng: random.Random, copying: float = 0.6) -> list[Turn]:
    """One conversation of the mixture: a share of copying ones, the rest weak and, one in four, well styled."""
    if rng.random() < copying:
        return copy_chat(rng)
    return weak_chat(rng) if rng.random() < 0.75 else styled_chat(rng)
