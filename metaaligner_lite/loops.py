"""Loops: notice that a text goes round in circles, and where the first round ends.

Small models under greedy decoding repeat a stretch to the limit (ggml-org/llama.cpp#13066). A text loops when

- its last LOOP words were all written before, in the same order. Words are what holds a letter; numbers and marks
  between them do not count, so that "1. Be kind. 2. Be kind." loops, too;
- a sentence (or line) of SENTENCE words or more is said for the third time, and STALE of what was written since its
  first time are words that were written before, too, in stretches of GRAM (loops that drift: "I'll send it. I'll also
  send it. I'll send it."). Numbers count here, but for those that count lines;
- a stretch of SENTENCE words or more is written THRICE in a row, or a shorter one ROUNDS times over SPREAD characters,
  with the same numbers;
- a word does not end ("max_window_max_window_...", "hahaha..."): its last ENDLESS characters were all in it before;
- its last MARKS numbers and marks were all written before (SYMBOLS, where they are emoji);
- it ends, or is cut at its limit, with DOUBLED words that were just said, in rounds of DOUBLED / 2 words at least and
  with the same numbers.

It ends before what is said again, or with the sentence that had begun there, so the first round stays whole (of a word
without end, its first WORD characters). Inside a block of code all this takes FENCED times as much (ENDLESS and SPREAD
twice as much, ROUNDS the same, and half the ROUNDS in place of THRICE), and sentences are not looked at.

What passes: a refrain of up to LOOP words however often it returns between verses, lists of a dozen equal lines,
"no no no" sixty times, tables of numbers, lists whose lines differ in a word. What does not: a chorus longer than LOOP
words sung again in the same words, and a long line three times with nothing new between. What becomes of 4,800 answers
of four models stands in bench/README.md, under real_pair.py.

The cost is some ten microseconds a word: a suffix automaton knows how long the end of the text that occurred before is.
Numbers and marks ("0, 0, 0, ...", "!!!!") are watched the same way by an automaton of their own.
"""

from __future__ import annotations

import re
from collections.abc import Hashable

LOOP = 64
DOUBLED = 16
SENTENCE, MOST = 6, 64  # words
STALE, GRAM = 0.8, 6
ROUNDS, SPREAD, THRICE = 16, 256, 3
MARKS = 256  # numbers and marks that were all written before: rows of zeros, rules of dashes
SYMBOLS = 64  # the same of emoji and their like, from U+2600 on, which rule no lines
WORD, ENDLESS = 32, 128  # characters
FENCED = 4

# Chinese, Japanese, Korean, Thai and their like put no spaces between words: each character is one.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
_UNIT = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]")
_LETTER = re.compile(r"[^\W\d_]")
_STUB = re.compile(r"\s*\n[ \t]*(?:\d+[.):]?|[-*+•#]+)?[ \t]*\Z")
_COUNTERS = re.compile(r"^[ \t]*\d+[.):]", re.MULTILINE)
_SENTENCE = re.compile(r"[.!?。！？][\"')\]]*(?=\s)|\n")
_ENDS = tuple(".!?:;。！？")
_BETWEEN = re.compile(r"(?:\A|[.!?:;。！？\n][\"')\]]*)\s*(?:\d+[.):]?|[-*+•#]+)?\s*\Z")
_RUN_ON = re.compile(r"\s*\n\s*\n[ \t]*Human:")


class Repeats:
    """How much of the end of a sequence occurred in it before, told for each item as it comes.

    A suffix automaton (Blumer et al. 1985) of all but the last item; amortized constant time and room per item.
    """

    def __init__(self) -> None:
        self._next: list[dict[Hashable, int]] = [{}]
        self._link, self._length = [-1], [0]
        self._last = 0
        self._at, self.length = 0, 0  # the state of the longest suffix that occurred before, and its length

    def add(self, item: Hashable) -> int:
        """Take the next item; the length of the longest suffix, it included, that occurred before."""
        while self._at and item not in self._next[self._at]:
            self._at = self._link[self._at]
            self.length = self._length[self._at]
        if item in self._next[self._at]:
            self._at, self.length = self._next[self._at][item], self.length + 1
        else:
            self._at, self.length = 0, 0
        self._extend(item)
        # The state that matched may have been split just now: the suffix then lives in its shorter half.
        while self._at and self._length[self._link[self._at]] >= self.length:
            self._at = self._link[self._at]
        return self.length

    def _extend(self, item: Hashable) -> None:
        new = self._state(self._length[self._last] + 1, {})
        at = self._last
        while at >= 0 and item not in self._next[at]:
            self._next[at][item] = new
            at = self._link[at]
        if at < 0:
            self._link[new] = 0
        else:
            target = self._next[at][item]
            if self._length[target] == self._length[at] + 1:
                self._link[new] = target
            else:
                half = self._state(self._length[at] + 1, dict(self._next[target]))
                self._link[half] = self._link[target]
                while at >= 0 and self._next[at].get(item) == target:
                    self._next[at][item] = half
                    at = self._link[at]
                self._link[target] = self._link[new] = half
        self._last = new

    def _state(self, length: int, following: dict[Hashable, int]) -> int:
        self._next.append(following)
        self._link.append(-1)
        self._length.append(length)
        return len(self._length) - 1


class Sentences:
    """Where a sentence begins for the third time, with little that is new since its first."""

    def __init__(self) -> None:
        self._words: list[str] = []
        self._stale = bytearray()  # for each word: whether it stands in a stretch that was written before
        self._grams: set[tuple[str, ...]] = set()
        self._first: dict[tuple[str, ...], int] = {}  # sentence -> how many words there were after its first time
        self._twice: set[tuple[str, ...]] = set()
        self._at, self._mark = 0, ""  # the word where the sentence begins; the last mark

    def add(self, unit: str, between: str) -> bool:
        """Take the next word, number or mark, and what stood before it; whether a sentence is said too often by now."""
        if "\n" in between or (between and self._mark in _ENDS):
            self._end()
        self._mark = unit
        if not unit[0].isalnum() or ("\n" in between and unit.isdecimal()):  # such a number counts lines
            return False
        self._words.append(unit.casefold())
        self._note()
        if len(self._words) - self._at > MOST or (sentence := tuple(self._words[self._at :])) not in self._twice:
            return False
        since = self._stale[self._first[sentence] :]
        return sum(since) >= STALE * len(since)

    def _note(self) -> None:
        self._stale.append(0)
        gram = tuple(self._words[-GRAM:])
        if gram in self._grams:
            self._stale[-GRAM:] = b"\1" * len(gram)
        elif len(gram) == GRAM:
            self._grams.add(gram)

    def _end(self) -> None:
        sentence = tuple(self._words[self._at :])
        self._at = len(self._words)
        if len(sentence) <= MOST and sum(bool(_LETTER.search(word)) for word in sentence) >= SENTENCE:
            if sentence in self._first:
                self._twice.add(sentence)
            else:
                self._first[sentence] = self._at


class LoopGuard:
    """Watches a text as it grows, and says how much of it may be shown and where it began to go in circles.

    All places are numbers of characters from the text's beginning.
    """

    def __init__(self) -> None:
        self._text = ""
        self._seen = 0  # what stands before is in the automata
        self._words, self._marks = Repeats(), Repeats()
        self._word_places: list[int] = []
        self._mark_places: list[int] = []
        self._said: list[str] = []
        self._beginnings: set[str] = set()  # what said words begin with
        self._long_at, self._letters, self._long = -1, Repeats(), 0  # a long word: place, its characters, how many
        self._ticks, self._fenced = 0, False
        self._sentences = Sentences()

    def add(self, text: str, *, final: bool = False) -> int | None:
        """Take the next characters; how many of all to keep if the text loops by now, else None.

        A word at the end may go on: it counts once something follows, or the text is `final`.
        """
        self._text += text
        for unit in _UNIT.finditer(self._text, self._seen):
            if (keep := self._endless(unit.group(), unit.start())) is not None:
                return keep
            if unit.end() == len(self._text) and not final and unit.group()[0].isalnum():
                break
            between = self._text[self._seen : unit.start()]
            self._seen = unit.end()
            third = self._sentences.add(unit.group(), between) and not self._fenced
            if self._add(unit.group(), unit.start()):
                places, repeats = (
                    (self._word_places, self._words)
                    if _LETTER.search(unit.group())
                    else (self._mark_places, self._marks)
                )
                return self._cut(places[-repeats.length])
            if third:
                return self._cut(self._word_places[-self._words.length])
        return None

    def doubled(self) -> int | None:
        """At the end of a text: how many characters to keep if it ends with a stretch said twice in a row."""
        self.add("", final=True)
        repeated = self._words.length
        if repeated < self._times(DOUBLED):
            return None
        period = self._period(repeated, DOUBLED // 2)
        return self._cut(self._word_places[-repeated]) if period and self._same_numbers(period) else None

    @property
    def safe(self) -> int:
        """How many characters will stay whatever comes: those before the end that occurred before."""
        begun = self._text[self._seen :].lstrip()  # a word or a number that may go on; numbers do not end a repetition
        if _LETTER.search(begun) and begun[:WORD].casefold() not in self._beginnings:
            if self._long_at < self._seen:
                return len(self._text)
            return max(self._long_at + WORD, len(self._text) - self._letters.length)
        repeated = self._words.length
        return self._line_start(self._word_places[-repeated] if repeated else len(self._text) - len(begun))

    def _endless(self, word: str, place: int) -> int | None:
        """How many characters to keep if a word goes round in circles; it may have grown since the last call."""
        if len(word) <= WORD:
            return None
        if place != self._long_at:
            self._long_at, self._letters, self._long = place, Repeats(), 0
        for end, letter in enumerate(word[self._long :], self._long + 1):
            if self._letters.add(letter) >= self._times(ENDLESS, 2):
                return place + max(WORD, end - self._letters.length)
        self._long = len(word)
        return None

    def _add(self, unit: str, place: int) -> bool:
        self._ticks = self._ticks + 1 if unit == "`" else 0
        if self._ticks == 3:
            self._ticks, self._fenced = 0, not self._fenced
        if _LETTER.search(unit):
            word = unit.casefold()
            self._said.append(word)
            self._beginnings.update(word[:n] for n in range(1, min(len(word), WORD) + 1))
            self._word_places.append(place)
            return self._words.add(word) >= self._times(LOOP) or self._in_a_row(place + len(unit))
        self._mark_places.append(place)
        return self._marks.add(unit) >= self._times(MARKS if unit < "\u2600" else SYMBOLS)

    def _in_a_row(self, end: int) -> bool:
        """Whether the text, which ends there, says one short thing again and again."""
        repeated = self._words.length
        if repeated < (THRICE - 1) * SENTENCE or not (period := self._period(repeated)):
            return False
        rounds = ROUNDS if period < SENTENCE else ROUNDS // 2 if self._fenced else THRICE
        far = rounds == THRICE or end - self._word_places[-repeated] >= self._times(SPREAD, 2)
        return repeated >= (rounds - 1) * period and far and self._same_numbers(period)

    def _period(self, repeated: int, least: int = 1) -> int:
        """After how many words, `least` or more, so many last words are those before them again; 0 if they are not."""
        said = self._said
        for period in range(least, repeated + 1):
            if said[-1] == said[-1 - period] and said[-repeated:] == said[-repeated - period : -period]:
                return period
        return 0

    def _same_numbers(self, period: int) -> bool:
        """Whether the words that are said again say the same numbers, too."""
        again, before = (self._word_places[-self._words.length - back] for back in (0, period))
        same = zip(_numbers(self._text[again:]), _numbers(self._text[before:again]), strict=False)
        return all(one == other for one, other in same)

    def _times(self, most: int, fenced: int = FENCED) -> int:
        return most * (fenced if self._fenced else 1)

    def _cut(self, place: int) -> int:
        """Where to end a text of which all is said again from a place on: with the sentence that had begun before."""
        if self._fenced or _BETWEEN.search(self._text, max(0, place - 16), place):
            return self._line_start(place)
        ends = _SENTENCE.search(self._text, place)
        return (ends.start() if ends.group() == "\n" else ends.end()) if ends else self._line_start(place)

    def _line_start(self, place: int) -> int:
        """A place, or the end of the line before it, if only a number or a bullet stands between."""
        if begins := _STUB.search(self._text, max(0, place - 16), place):
            return begins.start()
        return place


def _numbers(text: str) -> list[str]:
    """The numbers in a text that tell something: not those that count its lines."""
    return re.findall(r"\d+", _COUNTERS.sub("", text))


def tidy(text: str) -> str:
    """A text without what no reader wants: rounds of a loop after the first, an invented "Human:" turn at its end.

    Any other text comes back as it is.
    """
    run_on = _RUN_ON.search(text)
    kept = text[: run_on.start()] if run_on else text
    guard = LoopGuard()
    cut = guard.add(kept, final=True)
    if cut is None:
        cut = guard.doubled()
    if cut is not None:
        kept = kept[:cut]
    return text if kept == text else kept.rstrip()
