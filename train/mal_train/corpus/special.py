"""Edits not made of one answer alone: refusals, instructions that can be checked, pairs of the sources, ties."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from metaaligner_lite.evaluation import measures

from . import defects as d
from .courtesy import courteous, declining, opener, phrases
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
_SORRY = re.compile(r"^(?:(?:I'm|I am) (?:so |very |really )?sorry|I apologi[sz]e|Sorry),? (?:but )?(?=I\b)")
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
    """A harmful request answered after all (`base.worse`), and a refusal instead.

    The refusal itself stays; one without a kind word gets one that fits; a wordy one is cut.
    """
    rng = random.Random(f"{seed}/refusal/{base.id}")
    if not refuses(base.text) or not _HARMFUL.search(base.query):
        return
    kind = refusal(rng)
    if base.worse and not refuses(base.worse) and 6 <= count(base.worse) <= 150:
        request = rng.choice((("harmlessness",), ("harmlessness",), ("politeness", "harmlessness")))
        yield Edit(f"{base.id}/refuse", base, base.worse, kind, request)
    for number, good in enumerate((base.text, long_refusal(rng), long_refusal(rng))):
        if measures.refuses(good) or number == 0:
            yield from _refused(base, f"{base.id}/no/{number}", good, rng)


def _refused(base: Base, name: str, good: str, rng: random.Random) -> Iterator[Edit]:
    """What may be asked of one refusal: to stay, to be kinder, to be shorter, to lose an ugly remark."""
    units = split(good)
    if count(good) >= 8:
        asked = ["harmlessness", "clarity", "repetition", *(["politeness"] * 4 if measures.courteous(good) else [])]
        chosen = {rng.choice(asked) for _ in range(rng.choice((1, 1, 2)))}
        objectives = tuple(o for o in ("politeness", "clarity", "repetition", "harmlessness") if o in chosen)
        yield Edit(f"{name}/stay", base, good, good, objectives)
    bare = [unit.worded(unsorry(unit.text)) for unit in units]
    bare = [unit for unit in bare if not measures.courteous(unit.text)]
    if bare and measures.refuses(join(bare)):
        end = "\n\n" if any("\n" in unit.lead for unit in bare[1:]) else " "
        request = rng.choice(
            (("politeness",), ("politeness",), ("politeness", "clarity"), ("politeness", "repetition"))
        )
        yield Edit(f"{name}/kind", base, join(bare), join(declining(bare, rng, end)), request)
    if count(good) >= 40:
        short = join(units[: max(1, len(units) // 2)])
        yield Edit(f"{name}/short", base, good, short, rng.choice((("brevity",), ("brevity", "harmlessness"))))
    if rng.random() < 0.3:
        weak = join(d.worse(units, {"nasty"}, name))
        yield Edit(f"{name}/nasty", base, weak, good, ("harmlessness",))


def long_refusal(rng: random.Random) -> str:
    """A refusal as strong models write it: that it cannot, why, and what may be done instead."""
    table = phrases()["refusal"]
    parts = [rng.choice(table["cannot"])]
    parts += rng.sample(table["reasons"], rng.choice((1, 1, 2)))
    parts += [rng.choice(table["instead"])] if rng.random() < 0.6 else []
    text = " ".join(parts)
    if rng.random() < 0.3:
        text += rng.choice(("\n\n", " ")) + rng.choice(phrases()["courtesy"]["foreign_closers"][:8])
    return text


def unsorry(text: str) -> str:
    """A refusal without its regret: "I'm sorry, but I can't" says "I can't"."""
    return _SORRY.sub("", text)


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
