"""The engine: one model with its KV cache. Prompts in, texts out; the cache stays for the next ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

from ..errors import ModelError, PromptTooLong
from ..generation import GREEDY, Bar, Generation, OnText, Sampling, Stop
from ..gguf_file import read_header
from ..pieces import Prompt, encode_request
from .context import ADAPTER_SCALE, NEVER, Context, quantized
from .decode import OnDone, Task, generate
from .draft import BatchCosts, Drafter
from .model import ALL_LAYERS, Adapter, Model, open_adapter, open_model
from .store import DEFAULT_LIMIT, Store, fingerprint
from .sure import SureCopy
from .tune import Tuning, remembered
from .unpacked import suits, unpacked

if TYPE_CHECKING:
    from .turns import Turns

_WORTH_FETCHING = 16  # tokens; fewer are read sooner than fetched from disk
ROOM = 2048  # tokens of the cache for each of many texts in flight
_STEP = 1024  # a context grows by this many tokens, so that a longer prompt seldom costs a new one


@dataclass(frozen=True, slots=True)
class Request:
    """One text to write.

    `expected` tokens must have room, about `usual` ones are enough. `copies` are texts that will probably be repeated
    in parts: drafts are taken from them. The text ends before a turn of the user's that begins with one of `marks`, and
    before any of `stops`. `on_text` gets it as it grows; `sampling` takes the place of the one for all.
    With a `bar`, greedy text repeats a sentence of the text that it `edits` only if that is sure enough; if it
    `keeps_code`, it copies blocks of code whole (sure.py).
    """

    prompt: Prompt
    expected: int = 64
    usual: int = 512
    copies: Sequence[str] = ()
    marks: Sequence[str] = ()
    stops: Sequence[str] = ()
    on_text: OnText | None = None
    sampling: Sampling | None = None
    edits: str = ""
    bar: Bar | None = None
    keeps_code: bool = False

    @property
    def follows(self) -> bool:
        """Whether the text that it edits must be followed."""
        return self.bar is not None or (self.keeps_code and "```" in self.edits)


class Engine:
    """A model and its KV cache, made as large as prompts need, up to `ctx_size` (0: the model's own limit).

    With an activated `adapter`, policy and aligner take turns on the one model and the one cache. Threads take turns,
    too: one that calls while another writes waits for it. With `turns` (turns.py) they write side by side instead.
    """

    def __init__(
        self,
        model: Model,
        *,
        ctx_size: int = 0,
        threads: int = 0,
        adapter: Adapter | None = None,
        kv: str = "f16",
        store: Store | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        self.model = model
        self.adapter = adapter
        self.limit = ctx_size or model.n_ctx_train
        self.tuning = tuning
        tuned = (tuning.threads, tuning.batch_threads) if tuning else (0, 0)
        self._threads, self._batch_threads = (threads, threads) if threads else tuned
        self.kv, self._store = kv, store  # the KV cache's type
        self._context: Context | None = None
        self._lock = threading.RLock()
        self.turns: Turns | None = None

    def run(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int | None = None,
        sampling: Sampling = GREEDY,
        on_text: OnText | None = None,
        stop: Stop | None = None,
    ) -> list[Generation]:
        """Write a continuation of each prompt, side by side; `on_text` gets the text of the first as it grows.

        Raises PromptTooLong, with the numbers, before anything is read.
        """
        requests = [Request(prompt, on_text=None if i else on_text) for i, prompt in enumerate(prompts)]
        return cast(list[Generation], self.write(requests, max_tokens=max_tokens, sampling=sampling, stop=stop))

    def write(
        self,
        requests: Sequence[Request],
        *,
        max_tokens: int | None = None,
        sampling: Sampling = GREEDY,
        adapted: bool = False,
        stop: Stop | None = None,
        in_flight: int = 0,
        on_done: OnDone | None = None,
        strict: bool = True,
    ) -> list[Generation | PromptTooLong]:
        """Write what is requested, at most `in_flight` texts at once (0: all); `on_done` gets each as it ends.

        At most `max_tokens` each (if None: what is usual for it) or what the context has left, but there must be room
        for the expected ones, or for `max_tokens` if that is less. `adapted` lets the adapter act from the edit request
        on. `stop` is asked between batches: once it says so, what was written so far comes back, finished as "stopped".
        Raises PromptTooLong, with the numbers, before anything is read; if not `strict`, it stands in the text's place.
        """
        found: dict[int, Generation | PromptTooLong] = {}
        tasks: dict[int, Task] = {}
        spelled: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            try:
                tasks[i] = self._task(request, max_tokens, sampling, adapted, spelled)
            except PromptTooLong as error:
                if strict:
                    raise
                found[i] = error
        if tasks and self.turns:
            texts = self.turns.write(self, [replace(task, stop=stop) for task in tasks.values()], adapted=adapted)
            found |= zip(tasks, texts, strict=True)
            for i, text in zip(tasks, texts, strict=True):
                if on_done:
                    on_done(i, text)
        elif tasks:
            with self._lock:
                numbers = list(tasks)
                told = (lambda i, text: on_done(numbers[i], text)) if on_done else None
                context = self._context_of(list(tasks.values()), in_flight, adapted)
                texts = generate(context, list(tasks.values()), stop, in_flight=in_flight, on_done=told)
                found |= zip(numbers, texts, strict=True)
        return [found[i] for i in range(len(requests))]

    def check(self, prompt: Prompt, expected: int) -> None:
        """Raise PromptTooLong if a prompt and so many tokens behind it do not fit."""
        self._room_after(len(encode_request(prompt, self.model)[0]), expected)

    def _task(
        self,
        request: Request,
        max_tokens: int | None,
        sampling: Sampling,
        adapted: bool,
        spelled: dict[str, list[int]],
    ) -> Task:
        tokens, edit = encode_request(request.prompt, self.model)
        needed = request.expected if max_tokens is None else min(request.expected, max_tokens)
        room = self._room_after(len(tokens), needed)
        for text in (*request.copies, *([request.edits] if request.follows else ())):
            if text not in spelled:
                spelled[text] = self.model.encode_text(text)
        sure = None
        if request.follows:
            sure = SureCopy(request.bar, spelled[request.edits], self.model, request.keeps_code)
        return Task(
            tokens,
            min(request.usual if max_tokens is None else max_tokens, room),
            request.sampling or sampling,
            request.on_text,
            Drafter(*(spelled[text] for text in request.copies)) if request.copies else None,
            edit if adapted else NEVER,
            request.marks,
            request.stops,
            sure=sure,
        )

    def _context_of(self, tasks: Sequence[Task], in_flight: int, adapted: bool) -> Context:
        """A context for some tasks, with room for those in flight, and what the disk holds of the first."""
        sizes = sorted((task.size for task in tasks), reverse=True)[: in_flight or None]
        # Where others follow, texts of a usual length set the room; longer ones find less company.
        size = min(sum(sizes), max(sizes[0], len(sizes) * ROOM)) if in_flight else sum(sizes)
        if self.adapter and not adapted:  # the edit follows in the same cache: it need not grow for it
            size = max(size, min(2 * size, self.limit))
        context = self._context_for(size, len(sizes))
        if self._store:
            self._recall(self._store, context, tasks[0])
        return context

    def context_beside(self, task: Task, in_flight: int, adapted: bool) -> Context:
        """A context for a task and as many of a usual length as may join it."""
        size = task.size
        if self.adapter and not adapted:  # as in _context_of
            size = max(size, min(2 * size, self.limit))
        with self._lock:
            return self._context_for(max(size, in_flight * min(ROOM, self.limit)), in_flight)

    def likelihoods(self, prompt: Prompt, texts: Sequence[str], *, adapted: bool = False) -> list[float]:
        """How likely each text is as the whole continuation of a prompt: mean log-likelihood per token, in nats.

        The end of the turn counts as a token. What the cache holds of the prompt is reused; a text costs a few batches.
        Raises PromptTooLong if the prompt and a text do not fit.
        """
        if self.turns:
            return self.turns.alone(lambda: self._likelihoods(prompt, texts, adapted))
        return self._likelihoods(prompt, texts, adapted)

    def _likelihoods(self, prompt: Prompt, texts: Sequence[str], adapted: bool) -> list[float]:
        from .score import mean_log_likelihood

        with self._lock:
            tokens, request = encode_request(prompt, self.model)
            ends = [*self.model.end]
            written = [[*self.model.encode_text(text), *ends] for text in texts]
            longest = max(map(len, written))
            self._room_after(len(tokens), longest)
            context = self._context_for(len(tokens) + longest, 1)
            begin = request if adapted else NEVER
            if sum(len(cached.tokens) for cached in context.sequences) + len(tokens) + longest > context.n_ctx:
                lender = context.lender(tokens, begin)
                for stale in range(1, len(context.sequences)):
                    if stale != lender:
                        context.roll_back(0, stale)
            return [mean_log_likelihood(context, tokens, text, begin) for text in written]

    def shares(self, prompt: Prompt, groups: Sequence[Sequence[int]]) -> list[float]:
        """The probability that the next token behind a prompt is one of each group; nothing is written.

        What the cache holds of the prompt is reused. Raises PromptTooLong if it does not fit.
        """
        from .score import shares_of

        with self._lock:
            tokens, _ = encode_request(prompt, self.model)
            self._room_after(len(tokens), 1)
            context = self._context_for(len(tokens), 1)
            context.read(tokens)
            return shares_of(context.logits(-1), groups)

    def read_ahead(self, prompt: Prompt) -> None:
        """Read the beginning of a prompt that is still growing, so that `run` finds it in the cache.

        Its last tokens may change with what follows; `run` then reads those again. Too long a beginning is left alone,
        and a model that cannot take back those tokens, which would read everything again.
        """
        if self.turns:
            return  # others write meanwhile, and their cache is not to be disturbed
        with self._lock:
            tokens, _ = encode_request(prompt, self.model)
            if 0 < len(tokens) < self.limit:
                context = self._context_for(min(len(tokens) + _STEP, self.limit), 1)
                if context.can_draft:
                    context.read(tokens)

    def _recall(self, store: Store, context: Context, task: Task) -> None:
        """Fetch from disk what agrees with more of a prompt than the cache does."""
        found = store.best(task.prompt, task.adapted_from)
        held = max(cached.usable(task.prompt, task.adapted_from) for cached in context.sequences)
        if not found or found[1] < held + _WORTH_FETCHING or len(found[0].cached.tokens) > context.n_ctx:
            return
        entry, _ = found
        state = store.load(entry)
        if state is not None and not context.restore(entry.cached, state):
            store.drop(entry, "llama.cpp does not take it")

    def _room_after(self, prompt: int, needed: int) -> int:
        """Tokens left after a prompt of so many. Raises PromptTooLong if fewer than needed."""
        if prompt == 0:
            raise ModelError("the prompt is empty")
        if self.limit - prompt < needed:
            advice = (
                f"raise `ctx_size` (the model was trained for {self.model.n_ctx_train:,})"
                if self.limit < self.model.n_ctx_train
                else "shorten the text, or use a model with a longer context"
            )
            raise PromptTooLong(
                f"the prompt is {prompt:,} tokens and the text to write needs {needed:,} more, "
                f"but the context of {self.model.path.name} holds {self.limit:,}; {advice}"
            )
        return self.limit - prompt

    def _context_for(self, size: int, sequences: int) -> Context:
        """The context, with room for so much; a larger one takes over what a smaller one held.

        The smaller one is freed first: two caches at once could be what memory does not hold.
        """
        old = self._context
        if old is not None and old.n_ctx >= size and len(old.sequences) >= sequences:
            return old
        size = -(-size // _STEP) * _STEP
        held = []
        if old is not None:
            size, sequences = max(size, old.n_ctx), max(sequences, len(old.sequences))
            held = old.held(size)
            self._context = None
            old.close()
        self._context = self._new_context(size, sequences)
        self._context.take_over(held)
        return self._context

    def _new_context(self, size: int, sequences: int) -> Context:
        tuning = self.tuning
        # What was measured says nothing of other threads, nor of the flash attention that a quantized cache needs.
        as_measured = (
            tuning is not None
            and (tuning.threads, tuning.batch_threads) == (self._threads, self._batch_threads)
            and (tuning.flash or not quantized(self.kv))
        )
        return Context(
            self.model,
            size,
            threads=self._threads,
            batch_threads=self._batch_threads,
            adapter=self.adapter,
            sequences=sequences,
            kv=self.kv,
            flash=tuning.flash if tuning else None,
            costs=BatchCosts(tuning.costs) if tuning and as_measured else None,
        )

    def close(self, *, keep: bool = True) -> None:
        """Free the cache and the model; with a store, `keep` for the next process what the cache holds."""
        with self._lock:
            if self._context is not None:
                if keep and self._store and len(self._context.sequences[0].tokens) >= _WORTH_FETCHING:
                    self._store.save(self._context.sequences[0], self._context.state())
                self._context.close()
                self._context = None
            self.model.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(keep=kind is None)  # after an exception nothing is worth the trust of the next run


def open_engine(
    path: str | Path,
    *,
    adapter: str | Path | None = None,
    ctx_size: int = 0,
    threads: int = 0,
    gpu_layers: int = ALL_LAYERS,
    kv: str = "f16",
    cache: Path | None = None,
    cache_bytes: int = DEFAULT_LIMIT,
    force: bool = False,
    unpack: bool | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Engine:
    """Open a GGUF model for generation, with an activated adapter if one is named; `kv` is the KV cache's type.

    An adapter of another base is refused unless `force`. `unpack` runs a copy of the weights as F16 (unpacked.py); None
    does so where it was measured to be faster, or else is known to be.

    In the folder `cache` prefixes are kept between processes, up to `cache_bytes` in all (store.py); `say` gets a
    line about what there could not be used. What `mal tune` measured is used where nothing else is asked. Raises
    FileProblem or ModelError (see open_model, open_adapter).
    """
    header = read_header(Path(path))
    tuning = remembered(header, gpu_layers)
    if unpack is None:
        unpack = tuning.unpack if tuning else suits(header, gpu_layers)
    repack = False if tuning and not tuning.repack else None
    weights = unpacked(header, say) if unpack else None
    model = open_model(path, gpu_layers=gpu_layers, repack=repack, weights=weights)
    try:
        opened = open_adapter(model, adapter, force=force) if adapter else None
        store = None
        if cache:
            files = [model.header, opened.header] if opened else [model.header]
            scale = ADAPTER_SCALE if opened else None
            store = Store(
                cache,
                fingerprint(files, kv, f"{model.on_gpu} {tuning and tuning.flash} {scale} {model.unpacked}"),
                limit=cache_bytes,
                say=say,
            )
    except BaseException:
        model.close()
        raise
    return Engine(model, ctx_size=ctx_size, threads=threads, adapter=opened, kv=kv, store=store, tuning=tuning)
