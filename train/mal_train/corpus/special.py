"""Edits not made of one answer alone: refusals, instructions that can be checked, pairs of the sources, ties."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from . import defects as d
from .courtesy import courteous, opener, phrases
from .edit import Edit
from .sources import Base
from .texts import Unit, count, join, lower_first, sentences, split

_REFUSAL = re.compile(
    r"^(?:[^.!?]{0,40}\b)?(?:sorry|can't help|cannot help|won't help|can't assist|"
    r"cannot assist|not going to (?:help|tell|do)|i won't|i don't think (?:i|that|it)|no[,.]|"
    r"i'm not (?:able|comfortable|going)|that(?:'s| is| would be| sounds) (?:illegal|wrong|"
    r"a bad idea|very|really|dangerous|not)|please don't|i (?:really )?(?:don't want|wouldn't|"
    r"can't|cannot))",
    re.I,
)
_HARMFUL = re.compile(
    r"\b(?:kill|murder|bomb|poison|steal|shoplift|hack|rob|weapon|gun|drug|meth|cocaine|"
    r"heroin|hurt|beat|attack|torture|kidnap|rape|blackmail|stalk|spy on|fraud|scam|forge|"
    r"counterfeit|launder|burn down|arson|revenge|bully|racis|slur|sabotage|vandal|break into|"
    r"fight|assault|threaten|harass|insult|prank|lie to|cheat|illegal|crime)",
    re.I,
)
_NUMBERS = {1: "one sentence", 2: "two sentences", 3: "three sentences"}
_NAMES = ("Anna", "Tom", "Mrs. Baker", "Sam", "Priya", "Leo", "Dr. Wong", "Maria", "Jonas", "Ms. Diaz", "Omar", "Ruth")
_ENDINGS = ("End of answer.", "That is all.", "Have a nice day!", "Good luck!", "Done.", "Best wishes!")
_STARTS = ("Answer:", "Short answer:", "In brief:", "My reply:", "Here it goes:")


def refuses(text: str) -> bool:
    """Whether an answer declines."""
    return bool(_REFUSAL.search(text))


def refusal(rng: random.Random) -> str:
    """A short and kind refusal."""
    table = phrases()["refusal"]
    return " ".join(rng.choice(table[part]) for part in ("openers", "default", "offers"))


def refusals(base: Base, seed: int) -> Iterator[Edit]:
    """A harmful request answered after all (`base.worse`), and a refusal instead; the refusal itself stays."""
    rng = random.Random(f"{seed}/refusal/{base.id}")
    if not refuses(base.text) or not _HARMFUL.search(base.query):
        return
    kind = refusal(rng)
    if base.worse and not refuses(base.worse) and 6 <= count(base.worse) <= 150:
        request = rng.choice((("harmlessness",), ("harmlessness",), ("politeness", "harmlessness")))
        yield Edit(f"{base.id}/refuse", base, base.worse, kind, request)
    good = base.text if count(base.text) >= 12 and rng.random() < 0.5 else kind
    if rng.random() < 0.45:
        yield Edit(f"{base.id}/refused", base, good, good, ("harmlessness",))
    elif rng.random() < 0.5:
        yield Edit(f"{base.id}/nasty", base, join(d.worse(split(good), {"nasty"}, base.id)), good, ("harmlessness",))


def instructed(base: Base, seed: int) -> Iterator[Edit]:
    """The query with an instruction that can be checked: an answer that misses it, and the same that follows it."""
    rng = random.Random(f"{seed}/instructed/{base.id}")
    units = split(base.text)
    said = [part for unit in units for part in sentences(unit.text)]
    options: list[tuple[Sequence[str], str]] = []
    if not any(unit.item for unit in units) and len(said) >= 3:
        number = rng.randint(1, min(3, len(said) - 1))
        words = _NUMBERS[number]
        short = " ".join(said[:number])
        if count(short) >= 6:
            options.append(((f"Answer in {words}.", f"Please use only {words}.", f"In {words}, please."), short))
        listed = d.itemized(units)
        if listed:
            options.append(
                (
                    ("Write it as a numbered list.", "Please answer with a numbered list.", "Use numbered points."),
                    join(listed),
                )
            )
    name, ending, start = rng.choice(_NAMES), rng.choice(_ENDINGS), rng.choice(_STARTS)
    options.append(
        (
            (f"Begin with my name, {name}.", f"Start your answer with my name: {name}."),
            f"{name}, {lower_first(base.text) or base.text}",
        )
    )
    options.append(((f'End with "{ending}"', f'Please end your answer with "{ending}"'), f"{base.text} {ending}"))
    options.append(((f'Begin your answer with "{start}"', f'Start with "{start}"'), f"{start} {base.text}"))
    asks, target = rng.choice(options)
    query = f"{base.query.rstrip()}{'' if base.query.rstrip()[-1:] in '.!?' else '.'} {rng.choice(asks)}"
    asked = replace(base, query=query)
    weak = target if rng.random() < 0.17 else base.text
    yield Edit(f"{base.id}/instructed", asked, weak, target, ("instruction following",))


def given(base: Base) -> Iterator[Edit]:
    """A pair as its source has it."""
    yield Edit(f"{base.id}/given", base, base.worse, base.text, base.objectives)


def ties(base: Base, seed: int) -> Iterator[Edit]:
    """Two wordings that are as good as each other: another courtesy, or a list with other marks."""
    rng = random.Random(f"{seed}/tie/{base.id}")
    units = d.curt(split(base.text))
    if count(units) < 15:
        return
    if any(unit.item for unit in units):
        other = [u.worded(re.sub(r"^(\s*)(?:[-*•])\s+", r"\1* ", u.text)) if u.item else u for u in units]
        marks = [u.worded(re.sub(r"^(\s*)(?:[-*•])\s+", r"\1- ", u.text)) if u.item else u for u in units]
        if join(other) != join(marks):
            yield Edit(f"{base.id}/tie", base, join(other), join(marks), ("structure",), tie=True)
            return
    first, second = opener(base.query, rng), opener(base.query, rng)
    if first != second and courteous(first) and courteous(second):
        texts = [join([Unit(line, "\n\n"), Unit(units[0].text, " "), *units[1:]]) for line in (first, second)]
        yield Edit(f"{base.id}/tie", base, texts[0], texts[1], ("politeness",), tie=True)


def harmful(query: str) -> bool:
    """Whether a request sounds as if it could do harm."""
    return bool(_HARMFUL.search(query))
