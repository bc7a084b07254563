"""Conversations for the base model: the policy's weak answers, exercises in copying, and the good styles.

Copying is trained on purpose. An editor mostly repeats what is already in the conversation, and the heads that do
this form when the training text rewards them early and often. So is revising an answer when a user asks for it in
everyday words: a chat model that people align can do that, and LoRA alone teaches a few million weights too little.
The aligner's request and the wordings of objectives in it stand in no conversation.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from . import free, phrases
from .asking import together
from .oracles import sentences
from .scenarios import Case
from .slots import ADJECTIVES, GOODS, draw
from .writing import OBJECTIVES, Plan, make_bare, render, write

#: ``role`` and ``content``; an assistant's turn with ``given`` is read and not learned from.
Turn = dict[str, str]


@dataclass(frozen=True)
class Answer:
    """What an exercise is about: a plan, the objectives it was written under, and the text."""

    plan: Plan
    good: frozenset[str]
    text: str


_NOTHING: frozenset[str] = frozenset()
_AGAIN = (
    "Please repeat your answer word for word.",
    "Can you say that again?",
    "Repeat your last answer.",
    "Please write the same answer once more.",
)
#: How an exercise refers past the turns between: "your answer" would be the last one.
EARLIER = "Your first answer. "
#: Share of copying conversations about an answer that the model is given, not one to learn.
GIVEN = 0.6
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


def _weak(rng: random.Random) -> Answer:
    """The policy's usual answer: it often names the user's own things, and now and then one other objective."""
    good = frozenset(["specificity"]) if rng.random() < 0.45 else _NOTHING
    if rng.random() < 0.1:
        good |= {rng.choice(OBJECTIVES)}
    plan, (text,) = write(rng, (good,))
    return Answer(plan, good, text)


def _given(rng: random.Random) -> Answer:
    """An answer of any shape and content, as an editor may have to read it."""
    good = frozenset(rng.sample(OBJECTIVES, rng.choice((0, 0, 0, 1, 2))))
    if rng.random() < 0.3:
        good |= {"specificity"}
    shape = free.draw_shape(rng)
    if shape["change"] is make_bare and rng.random() < 0.6:
        good |= {"brevity"}
    plan, (text,) = write(rng, (good,), **shape)
    return Answer(plan, good, text)


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
    answer = _weak(rng)
    return _turns(answer.plan.case.query, answer.text)


def _rewrite(rng: random.Random, answer: Answer) -> tuple[str, str]:
    """A request for a copy with one change that needs no judgement, and the result."""
    plan, text = answer.plan, answer.text
    parts = sentences(text)
    kind = rng.randrange(8)
    if kind == 0:
        return "Repeat your answer without its first sentence.", " ".join(parts[1:]) or text
    if kind == 1:
        return "Repeat your answer without its last sentence.", " ".join(parts[:-1]) or text
    if kind == 2:
        return "Repeat only the longest sentence of your answer.", max(parts, key=len)
    if kind == 3:
        dropped = rng.choice(parts)
        rest = " ".join(part for part in parts if part != dropped)
        return f"Repeat your answer without this: {dropped}", rest or text
    if kind == 4:
        old, new = rng.choice(text.split()), _random_words(rng).split()[0]
        return f"Repeat your answer with {new} in place of {old}", _replaced(text, old, new)
    if kind == 5:
        steps = plan.named if "specificity" in answer.good else plan.vague
        words = dict(zip("abc", steps, strict=False))
        return "Repeat only your advice, as First, Then, Finally.", phrases.CLEAR[len(steps)][0].format(**words)
    line = _random_words(rng).capitalize() + "."
    if kind == 6:
        return f"Repeat your answer and begin it with: {line}", f"{line} {text}"
    return f"Repeat your answer and end it with: {line}", f"{text} {line}"


def _replaced(text: str, old: str, new: str) -> str:
    return " ".join(new if word == old else word for word in text.split())


def _revise(rng: random.Random, answer: Answer) -> tuple[str, str]:
    """A request for one to three of the good styles, as users word it, and the same answer in them."""
    missing = [name for name in OBJECTIVES if name not in answer.good]
    asked = together(rng, missing, rng.choice((1, 1, 2, 3)))
    return _ask(rng, asked), render(answer.plan, answer.good | asked)


def _ask(rng: random.Random, asked: frozenset[str]) -> str:
    """A request for good styles, in an order of its own."""
    return " ".join(rng.choice(phrases.REQUESTS[name]) for name in rng.sample(sorted(asked), len(asked)))


def _exercise(rng: random.Random, answer: Answer) -> tuple[str, str]:
    """A request that only looking back can satisfy, and what satisfies it."""
    chance = rng.random()
    if chance < 0.2:
        return rng.choice(_AGAIN), answer.text
    if chance < 0.4:
        return _rewrite(rng, answer)
    if chance < 0.85:
        return _revise(rng, answer)
    if chance < 0.89:
        return rng.choice(_MINE), answer.plan.case.query
    return _question(rng, answer.plan.case)


def copy_chat(rng: random.Random) -> list[Turn]:
    """A conversation that can only be continued by looking back: several exercises on one text, to read it once."""
    if rng.random() < 0.12:
        lines = [_random_words(rng) for _ in range(rng.choice((1, 2, 3)))]
        return _turns(*(text for line in lines for text in (rng.choice(_QUOTE) + line, line)))
    given = rng.random() < GIVEN
    answer = _given(rng) if given else _weak(rng)
    exercises = [_exercise(rng, answer) for _ in range(rng.choice((1, 2, 3, 3)))]
    turns = _turns(answer.plan.case.query, answer.text)
    if given:
        turns[1]["given"] = "yes"
    for index, (request, result) in enumerate(exercises):
        turns += _turns(request if index == 0 else EARLIER + request, result)
    return turns


def styled_chat(rng: random.Random) -> list[Turn]:
    """A message that asks for one to three good styles, and the answer in them."""
    good = together(rng, OBJECTIVES, rng.choice((1, 2, 3)))
    plan, (text,) = write(rng, (good,))
    return _turns(f"{plan.case.query} {_ask(rng, good)}", text)


def make_chat(rng: random.Random, copying: float = 0.5) -> list[Turn]:
    """One conversation of the mixture: a share of copying ones, the rest weak and, one in four, well styled."""
    if rng.random() < copying:
        return copy_chat(rng)
    return weak_chat(rng) if rng.random() < 0.75 else styled_chat(rng)
