"""The prompts: the only place where one is spelled, for training and for running alike.

A prompt is a sequence of pieces. Scaffold is ours or the chat template's, and may hold special tokens;
content comes from people and models, and is never parsed for them, so that "<|im_end|>" in an answer stays text.

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
from functools import cached_property
from types import MappingProxyType
from typing import Any, Protocol

from .errors import ModelError, UsageError
from .objectives import Objective

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
class Piece:
    """A stretch of a prompt. `content` is text of people or models: never parsed for special tokens.

    `request` marks where the edit request begins (an activated adapter acts from there on). `tokens` are the ids a
    model wrote this text with: taken as they are, so that its KV cache fits to the last token.
    """

    text: str
    content: bool = False
    request: bool = False
    tokens: tuple[int, ...] = ()


Prompt = tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; role is "system", "user" or "assistant"."""

    role: str
    content: str


class Vocabulary(Protocol):
    """What `encode` needs of a tokenizer; llama.cpp's and transformers' both offer it."""

    @property
    def specials(self) -> Mapping[str, int]:
        """The text of each special token and its id."""

    @property
    def bos(self) -> int | None:
        """The token that must begin every text, or None if this model wants none."""

    def encode_text(self, text: str) -> list[int]:
        """Token ids of plain text: special tokens neither parsed nor added."""


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
    if layout not in LAYOUTS:
        raise UsageError(f"unknown prompt layout {layout!r}; expected one of {', '.join(LAYOUTS)}")
    if not objectives:
        raise UsageError("an edit needs at least one objective")
    goal = _GOALS.get(layout, _DEFAULT_GOALS)[equal]
    by_heart = {o for o in objectives if layout == BRIEF and known.get(o.name) == o.description}
    aspects = "; ".join(o.called if o in by_heart else o.worded(layout) for o in objectives)
    if layout in IN_TURNS:
        first, *rest = _fill(_REQUESTS[layout], goal=goal, aspects=aspects)
        request = (replace(first, request=True), *rest)
        weak = (Piece(answer, content=True, tokens=tuple(answer_tokens)),)
        before = [_turn(message.role, message.content) for message in history]
        return _need(template).render([*before, _turn("user", query), ("assistant", weak), ("user", request)])
    if layout == "paper/hh-rlhf" and (history or "Human:" not in query):
        query = _dialogue(query, history)
    elif history:
        raise UsageError(f"the layout {layout} has no place for earlier turns; use {CONVERSATION} or paper/hh-rlhf")
    return _fill(_PAPER[layout], goal=goal, aspects=aspects, query=query, answer=answer)


def chat_prompt(messages: Iterable[Message], template: ChatTemplate) -> Prompt:
    """A conversation up to the point where the assistant speaks next."""
    return template.render([_turn(message.role, message.content) for message in messages])


def completion_end(layout: str, template: ChatTemplate | None, eos: str) -> Prompt:
    """What a model must write after its text to end it: the template's end of turn, else EOS."""
    if layout not in IN_TURNS:
        return (Piece(eos),)
    tail = _need(template).render([_turn("user", "q"), _turn("assistant", "a")], open_turn=False)[-1]
    return (Piece(tail.text.rstrip()),) if not tail.content and tail.text.strip() else (Piece(eos),)


def encode(prompt: Prompt, vocabulary: Vocabulary) -> list[int]:
    """Token ids of a prompt, with the model's BOS once.

    Special tokens are recognized in scaffold alone. Plain text between two of them is encoded as one run, since
    a tokenizer that saw scaffold and content apart would cut words, or add spaces, where training had none.
    """
    return encode_request(prompt, vocabulary)[0]


def encode_request(prompt: Prompt, vocabulary: Vocabulary) -> tuple[list[int], int]:
    """Token ids of a prompt, and the position at which the turn of the edit request begins (their number if none).

    That position is the last special token before the request: text cannot forge it, and no tokenizer merges it
    with what stands before.
    """
    ids: list[int] = []
    run: list[str] = []
    last_special, request = 0, -1

    def flush() -> None:
        if run:
            ids.extend(vocabulary.encode_text("".join(run)))
            run.clear()

    for piece in prompt:
        if piece.request:
            request = last_special
        if piece.tokens:
            flush()
            ids.extend(piece.tokens)
        elif piece.content:
            run.append(piece.text)
        else:
            for part in _split_specials(piece.text, vocabulary.specials):
                if (special := vocabulary.specials.get(part)) is None:
                    run.append(part)
                else:
                    flush()
                    last_special = len(ids)
                    ids.append(special)
    flush()
    bos = vocabulary.bos
    if bos is not None and ids[:1] != [bos]:
        ids, request = [bos, *ids], request + (request >= 0)
    return ids, len(ids) if request < 0 else request


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


@dataclass(frozen=True)
class ChatTemplate:
    """A model's chat template (Jinja2), rendered in a sandbox: templates come from files people download."""

    source: str
    bos: str = ""
    eos: str = ""

    def render(self, turns: Sequence[tuple[str, Prompt]], *, open_turn: bool = True) -> Prompt:
        """The pieces of a conversation; `open_turn` ends it where the assistant speaks.

        The template sees a placeholder for each turn, never its text; so it can neither read nor change content.
        Raises ModelError if the template fails, or loses or repeats a turn.
        """
        slots = {f"MALSLOT{i}X": content for i, (_, content) in enumerate(turns)}
        messages = [{"role": role, "content": slot} for (role, _), slot in zip(turns, slots, strict=True)]
        try:
            text = self._compiled.render(
                messages=messages, add_generation_prompt=open_turn, bos_token=self.bos, eos_token=self.eos
            )
        except Exception as error:  # a template is a program from outside: whatever it raises is its failure
            raise ModelError(
                f"the model's chat template failed: {error}; name another one with --chat-template FILE"
            ) from error
        parts = re.split(r"(MALSLOT\d+X)", text)
        if sorted(parts[1::2]) != sorted(slots):
            raise ModelError(
                "the model's chat template loses or repeats a turn of the conversation; "
                "name another one with --chat-template FILE"
            )
        pieces = [slots.get(part, (Piece(part),)) for part in parts if part]
        return tuple(piece for group in pieces for piece in group)

    @cached_property
    def _compiled(self) -> Any:
        from jinja2 import TemplateError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(message: str) -> None:
            raise TemplateError(message)

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.globals.update(raise_exception=refuse, strftime_now=_today)
        try:
            return environment.from_string(self.source)
        except TemplateError as error:
            raise ModelError(
                f"the model's chat template cannot be read: {error}; name another one with --chat-template FILE"
            ) from error


# For a policy without a chat template: the plainest dialogue there is.
PLAIN_DIALOGUE = ChatTemplate(
    "{% for m in messages %}{{ 'User' if m.role == 'user' else 'Assistant' }}: {{ m.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def _dialogue(query: str, history: Sequence[Message]) -> str:
    """A dialogue as HH-RLHF writes it, with its turn markers."""
    names = {"user": "Human", "assistant": "Assistant"}
    if unknown := {message.role for message in history} - set(names):
        raise UsageError(f"the layout paper/hh-rlhf knows the roles user and assistant, not {unknown.pop()!r}")
    before = "".join(f"\n\n{names[message.role]}: {message.content}" for message in history)
    return f"{before}\n\nHuman: {query} \n\nAssistant:"


def _turn(role: str, text: str) -> tuple[str, Prompt]:
    return role, (Piece(text, content=True),)


def _fill(pattern: str, **content: str) -> Prompt:
    """The pieces of a pattern: its words are scaffold, what fills its {names} is content."""
    parts = re.split(r"\{(\w+)\}", pattern)
    pieces = [Piece(content[part], content=True) if i % 2 else Piece(part) for i, part in enumerate(parts)]
    return tuple(piece for piece in pieces if piece.text)


def _need(template: ChatTemplate | None) -> ChatTemplate:
    if template is None:
        raise ModelError(
            "the conversation layout needs a chat template and this model has none; "
            "name one with --chat-template FILE, or the layout it was trained with, such as --layout paper/hh-rlhf"
        )
    return template


def _split_specials(text: str, specials: Mapping[str, int]) -> list[str]:
    """Cut scaffold at its special tokens, the longest first where one begins another."""
    present = sorted((special for special in specials if special and special in text), key=len, reverse=True)
    if not present:
        return [text]
    return [part for part in re.split("(" + "|".join(map(re.escape, present)) + ")", text) if part]


def _today(pattern: str) -> str:
    from datetime import datetime

    return datetime.now().strftime(pattern)
