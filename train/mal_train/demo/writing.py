"""The writer: one answer plan, rendered under any set of satisfied objectives.

A plan fixes every choice beforehand: the sentence for each objective satisfied, the one for it unsatisfied, the
steps, the wording around them. ``render`` only decides which of the two is written. So two renderings of one plan
differ in the aspects concerned and nowhere else.

To add an objective whose effect is a sentence of its own: add its phrases, one line in ``_pieces``, a place in
``ORDER``, an oracle and, for training, its name in ``OBJECTIVES``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from . import phrases
from .scenarios import Case, Scenario, make_case, usable_steps
from .slots import ADJECTIVES, GOODS, article, fill
from .vague import loosely

#: The objectives rated in ``pairs.jsonl``.
OBJECTIVES = ("empathy", "clarity", "brevity", "politeness", "specificity", "encouragement", "honesty", "humor")
#: Objectives the writer already knows but the training data does not name yet. Unsatisfied, they add nothing.
EXTRA_OBJECTIVES = ("reassurance", "structure", "helpfulness", "formality")
#: The order of an answer's pieces; "steps" is the advice itself.
ORDER = (
    "formality-first",
    "thanks-first",
    "empathy",
    "reassurance",
    "honesty",
    "filler-first",
    "steps",
    "filler-last",
    "humor",
    "thanks-last",
    "encouragement",
    "helpfulness",
    "formality-last",
)
_FILLERS = ("filler-first", "filler-last")
MIN_WORDS, MAX_WORDS = 20, 90
#: The same for answers of any shape: whoever edits answers has to know short ones.
SHORTEST = 8

_EITHER = re.compile(r"\[([^|\]]*)\|([^\]]*)\]")


@dataclass(frozen=True)
class Piece:
    """A sentence under one objective: what is written with it satisfied, and what without."""

    objective: str
    good: str = ""
    weak: str = ""


@dataclass(frozen=True)
class Plan:
    """Every choice of an answer except which objectives it satisfies."""

    case: Case
    steps: tuple[str, ...]  # as the scenario has them, each with both sides
    pieces: dict[str, Piece]
    named: tuple[str, ...]
    vague: tuple[str, ...]
    clear: str
    muddled: str
    curt: str
    aside: str = ""  # small talk between the steps, where they are sentences of their own


def _weak(rng: random.Random, options: Sequence[str], withheld: bool) -> str:
    """A weak-side phrase; the last of each list is seen in held-out rows only."""
    return rng.choice(options if withheld else options[:-1])


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _empathy(rng: random.Random, case: Case) -> str:
    feeling = rng.choice(case.scenario.feelings)
    frame = rng.choice(phrases.EMPATHY)
    return frame.format(clause=case.clause, feeling=feeling, Feeling=_capital(feeling))


def _filler(rng: random.Random, withheld: bool, shaped: bool = False) -> str:
    if shaped and rng.random() < 0.5:
        thing = f"{rng.choice(ADJECTIVES)} {rng.choice(GOODS)}"
        text = f"{rng.choice(phrases.WEAK_WHO)} {rng.choice(phrases.WEAK_DID)} {article(thing)} {thing}"
    else:
        text = _weak(rng, phrases.WEAK_FILLER, withheld)
    if rng.random() < 0.2:
        text += ", and " + _weak(rng, [other for other in phrases.WEAK_FILLER if other != text], withheld)
    return f"{_weak(rng, phrases.WEAK_RAMBLE, withheld)}{text}."


def _pieces(rng: random.Random, case: Case, withheld: bool, shaped: bool) -> dict[str, Piece]:
    """Choose the sentences around the steps."""
    scenario, cold, claim = case.scenario, rng.random() < 0.65, rng.random() < 0.35
    first = rng.random() < 0.5
    thanks = rng.choice(phrases.THANKS_FIRST if first else phrases.THANKS_LAST) if rng.random() < 0.75 else ""
    curt = _weak(rng, phrases.WEAK_CURT, withheld) if rng.random() < 0.5 else ""
    fillers = [_filler(rng, withheld, shaped) for _ in range(rng.choice((1, 1, 2)))]
    before = rng.random() < 0.5 or len(fillers) == 2
    return {
        "empathy": Piece("empathy", _empathy(rng, case), _weak(rng, phrases.WEAK_COLD, withheld) if cold else ""),
        "honesty": Piece(
            "honesty", rng.choice(scenario.limits), _weak(rng, phrases.WEAK_OVERCLAIM, withheld) if claim else ""
        ),
        "thanks-first": Piece("politeness", thanks if first else ""),
        "thanks-last": Piece("politeness", "" if first else thanks, curt),
        "filler-first": Piece("brevity", weak=fillers[0] if before else ""),
        "filler-last": Piece("brevity", weak="" if before and len(fillers) == 1 else fillers[-1]),
        "humor": Piece("humor", _capital(f"{rng.choice(phrases.JOKE_LEADS)}{rng.choice(scenario.jokes)}.")),
        "encouragement": Piece("encouragement", rng.choice(phrases.ENCOURAGEMENT)),
        "reassurance": Piece("reassurance", rng.choice(phrases.REASSURANCE)),
        "helpfulness": Piece("helpfulness", rng.choice(phrases.HELPFULNESS)),
        "formality-first": Piece("formality", rng.choice(phrases.FORMAL_FIRST[:1])),
        "formality-last": Piece("formality", rng.choice(phrases.FORMAL_LAST)),
    }


def _differ(steps: Sequence[str]) -> bool:
    """Whether no two steps become the same when named or vague."""
    return all(len({_EITHER.sub(side, step) for step in steps}) == len(steps) for side in (r"\1", r"\2"))


def can_choose(steps: Sequence[str], count: int) -> bool:
    """Whether so many steps differ from each other, at least one of them about the message."""
    return any(_differ(chosen) and any("[" in step for step in chosen) for chosen in combinations(steps, count))


def _choose_steps(rng: random.Random, scenario: Scenario, known: frozenset[str]) -> list[str]:
    """Two or three steps in order, as many of them as possible naming something from the message."""
    steps = usable_steps(scenario, known)
    count = min(len(steps), 3 if rng.random() < 0.75 else 2)
    if count == 3 and not can_choose(steps, 3):
        count = 2
    wanted = min(2, sum("[" in step for step in steps))
    while True:
        chosen = [steps[index] for index in sorted(rng.sample(range(len(steps)), count))]
        if sum("[" in step for step in chosen) >= wanted and _differ(chosen):
            return chosen
        wanted -= rng.random() < 0.05 and wanted > 1


def make_plan(
    rng: random.Random, case: Case, withheld: bool = False, steps: Sequence[str] = (), shaped: bool = False
) -> Plan:
    """Fix all choices for an answer to ``case``; ``steps`` keeps those of another plan.

    ``shaped`` answers come in several weak shapes, not in the policy's alone.
    """
    steps = steps or _choose_steps(rng, case.scenario, frozenset(case.slots))
    pieces = _pieces(rng, case, withheld, shaped)
    clear = rng.choice(phrases.CLEAR[len(steps)])
    muddled, aside = _muddled(rng, len(steps), withheld), ""
    chance = rng.random() if shaped else 1.0
    if chance < 0.35:
        muddled = rng.choice(phrases.WEAK_SENTENCES[len(steps)])
        if rng.random() < 0.5:  # small talk between the steps instead of around them
            aside = " ".join(part for part in (pieces[place].weak for place in _FILLERS) if part)
            pieces |= {place: Piece("brevity") for place in _FILLERS}
    elif chance < 0.6:
        muddled = _listed(rng, len(steps), withheld)
    return Plan(
        case=case,
        steps=tuple(steps),
        pieces=pieces,
        named=tuple(fill(_EITHER.sub(r"\1", step), case.slots) for step in steps),
        vague=tuple(loosely(rng, fill(_EITHER.sub(r"\2", step), case.slots), withheld) for step in steps),
        clear=clear,
        muddled=muddled,
        curt=rng.choice(("just ", "just ", "")),
        aside=aside,
    )


def keep(_: random.Random, plan: Plan) -> Plan:
    """The plan as it is."""
    return plan


def make_bare(_: random.Random, plan: Plan) -> Plan:
    """Leave out the remarks around the advice, but for small talk, which brevity is about."""
    pieces = {
        place: piece if piece.objective == "brevity" else replace(piece, weak="")
        for place, piece in plan.pieces.items()
    }
    return replace(plan, pieces=pieces)


def _muddled(rng: random.Random, count: int, withheld: bool) -> str:
    """The policy's way: one long sentence that takes everything back."""
    links = rng.sample(phrases.WEAK_LINK if withheld else phrases.WEAK_LINK[:-1], count - 1)
    muddled = "{a}" + "".join(link + part for link, part in zip(links, ("{b}", "{c}"), strict=False))
    return f"{rng.choice(phrases.WEAK_LEAD)}{muddled}{_weak(rng, phrases.WEAK_TAIL, withheld)}."


def _listed(rng: random.Random, count: int, withheld: bool) -> str:
    """A bare list, now and then with a hedge behind it."""
    tail = _weak(rng, phrases.WEAK_TAIL, withheld) if rng.random() < 0.5 else ""
    separators = [rng.choice(phrases.WEAK_SEPARATOR)] * (count - 1)
    if count == 3 and rng.random() < 0.5:
        separators = [", ", rng.choice((", or ", ", and ", " or ", " and ", ", then "))]
    listed = "{a}" + "".join(separator + part for separator, part in zip(separators, ("{b}", "{c}"), strict=False))
    return f"{rng.choice(phrases.WEAK_LIST_LEAD)}{listed}{tail}."


def _steps(plan: Plan, satisfied: frozenset[str]) -> str:
    """The advice, in the form that clarity, politeness, specificity and structure ask for."""
    steps = list(plan.named if "specificity" in satisfied else plan.vague)
    clear = "clarity" in satisfied
    if "politeness" in satisfied:
        steps[0] = f"please {steps[0]}"
    elif not clear:
        steps[0] = plan.curt + steps[0]
    if "structure" in satisfied:
        frame = phrases.NUMBERED[len(steps)]
        steps = [_capital(step if clear else f"{step}, sort of") for step in steps]
        return "\n" + frame.format(**dict(zip("abc", steps, strict=False))) + "\n"
    frame = plan.clear if clear else plan.muddled
    if plan.aside and "brevity" not in satisfied:
        frame = re.sub(r"([.!]) ", rf"\1 {plan.aside} ", frame, count=1)
    words = {key: step for letter, step in zip("abc", steps, strict=False) for key, step in _cases(letter, step)}
    return _capital(frame.format(**words))


def _cases(letter: str, step: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """A step under its letter, and with a capital under the capital letter."""
    return (letter, step), (letter.upper(), _capital(step))


def render(plan: Plan, satisfied: Iterable[str]) -> str:
    """Write the plan with the given objectives satisfied and the others not."""
    good = frozenset(satisfied)
    parts = []
    for place in ORDER:
        if place == "steps":
            parts.append(_steps(plan, good))
            continue
        piece = plan.pieces[place]
        parts.append(piece.good if piece.objective in good else piece.weak)
    text = " ".join(part for part in parts if part)
    return re.sub(r" ?\n ?", "\n", text).strip()


def fits(text: str, least: int = MIN_WORDS) -> bool:
    """Whether the answer has an everyday length."""
    return least <= len(text.split()) <= MAX_WORDS


def write(
    rng: random.Random,
    sets: Sequence[frozenset[str]],
    withheld: bool = False,
    case: Callable[[random.Random], Case] | None = None,
    shaped: bool = False,
    change: Callable[[random.Random, Plan], Plan] = keep,
) -> tuple[Plan, tuple[str, ...]]:
    """A plan and its renderings under each of ``sets``, all of an everyday length.

    ``case`` makes other cases, ``change`` another plan of the one that was made.
    """
    while True:
        plan = make_plan(rng, case(rng) if case else make_case(rng, withheld), withheld, shaped=shaped)
        plan = change(rng, plan)
        texts = tuple(render(plan, satisfied) for satisfied in sets)
        if all(fits(text, SHORTEST if shaped else MIN_WORDS) for text in texts):
            return plan, texts
