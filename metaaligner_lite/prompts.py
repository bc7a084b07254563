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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Protocol

from .errors import ModelError, UsageError
from .objectives import Objective
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
class Piece:
    """A stretch of a prompt. `content` is text of people or models: never parsed for special tokens.

    `request` marks where the edit request begins (an activated adapter acts from there on). `tokens` are the ids a
    model wrote this text with: taken as they are, so that its KV cache fits to the last token.
    """

    text: str
    content: bool = False
    request: bool = False
    tokens: tuple[int, ...] = ()


_BETWEEN = Piece("\n\n", content=True)  # between the texts of turns that were made one

SYSTEM_MOVED = "the system text stands before the user's, since this prompt has no place for it"

Prompt = tuple[Piece, ...]
Turn = tuple[str, Prompt]  # a role and what it says


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
    goal, aspects = _wanted(layout, objectives, equal, known)
    if layout in IN_TURNS:
        first, *rest = _fill(_REQUESTS[layout], goal=goal, aspects=aspects)
        request = (replace(first, request=True), *rest)
        weak = (Piece(answer, content=True, tokens=tuple(answer_tokens)),)
        before = [_turn(message.role, message.content) for message in history]
        return _need(template).render([*before, _turn("user", query), ("assistant", weak), ("user", request)])
    if any(message.role == "system" for message in history):  # these layouts have no place for it either
        *before, (_, asked) = system_into_user([*(_turn(m.role, m.content) for m in history), _turn("user", query)])
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
    return template.render([_turn(message.role, message.content) for message in messages])


def fit(messages: Sequence[Message], template: ChatTemplate | None) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """A conversation as a chat template can hold it, and what was changed for it, in words (see ChatTemplate.fit).

    None stands for the layouts without turns of a template: they have no place for a system text.
    """
    turns = [_turn(message.role, message.content) for message in messages]
    if template is None:
        moved = (SYSTEM_MOVED,) * any(role == "system" for role, _ in turns)
        return _messages(system_into_user(turns)), moved
    held, notes = template.fit(turns)
    return _messages(held), notes


def _messages(turns: Sequence[Turn]) -> tuple[Message, ...]:
    return tuple(Message(role, text_of(content)) for role, content in turns)


def run_on_marks(template: ChatTemplate | None, specials: Mapping[str, int]) -> tuple[str, ...]:
    """What begins the next turn in the text of a model that goes on to invent it (see ChatTemplate.marks).

    Models without a template of their own have seen dialogues of both kinds, and answer themselves.
    """
    if template is None or template == PLAIN_DIALOGUE:
        return ("User:", "Human:", "Assistant:")
    return template.marks(specials)


def opens_thoughts(prompt: Prompt) -> str:
    """The mark with which a prompt begins the assistant's thoughts for it; "" if it leaves that to the model."""
    return "" if prompt[-1].content else opened_thoughts(prompt[-1].text)


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

    def render(self, turns: Sequence[Turn], *, open_turn: bool = True) -> Prompt:
        """The pieces of a conversation; `open_turn` ends it where the assistant speaks.

        The template sees a placeholder for each turn, never its text; so it can neither read nor change content.
        What it cannot hold is said in another way (see `fit`). Raises ModelError if the template fails, does not end,
        or loses or repeats a turn.
        """
        return self._held(turns, open_turn)[0]

    def fit(self, turns: Sequence[Turn]) -> tuple[Sequence[Turn], tuple[str, ...]]:
        """The turns as this template can hold them, and what was changed for it, in words.

        Tried in this order, until one renders: the turns as they are; neighbours of one role joined; each system text
        before the text of the user's turn that follows; an empty user's turn before an assistant who begins.
        """
        return self._held(turns, True)[1:]

    def marks(self, specials: Mapping[str, int]) -> tuple[str, ...]:
        """How the user's next turn begins, if no special token ends the assistant's: text that a model runs on with.

        One at most. It begins with a space if the template writes it on the answer's own line.
        """
        a, b = "answer", "query"
        try:
            pieces = self.render([_turn("user", "q"), _turn("assistant", a), _turn("user", b)])
        except ModelError:
            return ()
        texts = [piece.text if piece.content else "" for piece in pieces]
        between = text_of(pieces[texts.index(a) + 1 : texts.index(b)])
        if not between.strip() or any(special in between for special in specials if special.strip()):
            return ()
        own_line = "\n" not in between[: len(between) - len(between.lstrip())]
        return (" " * own_line + between.strip().splitlines()[0].strip(),)

    def _held(self, turns: Sequence[Turn], open_turn: bool) -> tuple[Prompt, Sequence[Turn], tuple[str, ...]]:
        """The first way of saying the turns that the template renders: pieces, turns, what was changed."""
        first: ModelError | None = None
        for changed, notes in _ways(turns):
            for in_parts, also in _FORMS:
                try:
                    return self._pieces(changed, open_turn, in_parts, also), changed, notes
                except _Unending:
                    raise
                except ModelError as error:
                    first = first or error
        assert first is not None  # there is at least one way
        raise first

    def _pieces(self, turns: Sequence[Turn], open_turn: bool, in_parts: bool, also: Mapping[str, None]) -> Prompt:
        """`in_parts` gives each text as a list of content parts, as templates of models that see pictures expect.

        `also` are further variables.
        """
        from . import sandbox

        slots = {f"MALSLOT{i}X": content for i, (_, content) in enumerate(turns)}
        messages = [
            {"role": role, "content": [{"type": "text", "text": slot}] if in_parts else slot}
            for (role, _), slot in zip(turns, slots, strict=True)
        ]
        template = self._compiled
        variables = {"messages": messages, "add_generation_prompt": open_turn, **also}
        try:
            text = sandbox.render(template, variables | {"bos_token": self.bos, "eos_token": self.eos})
        except sandbox.BoundExceeded as error:
            raise _Unending(f"the model's chat template was stopped: {error}; {_ANOTHER}") from error
        except Exception as error:  # a template is a program from outside: whatever it raises is its failure
            raise ModelError(f"the model's chat template failed: {error}; {_ANOTHER}") from error
        parts = re.split(r"(MALSLOT\d+X)", text)
        if sorted(parts[1::2]) != sorted(slots):
            raise ModelError(f"the model's chat template loses or repeats a turn of the conversation; {_ANOTHER}")
        pieces = [slots.get(part, (Piece(part),)) for part in parts if part]
        return tuple(piece for group in pieces for piece in group)

    @cached_property
    def _compiled(self) -> Any:
        from . import sandbox

        try:
            return sandbox.compiled(self.source)
        except Exception as error:  # Python's own compiler may refuse it too
            raise _Unending(f"the model's chat template cannot be read: {error}; {_ANOTHER}") from error


_ANOTHER = "name another one with `template`"


class _Unending(ModelError):
    """A template that is broken or does not end: no other way of saying the turns would help."""


# In parts or not, and what else the template is told. transformers says that there are no tools; templates that loop
# over them all the same expect them left out.
_NONE: Mapping[str, None] = {"tools": None, "documents": None}
_FORMS: tuple[tuple[bool, Mapping[str, None]], ...] = ((False, _NONE), (True, _NONE), (False, {}))


def _ways(turns: Sequence[Turn]) -> Iterator[tuple[list[Turn], tuple[str, ...]]]:
    """The turns, then in ways that narrower templates hold, each with what was changed so far."""
    now = list(turns)
    notes: tuple[str, ...] = ()
    yield now, notes
    for change, note in (
        (join_neighbours, "neighbouring turns of one role were joined"),
        (system_into_user, SYSTEM_MOVED),
        (_user_first, "an empty turn of the user stands first, since this chat template lets no assistant begin"),
    ):
        changed = change(now)
        if changed != now:
            now, notes = changed, (*notes, note)
            yield now, notes


def join_neighbours(turns: Sequence[Turn]) -> list[Turn]:
    """The turns, with neighbours of one role made one, an empty line between their texts."""
    joined: list[Turn] = []
    for role, content in turns:
        if joined and joined[-1][0] == role:
            joined[-1] = role, (*joined[-1][1], _BETWEEN, *content)
        else:
            joined.append((role, content))
    return joined


def system_into_user(turns: Sequence[Turn]) -> list[Turn]:
    """The turns, with each system text before the text of the user's turn that follows."""
    changed: list[Turn] = []
    waiting: Prompt = ()
    for role, content in turns:
        if role == "system":
            waiting = (*waiting, *content, _BETWEEN)
        elif role == "user":
            changed.append((role, (*waiting, *content)))
            waiting = ()
        else:
            changed.append((role, content))
    if waiting:  # no user's turn follows
        changed.append(("user", waiting[:-1]))
    return join_neighbours(changed)


def _user_first(turns: Sequence[Turn]) -> list[Turn]:
    after = [role for role, _ in turns].index("system") + 1 if turns and turns[0][0] == "system" else 0
    if after < len(turns) and turns[after][0] == "assistant":
        return [*turns[:after], ("user", ()), *turns[after:]]
    return list(turns)


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


def text_of(prompt: Prompt) -> str:
    """The text that pieces spell."""
    return "".join(piece.text for piece in prompt)


def _turn(role: str, text: str) -> Turn:
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
            "name one with `template`, or the layout it was trained with, such as `layout` paper/hh-rlhf"
        )
    return template


def _split_specials(text: str, specials: Mapping[str, int]) -> list[str]:
    """Cut scaffold at its special tokens, the longest first where one begins another."""
    present = sorted((special for special in specials if special and special in text), key=len, reverse=True)
    if not present:
        return [text]
    return [part for part in re.split("(" + "|".join(map(re.escape, present)) + ")", text) if part]
