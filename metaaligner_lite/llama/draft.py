"""Answer-drafted decoding: guess the next tokens by copying the text being edited, verify them in one batch.

An edit copies most of the weak answer. `Drafter` follows it with a pointer: where the edit copies, the pointer moves
along; where it inserts, it waits; where it skips or reorders, the last tokens find the new place. Every written
token scores the pointer's guess, drafted or not, so how far to trust a guess is learned at no cost: by how the place
was found, and by how many guesses have been right since. How many tokens to draft follows from that trust and from
what a batch of n tokens costs on this machine (`BatchCosts`).

Verification is exact: a token is kept only if the sampler, given the true logits at its place, chose it. So greedy
output stays greedy output, and sampled output keeps its distribution, up to what larger batches round differently.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

MOST = 31  # drafted tokens per batch; with the token before them, a batch of 32
_LENGTHS = (1, 3, 7, 15, MOST)  # with the token before them the sizes that llama.cpp's kernels are good at
_BREAK = -1  # between sources: no token

# How the pointer found its place: at the beginning, left waiting at a divergence, or by the last 2 or 3 tokens.
_START, _WAITING, _BY_TWO, _BY_THREE = range(4)
# For each, the chance that the next guess is right after a streak of right ones: a prior, as strong as so many tries.
# Two tokens are often met by chance, in new text most of all: a place found by them has to prove itself first.
_CLASSES = (0, 1, 2, 3, 3, 3, 4)  # the class of each streak; longer ones are of the last
_TRIES = (4.0, 4.0, 4.0, 8.0, 16.0)
_CHANCE = (
    (0.50, 0.90, 0.90, 0.94, 0.96),
    (0.05, 0.60, 0.85, 0.92, 0.96),
    (0.25, 0.75, 0.85, 0.92, 0.97),
    (0.70, 0.90, 0.92, 0.94, 0.97),
)
# One edit differs from the next more than one kind of place from another: guesses that promised to be right and were
# not make all of them less trusted. Below this chance a guess promises nothing, being never worth a draft by itself.
_PROMISING = 0.3


class BatchCosts:
    """What one llama_decode of n tokens costs: as `mal tune` measured it, (n, seconds), else relative to one token.

    Fixed, not learned while decoding: so the lengths of drafts follow from the texts alone, a run repeats itself to
    the last rounding, and one decode that the system disturbed cannot mislead the next ones. The shapes without a
    measurement, by whether flash attention runs on the CPU, are those of a 1.1B model on two cores (Q4_K_M, 512 tokens
    in the cache; bench/LOG.md).
    """

    _SHAPE = ((1, 1.0), (2, 1.45), (4, 1.6), (8, 3.0), (16, 4.1), (32, 7.3))
    # Two and four tokens are reckoned: those of the shape above, and what flash attention adds to each other token.
    _FLASH = ((1, 1.0), (2, 1.5), (4, 2.0), (8, 4.0), (16, 6.5), (32, 12.6))

    def __init__(self, measured: Sequence[tuple[int, float]] = (), *, flash: bool = False) -> None:
        known = measured or (self._FLASH if flash else self._SHAPE)
        self._sizes = [size for size, _ in known]
        self._seconds = list(accumulate((cost for _, cost in known), max))  # a larger batch is never cheaper

    def __call__(self, size: int) -> float:
        """The expected cost of a decode of `size` tokens; between two known sizes it grows evenly."""
        i = bisect_left(self._sizes, size)
        if i < len(self._sizes) and self._sizes[i] == size:
            return self._seconds[i]
        i = min(max(i, 1), len(self._sizes) - 1)
        (x0, x1), (y0, y1) = self._sizes[i - 1 : i + 1], self._seconds[i - 1 : i + 1]
        return y0 + (y1 - y0) * (size - x0) / (x1 - x0)


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
        self._found = _START
        self._tries = [list(_TRIES) for _ in _CHANCE]
        self._hits = [[chance * tries for chance, tries in zip(row, _TRIES, strict=True)] for row in _CHANCE]
        self._promised = self._kept = 2.0  # a weak prior: promises are kept

    @property
    def at(self) -> int:
        """The place in the sources that is expected next."""
        return self._at

    @property
    def follows(self) -> bool:
        """Whether the last token was the expected one."""
        return self._streak > 0

    @property
    def streak(self) -> int:
        """How many tokens in a row were the expected ones."""
        return self._streak

    def propose(self, limit: int, costs: BatchCosts, others: int = 0) -> list[int]:
        """The tokens worth verifying next, at most `limit`; often none. `others` tokens travel in the same batch."""
        ahead = self._source[self._at : self._at + min(limit, MOST)]
        if _BREAK in ahead:
            ahead = ahead[: ahead.index(_BREAK)]
        if not ahead:
            return []
        hits, tries, kept = self._hits[self._found], self._tries[self._found], min(1.0, self._kept / self._promised)
        trust = [kept * hits[kind] / tries[kind] for kind in range(len(tries))]
        best, best_rate = 0, (others + 1.0) / costs(others + 1)
        expected, chance, done = 1.0, 1.0, 0
        for length in (*(n for n in _LENGTHS if n < len(ahead)), len(ahead)):
            while done < length:
                chance *= trust[_CLASSES[min(self._streak + done, len(_CLASSES) - 1)]]
                expected += chance
                done += 1
            rate = (others + expected) / costs(others + length + 1)
            if rate > best_rate:
                best, best_rate = length, rate
            elif chance < 0.01:  # what follows adds nothing
                break
        return ahead[:best]

    def observe(self, token: int) -> None:
        """Score the guess against the token that was written, and move the pointer."""
        self._recent = (*self._recent[-2:], token)
        if not self._source:
            return
        guess = self._source[self._at] if self._at < len(self._source) else _BREAK
        if guess != _BREAK:
            kind = _CLASSES[min(self._streak, len(_CLASSES) - 1)]
            if (chance := self._hits[self._found][kind] / self._tries[self._found][kind]) > _PROMISING:
                self._promised += chance
                self._kept += guess == token
            self._tries[self._found][kind] += 1
            self._hits[self._found][kind] += guess == token
        if guess == token:
            self._at += 1
            self._streak += 1
            return
        self._streak, self._found = 0, _WAITING
        for n, found in ((3, _BY_THREE), (2, _BY_TWO)):
            if places := self._places.get(self._recent[-n:]):
                self._at, self._found = self._nearest(places), found
                return

    def _nearest(self, places: list[int]) -> int:
        """The first place ahead of the pointer, since edits mostly move forward; else the last before it."""
        i = bisect_left(places, self._at)
        return places[i] if i < len(places) else places[-1]
