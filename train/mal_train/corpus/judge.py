"""The evaluation's rules, asked of every edit: what was asked for holds after it, and nothing else is lost."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from metaaligner_lite.evaluation import intact, measures

from .edit import Edit
from .sources import Base

RULED = tuple(name for name in measures.MEASURES if name != "length")
_ITEM = re.compile(r"^\s*(\d{1,2})[.)] ", re.M)
_LONGER = 1.32  # an edit that grows by more than a third has lost brevity by the rule


def said(base: Base) -> str:
    """What the user said, in all turns."""
    return "\n".join([*(content for role, content in base.history if role == "user"), base.query])


def ruled(names: Iterable[str], query: str) -> list[str]:
    """Those of the objectives that a rule can tell for this query."""
    return [name for name in names if name in RULED and measures.MEASURES[name].applies(query)]


def holds(name: str, query: str, text: str) -> bool:
    """Whether a text satisfies an objective as it is; of brevity, whether it is brief already."""
    return measures.MEASURES[name].holds(query, text)


@lru_cache(maxsize=1 << 16)
def untidy(text: str) -> str:
    """What a reader would stumble over, or nothing."""
    if not intact.clean(text):
        return "a loop, another turn or no end"
    if "  " in text.replace("\n    ", "\n").replace("\n   ", "\n").replace("\n  ", "\n") or re.search(
        r" [,.;!?]( |$)", text
    ):
        return "stray spaces"
    if text.count("**") % 2 or text.count('"') % 2 or text.count("(") > len(re.findall(r"\)", text)):
        return "a mark that does not close"
    if text.rstrip().endswith((":", ",", ";")) or re.search(r"(?:^|\n)\s*(?:\d{1,2}[.)]|[-*•])\s*(?:\n|$)", text):
        return "an introduction or item with nothing behind it"
    if text[0].islower() or re.search(r"[.!?] (?:and|but|or|which|because) ", text):
        return "a sentence that begins small"
    number = 0
    for match in _ITEM.finditer(text):
        if int(match[1]) not in (1, number + 1):
            return "items counted wrongly"
        number = int(match[1])
    return ""


def flaw(edit: Edit) -> str:
    """Why an edit must not be learnt from, or nothing."""
    if reason := untidy(edit.target):
        return f"target: {reason}"
    query = said(edit.base)
    told = ruled(edit.objectives, query)
    if edit.stays:
        missed = [name for name in told if not holds(name, query, edit.weak)]
        return f"stays, but {missed[0]} does not hold" if missed else ""
    if edit.tie:
        return ""
    for name in told:
        if not measures.MEASURES[name].satisfied(query, edit.weak, edit.target, 1.0):
            return f"{name} does not hold after it"
    every = len(told) == len(edit.objectives) and intact.clean(edit.weak)
    if every and all(holds(name, query, edit.weak) for name in told):
        return "everything asked for held before it"
    if intact.invented(query, edit.weak, edit.target):
        return "a name or number that was not there"
    if intact.kept(edit.weak, edit.target)[2]:
        return "a name or number that changed"
    return ""


def losses(edit: Edit) -> list[str]:
    """Objectives that nobody asked for and that the edit loses, by their rules."""
    if edit.stays or edit.tie:
        return []
    query = said(edit.base)
    names = ruled((name for name in RULED if name not in edit.objectives), query)
    return [name for name in names if measures.MEASURES[name].change(query, edit.weak, edit.target) < 0]


def changes(edit: Edit) -> dict[str, int]:
    """What an edit does to every objective with a rule: 1 gained, -1 lost, 0."""
    query = said(edit.base)
    return {name: measures.MEASURES[name].change(query, edit.weak, edit.target) for name in ruled(RULED, query)}


def grows(before: int, after: int) -> bool:
    """Whether so many words more are no longer a small addition."""
    return after > _LONGER * before
