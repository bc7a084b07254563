"""The engine: one model with its KV cache. Prompts in, texts out; the cache stays for the next ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from ..errors import ModelError, PromptTooLong
from ..generation import GREEDY, Generation, OnText, Sampling, Stop
from ..gguf_file import read_header
from ..prompts import Prompt, encode_request
from .context import ADAPTER_SCALE, NEVER, Context, quantized
from .decode import Task, generate
from .draft import BatchCosts, Drafter
from .model import ALL_LAYERS, Adapter, Model, open_adapter, open_model
from .store import DEFAULT_LIMIT, Store, fingerprint
from .tune import Tuning, remembered

_WORTH_FETCHING = 16  # tokens; fewer are read sooner than fetched from disk
_STEP = 1024  # a context grows by this many tokens, so that a longer prompt seldom costs a new one


class Engine:
    """A model and its KV cache, made as large as prompts need, up to `ctx_size` (0: the model's own limit).

    With an activated `adapter`, policy and aligner take turns on the one model and the one cache. Threads take turns,
    too: one that calls while another writes waits for it.
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
        self._kv, self._store = kv, store
        self._context: Context | None = None
        self._lock = threading.RLock()

    def run(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int | None = None,
        expected: int = 64,
        usual: int = 512,
        sampling: Sampling = GREEDY,
        on_text: OnText | None = None,
        copies: Sequence[Sequence[str]] = (),
        adapted: bool = False,
        stop: Stop | None = None,
        marks: Sequence[str] = (),
    ) -> list[Generation]:
        """Write a continuation of each prompt, side by side; `on_text` gets the text of the first as it grows.

        At most `max_tokens` each (if None: `usual`) or what the context has left, but there must be room for
        `expected` ones, or for `max_tokens` if that is less. `copies` are, for each prompt, texts that will probably
        be repeated in parts: drafts are taken from them. `adapted` lets the adapter act from the edit request on.
        A text ends before a turn of the user's that begins with one of `marks`. `stop` is asked between batches: once
        it says so, what was written so far comes back, finished as "stopped". Raises PromptTooLong, with the numbers,
        before anything is read.
        """
        with self._lock:
            spelled: dict[str, list[int]] = {text: self.model.encode_text(text) for texts in copies for text in texts}
            tasks = []
            for i, prompt in enumerate(prompts):
                tokens, request = encode_request(prompt, self.model)
                room = self._room_after(len(tokens), expected if max_tokens is None else min(expected, max_tokens))
                tasks.append(
                    Task(
                        tokens,
                        min(usual if max_tokens is None else max_tokens, room),
                        sampling,
                        on_text if i == 0 else None,
                        Drafter(*(spelled[text] for text in copies[i])) if copies else None,
                        request if adapted else NEVER,
                        marks,
                    )
                )
            size = sum(len(task.prompt) + task.max_tokens for task in tasks)
            if self.adapter and not adapted:  # the edit follows in the same cache: it need not grow for it
                size = max(size, min(2 * size, self.limit))
            context = self._context_for(size, len(tasks))
            if self._store:
                self._recall(self._store, context, tasks[0])
            return generate(context, tasks, stop)

    def likelihoods(self, prompt: Prompt, texts: Sequence[str], *, adapted: bool = False) -> list[float]:
        """How likely each text is as the whole continuation of a prompt: mean log-likelihood per token, in nats.

        The end of the turn counts as a token. What the cache holds of the prompt is reused; a text costs a few batches.
        Raises PromptTooLong if the prompt and a text do not fit.
        """
        from .score import mean_log_likelihood

        with self._lock:
            tokens, request = encode_request(prompt, self.model)
            ends = [*self.model.end]
            written = [[*self.model.encode_text(text), *ends] for text in texts]
            longest = max(map(len, written))
            self._room_after(len(tokens), longest)
            context = self._context_for(len(tokens) + longest, 1)
            begin = request if adapted else NEVER
            return [mean_log_likelihood(context, tokens, text, begin) for text in written]

    def read_ahead(self, prompt: Prompt) -> None:
        """Read the beginning of a prompt that is still growing, so that `run` finds it in the cache.

        Its last tokens may change with what follows; `run` then reads those again. Too long a beginning is left alone,
        and a model that cannot take back those tokens, which would read everything again.
        """
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
            and (tuning.flash or not quantized(self._kv))
        )
        return Context(
            self.model,
            size,
            threads=self._threads,
            batch_threads=self._batch_threads,
            adapter=self.adapter,
            sequences=sequences,
            kv=self._kv,
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
    say: Callable[[str], None] = lambda _: None,
) -> Engine:
    """Open a GGUF model for generation, with an activated adapter if one is named; `kv` is the KV cache's type.

    An adapter of another base is refused unless `force`.

    In the folder `cache` prefixes are kept between processes, up to `cache_bytes` in all (store.py); `say` gets a
    line about what there could not be used. What `mal tune` measured is used where nothing else is asked. Raises
    FileProblem or ModelError (see open_model, open_adapter).
    """
    tuning = remembered(read_header(Path(path)), gpu_layers)
    model = open_model(path, gpu_layers=gpu_layers, repack=False if tuning and not tuning.repack else None)
    try:
        opened = open_adapter(model, adapter, force=force) if adapter else None
        store = None
        if cache:
            files = [model.header, opened.header] if opened else [model.header]
            scale = ADAPTER_SCALE if opened else None
            store = Store(
                cache,
                fingerprint(files, kv, f"{model.on_gpu} {tuning and tuning.flash} {scale}"),
                limit=cache_bytes,
                say=say,
            )
    except BaseException:
        model.close()
        raise
    return Engine(model, ctx_size=ctx_size, threads=threads, adapter=opened, kv=kv, store=store, tuning=tuning)
