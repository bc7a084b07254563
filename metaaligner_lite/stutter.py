"""A sentence that an edit says twice in a row, and its answer does not, is said once: in a whole text or a stream.

Small aligners lose their place in the answer now and then and copy a sentence a second time. It is no loop (loops.py):
the text goes on behind it. What may become such a sentence is held back until it is known, so nothing is taken back.
Sentences of fewer than WORDS words may be said twice, as may anything in a block of code.
"""

from __future__ import annotations

import re
from collections.abc import Callable

WORDS = 5

_END = re.compile(r"[.!?…。！？][\"'”’)*\]]*(?=\s)|\n")
_LEAD = re.compile(r"\s*(?:(?:\d{1,3}[.):]|[-*+•#>]+)[ \t]+)?")  # white space, then the mark of an item
_MARK_BEGUN = re.compile(r"\d{0,3}[.):]?|[-*+•#>]+")
_BACK = 8  # a mark and the quotation marks behind it


def unstuttered(text: str, answer: str = "") -> str:
    """An edit of `answer` without sentences said twice in a row; any other text comes back as it is."""
    parts: list[str] = []
    told = StutterFilter(parts.append, answer)
    told.feed(text)
    told.close()
    return "".join(parts) if told.dropped else text


class StutterFilter:
    """Takes an edit of `answer` as it grows, and tells `on_text` the same without sentences said twice in a row."""

    def __init__(self, on_text: Callable[[str], None], answer: str = "") -> None:
        self.dropped = 0
        self._on_text = on_text
        self._allowed = _doubled(answer) if answer else frozenset[tuple[str, ...]]()
        self._last: tuple[str, ...] = ()
        self._held = ""  # of the sentence under way, what was not told
        self._told = ""  # ... and what was
        self._scanned = 0  # how far into the sentence no end was found
        self._lead = ""  # of a dropped sentence that began a line
        self._fenced = False

    def feed(self, text: str) -> None:
        """Take the next characters."""
        self._held += text
        while (end := self._end()) is not None:
            whole = self._told + self._held
            rest = whole[end:]
            self._held = self._held[: len(self._held) - len(rest)]
            self._finish()
            self._held = rest
        if self._told or not self._may_repeat():
            self._tell()

    def close(self) -> None:
        """Tell what was held back, unless it is the last sentence again."""
        self._finish()

    def _end(self) -> int | None:
        """Where the sentence under way ends, once that is known."""
        whole = self._told + self._held
        lead = _LEAD.match(whole)
        assert lead
        if lead.end() == len(whole):
            return None
        end = _END.search(whole, max(lead.end(), self._scanned - _BACK))
        self._scanned = len(whole)
        if not end:
            return None
        return end.start() if end.group() == "\n" else end.end()

    def _may_repeat(self) -> bool:
        """Whether what is held may become the last sentence again, or the mark of an item."""
        lead = _LEAD.match(self._held)
        assert lead
        body = self._held[lead.end() :]
        if _MARK_BEGUN.fullmatch(body):
            return True
        return self._counts(self._last) and " ".join(self._last).startswith(" ".join(_words(body)))

    def _counts(self, sentence: tuple[str, ...]) -> bool:
        return len(sentence) >= WORDS and not self._fenced and sentence not in self._allowed

    def _finish(self) -> None:
        whole = self._told + self._held
        lead = _LEAD.match(whole)
        assert lead
        said = _words(whole[lead.end() :])
        if said and said == self._last and not self._told and self._counts(said):
            self.dropped += 1
            self._lead = lead.group() if "\n" in lead.group() else self._lead
            self._held = ""
        else:
            self._tell()
            self._last = said or self._last
            if "```" in whole:
                self._fenced ^= whole.count("```") % 2 == 1
                self._last = ()
        self._told, self._scanned = "", 0

    def _tell(self) -> None:
        if self._held:
            lead = _LEAD.match(self._held)
            assert lead
            if self._lead and not self._told and "\n" not in lead.group():  # it goes on in a line whose beginning went
                self._on_text(self._lead + self._held[lead.end() :])
            else:
                self._on_text(self._held)
            self._lead = ""
            self._told, self._held = self._told + self._held, ""


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.casefold()))


def _doubled(text: str) -> frozenset[tuple[str, ...]]:
    """The sentences that a text says twice in a row itself."""
    found: set[tuple[str, ...]] = set()
    last: tuple[str, ...] = ()
    place = 0
    while place < len(text):
        lead = _LEAD.match(text, place)
        assert lead
        end = _END.search(text, lead.end())
        stop = len(text) if not end else end.start() if end.group() == "\n" else end.end()
        said = _words(text[lead.end() : stop])
        if said and said == last:
            found.add(said)
        last, place = said or last, max(stop, lead.end())
    return frozenset(found)
