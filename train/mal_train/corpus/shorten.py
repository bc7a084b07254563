"""Brevity: an answer cut to its most central sentences and items, in their order, the first always kept."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from metaaligner_lite.evaluation import measures

from .courtesy import closing, courteous, filler, sympathetic
from .plain import words_of
from .texts import Unit, count, keep, paragraphs, tidy, upper_first, words

SHORT = 30  # words: an answer that short stays as it is
_AIM = 0.52  # of the words, for whole sentences never hit it exactly
MOST = 0.72  # more than that is no shorter answer
_LEAST = 0.36

_DEPENDENT = re.compile(
    r"(?:this|these|those|that|it|they|he|she|such|its|their|his|her|them|him|the former|"
    r"the latter|in this|in that|for this|"
    r"because of this|as a result|then|next|finally|second|secondly|third|thirdly|lastly|another|the other|others|"
    r"otherwise|instead|yes|no|both|either|once|after that|if so|if not)\b",
    re.I,
)
_CONNECTIVE = re.compile(
    r"(?:however|also|additionally|furthermore|moreover|in addition|besides|therefore|so|and|but|overall|in summary|"
    r"in conclusion|ultimately|finally|similarly|of course|in general|as well),? ",
    re.I,
)
_EXAMPLE = re.compile(
    r"(?:for example|for instance|in conclusion|overall|in summary|in short|remember|likewise)\b", re.I
)
_CLAUSE = re.compile(
    r"(?:, (?:so|since|because|as|which|who|while|although|though|but|for|including|such as|"
    r"especially|whether|even if|or)|,? (?:because|so that|in order to)) "
)
_URGENT = re.compile(r"\b(?:emergency|crisis|ending your life|suicid|911)\b", re.I)
_PADDING = (
    (re.compile(r"\b(?:it is|it's) (?:also )?(?:important|worth|useful|good|helpful) (?:to note|noting|"
r"to know|to mention|to remember|to point out) that "), ""),
    (re.compile(r"\b(?:please note|keep in mind|note|remember) that ", re.I), ""),
    (re.compile(r"\bin order to\b"), "to"),
    (re.compile(r"\bdue to the fact that\b"), "because"),
    (re.compile(r"\bas (?:I|we) (?:said|mentioned)(?: before| above| earlier)?, "), ""),
)  # fmt: skip
_STEP = re.compile(r"\s*\d{1,2}[.)]\s+(?:\*\*)?([A-Za-z]+)")
_STOP = frozenset(
    (  # noqa: SIM905
        "the a an it its this that these those there they their you your we our he she i if when while as in on at for "
        "from with by to of and but so or some many most all can will would could should may might is are was were be "
        "been have has had do does did not no more than then also very just how what which who why where into about "
        "up out get make use like one any other them him her me my it's don't"
    ).split()
)


def shorten(units: Sequence[Unit], query: str) -> list[Unit] | None:
    """The units that stay, or None if no shorter answer comes of it."""
    whole = count(units)
    if whole < SHORT:
        return None
    bare = unpadded(units)
    if not bare:
        return None
    if count(bare) > 0.6 * whole and count(bare) >= 24:
        bare = _cut_list(bare) if sum(unit.item for unit in bare) >= 2 else _cut_prose(bare, query)
    length = count(bare)
    return bare if _LEAST * whole <= length <= MOST * whole or (_LEAST / 3 * whole <= length and length >= 20) else None


def unpadded(units: Sequence[Unit]) -> list[Unit]:
    """The units without filler: sentences that say nothing, and phrases inside the others."""
    polite = [number for number, unit in enumerate(units) if measures.courteous(unit.text)]
    kept = [
        number
        for number, unit in enumerate(units)
        if number in polite[:1] or (not filler(unit.text) and not closing(unit.text))
    ]
    found = keep(units, kept)
    for pattern, instead in _PADDING:
        found = [
            unit.worded(upper_first(text) if unit.text[0].isupper() else text)
            for unit in found
            if (text := pattern.sub(instead, unit.text))
        ]
    return found


def _cut_prose(units: Sequence[Unit], query: str) -> list[Unit]:
    whole = count(units)
    scores = _scores(units, query)
    scores = [score + 2 * bool(_URGENT.search(unit.text)) for score, unit in zip(scores, units, strict=True)]
    starts = [number for number, unit in enumerate(units) if not _kind(unit.text)]
    kept = {number for number in range(len(units)) if number not in starts and count(units[number].text) <= 20}
    first = starts[0] if starts else 0
    kept.add(first)
    if count(units[first].text) < 9 and len(starts) > 1:
        kept.add(starts[1])  # "There are several." needs what follows
    for number in sorted(starts, key=lambda i: -scores[i]):
        group = {number}
        while _DEPENDENT.match(units[min(group)].text) and min(group) > 0 and min(group) - 1 not in kept:
            group.add(min(group) - 1)
        if any(_alike(units[number].text, units[i].text) for i in kept):
            continue
        length = sum(count(units[i].text) for i in kept | group)
        if length <= (_AIM + 0.1) * whole or (len(kept) == 1 and length <= 0.7 * whole):
            kept |= group
        if sum(count(units[i].text) for i in kept) >= _AIM * whole:
            break
    found = []
    for unit, number in zip(keep(units, kept), sorted(kept), strict=True):
        if number - 1 not in kept and (match := _CONNECTIVE.match(unit.text)):
            unit = unit.worded(upper_first(unit.text[match.end() :]))
        found.append(unit)
    return found


def _alike(one: str, other: str) -> bool:
    """Whether two sentences say mostly the same."""
    first, second = ({w for w in words(text) if w not in _STOP and len(w) > 2} for text in (one, other))
    return len(first & second) > 0.6 * min(len(first), len(second)) >= 2


def _kind(text: str) -> bool:
    """Whether a sentence is there for courtesy or sympathy: it stays, whatever else goes."""
    return courteous(text) or sympathetic(text) or measures.courteous(text) or measures.acknowledges(text)


def _scores(units: Sequence[Unit], query: str) -> list[float]:
    """How central each unit is: words shared with the others and the query, and how early it comes."""
    bags = [{w for w in words(unit.text) if w not in _STOP and len(w) > 2} for unit in units]
    frequency = Counter(word for bag in bags for word in bag)
    asked = {w for w in words(query) if w not in _STOP and len(w) > 2}
    scores = []
    for number, (unit, bag) in enumerate(zip(units, bags, strict=True)):
        shared = sum(frequency[word] - 1 for word in bag) / (len(bag) + 3) / max(1, len(units)) * 4
        hits = len(bag & asked) / (len(asked) + 2)
        early = 0.35 if "\n" in unit.lead else 0.0
        late = 0.25 * number / len(units)
        penalty = (
            0.4 * bool(_EXAMPLE.match(unit.text))
            + 0.15 * bool(_DEPENDENT.match(unit.text))
            + 0.3 * unit.text.endswith("?")
        )
        scores.append(shared + hits + early - late - penalty + 0.1 * bool(re.search(r"\d", unit.text)))
    return scores


def _cut_list(units: Sequence[Unit]) -> list[Unit]:
    """A list keeps the first sentence of its items and loses the talk around it; then clauses, then its last items."""
    whole = count(units)
    groups = paragraphs(units)
    listed = [number for number, group in enumerate(groups) if group[0].item]
    kept: list[list[Unit]] = []
    for number, group in enumerate(groups):
        if group[0].item or group[0].heading:
            kept.append(group[:1] if count(group[0].text) > 3 or len(group) == 1 else group[:2])
        elif number < listed[0]:
            polite = [u for u in group if _kind(u.text) and not u.text.endswith(":")]
            rest = [u for u in group if u not in polite]
            keeps = polite + (
                rest[:1]
                if rest and rest[0].text.endswith(":")
                else rest[:1] + [u for u in rest[1:] if u.text.endswith(":")]
            )
            if keeps:
                kept.append([keeps[0].worded(keeps[0].text), *keeps[1:]])
        elif number <= listed[-1]:
            kept.append(group[:1])
        elif not any(_kind(u.text) for some in kept for u in some):  # a courtesy at the end, if there is no other
            kept += [[u] for u in group if _kind(u.text)][:1]
    found = [unit for group in kept for unit in _led(group)]
    if count(found) > 0.66 * whole:
        found = [unit.worded(_main_clause(unit.text)) if unit.item else unit for unit in found]
    while count(found) > 0.66 * whole and not _steps(found):
        items = [number for number, unit in enumerate(found) if unit.item and not _URGENT.search(unit.text)]
        if len(items) <= (3 if listed and len(listed) >= 3 else 2):
            break
        last = items[-1]
        beyond = next((i for i in range(last + 1, len(found)) if "\n" in found[i].lead), len(found))
        found = found[:last] + found[beyond:]
    return tidy(_introducing(found))


def _steps(units: Sequence[Unit]) -> bool:
    """Whether a list is numbered advice in order, each item a thing to do: none of it can be missed."""
    items = [match[1].lower() for unit in units if unit.item and (match := _STEP.match(unit.text))]
    return sum(word in words_of("verbs") for word in items) >= max(3, 0.6 * sum(unit.item for unit in units))


def _main_clause(text: str) -> str:
    """A sentence without the reason or detail that follows its comma."""
    match = _CLAUSE.search(text)
    if not match or count(text[: match.start()]) < 4 or text.count("(") or text.rstrip()[-1:] not in ".!":
        return text
    return text[: match.start()] + "."


def _introducing(units: Sequence[Unit]) -> list[Unit]:
    """Without introductions and headings that nothing follows any more."""
    return [
        unit
        for number, unit in enumerate(units)
        if not (unit.heading or unit.text.endswith(":"))
        or (
            (number + 1 < len(units) and not (units[number + 1].heading and not unit.heading))
            and not (
                unit.text.endswith(":")
                and not unit.item
                and not units[number + 1].item
                and units[number + 1].text.endswith(":")
            )
        )
    ]


def _led(group: Sequence[Unit]) -> list[Unit]:
    first, *others = group
    return [first if "\n" in first.lead else Unit(first.text, "\n\n", first.origin), *others]
