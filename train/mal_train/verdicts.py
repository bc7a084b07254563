"""Which of two answers a record prefers: by a winner's name or number, by scores, by both if they agree.

Data sets say it in many ways, of which most can be told by the names of their columns. +1 stands for the first answer,
-1 for the second, 0 for a tie.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from metaaligner_lite.errors import DataError
from metaaligner_lite.records import Record

from .rows import number

# Columns of a better and a worse answer.
PAIRS = (
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("response_chosen", "response_rejected"),
    ("chosen_answer", "rejected_answer"),
    ("preferred", "dispreferred"),
    ("preferred_response", "dispreferred_response"),
    ("preferred_output", "non_preferred_output"),
    ("accepted", "rejected"),
    ("y_w", "y_l"),
    ("response_w", "response_l"),
    ("right_answer", "hallucinated_answer"),
    ("correct_answers", "incorrect_answers"),
    ("chosen_instruction", "rejected_instruction"),
)
_TOKENS = (("a", "b"), ("A", "B"), ("0", "1"), ("1", "2"))
_ANSWERS = "response|output|answer|completion|conversation|ref|generation|reply|candidate|summary|text|prediction"
_SIDE = re.compile(rf"((?:.*[_ ])?(?:{_ANSWERS}))[_ ]?([abAB]|\d+)")
_SIDE_INSIDE = re.compile(rf"(?:model|assistant)[_ ]([abAB]|\d+)[_ ](?:{_ANSWERS})")
_SCORE = re.compile(r"score|rating|reward|grade", re.IGNORECASE)
_WINNERS = (
    *("winner", "preference", "overall_preference", "preference_strength", "orig_preference", "human_preference"),
    *("label", "labels", "choice", "better", "preferred", "verdict", "judgment", "judgement"),
)
_TIES = ("tie", "both", "equal", "same", "draw", "neither")
_PREFIX = re.compile(r"^(?:the )?(?:model|response|output|answer|assistant|option|completion|candidate)[_ -]?")
_ANNOTATOR = re.compile(r"annotator_?\d+")


@dataclass(frozen=True, slots=True)
class Sides:
    """The columns of two answers to compare, and what tells them apart in other columns' names."""

    first: str
    second: str
    tokens: tuple[str, str]


@lru_cache(maxsize=256)
def sides_of(keys: tuple[str, ...]) -> Sides | None:
    """The two columns whose names differ in a letter or number alone."""
    found: dict[str, dict[str, str]] = {}
    for key in keys:
        if match := _SIDE.fullmatch(key):
            found.setdefault(match[1], {})[match[2]] = key
        elif match := _SIDE_INSIDE.fullmatch(key):
            found.setdefault("", {})[match[1]] = key
    for by_token in found.values():
        for tokens in _TOKENS:
            if by_token.keys() == set(tokens):
                return Sides(by_token[tokens[0]], by_token[tokens[1]], tokens)
    return None


@lru_cache(maxsize=256)
def numbered(keys: tuple[str, ...]) -> tuple[str, ...]:
    """The columns of two and more answers that a number alone tells apart."""
    found: dict[str, list[str]] = {}
    for key in keys:
        if match := _SIDE.fullmatch(key):
            found.setdefault(match[1], []).append(key)
    return next((tuple(names) for names in found.values() if len(names) > 1), ())


@lru_cache(maxsize=256)
def pair_of(keys: tuple[str, ...]) -> tuple[str, str] | None:
    """The columns of a better and a worse answer."""
    return next((pair for pair in PAIRS if pair[0] in keys and pair[1] in keys), None)


@lru_cache(maxsize=256)
def _scores(keys: tuple[str, ...], words: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """Columns that score the one answer, each with that of the other."""
    found = []
    for key in keys:
        if _SCORE.search(key) and re.search(rf"(?:^|[^a-zA-Z0-9]){words[0]}(?:$|[^a-zA-Z0-9])|{words[0]}$", key):
            other = words[1].join(key.rsplit(words[0], 1))
            if other in keys:
                found.append((key, other))
    return tuple(found)


@lru_cache(maxsize=256)
def _winners(keys: tuple[str, ...], sides: Sides) -> tuple[str, ...]:
    named = tuple(key for key in _WINNERS if key in keys)
    return named or tuple(key for key in keys if _ANNOTATOR.fullmatch(key))


@lru_cache(maxsize=256)
def decides(keys: tuple[str, ...]) -> bool:
    """Whether a record has two answers and what tells which is better."""
    sides = sides_of(keys)
    if sides is None:
        return False
    return bool(_winners(keys, sides) or _one_hot(keys, sides) or _scores(keys, sides.tokens))


@lru_cache(maxsize=256)
def _one_hot(keys: tuple[str, ...], sides: Sides) -> tuple[str, str] | None:
    for stem in ("winner_model_", "winner_"):
        first, second = stem + sides.tokens[0], stem + sides.tokens[1]
        if first in keys and second in keys:
            return first, second
    return None


@lru_cache(maxsize=256)
def _beside(keys: tuple[str, ...]) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    return _scores(keys, ("chosen", "rejected")), tuple(
        name for name in ("rating", "ratings", "scores") if name in keys
    )


def beside_pair(record: Record, keys: tuple[str, ...]) -> int:
    """The sign of a pair that is chosen and rejected already: 1, or 0 if its scores are equal.

    Raises DataError if they contradict the choice.
    """
    pairs, lists = _beside(keys)
    if not pairs and not lists:
        return 1
    found = _scored(record, pairs)
    for name in lists:
        value = record.get(name)
        if isinstance(value, list) and len(value) == 2 and _number(value[0]) is not None and value[0] == value[1]:
            found.append(0)  # which of two unequal ones is the chosen one's, is not said
    return _agreed(1, found) if found else 1


def of_sides(record: Record, keys: tuple[str, ...], sides: Sides) -> int:
    """The sign of the first answer against the second. Raises DataError if nothing tells it, or two things disagree."""
    scored = _scored(record, _scores(keys, sides.tokens))
    said = _said(record, keys, sides)
    if said is None:
        if not scored:
            raise DataError("no winner; expected one of the two answers, or a tie")
        return _agreed((sum(scored) > 0) - (sum(scored) < 0), scored)
    return _agreed(said, scored) if scored and said else said


def _said(record: Record, keys: tuple[str, ...], sides: Sides) -> int | None:
    if hot := _one_hot(keys, sides):
        first, second = (str(record[key]).strip().lower() in ("1", "1.0", "true") for key in hot)
        return first - second
    names = _winners(keys, sides)
    if names and _ANNOTATOR.fullmatch(names[0]):
        votes = [sign for key in names if (sign := _sign(record[key], key, sides)) is not None]
        return (sum(votes) > 0) - (sum(votes) < 0) if votes else None
    return next((sign for key in names if (sign := _sign(record[key], key, sides)) is not None), None)


def _sign(value: Any, key: str, sides: Sides) -> int | None:
    """What one column says. Raises DataError for what cannot be told."""
    if value is None or value == "":
        return None
    if isinstance(value, str) and (as_number := _number(value)) is not None:
        value = as_number
    if isinstance(value, str):
        low = value.strip().strip("[]").strip().lower()
        if any(low.startswith(word) for word in _TIES):
            return 0
        bare = _PREFIX.sub("", low)
        for sign, (token, name, word) in (
            (1, (sides.tokens[0], sides.first, "first")),
            (-1, (sides.tokens[1], sides.second, "second")),
        ):
            if low == name.lower() or bare in (token.lower(), word):
                return sign
    elif isinstance(value, int | float) and not isinstance(value, bool):
        one, two = sides.tokens
        if "strength" in key or key == "overall_preference" or value < 0:
            return (value < 0) - (value > 0)  # HelpSteer: from -3, the first is much better, to 3
        if one.isdigit():
            middle = (int(one) + int(two)) / 2
            if int(one) <= value <= int(two):
                return (value < middle) - (value > middle)  # AlpacaFarm: 1 to 2, in parts, too
            if one == "1" and value == 0:
                return 0  # PandaLM
        elif sides.first.startswith("human_ref") and value in (0, 1):
            return 1 if value else -1  # SHP: 1 prefers A
    raise DataError(f"{key!r} names no winner; expected {sides.first}, {sides.second} or a tie")


def _scored(record: Record, pairs: tuple[tuple[str, str], ...]) -> list[int]:
    found = []
    for first, second in pairs:
        one, two = _number(record[first]), _number(record[second])
        if one is not None and two is not None:
            found.append((one > two) - (one < two))
    return found


def _agreed(said: int, scored: list[int]) -> int:
    if any(sign * said < 0 for sign in scored):
        raise DataError("its scores contradict its choice")
    if said == 0 and len(set(scored)) > 1:
        raise DataError("its scores contradict each other")
    return said if any(scored) else 0


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    try:
        return number(value, "")
    except DataError:
        return None


def is_true(value: Any) -> bool | None:
    """A label that says yes or no, in whatever words; None for one that says neither."""
    if isinstance(value, bool) or value is None:
        return value
    return _YES.get(str(value).strip().lower())


_YES: Mapping[str, bool] = {
    **dict.fromkeys(("true", "1", "1.0", "yes", "good", "desirable", "chosen", "up", "thumbs_up", "safe"), True),
    **dict.fromkeys(("false", "0", "0.0", "-1", "-1.0", "no", "bad", "undesirable", "rejected", "down"), False),
    **dict.fromkeys(("thumbs_down", "unsafe"), False),
}
