"""What `mal align` shows: texts as they come on a terminal, whole ones in a pipe, one document with --json."""

from __future__ import annotations

import re
import sys
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from ..align import Correction

_SAME, _ADDED, _GONE = "", "bold green", "dim red"
_STYLES = {"same": "dim", "removed": "red strike", "added": "bold green"}
_LEFT_OUT = "[…]"  # stands where words of the answer are gone; on a terminal only
_WORD = re.compile(r"\s*\S+(?=\s)")
_AHEAD = 400  # words of the answer among which an edit finds its place again


class Show(StrEnum):
    """What of a correction is printed."""

    final = "final"
    both = "both"
    diff = "diff"


class Screen:
    """Prints corrections as they come about: streamed on a terminal, at the end in a pipe, never with --json.

    On a terminal the answer streams, then the aligned text with what is new in it marked; an edit that only says the
    answer again is a line, "unchanged". With several sets of objectives, or several rounds, the corrections follow when
    all are there (`streams` is off). `given`: the answer is the user's, not a policy's.
    """

    def __init__(self, show: Show | None, as_json: bool, *, several: bool, streams: bool, given: bool = False) -> None:
        from .console import results, talk

        terminal = sys.stdout.isatty()
        self._mode = show or (Show.both if terminal else Show.final)
        self._json, self._several = as_json, several
        self._live = terminal and not as_json
        self._streams = streams and self._live and self._mode is not Show.diff
        self._out, self._talk = results(), talk()
        self._name = "answer" if given else "policy"
        self._answer = self._edit = self._stage = ""
        self._said: set[str] = set()
        self._wrap = Wrapped(self._out)
        self._marks: Marked | None = None  # once the aligned text is being shown

    def say(self, note: str) -> None:
        """A note on stderr, such as which aligner is used; the same one once."""
        from ..output import printable
        from .console import flagged

        if note not in self._said:
            self._said.add(note)
            self._wrap.end_line()
            self._talk.print(f"note: {printable(flagged(note))}")

    def answer(self, text: str) -> None:
        """The next part of the weak answer."""
        self._answer += text
        if self._live and self._mode is not Show.final:
            self._heading(self._name)
            self._wrap.write(text)

    def edit(self, text: str) -> None:
        """The next part of the aligned answer; nothing is shown while it only says the answer again."""
        self._edit += text
        if not self._streams or (self._marks is None and self._answer.startswith(self._edit)):
            return
        self._aligned("aligned", self._edit if self._marks is None else text)

    def finish(self, corrections: list[Correction]) -> None:
        """What is left to print once all texts are there."""
        from ..output import account, notes, record
        from .console import print_json

        if self._json:
            records = [record(correction) for correction in corrections]
            print_json(records if self._several else records[0])
        elif self._live:
            for correction in corrections:
                self._finish_live(correction)
        else:
            self._print_whole(corrections)
        for note in dict.fromkeys(note for correction in corrections for note in notes(correction)):
            self.say(note)
        if not self._json:
            for line in account(corrections):
                self._talk.print(line, style="dim")

    def _finish_live(self, correction: Correction) -> None:
        from ..output import objective_names, word_diff

        names = objective_names(correction)
        shown, self._marks = self._marks, None
        if shown:
            shown.close()
            self._wrap.end_line()
        if not correction.aligned or correction.text == correction.answer.text:
            self._heading(f"unchanged ({names})", always=True)
            # Unless only final texts are shown, the answer is on the screen already.
            if self._mode is Show.final or correction.text != correction.answer.text:
                self._wrap.write(correction.text)
        elif self._mode is Show.diff:
            self._heading(f"changes ({names})")
            for kind, text in word_diff(correction.answer.text, correction.text):
                self._wrap.write(text, _STYLES[kind])
        elif not shown:
            self._answer = correction.answer.text
            self._aligned(f"aligned ({names})", correction.text).close()
            self._marks = None
        self._wrap.end_line()

    def _aligned(self, heading: str, text: str) -> Marked:
        if self._marks is None:
            self._heading(heading)
            self._marks = Marked(self._answer if self._mode is Show.both else "", self._wrap.write)
        self._marks.write(text)
        return self._marks

    def _heading(self, name: str, *, always: bool = False) -> None:
        if name == self._stage:
            return
        again, self._stage = bool(self._stage), name
        if always or self._mode is not Show.final or self._several:
            self._wrap.end_line()
            if again:
                self._out.print()
            self._out.print(name, style="bold")

    def _print_whole(self, corrections: list[Correction]) -> None:
        from ..output import objective_names, plain_diff

        parts = [f"{self._name}\n{corrections[0].answer.text}"] if self._mode is Show.both else []
        headed = self._several or self._mode is Show.both
        for correction in corrections:
            names, before = objective_names(correction), correction.answer.text
            same = not correction.aligned or correction.text == before
            if same and self._mode is Show.both and correction.text == before:
                parts.append(f"unchanged ({names})")
                continue
            text = plain_diff(before, correction.text) if self._mode is Show.diff else correction.text
            parts.append(f"{'unchanged' if same else 'aligned'} ({names})\n{text}" if headed else text)
        sys.stdout.write("\n\n".join(parts) + "\n")


class Wrapped:
    """Text that breaks between words as it streams, at the width of the terminal; a word waits until it is whole."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._column = 0
        self._space = ""  # white space that is printed if a word follows on the same line
        self._word: list[tuple[str, str]] = []  # its parts and their styles

    def write(self, text: str, style: str = _SAME) -> None:
        """Print text, but for its last word, which may go on."""
        from ..output import printable

        for part in re.findall(r"\n|[^\S\n]+|\S+", printable(text)):
            if part == "\n":
                self._flush()
                self._newline()
            elif part.isspace():
                self._flush()
                self._space = part.expandtabs(4)
            else:
                self._word.append((part, style))
        self._out.file.flush()

    def end_line(self) -> None:
        """Print what waits, and begin a new line unless one has just begun."""
        self._flush()
        if self._column:
            self._newline()
        self._space = ""

    def _newline(self) -> None:
        self._out.print()
        self._column, self._space = 0, ""

    def _flush(self) -> None:
        from rich.cells import cell_len

        if not self._word:
            return
        length = sum(cell_len(part) for part, _ in self._word)
        if self._column and self._column + len(self._space) + length > self._out.width:
            self._newline()
        self._put(self._space, _SAME)
        self._column += len(self._space) + length
        self._space = ""
        for part, style in self._word:
            self._put(part, style)
        self._column = (self._column - 1) % self._out.width + 1  # the terminal itself breaks a longer word
        self._word.clear()

    def _put(self, text: str, style: str) -> None:
        if text:
            self._out.print(text, style=style, end="")


class Marked:
    """The aligned text as it comes, each word marked that is not the answer's, and a sign where some of it is gone.

    A pointer follows the answer; a word that is not the next one is looked for ahead, together with the word after it.
    """

    def __init__(self, answer: str, write: Callable[[str, str], None]) -> None:
        self._answer = answer.split()
        self._marks = bool(self._answer)
        self._write = write
        self._at = 0
        self._pending = ""

    def write(self, text: str) -> None:
        """Take the next part; whole words are shown once the word after them is whole, too."""
        self._pending += text
        while len(words := _WORD.findall(self._pending)) > 1:
            self._word(words[0], words[1].strip())

    def close(self) -> None:
        """Show what waits."""
        while words := re.findall(r"\s*\S+", self._pending):
            self._word(words[0], words[1].strip() if len(words) > 1 else None)
        if self._marks and self._at < len(self._answer):
            self._write(f" {_LEFT_OUT}", _GONE)

    def _word(self, text: str, following: str | None) -> None:
        self._pending = self._pending[len(text) :]
        place = self._find(text.strip(), following)
        space = text[: len(text) - len(text.lstrip())]
        if place is None:
            self._write(text, _ADDED if self._marks else _SAME)
            return
        if place > self._at:
            self._write(f"{space or ' '}{_LEFT_OUT} ", _GONE)
            space = ""
        self._write(space + text.strip(), _SAME)
        self._at = place + 1

    def _find(self, word: str, following: str | None) -> int | None:
        if self._answer[self._at : self._at + 1] == [word]:
            return self._at
        for place in range(self._at, min(len(self._answer), self._at + _AHEAD)):
            if self._answer[place] == word and self._answer[place + 1 : place + 2] == (
                [following] if following else []
            ):
                return place
        return None
