"""Chat templates: what makes turns the text that a model was trained on, and turns what a template can hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .errors import ModelError
from .pieces import Piece, Prompt, text_of

Turn = tuple[str, Prompt]  # a role and what it says

_BETWEEN = Piece("\n\n", content=True)  # between the texts of turns that were made one

SYSTEM_MOVED = "the system text stands before the user's, since this prompt has no place for it"


def turn(role: str, text: str) -> Turn:
    """A turn that says one text of a person's or a model's."""
    return role, (Piece(text, content=True),)


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
            pieces = self.render([turn("user", "q"), turn("assistant", a), turn("user", b)])
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


def run_on_marks(template: ChatTemplate | None, specials: Mapping[str, int]) -> tuple[str, ...]:
    """What begins the next turn in the text of a model that goes on to invent it (see ChatTemplate.marks).

    Models without a template of their own have seen dialogues of both kinds, and answer themselves.
    """
    if template is None or template == PLAIN_DIALOGUE:
        return ("User:", "Human:", "Assistant:")
    return template.marks(specials)
