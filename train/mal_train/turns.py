"""What stands before an answer, and the answer, in whatever form a record holds them: query and history.

Chats are read by the runtime's own reader, so that training sees turns as running does.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from metaaligner_lite.chats import read_chat
from metaaligner_lite.errors import DataError
from metaaligner_lite.prompts import Message
from metaaligner_lite.records import Record
from metaaligner_lite.transcripts import read_transcript

Asked = tuple[str, tuple[Message, ...]]  # a query, and the turns before it
_CHATS = ("conversations", "messages", "context", "conversation", "dialogue")  # a text there is something else
_QUERIES = (
    "query",
    "prompt",
    "question",
    "orig_instruction",
    "instruction",
    *_CHATS,
    "input",
    "q",
    "history",
    "source",
)
_SYSTEMS = ("system", "system_prompt")
_PICTURES = {"images", "image", "videos", "video", "audios", "audio"}
_TEXTS = ("content", "value", "text", "response", "answer", "output", "completion", "generation")
_ANSWERING = {"assistant", "gpt", "model", "bot", "chatgpt", "ai"}
_LONGEST_LITERAL = 100_000
_TO_JUDGE = re.compile(  # Prometheus
    r"###\s*The instruction to evaluate:(?P<query>.*?)###\s*Response to evaluate:(?P<answer>.*?)"
    r"###\s*(?:Reference Answer|Score Rubric)",
    re.DOTALL,
)


def asked(record: Record, notes: Counter[str], *first: str) -> Asked:
    """What a record asks: the text or turns under one of `first` or of the usual names, behind its system text.

    Raises DataError if there is none, or if it is not text alone.
    """
    refuse_pictures(record)
    for name in (*first, *_QUERIES) if first else _QUERIES:
        value = record.get(name)
        if not value:
            continue
        if isinstance(value, str) and value[0] in "[{":
            value = unfolded(value)
        if name in _CHATS and isinstance(value, str):
            continue
        if isinstance(value, str):
            if name in ("instruction", "question") and isinstance(more := record.get("input"), str) and more.strip():
                value = f"{value}\n{more}"
            turns: tuple[Message, ...] = read_transcript(value) or (Message("user", value),)
        elif isinstance(value, dict) and isinstance(value.get("full_text"), str):
            turns = (Message("user", value["full_text"]),)
        elif isinstance(value, list | dict):
            if name == "history" and not is_chat(value):
                continue
            turns = chat(value, name, notes)
        else:
            continue
        if name != "history" and (before := record.get("history")) and isinstance(before := parsed(before), list):
            turns = (*chat(before, "history", notes), *turns)
        return split(with_system(record, turns))
    if any(isinstance(record.get(name), str) for name in (*first, *_QUERIES)):
        raise DataError("no query; expected a text that is not empty")
    known = ", ".join(map(repr, list(record)[:8]))
    raise DataError(f"no text under {(first or _QUERIES)[0]!r}; it has {known}")


def to_judge(text: Any) -> tuple[Asked, str] | None:
    """Query and answer in the task of a judge, as Prometheus words it; None for any other text."""
    if not isinstance(text, str) or not text.startswith("###") or not (found := _TO_JUDGE.search(text)):
        return None
    query = found["query"].strip()
    return split(read_transcript(query) or (Message("user", query),)), found["answer"].strip()


def with_system(record: Record, turns: Sequence[Message]) -> tuple[Message, ...]:
    """The turns behind the record's system text, if it has one that they do not begin with already."""
    for name in _SYSTEMS:
        text = record.get(name)
        if isinstance(text, str) and text.strip() and not (turns and turns[0].role == "system"):
            return (Message("system", text.strip()), *turns)
    return tuple(turns)


def split(turns: Sequence[Message]) -> Asked:
    """The last turn, the user's, and those before it."""
    if not turns or turns[-1].role != "user":
        raise DataError("the turns before the answers do not end with the user's")
    return turns[-1].content, tuple(turns[:-1])


def refuse_pictures(record: Record) -> None:
    """Raise DataError, naming it, for what is no text."""
    for name in () if _PICTURES.isdisjoint(record) else sorted(_PICTURES & record.keys()):
        if record[name]:
            raise DataError(f"it holds {name!r}; only text can be read")


def chat(value: Any, name: str, notes: Counter[str]) -> tuple[Message, ...]:
    """The turns of a conversation. Raises DataError for what is none."""
    found = read_chat(value, repr(name))
    if found.notes:
        notes.update(found.notes)
    return found.turns


def is_chat(value: Any) -> bool:
    """Whether a value is a list of turns, or one turn."""
    first = value[0] if isinstance(value, list) and value else value
    if isinstance(first, dict):
        return "role" in first or "from" in first
    return isinstance(first, list) and len(first) == 2


def ending(value: Any, name: str, notes: Counter[str]) -> tuple[tuple[Message, ...], str]:
    """The turns before the last of a conversation, and that one's text, thoughts and all. Raises DataError."""
    turns = value if isinstance(value, list) else [value]
    last = turns[-1] if turns else None
    role = last.get("role", last.get("from")) if isinstance(last, dict) else None
    if not isinstance(last, dict) or not isinstance(role, str):
        raise DataError("a message without a known role or text")
    if role.strip().lower() not in _ANSWERING:
        raise DataError("a dialogue does not end in an answer of the assistant")
    before = chat(turns[:-1], name, notes) if turns[:-1] else ()
    content = last.get("content", last.get("value"))
    plain = len(last) == 2 or not any(last.get(key) for key in (*_PICTURES, "tool_calls", "function_call"))
    if isinstance(content, str) and plain:
        return before, content.strip()
    (*_, said) = chat([last], name, notes) or (Message("assistant", ""),)
    return before, said.content.strip()


def answer_of(value: Any, name: str, notes: Counter[str]) -> str:
    """The text of one answer: a text, a message or several, or an object around it. Raises DataError."""
    if isinstance(value := unfolded(value), str):
        return value
    if is_chat(value):
        return ending(value, name, notes)[1]
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return value[0]
    if isinstance(value, dict):
        for key in _TEXTS:
            if isinstance(text := value.get(key), str):
                return text
    raise DataError(f"no text under {name!r}")


def unfolded(value: Any) -> Any:
    """A value; in place of a text that holds turns, as a table's cell may, those. Another text in JSON stays text."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    found = parsed(value)
    first = found[0] if isinstance(found, list) and found else found
    return found if isinstance(first, dict) and first.keys() & {"role", "from"} else value


def parsed(value: Any) -> Any:
    """A cell of a table may hold a list as JSON, or as Python writes it."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    if len(value) < _LONGEST_LITERAL and value.lstrip()[:2] in ("['", "{'", "[{", '["'):
        try:
            return ast.literal_eval(value.strip().replace("}\n {", "},\n {"))  # as numpy writes a list in a cell
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            pass
    return value
