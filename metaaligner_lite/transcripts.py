"""Conversations that data sets keep as one text, with a mark before each turn: read back into turns."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .prompts import Message


@dataclass(frozen=True, slots=True)
class _Marks:
    """How a kind of transcript begins its turns, and what ends them."""

    user: str
    assistant: str
    system: str = ""
    ends: tuple[str, ...] = ()
    begins: str = ""  # what may stand before the first turn
    unmarked: bool = False  # the first turn is the user's and has no mark


# HH-RLHF's marks stand behind an empty line, but for the first.
_KINDS = (
    _Marks("\n\nHuman:", "\n\nAssistant:"),
    _Marks("<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_start|>system\n", ("<|im_end|>",)),
    _Marks(
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|start_header_id|>system<|end_header_id|>\n\n",
        ("<|eot_id|>", "<|end_of_text|>"),
        "<|begin_of_text|>",
    ),
    _Marks("<start_of_turn>user\n", "<start_of_turn>model\n", "", ("<end_of_turn>",), "<bos>"),
    _Marks("<|user|>", "<|assistant|>", "<|system|>", ("</s>", "<|end|>", "<|endoftext|>")),
    _Marks("### Human:", "### Assistant:"),
    _Marks("USER:", "ASSISTANT:", "", ("</s>",), "BEGINNING OF CONVERSATION:"),
    _Marks("<extra_id_1>User", "<extra_id_1>Assistant", "<extra_id_0>System", unmarked=True),  # HelpSteer
)
_NEXT_TURN = re.compile(
    r"\s*(?:(?:### )?Human:|<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|<\|user\|>|<extra_id_1>)"
)
_NEXT = {"H", "#", "<"}  # what those marks begin with


def read_transcript(text: str) -> tuple[Message, ...]:
    """The turns of a conversation in one text, none if it is no such text; an open last turn is left out.

    It has to begin with a mark, and to hold one of the assistant's.
    """
    if "ssistant" not in text and "ASSISTANT" not in text and "_turn>" not in text:
        return ()  # nearly always, and sooner than by all the marks
    for kind in _KINDS:
        if kind.assistant in text and (turns := _turns(text, kind)):
            return turns
    return ()


def begins_a_turn(text: str) -> bool:
    """Whether a text begins with the mark of somebody's turn: then it is no answer."""
    return text.lstrip()[:1] in _NEXT and _NEXT_TURN.match(text) is not None


def as_transcript(query: str, history: tuple[Message, ...]) -> str:
    """Turns and query as HH-RLHF writes them, up to the answer; a system text stands before the first turn."""
    names = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: ", "system": ""}
    before = "".join(f"{names[turn.role]}{turn.content}" for turn in history)
    return f"{before}\n\nHuman: {query} \n\nAssistant:"


def _turns(text: str, kind: _Marks) -> tuple[Message, ...]:
    text = text.strip(" \t").removeprefix(kind.begins) if kind.begins else text
    if kind.user[0] == "\n" and not text.startswith(kind.user):
        text = "\n\n" + text.lstrip()
    first, *chunks = text.split(kind.user)
    found: list[tuple[str, str]] = []
    if first.strip():
        opening = first.split(kind.assistant)
        if kind.system and opening[0].startswith(kind.system):
            opening[0] = opening[0].removeprefix(kind.system)
            found.append(("system", opening[0]))
        elif kind.unmarked:
            found.append(("user", opening[0]))
        else:
            return ()
        found += [("assistant", said) for said in opening[1:]]
    for chunk in chunks:
        role = "user"
        for said in chunk.split(kind.assistant):
            found.append((role, said))
            role = "assistant"
    if not found[-1][1].strip():
        found.pop()  # the turn to be written
    turns = []
    for role, said in found:
        for end in kind.ends:
            said = said.partition(end)[0]
        if not (said := said.strip()):
            return ()  # a turn without text in the middle: not what it looks like
        turns.append(Message(role, said))
    return tuple(turns)
