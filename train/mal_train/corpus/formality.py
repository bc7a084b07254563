"""Contractions, and how they are written out."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .texts import Unit

_CONTRACTED = (
    (r"\bcan't\b", "cannot"),
    (r"\bwon't\b", "will not"),
    (r"\bshan't\b", "shall not"),
    (
        r"\b(is|are|was|were|do|does|did|has|have|had|could|would|should|must|need|Is|Are|Do|Does|"
        r"Did|Have|Has)n't\b",
        r"\1 not",
    ),
    (r"\b(I)'m\b", r"\1 am"),
    (r"\b(you|we|they|You|We|They)'re\b", r"\1 are"),
    (r"\b(I|you|we|they|You|We|They)'ve\b", r"\1 have"),
    (r"\b(\w+)'ll\b", r"\1 will"),
    (
        r"\b(it|that|there|here|what|he|she|It|That|There|Here|What|He|She)'s\b(?! (?:been|got|"
        r"had|become|made|gone|always))",
        r"\1 is",
    ),
    (r"\b([Ll]et)'s\b", r"\1 us"),
    (
        r"\b(I|you|we|they|You|We|They)'d (like|love|recommend|suggest|be|have|need|want|say|"
        r"try)\b",
        r"\1 would \2",
    ),
)


def formal(units: Sequence[Unit]) -> list[Unit]:
    """The answer without contractions."""
    found = []
    for unit in units:
        text = unit.text
        for pattern, full in _CONTRACTED:
            text = re.sub(pattern, full, text)
        found.append(unit.worded(text))
    return found


def contracted(text: str) -> int:
    """How many contractions `formal` would write out."""
    return sum(len(re.findall(pattern, text)) for pattern, _ in _CONTRACTED)
