"""Where a conversation's lines come from: an editor on a terminal, plain lines of a pipe. A message may have several.

A line that ends in a backslash goes on; so does what begins with three quotes, until three quotes end a line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from prompt_toolkit.completion import Completer

_QUOTES = '"""'
PROMPT, GOES_ON = "> ", ". "


class Lines(Protocol):
    """Messages and commands in turn. `terminal`: a person types them; `drafts`: a draft can be given to be changed."""

    terminal: bool
    drafts: bool

    def read(self, draft: str = "") -> str:
        """The next one. Raises EOFError at the end, KeyboardInterrupt at Ctrl-C."""


def goes_on(text: str) -> bool:
    """Whether a message is not complete yet."""
    body = text.strip()
    if body.startswith(_QUOTES):
        return len(body) < 2 * len(_QUOTES) or not body.endswith(_QUOTES)
    return text.endswith("\\")


def message(text: str) -> str:
    """What complete lines say, without the marks that joined them."""
    body = text.strip()
    if body.startswith(_QUOTES) and body.endswith(_QUOTES) and len(body) >= 2 * len(_QUOTES):
        return body[len(_QUOTES) : -len(_QUOTES)].strip("\n")
    return text.replace("\\\n", "\n")


class PlainLines:
    """Lines of standard input; on a terminal Python's own editing, if it has any."""

    drafts = False

    def __init__(self, terminal: bool) -> None:
        self.terminal = terminal

    def read(self, draft: str = "") -> str:
        """The next message; one that the input's end cut off counts as it is."""
        text = self._line(PROMPT)
        while goes_on(text):
            try:
                text += "\n" + self._line(GOES_ON)
            except EOFError:
                break
        return message(text)

    def _line(self, prompt: str) -> str:
        from ..files import decode_text

        if self.terminal:
            return input(prompt)
        line = sys.stdin.buffer.readline()
        if not line:
            raise EOFError
        return decode_text(line, "standard input").rstrip("\n")


class EditedLines:
    """Lines typed with prompt_toolkit: Enter sends, Alt-Enter begins a new line, pasted lines stay together.

    `status` is shown below; what was typed is kept in the file `history`, if one is named.
    """

    terminal = True
    drafts = True

    def __init__(
        self, status: Callable[[], str], commands: Iterable[str], objectives: Iterable[str], history: Path | None
    ) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory, InMemoryHistory
        from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
        from prompt_toolkit.styles import Style

        keys = KeyBindings()

        @keys.add("enter")
        def _send(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if goes_on(buffer.text) and buffer.document.is_cursor_at_the_end:
                buffer.newline(copy_margin=False)
            else:
                buffer.validate_and_handle()

        @keys.add("escape", "enter")
        def _newline(event: KeyPressEvent) -> None:
            event.current_buffer.newline(copy_margin=False)

        if history:
            history.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            history.touch(mode=0o600)
        self._status = status
        self._session: PromptSession[str] = PromptSession(
            multiline=True,
            key_bindings=keys,
            history=FileHistory(str(history)) if history else InMemoryHistory(),
            completer=_completer(list(commands), list(objectives)),
            complete_while_typing=False,
            prompt_continuation=lambda width, number, wrapped: "" if wrapped else GOES_ON,
            style=Style.from_dict({"bottom-toolbar": "noreverse fg:ansibrightblack"}),
        )

    def read(self, draft: str = "") -> str:
        """The next message."""
        status = self._status()  # once: it is asked for at every key
        return message(self._session.prompt(PROMPT, default=draft, bottom_toolbar=status))


def open_lines(
    status: Callable[[], str], commands: Iterable[str], objectives: Iterable[str], history: Path | None
) -> Lines:
    """An editor where a person types and the extra is installed, else plain lines."""
    from importlib.util import find_spec

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return PlainLines(sys.stdin.isatty())
    if find_spec("prompt_toolkit") is None:
        from .console import talk

        talk().print("note: pip install 'metaaligner-lite[chat]' brings line editing and a gauge of the context")
        return PlainLines(True)
    return EditedLines(status, commands, objectives, history)


def _completer(commands: list[str], objectives: list[str]) -> Completer:
    """Completes commands, and the names of objectives."""
    from prompt_toolkit.completion import Completer, Completion

    class Commands(Completer):
        def get_completions(self, document: Any, complete_event: Any) -> Iterator[Completion]:
            text = document.text_before_cursor
            if not text.startswith("/"):
                return
            word = text[1:] if " " not in text else text.replace(",", " ").rsplit(" ", 1)[-1]
            names = commands if " " not in text else objectives if text.startswith("/obj") else []
            yield from (Completion(name, -len(word)) for name in names if name.startswith(word))

    return Commands()
