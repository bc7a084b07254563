"""Chat templates of released models: which render, and what the runtime finds out about them.

    python bench/templates.py FOLDER

FOLDER holds templates as *.jinja (such as models/templates in llama.cpp's sources) or as *.cpp with a table of them
(its tests/test-chat-template.cpp). No template is kept here; bench/LOG.md has the result. Columns:

  turns    question and answer as one prompt; "parts" if it takes lists of content parts alone, "no tools" if it
           renders only where nothing is said of tools
  system   a system turn: held, moved before the user's text, or why not
  history  user and assistant turns before the question, then the edit request
  begins   a conversation in which the assistant speaks first: held, or an empty turn before it
  end      whether a special token ends the assistant's turn; else the mark of a run-on turn
  activated   whether an activated adapter finds its invocation
  thoughts    the mark with which the template opens thoughts
"""

from __future__ import annotations

import ast
import re
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from metaaligner_lite.errors import MalError
from metaaligner_lite.pieces import Piece, text_of
from metaaligner_lite.prompts import Message, chat_prompt, fit, invocation, opens_thoughts
from metaaligner_lite.templates import _FORMS, ChatTemplate

# What looks like a special token; ordinary tags such as <user> or </assistant> may be either, and are taken for text.
_SPECIAL = re.compile(
    r"<[|｜][^<>\s{}'\"]{1,40}>|<[a-z_]+\|>|\[/?[A-Z_]{3,20}\]|</?s>|<(?:start|end)_of_turn>|<(?:beginning|end)_of_sentence>"
    r"|<(?:bos|eos|sep|SEP|CLS|sop)>|</?seed:\w+>|\[gMASK\]|<SPECIAL_\d+>|\[e~\[|\]~b\]"
)


class Words:
    """A vocabulary whose special tokens are those that the template shows; other text is one token a letter."""

    def __init__(self, template: ChatTemplate) -> None:
        turns = [Message("user", "q"), Message("assistant", "a"), Message("user", "b")]
        shown = template.source + text_of(chat_prompt(turns, template))
        found = dict.fromkeys([*_SPECIAL.findall(shown), template.bos, template.eos])
        self.specials = {text: i for i, text in enumerate(found) if text}
        self.bos = None

    def encode_text(self, text: str) -> list[int]:
        """One token a letter."""
        return [1000 + ord(letter) for letter in text]


def main(folder: Path) -> None:
    """Print the table."""
    head = ("template", "turns", "system", "history", "begins", "end", "activated", "thoughts")
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    refused = count = 0
    began = time.perf_counter()
    for name, source in sorted(dict(_templates(folder)).items()):
        row = _row(ChatTemplate(source, bos="<s>", eos="</s>"))
        refused += row[0].startswith("refused")
        count += 1
        print(f"| {' | '.join([name, *row])} |")
    print(f"\n{count} templates, {refused} refused, {time.perf_counter() - began:.1f} s")


def _row(template: ChatTemplate) -> list[str]:
    system, question, answer = Message("system", "Be kind."), Message("user", "Why?"), Message("assistant", "So.")
    asked = _try(template, [question])
    if asked.startswith("refused"):
        return [asked, *[""] * 6]
    asked = _form(template)
    words = Words(template)
    try:
        invocation("conversation", template, words)
        activated = "yes"
    except MalError as error:
        activated = "no special token" if "no special token" in str(error) else f"no: {_short(error)}"
    return [
        asked,
        _try(template, [system, question]),
        _try(template, [system, question, answer, question, answer, Message("user", "Edit.")]),
        _try(template, [answer, question]),
        " ".join(f"`{mark.strip()}`" for mark in template.marks(words.specials)) or "token",
        activated,
        f"`{mark}`".replace("|", "\\|") if (mark := opens_thoughts(chat_prompt([question], template))) else "",
    ]


def _try(template: ChatTemplate, messages: list[Message]) -> str:
    """How a conversation comes out."""
    try:
        _, notes = fit(messages, template)
    except MalError as error:
        return f"refused: {_short(error)}"
    text = text_of(chat_prompt(messages, template))
    assert all(message.content in text for message in messages)
    told = {"neighbouring": "joined", "the system": "moved", "an empty": "empty turn"}
    said = [short for note in notes for words, short in told.items() if note.startswith(words)]
    return ", ".join(said) or "held"


def _form(template: ChatTemplate) -> str:
    """How it wants a question told: as text, in parts, or without the word that there are no tools."""
    question = [("user", (Piece("Why?", content=True),))]
    for (in_parts, also), name in zip(_FORMS, ("held", "parts", "no tools"), strict=True):
        with suppress(MalError):
            template._pieces(question, True, in_parts, also)
            return name
    return "refused"


def _short(error: MalError) -> str:
    return str(error).removeprefix("the model's chat template ").split(";")[0].replace("\n", " ").replace("|", "\\|")


def _templates(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*.jinja")):
        yield path.stem, path.read_text(encoding="utf-8")
    for path in sorted(folder.rglob("*.cpp")):
        table = path.read_text(encoding="utf-8")
        pattern = (
            r'/\* \.name= \*/\s*"(?P<name>[^"]+)",\s*'
            r'/\* \.template_str= \*/\s*(?:U8C\()?(?:u8)?(?P<text>"(?:[^"\\]|\\.)*")'
        )
        for found in re.finditer(pattern, table):
            yield found["name"].split(" (")[0], ast.literal_eval(found["text"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
