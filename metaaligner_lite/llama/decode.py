"""Generate: llama.cpp's sampler chain over a context, streamed as text that never breaks a character."""

from __future__ import annotations

import codecs
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .context import Context
from .draft import Drafter
from .library import library

OnText = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. Temperature 0 is greedy; else the same seed gives the same text."""

    temperature: float = 0.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    seed: int = 0


GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class Counts:
    """What one generation cost. `reused` prompt tokens were in the KV cache already and were not read again.

    Of the `written` tokens, `accepted` were guessed (out of `drafted` guesses) and cost no decode of their own.
    """

    read: int
    reused: int
    written: int
    drafted: int
    accepted: int
    read_seconds: float
    write_seconds: float


@dataclass(frozen=True, slots=True)
class Generation:
    """A generated text, its tokens (the end token left out), why it ended, and what it cost.

    `finish` is "end" (the model ended it), "run-on" (it began a turn of the user's; the text stops before) or
    "length" (the limit was reached: the text may lack its end).
    """

    text: str
    tokens: tuple[int, ...]
    finish: str
    counts: Counts


def generate(
    context: Context,
    prompt: Sequence[int],
    max_tokens: int,
    sampling: Sampling = GREEDY,
    on_text: OnText | None = None,
    drafter: Drafter | None = None,
    adapted_from: int | None = None,
) -> Generation:
    """Read `prompt` (reusing what the cache holds of it), then write at most `max_tokens`.

    `on_text` gets the text as it grows: whole characters, in order, nothing taken back. With a `drafter`, guessed
    tokens are verified in batches; what is written is what the sampler chooses either way (draft.py). From the
    position `adapted_from` on, the context's adapter acts.
    """
    drafter = drafter if drafter and context.can_draft else None
    began = time.perf_counter()
    reused = context.read(prompt, adapted_from)
    read_at = time.perf_counter()
    stream = TextStream(on_text)
    tokens: list[int] = []
    drafted = accepted = 0

    def write(token: int) -> str:
        """Take a chosen token; returns why the text ends with it, "" if it goes on."""
        if context.model.ends(token):
            return "end"
        tokens.append(token)
        if drafter:
            drafter.observe(token)
        if not stream.feed(context.model.piece(token)):
            return "run-on"
        return "length" if len(tokens) >= max_tokens else ""

    with _sampler(sampling) as choose:
        finish = write(choose(context, -1))
        while not finish:
            # 1) Read the last token and a guess at those that follow it, in one batch.
            room = min(max_tokens - len(tokens), context.n_batch) - 1
            guess = drafter.propose(room, context.costs) if drafter else []
            known = len(context.tokens) + 1
            context.extend([tokens[-1], *guess])
            # 2) Choose after each; go on to the next as long as the guess was right.
            right = 0
            while True:
                chosen = choose(context, right)
                finish = write(chosen)
                if finish or right == len(guess) or chosen != guess[right]:
                    break
                right += 1
            # 3) Forget what was guessed wrong.
            drafted, accepted = drafted + len(guess), accepted + right
            if context.roll_back(known + right) < known + right:  # it cannot forget a part: read again, guess no more
                context.read([*prompt, *tokens[:-1]], adapted_from)
                drafter = None
    counts = Counts(
        read=len(prompt) - reused,
        reused=reused,
        written=len(tokens),
        drafted=drafted,
        accepted=accepted,
        read_seconds=read_at - began,
        write_seconds=time.perf_counter() - read_at,
    )
    return Generation(stream.close(), tuple(tokens), finish, counts)


class TextStream:
    """Bytes in, text out: whole characters only, and nothing from a run-on "Human:" or "User:" turn on.

    Small models, and models sampled without their template, go on to invent the user's next turn. What could
    be the beginning of one (white space, then a part of the marker at a line's start) is held back until it is
    known; so is white space at the end, which is dropped.
    """

    _RUN_ON = re.compile(r"\s*\n[ \t]*(?:Human|User)[ \t]*:")
    _HELD = re.compile(r"\s+(?:H(?:u(?:m(?:an?)?)?)?|U(?:s(?:er?)?)?)?[ \t]*\Z")

    def __init__(self, on_text: OnText | None = None) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._on_text = on_text
        self._sent: list[str] = []
        self._held = ""
        self.ended = False

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; False once a run-on turn has begun."""
        self._take(self._decoder.decode(data))
        return not self.ended

    def close(self) -> str:
        """End the stream; returns the whole text, without white space around it."""
        self._take(self._decoder.decode(b"", final=True))
        if not self.ended:
            self._send(self._held.rstrip())
        return "".join(self._sent)

    def _take(self, text: str) -> None:
        if self.ended:
            return
        pending = self._held + text
        if run_on := self._RUN_ON.search(pending):
            self._send(pending[: run_on.start()])
            self.ended = True
            return
        held = self._HELD.search(pending)
        cut = held.start() if held else len(pending)
        self._send(pending[:cut])
        self._held = pending[cut:]

    def _send(self, text: str) -> None:
        if not self._sent:
            text = text.lstrip()
        if text:
            self._sent.append(text)
            if self._on_text:
                self._on_text(text)


@contextmanager
def _sampler(sampling: Sampling) -> Iterator[Callable[[Context, int], int]]:
    """llama.cpp's sampler chain: greedy, or top-k, top-p, min-p, temperature and a seeded draw."""
    lib = library()
    chain: Any = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    try:
        for link in _links(sampling):
            lib.llama_sampler_chain_add(chain, link)
        yield lambda context, place: int(lib.llama_sampler_sample(chain, context.handle, place))
    finally:
        lib.llama_sampler_free(chain)


def _links(sampling: Sampling) -> Iterator[Any]:
    lib = library()
    if sampling.temperature <= 0:
        yield lib.llama_sampler_init_greedy()
        return
    yield lib.llama_sampler_init_top_k(sampling.top_k)
    yield lib.llama_sampler_init_top_p(sampling.top_p, 1)
    yield lib.llama_sampler_init_min_p(sampling.min_p, 1)
    yield lib.llama_sampler_init_temp(sampling.temperature)
    yield lib.llama_sampler_init_dist(sampling.seed)
