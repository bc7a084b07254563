"""The prompts: the only place where one is spelled, for training and for running alike.

Layouts (the manifest of an aligner names its own):
  conversation         [user: query][assistant: weak answer][user: edit request][assistant: ...], in the model's
                       own chat template. The query comes first, so its KV cache serves every answer and objective.
  conversation/brief   the same turns, and a request of a third of the tokens: an objective that the aligner knows by
                       heart (its manifest lists it, with the same sentence) is named by its name alone. What it was
                       not trained on keeps its sentence.
  paper/hh-rlhf, paper/ultrafeedback, paper/imhi
                       the strings of the released MetaAligner checkpoints (SteveKGYang/MetaAligner,
                       inference/aligner_inference.py; the equal form of imhi is the paper's, section 3.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from .errors import ModelError, UsageError
from .objectives import Objective
from .pieces import Piece, Prompt, Vocabulary, encode_request, text_of
from .templates import SYSTEM_MOVED, ChatTemplate, Turn, system_into_user, turn
from .thoughts import opened_thoughts

CONVERSATION = "conversation"
BRIEF = "conversation/brief"

_REQUESTS = {
    CONVERSATION: "Edit your answer to {goal} considering these aspects: {aspects}\nReply with the edited answer only.",
    BRIEF: "Edit your answer to {goal}: {aspects}",
}
_PAPER = {
    "paper/hh-rlhf": "You are an assistant to human. You will be provided with a context and an answer. "
    "Consider the context, then edit the answer to {goal} considering these aspects: {aspects} "
    "| Context: {query} | Answer: {answer} | Edit: ",
    "paper/ultrafeedback": "You are an assistant to human. You will be provided with a query and an answer. "
    "Consider the query, then edit the answer to {goal} considering these aspects: {aspects} "
    "| Query: {query} | Answer: {answer} | Edit: ",
    "paper/imhi": "Edit the following Question-Answer pair to make it {goal} considering these aspects "
    '"{aspects}" | Question: {query} | Answer: {answer} | Edit: ',
}
_GOALS = {"paper/imhi": ("better", "equal")}
_DEFAULT_GOALS = ("improve it", "make it equal")

IN_TURNS = tuple(_REQUESTS)  # layouts whose edit request is a turn of its own, behind the query and the answer
LAYOUTS = (*IN_TURNS, *_PAPER)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; role is "system", "user" or "assistant"."""

    role: str
    content: str


def edit_prompt(
    layout: str,
    query: str,
    answer: str,
    objectives: Sequence[Objective],
    template: ChatTemplate | None = None,
    *,
    equal: bool = False,
    answer_tokens: Sequence[int] = (),
    history: Sequence[Message] = (),
    known: Mapping[str, str] = MappingProxyType({}),
) -> Prompt:
    """The aligner's prompt: edit `answer` to `query` toward `objectives` (paper section 3.1, T(q, y, O, t)).

    `history` are the turns before the query, for layouts that know turns. `known` are the objectives that the aligner
    was trained on, name -> description: the brief layout says no more than their names. `equal` asks for an equally
    good answer (t = equal, training only). `answer_tokens` are the ids the same model wrote the answer with, if its KV
    cache is to be continued (layouts in turns). Raises UsageError for an unknown layout, an empty list of objectives
    or turns that a layout has no place for, ModelError if one in turns is asked of a model without a chat template.
    """
    goal, aspects = _wanted(layout, objectives, equal, known)
    if layout in IN_TURNS:
        first, *rest = _fill(_REQUESTS[layout], goal=goal, aspects=aspects)
        request = (replace(first, request=True), *rest)
        weak = (Piece(answer, content=True, tokens=tuple(answer_tokens)),)
        before = [turn(message.role, message.content) for message in history]
        return _need(template).render([*before, turn("user", query), ("assistant", weak), ("user", request)])
    if any(message.role == "system" for message in history):  # these layouts have no place for it either
        *before, (_, asked) = system_into_user([*(turn(m.role, m.content) for m in history), turn("user", query)])
        history = _messages(before)
        query = text_of(asked)
    if layout == "paper/hh-rlhf" and (history or "Human:" not in query):
        query = _dialogue(query, history)
    elif history:
        raise UsageError(f"the layout {layout} has no place for earlier turns; use {CONVERSATION} or paper/hh-rlhf")
    return _fill(_PAPER[layout], goal=goal, aspects=aspects, query=query, answer=answer)


def edit_messages(
    layout: str,
    query: str,
    answer: str,
    objectives: Sequence[Objective],
    *,
    history: Sequence[Message] = (),
    known: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Message, ...]:
    """The turns of `edit_prompt`, for a server that has the chat template: what it renders is the same prompt.

    A layout of the paper is one turn of the user's. Raises as `edit_prompt`.
    """
    if layout not in IN_TURNS:
        prompt = edit_prompt(layout, query, answer, objectives, history=history, known=known)
        return (Message("user", text_of(prompt)),)
    goal, aspects = _wanted(layout, objectives, False, known)
    request = text_of(_fill(_REQUESTS[layout], goal=goal, aspects=aspects))
    return (*history, Message("user", query), Message("assistant", answer), Message("user", request))


def _wanted(layout: str, objectives: Sequence[Objective], equal: bool, known: Mapping[str, str]) -> tuple[str, str]:
    """The goal and the aspects that an edit request names."""
    if layout not in LAYOUTS:
        raise UsageError(f"unknown prompt layout {layout!r}; expected one of {', '.join(LAYOUTS)}")
    if not objectives:
        raise UsageError("an edit needs at least one objective")
    by_heart = {o for o in objectives if layout == BRIEF and known.get(o.name) == o.description}
    aspects = "; ".join(o.called if o in by_heart else o.worded(layout) for o in objectives)
    return _GOALS.get(layout, _DEFAULT_GOALS)[equal], aspects


def chat_prompt(messages: Iterable[Message], template: ChatTemplate) -> Prompt:
    """A conversation up to the point where the assistant speaks next."""
    return template.render([turn(message.role, message.content) for message in messages])


def fit(messages: Sequence[Message], template: ChatTemplate | None) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """A conversation as a chat template can hold it, and what was changed for it, in words (see ChatTemplate.fit).

    None stands for the layouts without turns of a template: they have no place for a system text.
    """
    turns = [turn(message.role, message.content) for message in messages]
    if template is None:
        moved = (SYSTEM_MOVED,) * any(role == "system" for role, _ in turns)
        return _messages(system_into_user(turns)), moved
    held, notes = template.fit(turns)
    return _messages(held), notes


def _messages(turns: Sequence[Turn]) -> tuple[Message, ...]:
    return tuple(Message(role, text_of(content)) for role, content in turns)


def opens_thoughts(prompt: Prompt) -> str:
    """The mark with which a prompt begins the assistant's thoughts for it; "" if it leaves that to the model."""
    return "" if prompt[-1].content else opened_thoughts(prompt[-1].text)


def completion_end(layout: str, template: ChatTemplate | None, eos: str) -> Prompt:
    """What a model must write after its text to end it: the template's end of turn, else EOS."""
    if layout not in IN_TURNS:
        return (Piece(eos),)
    tail = _need(template).render([turn("user", "q"), turn("assistant", "a")], open_turn=False)[-1]
    return (Piece(tail.text.rstrip()),) if not tail.content and tail.text.strip() else (Piece(eos),)


def invocation(layout: str, template: ChatTemplate | None, vocabulary: Vocabulary) -> list[int]:
    """The tokens that every edit request of a layout in turns begins with, whatever is asked.

    An activated adapter (aLoRA) is trained to act from their last occurrence on. Raises UsageError for a layout whose
    request comes before the query: nothing could be reused; ModelError without a template, or for one that begins the
    request's turn with no special token: text could then forge it, or merge with it.
    """
    if layout not in IN_TURNS:
        raise UsageError(
            f"an activated adapter with the layout {layout!r}: its request comes before the query, so no cache could "
            f"be shared; use one of {', '.join(IN_TURNS)}"
        )

    def request(answer: str, *, equal: bool = False) -> tuple[list[int], int]:
        ids, start = encode_request(
            edit_prompt(layout, "q", answer, [Objective("x", "y")], template, equal=equal), vocabulary
        )
        return ids[start:], start

    (improve, start), (level, _) = request("a"), request("a", equal=True)
    if request("a longer answer")[1] == start:  # the last special token stands before the answer
        raise ModelError(
            "the chat template begins the turn of the edit request with no special token, so an activated adapter "
            "could not tell where to act; train a merged aligner (kind = 'merged'), or name another template"
        )
    same = next(i for i, (a, b) in enumerate(zip(improve, level, strict=False)) if a != b)
    return improve[:same]


def _dialogue(query: str, history: Sequence[Message]) -> str:
    """A dialogue as HH-RLHF writes it, with its turn markers."""
    names = {"user": "Human", "assistant": "Assistant"}
    if unknown := {message.role for message in history} - set(names):
        raise UsageError(f"the layout paper/hh-rlhf knows the roles user and assistant, not {unknown.pop()!r}")
    before = "".join(f"\n\n{names[message.role]}: {message.content}" for message in history)
    return f"{before}\n\nHuman: {query} \n\nAssistant:"


def _fill(pattern: str, **content: str) -> Prompt:
    """The pieces of a pattern: its words are scaffold, what fills its {names} is content."""
    parts = re.split(r"\{(\w+)\}", pattern)
    pieces = [Piece(content[part], content=True) if i % 2 else Piece(part) for i, part in enumerate(parts)]
    return tuple(piece for piece in pieces if piece.text)


def _need(template: ChatTemplate | None) -> ChatTemplate:
    if template is None:
        raise ModelError(
            "the conversation layout needs a chat template and this model has none; "
            "name one with `template`, or the layout it was trained with, such as `layout` paper/hh-rlhf"
        )
    return template
