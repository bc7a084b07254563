"""Deterministic scorers: what can be told of an answer by counting. Higher is better for the objective named.

They are coarse on purpose. `step` is the difference below which two answers count as equal, so that noise in the
score does not become a preference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from metaaligner_lite.errors import UsageError
from metaaligner_lite.objectives import Objective

from .rows import Names, Row

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_SENTENCE = re.compile(r"[.!?…]+(?:\s|$)|\n+")
_VOWELS = re.compile(r"[aeiouyäöüéèêáàâíóúœæ]+", re.IGNORECASE)
_POLITE = re.compile(
    r"\b(please|thank(?:s| you)|sorry|apologi[sz]e|welcome|kindly|appreciate|glad to|happy to)\b", re.I
)
_MARKER = re.compile(r"^\s*(?:[-*•]|\d+[.)]|#{1,6}\s|\*\*)", re.MULTILINE)
_RUN_ON = re.compile(r"\n\s*(?:Human|User):")


@dataclass(frozen=True, slots=True)
class Scorer:
    """Scores an answer to a query for one objective of the catalogue."""

    objective: str
    score: Callable[[str, str], float]
    step: float
    meaning: str


def words(text: str) -> list[str]:
    """The words of a text, lower case."""
    return [word.lower() for word in _WORD.findall(text)]


def reading_ease(text: str) -> float:
    """Flesch's reading ease, cut to 0 to 100; syllables are runs of vowels. An empty text is not easy: 0."""
    found = words(text)
    if not found:
        return 0.0
    sentences = max(1, sum(bool(words(part)) for part in _SENTENCE.split(text)))
    syllables = sum(max(1, len(_VOWELS.findall(word))) for word in found)
    return min(100.0, max(0.0, 206.835 - 1.015 * len(found) / sentences - 84.6 * syllables / len(found)))


def repeated(text: str, length: int = 3) -> float:
    """The share of word triples that occurred before."""
    found = words(text)
    triples = [tuple(found[i : i + length]) for i in range(len(found) - length + 1)]
    return 1 - len(set(triples)) / len(triples) if triples else 0.0


def _specific(text: str) -> float:
    """Numbers and names inside sentences, per hundred words."""
    found = words(text)
    hits = len(re.findall(r"\d+", text)) + len(re.findall(r"(?<=[a-z,;] )[A-Z][a-z]+", text))
    return 100 * hits / len(found) if found else 0.0


def _length(text: str) -> float:
    """The fewer words the better; no words at all are worst."""
    count = len(words(text))
    return -float(count) if count else float("-inf")


def _clear(text: str) -> float:
    """Reading ease, less what makes an answer hard to follow: repeated triples and run-on turns."""
    return reading_ease(text) - 100 * repeated(text) - (50 if _RUN_ON.search(text) else 0)


SCORERS: Mapping[str, Scorer] = {
    "length": Scorer("length", lambda q, a: _length(a), 10, "fewer words"),
    "brevity": Scorer("brevity", lambda q, a: _length(a), 10, "fewer words"),
    "readability": Scorer("readability", lambda q, a: reading_ease(a), 5, "Flesch reading ease"),
    "repetition": Scorer("repetition", lambda q, a: -100 * repeated(a), 2, "fewer repeated word triples"),
    "clarity": Scorer("clarity", lambda q, a: _clear(a), 5, "reading ease without repetition or run-on turns"),
    "specificity": Scorer("specificity", lambda q, a: _specific(a), 1, "numbers and names per hundred words"),
    "politeness": Scorer("politeness", lambda q, a: float(min(3, len(_POLITE.findall(a)))), 1, "words of courtesy"),
    "structure": Scorer("structure", lambda q, a: float(min(8, len(_MARKER.findall(a)))), 2, "list items and headings"),
}


def chosen_scorers(names: Iterable[str]) -> list[Scorer]:
    """The scorers of these names. Raises UsageError for one that is not known."""
    found = []
    for name in names:
        if name not in SCORERS:
            raise UsageError(f"unknown scorer {name!r}; expected {', '.join(SCORERS)}")
        found.append(SCORERS[name])
    return found


def rate(row: Row, scorers: Iterable[Scorer], names: Names) -> Row:
    """The row with the scorers' ratings put to those it has, in whole steps, so that close scores are ties."""
    if not (scorers := tuple(scorers)):
        return row
    answers = []
    for answer in row.answers:
        ratings: dict[Objective, float] = dict(answer.ratings)
        for scorer in scorers:
            score = scorer.score(row.query, answer.text)
            ratings[names[scorer.objective]] = float(round(score / scorer.step)) if abs(score) < 1e9 else -1e9
        answers.append(replace(answer, ratings=ratings))
    return replace(row, answers=tuple(answers))
