"""Answer-drafted decoding: guess the next tokens by copying the text being edited, verify them in one batch.

An edit copies most of the weak answer. `Drafter` follows it with a pointer: where the edit copies, the pointer moves
along; where it inserts, it waits; where it skips or reorders, the last tokens find the new place. Every written
token scores the pointer's guess, drafted or not, so how far to trust a guess is learned at no cost. How many tokens
to draft follows from that trust and from what a batch of n tokens costs on this machine (`BatchCosts`).

Verification is exact: a token is kept only if the sampler, given the true logits at its place, chose it. So greedy
output stays greedy output, and sampled output keeps its distribution.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

MOST = 31  # drafted tokens per batch; with the token before them, a batch of 32
_LENGTHS = (1, 2, 3, 5, 7, 11, 15, 23, MOST)
_BREAK = -1  # between sources: no token

# Chance that the next guess is right after a streak of n right ones (hits, tries): a prior, as strong as so many tries.
_PRIOR = ((1.0, 4.0), (3.0, 4.0), (3.5, 4.0), (7.4, 8.0), (15.2, 16.0))
_STREAKS = (0, 1, 2, 3, 6)  # the shortest streak of each class


class BatchCosts:
    """Seconds that one llama_decode of n tokens takes, learned while decoding.

    Starts from the shape measured for a 1.1B model on two cores (Q4_K_M, flash attention off).
    """

    _SHAPE = ((1, 1.0), (2, 1.35), (4, 2.0), (8, 3.2), (16, 4.6), (32, 8.3))

    def __init__(self) -> None:
        self._sizes = [size for size, _ in self._SHAPE]
        self._seconds = [cost for _, cost in self._SHAPE]
        self._measured = [False] * len(self._SHAPE)

    def record(self, size: int, seconds: float) -> None:
        """Learn from one decode; sizes between two known ones correct the nearer."""
        if size > self._sizes[-1]:
            return
        at = min(range(len(self._sizes)), key=lambda i: abs(self._sizes[i] - size))
        seconds *= self._seconds[at] / self(size)  # as if it had been of exactly that size
        if not self._measured[at]:
            if not any(self._measured):  # the first figure sets the scale of all
                scale = seconds / self._seconds[at]
                self._seconds = [cost * scale for cost in self._seconds]
            self._measured[at] = True
            self._seconds[at] = seconds
        else:
            self._seconds[at] += 0.2 * (seconds - self._seconds[at])

    def __call__(self, size: int) -> float:
        """The expected cost of a decode of `size` tokens (seconds once measured; else relative to one token)."""
        i = bisect_left(self._sizes, size)
        if i < len(self._sizes) and self._sizes[i] == size:
            return self._seconds[i]
        i = min(max(i, 1), len(self._sizes) - 1)
        (x0, x1), (y0, y1) = self._sizes[i - 1 : i + 1], self._seconds[i - 1 : i + 1]
        return max(y0 + (y1 - y0) * (size - x0) / (x1 - x0), min(y0, y1))


class Drafter:
    """Guesses the next tokens of an edit from the texts it may copy: the answer first, then others (the query)."""

    def __init__(self, *sources: Sequence[int]) -> None:
        self._source: list[int] = []
        for source in sources:
            self._source += [*source, _BREAK]
        self._places: dict[tuple[int, ...], list[int]] = {}
        for n in (2, 3):
            for end in range(n, len(self._source) + 1):
                gram = tuple(self._source[end - n : end])
                if _BREAK not in gram:
                    self._places.setdefault(gram, []).append(end)
        self._at = 0
        self._streak = 0
        self._recent: tuple[int, ...] = ()
        self._hits = [hits for hits, _ in _PRIOR]
        self._tries = [tries for _, tries in _PRIOR]

    def propose(self, limit: int, costs: BatchCosts, others: int = 0) -> list[int]:
        """The tokens worth verifying next, at most `limit`; often none. `others` tokens travel in the same batch."""
        ahead = self._source[self._at : self._at + min(limit, MOST)]
        if _BREAK in ahead:
            ahead = ahead[: ahead.index(_BREAK)]
        best, best_rate = 0, (others + 1.0) / costs(others + 1)
        expected, chance, done = 1.0, 1.0, 0
        for length in (*(n for n in _LENGTHS if n < len(ahead)), len(ahead)):
            while done < length:
                chance *= self._trust(self._streak + done)
                expected += chance
                done += 1
            rate = (others + expected) / costs(others + length + 1)
            if rate > best_rate:
                best, best_rate = length, rate
        return ahead[:best]

    def observe(self, token: int) -> None:
        """Score the guess against the token that was written, and move the pointer."""
        self._recent = (*self._recent[-2:], token)
        if not self._source:
            return
        guess = self._source[self._at] if self._at < len(self._source) else _BREAK
        if guess != _BREAK:
            kind = self._class(self._streak)
            self._tries[kind] += 1
            self._hits[kind] += guess == token
        if guess == token:
            self._at += 1
            self._streak += 1
            return
        self._streak = 0
        for n in (3, 2):
            if places := self._places.get(self._recent[-n:]):
                self._at = self._nearest(places)
                self._streak = n - 1
                return

    def _nearest(self, places: list[int]) -> int:
        """The first place ahead of the pointer, since edits mostly move forward; else the last before it."""
        i = bisect_left(places, self._at)
        return places[i] if i < len(places) else places[-1]

    def _trust(self, streak: int) -> float:
        kind = self._class(streak)
        return self._hits[kind] / self._tries[kind]

    @staticmethod
    def _class(streak: int) -> int:
        kind = len(_STREAKS) - 1
        while streak < _STREAKS[kind]:
            kind -= 1
        return kind
