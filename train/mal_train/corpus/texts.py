"""An answer as sentences and list items: rules drop, change and add some, and leave the rest to the letter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

MARKER = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+")
_NUMBER = re.compile(r"^\s*(\d{1,2})([.)])\s+")
_HEADING = re.compile(r"^\s*#{1,6}\s")
_END = re.compile(r"(?<=[.!?])([\"')\]”’]*)\s+(?=[\"'(\[“‘*]*[A-Z0-9])")
_SHORTENED = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|vs|etc|e\.g|i\.e|approx|No|Inc|Ltd|Co|Mt|Ave|a\.m|"
    r"p\.m|U\.S|U\.K)\.|\b[A-Z]\.|^\s*\d{1,2}\.)$"
)
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


@dataclass(frozen=True, slots=True)
class Unit:
    """One sentence or list item; `lead` is what parts it from the one before, `origin` the defect that put it there."""

    text: str
    lead: str = " "
    origin: str = ""

    @property
    def item(self) -> bool:
        """Whether a list item begins here."""
        return "\n" in self.lead and bool(MARKER.match(self.text))

    @property
    def heading(self) -> bool:
        """Whether it is a heading of its own line."""
        return bool(_HEADING.match(self.text)) or bool(re.fullmatch(r"\*\*[^*]+\*\*:?", self.text.strip()))

    def worded(self, text: str) -> Unit:
        """The same place with another text."""
        return replace(self, text=text)


def words(text: str) -> list[str]:
    """The words of a text, lower case."""
    return [word.lower() for word in _WORD.findall(text)]


def count(text: str | Sequence[Unit]) -> int:
    """How many words."""
    return _count(text) if isinstance(text, str) else sum(_count(unit.text) for unit in text)


@lru_cache(maxsize=200_000)
def _count(text: str) -> int:
    return len(_WORD.findall(text))


@lru_cache(maxsize=200_000)
def normal(text: str) -> str:
    """What stays of a text for comparing two: letters and digits, lower case."""
    return " ".join(words(text.replace("’", "'")))


def split(text: str) -> list[Unit]:
    """The units of a text; `join` gives it back, but for runs of spaces and of blank lines."""
    return list(_split(text))


@lru_cache(maxsize=20_000)
def _split(text: str) -> tuple[Unit, ...]:
    units: list[Unit] = []
    for number, block in enumerate(re.split(r"(\n+)", "\n" + text.strip())):
        if number % 2 or not block.strip():
            lead = "\n\n" if len(block) > 1 else "\n"
            continue
        indent = re.match(r"[ \t]*", block).group() if MARKER.match(block) else ""  # type: ignore[union-attr]
        for sentence in sentences(" ".join(block.split())):
            units.append(Unit(indent[:4] + sentence, lead))
            lead, indent = " ", ""
    if units:
        units[0] = replace(units[0], lead="\n\n")
    return tuple(units)


def sentences(text: str) -> list[str]:
    """The sentences of one line; list markers stay with the first."""
    parts: list[str] = []
    start = 0
    for match in _END.finditer(text):
        end = match.end(1)
        if _SHORTENED.search(text[start : match.start(1)]):
            continue
        parts.append(text[start:end])
        start = match.end()
    parts.append(text[start:])
    return [part for part in parts if part]


def join(units: Iterable[Unit]) -> str:
    """The text of units."""
    return "".join(unit.lead + unit.text for unit in units).strip()


def paragraphs(units: Sequence[Unit]) -> list[list[Unit]]:
    """The units in groups that share a line."""
    groups: list[list[Unit]] = []
    for unit in units:
        if "\n" in unit.lead or not groups:
            groups.append([])
        groups[-1].append(unit)
    return groups


def tidy(units: Sequence[Unit]) -> list[Unit]:
    """Units after some were dropped: paragraphs begin where they began, numbers of a list run on from one."""
    found: list[Unit] = []
    number = 0
    for unit in units:
        if match := _NUMBER.match(unit.text) if unit.item else None:
            number = 1 if int(match[1]) == 1 else number + 1
            unit = unit.worded(f"{number}{match[2]} {unit.text[match.end() :]}")
        elif not unit.item and "\n\n" in unit.lead:
            number = 0 if unit.heading else number
        found.append(unit)
    return found


def keep(units: Sequence[Unit], kept: Iterable[int]) -> list[Unit]:
    """Some of the units, in order; a paragraph that lost its first sentence still begins on its own line."""
    wanted = set(kept)
    found: list[Unit] = []
    lead = ""
    for number, unit in enumerate(units):
        lead = max(lead, unit.lead if "\n" in unit.lead else "", key=len)
        if number in wanted:
            found.append(replace(unit, lead=lead or unit.lead))
            lead = ""
    return tidy(found)


def keep_first(units: Sequence[Unit]) -> list[Unit]:
    """Each sentence and item once, where it came first; introductions and headings that nothing follows go, too."""
    seen: set[str] = set()
    kept = []
    for number, unit in enumerate(units):
        said = normal(MARKER.sub("", unit.text))
        if said not in seen or not said:
            kept.append(number)
        seen.add(said)
    found = keep(units, kept)
    while found and (found[-1].heading or found[-1].text.endswith(":")):
        found.pop()
    return found


def lower_first(text: str) -> str | None:
    """A sentence as it goes on after a comma, or None if its first word may be a name."""
    first = re.match(r"[A-Za-z']+", text)
    if not first or first.group().lower() not in _COMMON:
        return None
    return text if first.group() == "I" or first.group().startswith("I'") else text[0].lower() + text[1:]


def upper_first(text: str) -> str:
    """A text with a capital at its first letter."""
    match = re.search(r"[A-Za-z]", text)
    return text[: match.start()] + text[match.start() :][0].upper() + text[match.start() + 1 :] if match else text


_COMMON = frozenset(
    """the a an it it's its this that these those there they they're their you you're your we we're our he she his her
    i i'm i'd i've i'll if when while as in on at for from with by to of and but so or some many most all both each
    one two also then because however although after before once since first next finally another other others what
    which who how why where it'll that's there's don't do make take use try keep put add be can have has is are not
    no only just even sometimes usually often generally typically here here's let's let""".split()  # noqa: SIM905
)
