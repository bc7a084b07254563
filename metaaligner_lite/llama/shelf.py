"""What the KV cache gives up, kept in memory for the conversation that may go on: the least recently used goes.

A cache that held many conversations at once would make every token of each slower, since attention passes over all of
it. A state that was put away comes back at the speed of memory: reading it again would take a hundred times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .context import NEVER, Cached, Context, common_prefix

_WORTH_KEEPING = 32  # tokens; fewer are read sooner than put away
_WORTH_FETCHING = 16  # tokens more than the cache has


@dataclass(frozen=True, slots=True)
class Kept:
    """A prefix and its state, as Context.restore takes it."""

    tokens: tuple[int, ...]
    state: bytes


class Shelf:
    """Prefixes of one model's, up to `limit` bytes; none of them was read with an adapter."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._kept: list[Kept] = []  # the least recently used first

    def find(self, prompt: Sequence[int], adapted_from: int, held: int) -> Kept | None:
        """What holds most of a prompt, if that is clearly more than the `held` tokens at hand."""
        sizes = [min(common_prefix(kept.tokens, prompt), adapted_from) for kept in self._kept]
        best = max(range(len(sizes)), key=sizes.__getitem__, default=-1)
        return self._kept[best] if best >= 0 and sizes[best] >= held + _WORTH_FETCHING else None

    def get(self, kept: Kept, context: Context, sequence: int) -> bool:
        """Let a sequence of the cache hold it; False, and the sequence is empty, without room."""
        self._drop(kept)
        self._add(kept)
        return context.restore(Cached(list(kept.tokens), NEVER), kept.state, sequence)

    def put(self, context: Context, sequence: int) -> None:
        """Keep what a sequence holds, up to where the adapter began to act; it loses what comes behind."""
        cached = context.sequences[sequence]
        length = min(len(cached.tokens), cached.adapted_from)
        if length < _WORTH_KEEPING:
            return
        tokens = tuple(cached.tokens[:length])
        for kept in [*self._kept]:
            same = common_prefix(kept.tokens, tokens)
            if same == length:  # it is kept already
                self._drop(kept)
                self._add(kept)
                return
            if same == len(kept.tokens):  # the same conversation, before its last turns
                self._drop(kept)
        if context.roll_back(length, sequence) < length or not (state := context.state(sequence)):
            return
        if len(state) > self.limit:
            return
        while self._kept and self.size + len(state) > self.limit:
            self._drop(self._kept[0])
        self._add(Kept(tokens, state))

    def _add(self, kept: Kept) -> None:
        self._kept.append(kept)
        self.size += len(kept.state)

    def _drop(self, kept: Kept) -> None:
        self._kept.remove(kept)
        self.size -= len(kept.state)
