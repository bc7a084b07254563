"""What makes an answer worse, each thing so that it can be taken back by itself, and what makes it better."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from metaaligner_lite.evaluation import measures

from .courtesy import closing, courteous, filler, opening, phrases, rude_remark, sympathetic
from .harden import joined, stiffen
from .plain import harder
from .texts import MARKER, Unit, count, keep, lower_first, normal, paragraphs, split, tidy, upper_first

Placed = list[tuple[int, Unit]]  # behind which unit of the answer's own (-1: before all) something comes

# Which requests take a defect away; a remark off the matter is filler, too. Turns that nobody said and loops to the
# end go with any.
FIXED_BY = {
    "filler": {"brevity"},
    "rude": {"politeness", "brevity"},
    "nasty": {"harmlessness", "politeness", "brevity"},
    "vague": {"clarity", "brevity"},
    "hard": {"clarity", "readability", "simplicity"},
    "stiff": {"clarity", "readability", "simplicity"},
    "joined": {"clarity", "readability", "simplicity"},
    "repeat": {"repetition", "brevity"},
    "gloomy": {"positivity", "brevity"},
    "discouraging": {"encouragement", "politeness", "brevity"},
    "boastful": {"honesty", "brevity"},
    "dismissive": {"empathy", "politeness", "brevity"},
    "loop": None,
    "turn": None,
}
_ASIDES = ("nasty", "gloomy", "discouraging", "boastful", "dismissive")


def worse(units: Sequence[Unit], defects: Iterable[str], seed: str) -> list[Unit]:
    """The answer with these defects; the same seed puts each at its place whichever others there are."""
    active = set(defects)
    own = list(units)
    for name, rule in (("stiff", stiffen), ("hard", harder)):
        if name in active:
            own = [
                unit if unit.heading else unit.worded(rule(unit.text, random.Random(f"{seed}/{name}/{i}")))
                for i, unit in enumerate(own)
            ]
    placed: Placed = []
    for name in sorted(active & set(_PLACE)):
        placed += _PLACE[name](own, random.Random(f"{seed}/{name}"))
    found: list[Unit] = []
    for number in range(-1, len(own)):
        if number >= 0:
            found.append(own[number])
        for place, unit in placed:
            if place == number:
                if number >= 0 and own[number].text[-1:] not in ".!?\"')*" and " " in unit.lead:
                    unit = replace(unit, lead="\n\n")
                if number == -1 and own and not found:
                    unit = replace(unit, lead="\n\n")
                found.append(unit)
    if placed and own and found[0] is not own[0]:
        # What now stands behind a remark goes on in its line, but for lists and headings.
        found = [
            replace(u, lead=" ") if i and u is own[0] and not (u.item or u.heading) else u for i, u in enumerate(found)
        ]
    if "joined" in active:
        found = joined(found, random.Random(f"{seed}/joined"))
    if "loop" in active:
        found += _loop(found, random.Random(f"{seed}/loop"))
    if "turn" in active:
        found += _turn(random.Random(f"{seed}/turn"))
    return found


def fixed(defects: Iterable[str], requested: Iterable[str]) -> set[str]:
    """Those of the defects that a request takes away."""
    asked = set(requested)
    return {d for d in defects if (by := FIXED_BY[d]) is None or by & asked}


def _gaps(own: Sequence[Unit]) -> list[int]:
    """Where a sentence may be put in without parting a list from its introduction."""
    gaps = [-1] if own and not own[0].item else []
    whole = [i for i, unit in enumerate(own) if unit.text.rstrip("\"')*")[-1:] in {".", "!", "?"} and not unit.heading]
    return gaps + sorted({*whole, len(own) - 1})


def _aside(lines: Sequence[str], most: int, name: str) -> Callable[[Sequence[Unit], random.Random], Placed]:
    def place(own: Sequence[Unit], rng: random.Random) -> Placed:
        gaps = _gaps(own) or [len(own) - 1]
        said = rng.sample(lines, min(len(lines), rng.randint(1, most)))
        return [(rng.choice([gaps[0], gaps[-1], rng.choice(gaps)]), Unit(line, " ", name)) for line in said]

    return place


def _filler(own: Sequence[Unit], rng: random.Random) -> Placed:
    table = phrases()["filler"]
    gaps = _gaps(own) or [len(own) - 1]
    size = sum(count(unit.text) for unit in own)
    found: Placed = []
    if rng.random() < 0.75:
        found += [(-1, Unit(line, " ", "filler")) for line in rng.sample(table["preambles"], rng.choice((1, 1, 2)))]
    for line in rng.sample(table["padding"], min(len(gaps), 1 + size // 35)):
        found.append((rng.choice(gaps), Unit(line, " ", "filler")))
    if rng.random() < 0.6:
        found.append((len(own) - 1, Unit(rng.choice(table["closers"]), rng.choice((" ", "\n\n")), "filler")))
    return found


def _rude(own: Sequence[Unit], rng: random.Random) -> Placed:
    gaps = _gaps(own) or [len(own) - 1]
    places = rng.choice(([gaps[0]], [gaps[0], len(own) - 1], [len(own) - 1], [rng.choice(gaps)]))
    return [(place, Unit(rude_remark(rng), " ", "rude")) for place in places]


def _vague(own: Sequence[Unit], rng: random.Random) -> Placed:
    gaps = [gap for gap in _gaps(own) if gap >= 0] or [len(own) - 1]
    said = rng.sample(phrases()["vague"]["whole"], min(rng.choice((2, 2, 3, 4)), 1 + len(gaps)))
    return [(rng.choice(gaps), Unit(line, " ", "vague")) for line in said]


def _repeat(own: Sequence[Unit], rng: random.Random) -> Placed:
    """Sentences said again, at once or later; sometimes a whole paragraph."""
    said = [i for i, u in enumerate(own) if not u.heading and u.text.endswith((".", "!")) and count(u.text) >= 4]
    if not said:
        return []
    if len(own) >= 3 and rng.random() < 0.25:
        group = max(paragraphs(own), key=lambda g: sum(count(u.text) for u in g) if not g[0].item else 0)
        if not group[0].item and len(group) >= 2:
            again = [replace(u, origin="repeat") for u in group]
            return [(len(own) - 1, replace(u, lead="\n\n" if i == 0 else " ")) for i, u in enumerate(again)]
    found: Placed = []
    for i in rng.sample(said, min(len(said), rng.choice((1, 1, 2, 3)))):
        text = MARKER.sub("", own[i].text)
        later = rng.choice((i, i, min(i + 1, len(own) - 1), len(own) - 1))
        if not own[later].text.endswith((".", "!")) or own[later].heading:
            later = i
        start = rng.choice(("", "", "", "As I said, ", "Again, "))
        tail = lower_first(text) if start else None
        found.append((later, Unit(start + tail if tail else text, " ", "repeat")))
    return found


def _loop(units: Sequence[Unit], rng: random.Random) -> list[Unit]:
    """The last sentences over and over, the last time broken off."""
    last = [MARKER.sub("", unit.text) for unit in units[-rng.choice((1, 1, 2)) :]]
    found = [Unit(text, " ", "loop") for _ in range(rng.randint(2, 5)) for text in last]
    if rng.random() < 0.6:
        cut = found[-1].text.split()
        found[-1] = found[-1].worded(" ".join(cut[: max(1, len(cut) * 2 // 3)]))
    return found


def _turn(rng: random.Random) -> list[Unit]:
    said = rng.choice(
        ("Thanks!", "Can you tell me more?", "What else?", "I see. And then?", "Ok, thank you.", "Why is that?")
    )
    name = rng.choice(("Human", "Human", "User"))
    found = [Unit(f"{name}: {said}", "\n\n", "turn")]
    if rng.random() < 0.6:
        found.append(
            Unit(
                f"Assistant: {rng.choice(('You are welcome!', 'Sure. What would you like to know?', 'Of course.'))}",
                "\n\n",
                "turn",
            )
        )
    return found


_PLACE: dict[str, Callable[[Sequence[Unit], random.Random], Placed]] = {
    "filler": _filler,
    "rude": _rude,
    "vague": _vague,
    "repeat": _repeat,
    **{name: _aside(phrases()[name]["whole"], 2, name) for name in _ASIDES},
}


def curt(units: Sequence[Unit]) -> list[Unit]:
    """The answer without its courtesy: openers and closers gone. Empty if nothing else is left."""
    kept = [
        i
        for i, unit in enumerate(units)
        if not (opening(unit.text) or closing(unit.text) or courteous(unit.text) or measures.courteous(unit.text))
    ]
    return keep(units, kept)


def sober(units: Sequence[Unit]) -> list[Unit]:
    """The answer without its sympathy."""
    felt = (sympathetic(unit.text) or measures.acknowledges(unit.text) for unit in units)
    return keep(units, [i for i, acknowledged in enumerate(felt) if not acknowledged])


def flat(units: Sequence[Unit]) -> list[Unit]:
    """A list as one paragraph."""
    found = []
    for unit in units:
        text = re.sub(r"\*\*|^#+ ", "", MARKER.sub("", unit.text)).strip()
        found.append(Unit(text if text[-1:] in ".!?:" else text + ".", " ", unit.origin))
    return found


def itemized(units: Sequence[Unit]) -> list[Unit] | None:
    """Prose as an introduction and a numbered list; None where there is too little to list, or a list already."""
    if any(unit.item or unit.heading for unit in units):
        return None
    groups = paragraphs(units)
    before: list[Unit] = []
    after: list[Unit] = []
    body = list(units)
    while body and (opening(body[0].text) or sympathetic(body[0].text)):
        before.append(body.pop(0))
    while body and (closing(body[-1].text) or measures.courteous(body[-1].text) or body[-1].text.endswith("?")):
        after.insert(0, body.pop())
    if len(body) < 4:
        return None
    colon = next((i for i, unit in enumerate(body) if unit.text.endswith(":")), 0)
    before += body[:colon]
    intro, rest = body[colon], body[colon + 1 :]
    if len(rest) < 3:
        return None
    if len(groups) >= 4:
        chunks = [[u for u in group if u in rest] for group in groups]
        chunks = [chunk for chunk in chunks if chunk]
    elif len(rest) > 7:
        chunks = [list(rest[i : i + 2]) for i in range(0, len(rest), 2)]
    else:
        chunks = [[unit] for unit in rest]
    found = [*before, replace(intro, lead=" " if before else "\n\n")]
    for number, chunk in enumerate(chunks, 1):
        first, *others = chunk
        lead = "\n\n" if number == 1 else "\n"
        found += [
            replace(first, text=f"{number}. {upper_first(first.text)}", lead=lead),
            *(replace(u, lead=" ") for u in others),
        ]
    return tidy([*found, *(replace(u, lead="\n\n" if i == 0 else " ") for i, u in enumerate(after))])


def restyled(units: Sequence[Unit], rng: random.Random) -> list[Unit]:
    """Prose in another dress that answers come in: short paragraphs, a numbered list, bullets."""
    style = rng.choice(("paragraphs", "numbers", "- ", "* ", "spaced"))
    if style == "paragraphs":
        if any("\n" in unit.lead for unit in units[1:]) or len(units) < 4:
            return list(units)
        size = rng.choice((1, 2, 2, 3))
        return [replace(u, lead="\n\n") if i % size == 0 and i else u for i, u in enumerate(units)]
    listed = itemized(units)
    if not listed:
        return list(units)
    if style in {"- ", "* "}:
        return [u.worded(MARKER.sub(style, u.text)) if u.item else u for u in listed]
    return [replace(u, lead="\n\n") if u.item else u for u in listed] if style == "spaced" else listed


def repeats(units: Sequence[Unit]) -> bool:
    """Whether a sentence comes twice."""
    said = [normal(MARKER.sub("", unit.text)) for unit in units]
    return len(said) != len(set(said))


def padded(text: str) -> bool:
    """Whether a sentence of filler stands in a text."""
    return any(filler(unit.text) for unit in split(text))
