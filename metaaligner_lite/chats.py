"""The one reader of conversations: whatever form people keep them in, turns come out.

Read are lists of turns ({"role", "content"}, ShareGPT's {"from", "value"}, Gemini's {"role", "parts"}), lists of pairs
[question, answer], and objects around one ("messages", "conversations", "history" and the like, with or without a
"system" text). What cannot be kept as it was is said in a note; what would be lost is refused by its name.

A tool's result stays, as text of a user's turn: the answer rests on it, and most templates have no turn for it. The
assistant's call goes: a small model that reads call syntax imitates it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import DataError, FileProblem, UsageError
from .files import read_text
from .prompts import Message
from .thoughts import may_think, split_thoughts

_WRAPPERS = ("messages", "conversations", "conversation", "history", "turns", "chat", "dialogue", "contents")
_SYSTEM_KEYS = ("system", "system_prompt", "systemInstruction", "system_instruction")
_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "ai"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "tool_response", "tool_results"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
}
_TEXT_PARTS = {None, "text", "input_text", "output_text", "refusal"}
_THOUGHT_PARTS = {"thinking", "reasoning", "redacted_thinking"}
_CALL_PARTS = {"tool_use", "tool_call", "function_call"}
_PICTURES = ("image", "images", "audio", "video", "videos", "files", "attachments")
_EXPECTED = 'expected a list of {"role": "system" | "user" | "assistant", "content": "..."}'

_ONLY_TEXT = "only text can be read: take it out, or describe it in words"

_THOUGHTS_OUT = "thoughts in assistant turns were left out"
_CALLS_OUT = "tool calls were left out; the results of tools are kept, as the user's text"
_EMPTY_OUT = "turns without text were left out"
_JOINED = "neighbouring turns of one role were joined"


@dataclass(frozen=True, slots=True)
class Chat:
    """The turns of a conversation, and in words what could not be kept as it was."""

    turns: tuple[Message, ...]
    notes: tuple[str, ...] = ()


def load_chat(path: Path) -> Chat:
    """The conversation in a JSON file. Raises FileProblem if it is none, DataError for what is wrong inside."""
    text = read_text(path, "the conversation")
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileProblem(f"cannot read the conversation {path}: {error}; {_EXPECTED} in JSON") from error
    return read_chat(raw, str(path))


def load_history(path: Path) -> Chat:
    """The turns before a query, from a JSON file. Raises as load_chat, and DataError if the user spoke last."""
    chat = load_chat(path)
    if chat.turns and chat.turns[-1].role == "user":
        raise DataError(f"{path} ends with the user's turn; that one is the query: take it out and give it as QUERY")
    return chat


def read_chat(raw: Any, source: str) -> Chat:
    """The turns in parsed JSON; `source` names it in messages. Raises DataError for what is no conversation of text."""
    if plain := _plain(raw):
        return Chat(plain)
    notes: dict[str, None] = {}
    turns: list[tuple[str, list[str]]] = []
    for role, text in _turns(raw, source, notes):
        if not text.strip():
            notes[_EMPTY_OUT] = None
        elif turns and turns[-1][0] == role:
            notes[_JOINED] = None
            turns[-1][1].append(text)
        else:
            turns.append((role, [text]))
    return Chat(tuple(Message(role, "\n\n".join(texts)) for role, texts in turns), tuple(notes))


def _plain(raw: Any) -> tuple[Message, ...]:
    """The turns of a list that needs no mending, as most in data sets; none if there is anything to look into."""
    if type(raw) is not list:
        return ()
    turns = []
    before = ""
    for turn in raw:
        if type(turn) is not dict or len(turn) != 2:
            return ()
        role, text = turn.get("role"), turn.get("content")
        if type(text) is not str or role == before or role not in ("user", "assistant", "system"):
            return ()
        if not text or text.isspace() or text[0] == "\ufeff" or "\r\n" in text:
            return ()
        if role == "assistant" and may_think(text):
            return ()
        turns.append(Message(role, text))
        before = role
    return tuple(turns)


def with_system(turns: tuple[Message, ...], system: str) -> tuple[Message, ...]:
    """The turns behind a system text, given as it is or as @FILE. Raises UsageError if it is empty or they have one."""
    text = read_text(Path(system[1:]), "the system text").strip("\n") if system.startswith("@") else system
    if not text.strip():
        raise UsageError("the system text is empty; leave it out")
    if any(message.role == "system" for message in turns):
        raise UsageError("the conversation has a system turn of its own; give one system text")
    return (Message("system", text), *turns)


def _turns(raw: Any, source: str, notes: dict[str, None]) -> Iterator[tuple[str, str]]:
    """Each turn's role ("system", "user" or "assistant") and text, in order."""
    if isinstance(raw, list) and len(raw) == 1 and isinstance(raw[0], dict) and _wrapper(raw[0]):
        raw = raw[0]  # a data set of one
    if isinstance(raw, dict):
        if not (key := _wrapper(raw)):
            raise DataError(f"{source} holds no conversation; {_EXPECTED}, or an object with such a list as messages")
        for name in _SYSTEM_KEYS:
            if raw.get(name):
                yield "system", _text(raw[name], f"{name} in {source}", notes)
        if unread := sorted(set(raw) - {key, *_SYSTEM_KEYS}):
            notes[f"not read in {source}: {', '.join(unread)}"] = None
        raw = raw[key]
    if not isinstance(raw, list):
        raise DataError(f"{source} holds no conversation; {_EXPECTED}")
    if len(raw) > 1 and all(isinstance(one, dict) and _wrapper(one) for one in raw):
        raise DataError(f"{source} holds {len(raw)} conversations; expected one")
    for number, turn in enumerate(raw, start=1):
        where = f"turn {number} in {source}"
        if isinstance(turn, list) and len(turn) == 2:
            for role, said in zip(("user", "assistant"), turn, strict=True):
                if said is not None:
                    yield role, _without_thoughts(role, _text(said, where, notes), notes)
        elif isinstance(turn, dict):
            yield from _turn(turn, where, notes)
        else:
            raise DataError(f"{where} is not one; {_EXPECTED}")


def _wrapper(raw: Mapping[str, Any]) -> str:
    """The key of an object that holds the turns, "" if there is none."""
    return next((key for key in _WRAPPERS if isinstance(raw.get(key), list)), "")


def _turn(turn: Mapping[str, Any], where: str, notes: dict[str, None]) -> Iterator[tuple[str, str]]:
    named = turn.get("role", turn.get("from"))
    content = next((turn[key] for key in ("content", "value", "text", "parts") if turn.get(key) is not None), None)
    called = [key for key in ("tool_calls", "function_call") if turn.get(key)]
    if not isinstance(named, str) or (content is None and not called):
        raise DataError(f"{where} is not one; {_EXPECTED}")
    role = _ROLES.get(named.strip().lower())
    if role is None:
        known = "system, developer, user, assistant, tool"
        raise DataError(f"{where} has the role {named!r}; expected one of {known}")
    if held := [key for key in _PICTURES if turn.get(key)]:
        raise DataError(f"{where} holds {held[0]!r}; {_ONLY_TEXT}")
    if called or role == "call":
        notes[_CALLS_OUT] = None
    if role == "call" or content is None:
        return
    text = _text(content, where, notes)
    if role == "tool":
        name = turn.get("name")
        yield (
            "user",
            f"Result of the tool{f' {name}' if isinstance(name, str) else ''}:\n{text}" if text.strip() else "",
        )
        return
    if any(turn.get(key) for key in ("reasoning_content", "reasoning", "thinking")):
        notes[_THOUGHTS_OUT] = None
    if text or not called:
        yield role, _without_thoughts(role, text, notes)


def _without_thoughts(role: str, text: str, notes: dict[str, None]) -> str:
    if role != "assistant" or not may_think(text):
        return text
    split = split_thoughts(text)
    if split.answer == text.strip():
        return text
    notes[_THOUGHTS_OUT] = None
    return split.answer


def _text(content: Any, where: str, notes: dict[str, None]) -> str:
    """The text of a turn: a string, or parts of which each is text."""
    if isinstance(content, str):
        return content.removeprefix("\ufeff").replace("\r\n", "\n")
    if isinstance(content, dict):
        content = content["parts"] if isinstance(content.get("parts"), list) else [content]
    if not isinstance(content, list):
        raise DataError(f"{where} holds {type(content).__name__} where its text should be; {_EXPECTED}")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in _THOUGHT_PARTS:
            notes[_THOUGHTS_OUT] = None
        elif kind in _CALL_PARTS:
            notes[_CALLS_OUT] = None
        elif isinstance(part, str):
            texts.append(_text(part, where, notes))
        elif isinstance(part, dict) and kind == "tool_result":
            texts.append(f"Result of the tool:\n{_text(part.get('content'), where, notes)}")
        elif (
            isinstance(part, dict)
            and kind in _TEXT_PARTS
            and isinstance(said := part.get("text", part.get("refusal")), str)
        ):
            texts.append(_text(said, where, notes))
        else:
            named = kind or (", ".join(map(str, part)) if isinstance(part, dict) else type(part).__name__)
            raise DataError(f"{where} holds a part of the type {named!r}; {_ONLY_TEXT}")
    return "\n".join(texts)
