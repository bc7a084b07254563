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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from . import phrases
from .scenarios import Case, Scenario, make_case, usable_steps
from .slots import fill

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
MIN_WORDS, MAX_WORDS = 20, 90

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
    pieces: dict[str, Piece]
    named: tuple[str, ...]
    vague: tuple[str, ...]
    clear: str
    muddled: str
    curt: str


def _weak(rng: random.Random, options: Sequence[str], withheld: bool) -> str:
    """A weak-side phrase; the last of each list is seen in held-out rows only."""
    return rng.choice(options if withheld else options[:-1])


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _empathy(rng: random.Random, case: Case) -> str:
    feeling = rng.choice(case.scenario.feelings)
    frame = rng.choice(phrases.EMPATHY)
    return frame.format(clause=case.clause, feeling=feeling, Feeling=_capital(feeling))


def _filler(rng: random.Random, withheld: bool) -> str:
    text = _weak(rng, phrases.WEAK_FILLER, withheld)
    if rng.random() < 0.2:
        text += ", and " + _weak(rng, [other for other in phrases.WEAK_FILLER if other != text], withheld)
    return f"{_weak(rng, phrases.WEAK_RAMBLE, withheld)}{text}."


def _pieces(rng: random.Random, case: Case, withheld: bool) -> dict[str, Piece]:
    """Choose the sentences around the steps."""
    scenario, cold, claim = case.scenario, rng.random() < 0.65, rng.random() < 0.35
    first = rng.random() < 0.5
    thanks = rng.choice(phrases.THANKS_FIRST if first else phrases.THANKS_LAST) if rng.random() < 0.75 else ""
    curt = _weak(rng, phrases.WEAK_CURT, withheld) if rng.random() < 0.5 else ""
    fillers = [_filler(rng, withheld) for _ in range(rng.choice((1, 1, 2)))]
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


def _choose_steps(rng: random.Random, scenario: Scenario, known: frozenset[str]) -> list[str]:
    """Two or three steps in order, as many of them as possible naming something from the message."""
    steps = usable_steps(scenario, known)
    count = min(len(steps), 3 if rng.random() < 0.75 else 2)
    wanted = min(2, sum("[" in step for step in steps))
    while True:
        chosen = [steps[index] for index in sorted(rng.sample(range(len(steps)), count))]
        if sum("[" in step for step in chosen) >= wanted and _differ(chosen):
            return chosen
        wanted -= rng.random() < 0.05 and wanted > 1


def make_plan(rng: random.Random, case: Case, withheld: bool = False, steps: Sequence[str] = ()) -> Plan:
    """Fix all choices for an answer to ``case``; ``steps`` keeps those of another plan."""
    steps = steps or _choose_steps(rng, case.scenario, frozenset(case.slots))
    links = rng.sample(phrases.WEAK_LINK if withheld else phrases.WEAK_LINK[:-1], len(steps) - 1)
    muddled = "{a}" + "".join(link + part for link, part in zip(links, ("{b}", "{c}"), strict=False))
    return Plan(
        case=case,
        pieces=_pieces(rng, case, withheld),
        named=tuple(fill(_EITHER.sub(r"\1", step), case.slots) for step in steps),
        vague=tuple(fill(_EITHER.sub(r"\2", step), case.slots) for step in steps),
        clear=rng.choice(phrases.CLEAR[len(steps)]),
        muddled=f"{rng.choice(phrases.WEAK_LEAD)}{muddled}{_weak(rng, phrases.WEAK_TAIL, withheld)}.",
        curt=rng.choice(("just ", "just ", "")),
    )


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
    return _capital((plan.clear if clear else plan.muddled).format(**dict(zip("abc", steps, strict=False))))


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


def fits(text: str) -> bool:
    """Whether the answer has an everyday length."""
    return MIN_WORDS <= len(text.split()) <= MAX_WORDS


def write(rng: random.Random, sets: Sequence[frozenset[str]], withheld: bool = False) -> tuple[Plan, tuple[str, ...]]:
    """A plan and its renderings under each of ``sets``, all of an everyday length."""
    while True:
        plan = make_plan(rng, make_case(rng, withheld), withheld)
        texts = tuple(render(plan, satisfied) for satisfied in sets)
        if all(map(fits, texts)):
            return plan, texts
