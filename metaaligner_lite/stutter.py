"""A sentence that an edit says twice in a row, and its answer does not, is said once: in a whole text or a stream.

Small aligners lose their place in the answer now and then and copy a sentence a second time. It is no loop (loops.py):
the text goes on behind it. What may become such a sentence is held back until it is known, so nothing is taken back.
It must be the same letter for letter, but for case and spaces, of WORDS words or more and at most LONGEST characters;
blocks of code, indented lines and tables may say what they like. A list may be left with a number less.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

WORDS, LONGEST = 5, 1000

_END = re.compile(r"[.!?…][\"'”’)*\]]{0,4}(?=\s)|\n")
_BACK = 5  # a mark and what closes behind it
_LEAD = re.compile(r"\s*(?:(?:\d{1,3}[.):]|[-*+•#>]+)[ \t]+)?")  # white space, then the mark of an item
_MARK_BEGUN = re.compile(r"\d{0,3}[.):]?|[-*+•#>]+")
_FENCE = re.compile(r"```|~~~")
_WORD = re.compile(r"\S*[^\W\d_]\S*")
_INDENTED = re.compile(r"(?:\n|\A)(?: {4}|\t)[^\n]*\Z")


def unstuttered(text: str, answer: str = "") -> str:
    """An edit of `answer` without sentences said twice in a row; any other text comes back as it is."""
    parts: list[str] = []
    stream = StutterFilter(parts.append, answer)
    stream.feed(text)
    stream.close()
    return "".join(parts) if stream.dropped else text


class StutterFilter:
    """Takes an edit of `answer` as it grows, and tells `on_text` the same without sentences said twice in a row."""

    def __init__(self, on_text: Callable[[str], None], answer: str = "") -> None:
        self.dropped = 0
        self._on_text = on_text
        self._allowed = frozenset(_doubled(answer))
        self._text = ""  # the sentence under way, and what came behind it
        self._begin = self._told = self._scanned = 0  # in it: the sentence, what was told, where no end was found
        self._last = ""  # the sentence before, if it may not be said again
        self._lead = ""  # of a dropped sentence that began a line
        self._fenced = False

    def feed(self, text: str) -> None:
        """Take the next characters."""
        self._text += text
        while (end := _end(self._text, self._begin, self._scanned)) is not None:
            self._finish(end)
        self._scanned = max(self._begin, len(self._text) - _BACK)
        if self._told > self._begin or not self._may_repeat():
            self._tell(len(self._text))
        self._text = self._text[self._begin :]
        self._told, self._scanned = max(0, self._told - self._begin), max(0, self._scanned - self._begin)
        self._begin = 0

    def close(self) -> None:
        """Tell what was held back, unless it is the last sentence again."""
        self._finish(len(self._text))

    def _may_repeat(self) -> bool:
        """Whether what is held may become the last sentence again, or the mark of an item."""
        body = self._text[_lead(self._text, self._begin) :]
        if _MARK_BEGUN.fullmatch(body):
            return True
        return bool(self._last) and len(body) <= 2 * LONGEST and self._last.startswith(_plain(body))

    def _finish(self, end: int) -> None:
        """The sentence under way ends there: tell it, or drop it."""
        begin, self._begin = self._begin, end
        body = _lead(self._text, begin)
        said = _plain(self._text[body:end])
        if said and said == self._last and self._told <= begin:
            self.dropped += 1
            lead = self._text[begin:body]
            self._lead = lead if "\n" in lead else self._lead
            self._told = self._scanned = end
            return
        self._tell(end, begin)
        self._scanned = end
        if said:
            fences = len(_FENCE.findall(self._text, begin, end))
            self._fenced ^= fences % 2 == 1
            counts = not fences and not self._fenced and _counts(self._text[begin:body], said)
            self._last = said if counts and said not in self._allowed else ""

    def _tell(self, end: int, begin: int | None = None) -> None:
        begin = self._begin if begin is None else begin
        part = self._text[max(begin, self._told) : end]
        if not part:
            return
        if self._lead and self._told <= begin:
            body = _lead(self._text, begin)
            if "\n" not in self._text[begin:body]:  # it goes on in a line whose beginning went
                part = self._lead + self._text[body:end]
            self._lead = ""
        self._on_text(part)
        self._told = end


def _lead(text: str, begin: int) -> int:
    """Where a sentence's own words begin."""
    found = _LEAD.match(text, begin)
    assert found
    return found.end()


def _end(text: str, begin: int, scanned: int) -> int | None:
    """Where the sentence that begins there ends, None where that is not known yet."""
    body = _lead(text, begin)
    if body == len(text):
        return None
    end = _END.search(text, max(body, scanned))
    if not end:
        return None
    return end.start() if end.group() == "\n" else end.end()


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _counts(lead: str, said: str) -> bool:
    return (
        len(said) <= LONGEST
        and "|" not in said
        and not _INDENTED.search(lead)
        and sum(1 for _ in _WORD.finditer(said)) >= WORDS
    )


def _doubled(text: str) -> Iterator[str]:
    """The sentences that a text says twice in a row itself."""
    last, begin = "", 0
    while begin < len(text):
        end = _end(text, begin, begin)
        end = len(text) if end is None else end
        said = _plain(text[_lead(text, begin) : end])
        if said and said == last:
            yield said
        last, begin = said or last, end
