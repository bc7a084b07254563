"""Generate: llama.cpp's sampler chain over a context, streamed as text that never breaks a character."""

from __future__ import annotations

import codecs
import ctypes
import re
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from ..generation import GREEDY, Counts, Generation, OnText, Sampling, Stop
from ..loops import LoopGuard
from .context import NEVER, Context, Stopped
from .draft import Drafter
from .library import library
from .shelf import Shelf
from .sure import SureCopy

# llama.cpp's defaults (common/common.h).
_PENALTY_LAST = 64
_DRY_BASE, _DRY_LENGTH = 1.75, 2
_DRY_BREAKERS = (b"\n", b":", b'"', b"*")

OnDone = Callable[[int, Generation], None]  # gets the number of a text and the text, as soon as it has ended


@dataclass(frozen=True, slots=True)
class Task:
    """One text to write: what to read first, how much to write at most, and how.

    `on_text` gets the text as it grows: whole characters, in order, nothing taken back. With a `drafter`, guessed
    tokens are verified in batches; what is written is what the sampler chooses either way (draft.py). From the
    position `adapted_from` on, the context's adapter acts. The text ends before a line that begins with one of `marks`
    (templates.ChatTemplate.marks): the user's next turn, which the model invents; and before any of `stops`, wherever
    it stands. Once its own `stop` says so, it ends as it is. With `sure`, greedy text follows an answer: its code, and
    its sentences if that is sure enough (sure.py).
    """

    prompt: Sequence[int]
    max_tokens: int
    sampling: Sampling = GREEDY
    on_text: OnText | None = None
    drafter: Drafter | None = None
    adapted_from: int = NEVER
    marks: Sequence[str] = ()
    stops: Sequence[str] = ()
    stop: Stop | None = None
    sure: SureCopy | None = None

    @property
    def size(self) -> int:
        """Tokens of the cache that it may fill."""
        return len(self.prompt) + self.max_tokens


def generate(
    context: Context,
    tasks: Sequence[Task],
    stop: Stop | None = None,
    *,
    in_flight: int = 0,
    on_done: OnDone | None = None,
) -> list[Generation]:
    """Write the texts of `tasks` side by side, each in a sequence of the context.

    Prompts are read one after the other, reusing what any sequence holds of them; then every decode is one batch
    that carries all texts on. At most `in_flight` (0: as many as there are sequences) are written at once, and no more
    than the cache has room for: the next begins where one ends, and `on_done` gets each one then. All tasks use the
    adapter or none does. Once `stop` says so, what was written so far comes back, finished as "stopped".
    """
    waiting = _Listed(tasks)
    done: dict[int, Generation] = {}

    def ended(i: int, text: Generation) -> None:
        done[i] = text
        if on_done:
            on_done(i, text)

    write_side_by_side(context, waiting, ended, stop, in_flight=in_flight)
    return [done[i] for i in range(len(tasks))]


class Waiting(Protocol):
    """Texts that wait to be written, each under a number. More may come while others are written."""

    def next(self) -> Task | None:
        """The text that may begin next, None if there is none."""

    def take(self) -> int:
        """Take that text; its number."""

    def later(self) -> Sequence[Task]:
        """All that wait: what the cache holds of their prompts is worth its room."""


class _Listed:
    """Texts that are all there from the beginning."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks, self._taken = tasks, 0

    def next(self) -> Task | None:
        return self._tasks[self._taken] if self._taken < len(self._tasks) else None

    def take(self) -> int:
        self._taken += 1
        return self._taken - 1

    def later(self) -> Sequence[Task]:
        return self._tasks[self._taken :]


def write_side_by_side(
    context: Context,
    waiting: Waiting,
    ended: OnDone,
    stop: Stop | None = None,
    *,
    in_flight: int = 0,
    shelf: Shelf | None = None,
) -> None:
    """As `generate`, with texts that may still come; ends when none is there. `ended` gets each.

    A `shelf` keeps what the cache gives up, and gives it back to the text that goes on with it.
    """
    most = min(in_flight or len(context.sequences), len(context.sequences))
    live: dict[int, _Writer] = {}

    def end() -> None:
        for i in [i for i, writer in live.items() if writer.finish]:
            ended(i, live.pop(i).generation())

    _forget_unwanted(context, waiting.later(), shelf)
    with ExitStack() as samplers:
        while True:
            while (
                len(live) < most
                and (task := waiting.next()) is not None
                and _make_room(context, task, live.values(), shelf)
            ):
                i = waiting.take()
                place = _place(context, task, live.values())
                if shelf:
                    _fetch(context, task, place, shelf)
                live[i] = _Writer(context, task, place, samplers)
                live[i].begin(_either(stop, task.stop))
            end()
            whole = stop is not None and stop()
            for writer in live.values():
                if whole or (writer.task.stop and writer.task.stop()):
                    writer.end("stopped")
            end()
            if live:
                _carry_on(context, list(live.values()))
                end()
            elif waiting.next() is None:
                return


def _either(one: Stop | None, other: Stop | None) -> Stop | None:
    if one is None or other is None:
        return one or other
    return lambda: one() or other()


def _forget_unwanted(context: Context, tasks: Sequence[Task], shelf: Shelf | None) -> None:
    """An earlier call's text that no task begins with only takes room."""
    wanted = {context.lender(task.prompt, task.adapted_from) for task in tasks}
    for stale in range(1, len(context.sequences)):
        if stale not in wanted:
            _forget(context, stale, shelf)


def _forget(context: Context, sequence: int, shelf: Shelf | None) -> None:
    if shelf:
        shelf.put(context, sequence)
    context.roll_back(0, sequence)


def _fetch(context: Context, task: Task, sequence: int, shelf: Shelf) -> None:
    """Let a sequence hold what the shelf has of a prompt, if that is more than the cache has."""
    prompt, begin = task.prompt, task.adapted_from
    own = context.sequences[sequence]
    held = context.sequences[context.lender(prompt, begin, sequence)].usable(prompt, begin)
    better = shelf.find(prompt, begin, held)
    if better or own.usable(prompt, begin) < min(len(own.tokens), own.adapted_from):  # something will be overwritten
        shelf.put(context, sequence)
    if better:
        shelf.get(better, context, sequence)


def _place(context: Context, task: Task, live: Iterable[_Writer]) -> int:
    """The free sequence that loses least by holding a prompt, and of those the one that holds most of it."""
    taken = {writer.sequence for writer in live}
    free = [i for i in range(len(context.sequences)) if i not in taken]

    def worth(i: int) -> tuple[int, int]:
        held = context.sequences[i].usable(task.prompt, task.adapted_from)
        return held - len(context.sequences[i].tokens), held

    return max(free, key=worth)


def _make_room(context: Context, task: Task, live: Collection[_Writer], shelf: Shelf | None) -> bool:
    """Whether a text has room beside those being written; what earlier ones left goes if it is in the way."""
    room = context.n_ctx - sum(writer.task.size for writer in live) - task.size
    if room < 0 and live:
        return False  # alone it has to do
    kept = {writer.sequence for writer in live} | {_place(context, task, live)}
    stale = [i for i in range(len(context.sequences)) if i not in kept]
    if room < 0 or sum(len(context.sequences[i].tokens) for i in stale) > room:
        for i in stale:
            _forget(context, i, shelf)
    return True


def _carry_on(context: Context, live: Sequence[_Writer]) -> None:
    """Write the next tokens of each text with one decode."""
    # 1) One batch: the last token of each text, and a guess at those that follow it.
    room = context.n_batch // len(live)
    others = len(live) - 1
    for writer in live:
        others += len(writer.guess_next(room, others))
    places = context.extend([(writer.sequence, [writer.tokens[-1], *writer.guess]) for writer in live])
    # 2) Choose after each token, as long as the guess was right.
    for writer, place in zip(live, places, strict=True):
        writer.verify(place)
    # 3) Forget what was guessed wrong.
    for writer in live:
        writer.roll_back()


class _Writer:
    """A text being written: its tokens, the guess under way, and what it cost so far."""

    def __init__(self, context: Context, task: Task, sequence: int, samplers: ExitStack) -> None:
        self.task, self.sequence, self._context = task, sequence, context
        self.tokens: list[int] = []
        self.guess: list[int] = []
        self.finish = ""
        self._choose = samplers.enter_context(_sampler(task.sampling, context))
        self._sure = task.sure if self._choose == Context.likeliest else None
        self._drafter = task.drafter if context.can_draft else None
        self._stream, self._guard = TextStream(task.on_text, task.marks, task.stops), LoopGuard()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._text, self._shown = "", 0  # all that was written, and how much of it the stream was given
        self._ends: list[int] = []  # where in the text each token ends
        self._reused = self._written = self._drafted = self._accepted = self._right = 0
        self._began = self._read_at = self._ended = 0.0

    def begin(self, stop: Stop | None) -> None:
        """Read the prompt and write the first token."""
        self._began = self._read_at = self._ended = time.perf_counter()
        try:
            self._reused = self._context.read(self.task.prompt, self.task.adapted_from, self.sequence, stop)
        except Stopped:
            self.finish = "stopped"
            return
        self._read_at = time.perf_counter()
        self._write(self._next(-1))

    def guess_next(self, room: int, others: int) -> list[int]:
        """Guess the next tokens, for a batch with room for so many in which `others` travel too."""
        limit = min(self.task.max_tokens - len(self.tokens), room) - 1
        self.guess = self._drafter.propose(limit, self._context.costs, others) if self._drafter else []
        return self.guess

    def verify(self, place: int) -> None:
        """Choose the next tokens from the logits at `place` and on, up to the first that was not guessed."""
        self._right = 0
        while True:
            chosen = self._next(place + self._right)
            self._write(chosen)
            if self.finish or self._right == len(self.guess) or chosen != self.guess[self._right]:
                break
            self._right += 1
        self._drafted += len(self.guess)
        self._accepted += self._right

    def roll_back(self) -> None:
        """Drop the rejected part of the guess from the cache."""
        wrong = len(self.guess) - self._right
        if not wrong:
            return
        length = len(self._context.sequences[self.sequence].tokens) - wrong
        # Where it cannot: read again, guess no more.
        if self._context.roll_back(length, self.sequence) < length and not self.finish:
            read = [*self.task.prompt, *self.tokens][:length]
            self._context.read(read, self.task.adapted_from, self.sequence)
            self._drafter = None

    def generation(self) -> Generation:
        """The finished text and its account."""
        counts = Counts(
            read=len(self.task.prompt) - self._reused,
            reused=self._reused,
            written=self._written,
            drafted=self._drafted,
            accepted=self._accepted,
            read_seconds=self._read_at - self._began,
            write_seconds=self._ended - self._read_at,
        )
        return Generation(self._stream.close(), tuple(self.tokens), self.finish, counts)

    def _next(self, place: int) -> int:
        chosen = self._choose(self._context, place)
        return self._sure.decide(self._context, place, chosen, self._text) if self._sure else chosen

    def _write(self, token: int) -> None:
        """Take a chosen token; `finish` tells why the text ends with it, "" if it goes on."""
        if self._context.model.ends(token):
            self.end("end")
        else:
            self.tokens.append(token)
            self._written += 1
            if self._drafter:
                self._drafter.observe(token)
            if self._sure:
                self._sure.observe(token)
            text = self._decoder.decode(self._context.model.piece(token))
            self._text += text
            self._ends.append(len(self._text))
            keep = self._guard.add(text)
            if keep is not None:
                self.end("loop", keep)
            elif not self._show(self._guard.safe):  # what may be the second round of a loop is held back
                self.finish = self._stream.ended
            elif len(self.tokens) >= self.task.max_tokens:
                self.end("length")
        self._ended = time.perf_counter()

    def end(self, finish: str, keep: int | None = None) -> None:
        """End the text, after its first `keep` characters if it is a loop; what it says twice at its end is one."""
        # The decoder may hold the first bytes of a character that was cut off: they are none, and are left out.
        if keep is None and (keep := self._guard.doubled()) is not None:
            finish = "loop"
        if keep is not None:
            keep = len(self._text[:keep].rstrip())
            del self.tokens[bisect_left(self._ends, keep) + 1 :]
        self.finish = finish if self._show(len(self._text) if keep is None else keep) else self._stream.ended

    def _show(self, until: int) -> bool:
        """Let the stream have the text up to a place; False once a run-on turn has begun."""
        part, self._shown = self._text[self._shown : until], max(self._shown, until)
        return self._stream.feed(part)


class TextStream:
    """Text in, text out, and nothing from a run-on turn on, which begins with one of `marks`, nor from one of `stops`.

    Models without an end token go on to invent the user's next turn. What could be the beginning of one (white space,
    then a part of a mark at a line's start) or of a stop is held back until it is known; so is white space at the end,
    which is dropped. A mark that begins with a space counts behind any white space, not only at a line's start. `ended`
    tells what ended the text: "run-on", "stop" or nothing yet.
    """

    def __init__(self, on_text: OnText | None = None, marks: Sequence[str] = (), stops: Sequence[str] = ()) -> None:
        self._on_text = on_text
        self._run_on, self._may_become = _run_on_patterns(marks, stops)
        self._stop = re.compile("|".join(map(re.escape, stops))) if stops else None
        self._sent: list[str] = []
        self._held = ""
        self.ended = ""

    def feed(self, text: str) -> bool:
        """Take the next characters; False once the text has ended."""
        self._take(text)
        return not self.ended

    def close(self) -> str:
        """End the stream; returns the whole text, without white space around it."""
        if not self.ended:
            self._send(self._held.rstrip())
        return "".join(self._sent)

    def _take(self, text: str) -> None:
        if self.ended:
            return
        pending = self._held + text
        stop = self._stop.search(pending) if self._stop else None
        for run_on in self._run_on.finditer(pending) if self._run_on else ():
            before = pending[: run_on.start()]
            if stop and stop.start() <= run_on.start():
                break
            if ("".join(self._sent) + before).count("```") % 2 == 0:  # in a block of code it is a quotation
                self._send(before)
                self.ended = "run-on"
                return
        if stop:
            self._send(pending[: stop.start()].rstrip())
            self.ended = "stop"
            return
        held = self._may_become.search(pending)
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


def _run_on_patterns(marks: Sequence[str], stops: Sequence[str] = ()) -> tuple[re.Pattern[str] | None, re.Pattern[str]]:
    """What a run-on turn looks like (None without marks), and the end of a text that may become one, or a stop."""
    whole, parts = [], []
    for mark in marks:
        before = r"\s+" if mark.startswith(" ") else r"\s*\n[ \t]*"
        letters = [re.escape(letter) for letter in mark.strip()]
        if letters[-1:] == [":"]:
            letters[-1] = r"[ \t]*:"  # "User :" too
        whole.append(before + "".join(letters))
        parts.append(_beginning(letters[:-1]))
    held = rf"\s+(?:{'|'.join(parts)})[ \t]*\Z" if parts else r"\s+\Z"
    # White space before a stop goes with it, and what begins it may itself be white space.
    held = "|".join([held, *(rf"\s*{re.escape(stop[0])}{_beginning(map(re.escape, stop[1:-1]))}\Z" for stop in stops)])
    return re.compile("|".join(whole)) if whole else None, re.compile(held)


def _beginning(letters: Iterable[str]) -> str:
    """A pattern of any beginning of some letters, none at all too."""
    part = ""
    for letter in reversed(list(letters)):
        part = f"(?:{letter}{part})?"
    return part


@contextmanager
def _sampler(sampling: Sampling, context: Context) -> Iterator[Callable[[Context, int], int]]:
    """Greedy, or llama.cpp's sampler chain: penalties, top-k, top-p, min-p, temperature and a seeded draw."""
    if sampling.plain:
        yield Context.likeliest
        return
    lib = library()
    chain: Any = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    try:
        for link in _links(sampling, context):
            lib.llama_sampler_chain_add(chain, link)
        yield lambda context, place: int(lib.llama_sampler_sample(chain, context.handle, place))
    finally:
        lib.llama_sampler_free(chain)


def _links(sampling: Sampling, context: Context) -> Iterator[Any]:
    """The chain's links. Penalties look at what was written, not at the prompt; the breakers are llama.cpp's own."""
    lib = library()
    if sampling.repeat_penalty != 1:
        yield lib.llama_sampler_init_penalties(_PENALTY_LAST, sampling.repeat_penalty, 0.0, 0.0)
    if sampling.dry:
        breakers = (ctypes.c_char_p * len(_DRY_BREAKERS))(*_DRY_BREAKERS)
        yield lib.llama_sampler_init_dry(
            context.model.vocabulary,
            context.model.n_ctx_train,
            sampling.dry,
            _DRY_BASE,
            _DRY_LENGTH,
            -1,
            breakers,
            len(breakers),
        )
    if sampling.temperature <= 0:
        yield lib.llama_sampler_init_greedy()
        return
    yield lib.llama_sampler_init_top_k(sampling.top_k)
    yield lib.llama_sampler_init_top_p(sampling.top_p, 1)
    yield lib.llama_sampler_init_min_p(sampling.min_p, 1)
    yield lib.llama_sampler_init_temp(sampling.temperature)
    yield lib.llama_sampler_init_dist(sampling.seed)
