"""Data that is aligner data already: prompts in one of our layouts, read back into what they were made of.

The patterns are made by prompts.py itself, filled with marks, so that no prompt is spelled a second time.
"""

from __future__ import annotations

import re
from functools import cache

from metaaligner_lite.errors import DataError
from metaaligner_lite.objectives import Objective
from metaaligner_lite.prompts import IN_TURNS, LAYOUTS, ChatTemplate, edit_prompt
from metaaligner_lite.records import Record

from .rows import Answer, Names, Row

_QUERY, _ANSWER, _ASPECTS = "Human:MALQUERY", "MALANSWER", "MALASPECTS"
_BREAK = "\x1e"
_TURNS = ChatTemplate("{% for m in messages %}{{ m.content }}" + _BREAK + "{% endfor %}")
_USER, _ASSISTANT = ("user", "human"), ("assistant", "gpt")


def is_one(record: Record) -> bool:
    """Whether a record's prompt is in one of our layouts."""
    try:
        _parts(_turns(record))
    except DataError:
        return False
    return True


def read(record: Record, names: Names) -> Row:
    """The row whose one edit is the record's. Raises DataError if its prompt is in no layout of ours."""
    turns = _turns(record)
    query, answer, aspects, equal = _parts(turns)
    objectives = _objectives(aspects, names)
    ratings = dict.fromkeys(objectives, 1.0)
    weaker = ratings if equal else dict.fromkeys(objectives, 0.0)
    return Row("", query, (Answer(turns[-1][1], ratings), Answer(answer, weaker)))


def _parts(turns: list[tuple[str, str]]) -> tuple[str, str, str, bool]:
    """Query, answer, the objectives' text, and whether an equal edit is asked for."""
    if len(turns) == 2 and turns[0][0] in _USER and turns[1][0] in _ASSISTANT:
        return _paper(turns[0][1])
    if len(turns) == 4 and [role in _USER for role, _ in turns] == [True, False, True, False]:
        return turns[0][1], turns[1][1], *_request(turns[2][1])
    raise DataError("not one of our prompts: expected a prompt and an edit, or query, answer, request and edit")


def _turns(record: Record) -> list[tuple[str, str]]:
    if "prompt" in record:
        prompt, completion = record["prompt"], record.get("completion")
        if isinstance(prompt, str) and isinstance(completion, str):
            return [("user", prompt), ("assistant", completion)]
        raw = [*prompt, *completion] if isinstance(prompt, list) and isinstance(completion, list) else None
    else:
        raw = record.get("conversations", record.get("messages"))
    if not isinstance(raw, list):
        raise DataError("no prompt and completion, conversations or messages")
    turns = []
    for turn in raw:
        role = turn.get("role", turn.get("from")) if isinstance(turn, dict) else None
        text = turn.get("content", turn.get("value")) if isinstance(turn, dict) else None
        if not isinstance(role, str) or not isinstance(text, str):
            raise DataError("a message without role or text")
        turns.append((role, text))
    return turns


def _paper(prompt: str) -> tuple[str, str, str, bool]:
    for pattern, equal in _paper_patterns():
        if match := pattern.fullmatch(prompt.strip()):
            return match["query"], match["answer"], match["aspects"], equal
    raise DataError(
        "the prompt is in none of our layouts: nothing to edit or compare; expected the released checkpoints' strings"
    )


def _request(text: str) -> tuple[str, bool]:
    for pattern, equal in _request_patterns():
        if match := pattern.fullmatch(text.strip()):
            return match["aspects"], equal
    raise DataError("the last request is in none of our layouts")


@cache
def _paper_patterns() -> tuple[tuple[re.Pattern[str], bool], ...]:
    return tuple(
        (_pattern(layout, equal), equal) for layout in LAYOUTS if layout not in IN_TURNS for equal in (False, True)
    )


@cache
def _request_patterns() -> tuple[tuple[re.Pattern[str], bool], ...]:
    return tuple((_pattern(layout, equal), equal) for layout in IN_TURNS for equal in (False, True))


def _pattern(layout: str, equal: bool) -> re.Pattern[str]:
    mark = Objective("mark", _ASPECTS, wording={layout: _ASPECTS})
    pieces = edit_prompt(layout, _QUERY, _ANSWER, [mark], _TURNS, equal=equal)
    text = "".join(piece.text for piece in pieces)
    if layout in IN_TURNS:
        text = text.split(_BREAK)[2]
    pattern = re.escape(text.strip())
    for mark_text, group in ((_QUERY, "query"), (_ANSWER, "answer"), (_ASPECTS, "aspects")):
        pattern = pattern.replace(re.escape(mark_text), f"(?P<{group}>.*?)" if group != "answer" else "(?P<answer>.*)")
    return re.compile(pattern, re.DOTALL)


def _objectives(aspects: str, names: Names) -> list[Objective]:
    """The objectives of "Marker: sentence; Marker", those of the catalogue under their own name."""
    found = []
    for text in re.split(r";\s+(?=[A-Z][\w ]*(?:[:;]|$))", aspects):
        if text.strip():
            found.append(names.worded(text))
    if not found:
        raise DataError("the prompt names no objective (the reference code writes such rows)")
    return found
