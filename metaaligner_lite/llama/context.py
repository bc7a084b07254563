"""One KV cache: what it holds, reuse of the longest common prefix, roll-back."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from ..errors import ModelError, UsageError
from ..generation import Stop
from .draft import BatchCosts
from .library import forget_errors, last_error, library, release_freed_memory
from .machine import usual_threads
from .model import Adapter, Model

BATCH = 512  # tokens per llama_decode call while reading
KV_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2, "bf16": 30, "f32": 0}  # ggml type numbers of a cache's keys and values
ADAPTER_SCALE = 1.0  # an adapter acts as it was trained
_ABORTED = 2  # llama_decode's status if the abort callback ended it
_AT_ONCE = 32  # tokens; so many are read before a caller could wait
_ASK_EVERY = 0.02  # seconds
NEVER = sys.maxsize  # a position that no text reaches: the adapter acts nowhere


class Stopped(Exception):
    """The caller stopped a reading; what was read until then is in the cache."""


@dataclass(slots=True)
class Cached:
    """What the cache holds of one sequence: its tokens, and from which position on they were read with the adapter."""

    tokens: list[int] = field(default_factory=list)
    adapted_from: int = NEVER

    def usable(self, tokens: Sequence[int], adapted_from: int) -> int:
        """How many tokens from the beginning are the same and were read the same way."""
        same = common_prefix(self.tokens, tokens)
        return same if self.adapted_from == adapted_from else min(same, self.adapted_from, adapted_from)


class Context:
    """A KV cache over a model, of one or more sequences that share its room and each other's prefixes.

    `threads` write single tokens, `batch_threads` read batches (0: as many). `costs` knows what a decode of n tokens
    takes here. `kv` is the type of the cached keys and values; `flash` turns flash attention on or off (None: on with a
    GPU, or if the cache is quantized, which needs it).
    """

    def __init__(
        self,
        model: Model,
        n_ctx: int,
        *,
        threads: int = 0,
        batch_threads: int = 0,
        adapter: Adapter | None = None,
        sequences: int = 1,
        kv: str = "f16",
        flash: bool | None = None,
        costs: BatchCosts | None = None,
    ) -> None:
        from numpy.ctypeslib import as_array

        self._lib = library()
        self._as_array = as_array
        self.model = model
        self.sequences = [Cached() for _ in range(sequences)]
        self._adapter = adapter
        self._adapter_is_on: bool | None = False  # None: unknown, a switch was interrupted
        self._unsure = False  # whether the cache may hold other than `sequences` says
        params = self._lib.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = min(BATCH, n_ctx)
        usual = usual_threads(model.header.file_size)
        params.n_threads = threads or usual[0]
        params.n_threads_batch = batch_threads or threads or usual[1]
        params.n_seq_max = sequences
        params.kv_unified = True  # so that a prefix shared by sequences is held once
        params.type_k = params.type_v = kv_type(kv)
        if flash is None and not quantized(kv) and not model.on_gpu:
            flash = False  # on a CPU it makes single tokens and short batches 1.4 to 2.9 times slower
        if flash is not None:
            params.flash_attn_type = int(flash or quantized(kv))
        forget_errors()
        self.handle: Any = self._lib.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise ModelError(
                f"llama.cpp cannot make a context of {n_ctx:,} tokens ({kv}) for {model.path}: "
                f"{last_error('out of memory?')}; try a smaller `ctx_size`, or `kv` f16"
            )
        self.n_ctx: int = self._lib.llama_n_ctx(self.handle)
        self.n_batch: int = params.n_batch
        self._memory = self._lib.llama_get_memory(self.handle)
        self._batch = self._lib.llama_batch_init(self.n_batch, 0, 1)
        self.costs = costs or BatchCosts(flash=not model.on_gpu and (bool(flash) or quantized(kv)))
        # What keeps one state instead of a cell per token can neither forget a rejected draft nor lend a prefix.
        self.can_draft: bool = not (
            self._lib.llama_model_is_recurrent(model.handle) or self._lib.llama_model_is_hybrid(model.handle)
        )

    def read(
        self, tokens: Sequence[int], adapted_from: int = NEVER, sequence: int = 0, stop: Stop | None = None
    ) -> int:
        """Make a sequence hold exactly `tokens`, reading only what no sequence has; returns how many were reused.

        From the position `adapted_from` on the adapter acts, on what is written next too. What was read the other
        way is not reused. The last token is read anew, since its logits are wanted. Raises Stopped once `stop` says so.
        """
        if not 0 < len(tokens) <= self.n_ctx:
            raise ModelError(f"cannot read {len(tokens):,} tokens into a context of {self.n_ctx:,}")
        self._settle()
        lender = self.lender(tokens, adapted_from, sequence)
        keep = min(self.sequences[lender].usable(tokens, adapted_from), len(tokens) - 1)
        if lender != sequence and keep:
            self.roll_back(0, sequence)
            self._unsure = True
            self._lib.llama_memory_seq_cp(self._memory, lender, sequence, 0, keep)  # the cells are shared, not copied
            self.sequences[sequence] = Cached(list(tokens[:keep]), self.sequences[lender].adapted_from)
            self._unsure = False
        keep = self.roll_back(keep, sequence)
        self.sequences[sequence].adapted_from = adapted_from
        if keep < adapted_from:
            self._switch(False)
            self._read_on(tokens[keep:adapted_from], sequence, stop)
        if adapted_from < len(tokens):
            self._switch(True)
            self._read_on(tokens[max(keep, adapted_from) :], sequence, stop)
        return keep

    def lender(self, tokens: Sequence[int], adapted_from: int = NEVER, sequence: int = 0) -> int:
        """The sequence that holds most of `tokens`: the one they are meant for, or one that can lend a prefix."""
        return max(
            (sequence, *(i for i in range(len(self.sequences)) if i != sequence and self._whole(i))),
            key=lambda i: self.sequences[i].usable(tokens, adapted_from),
        )

    def extend(self, parts: Sequence[tuple[int, Sequence[int]]]) -> list[int]:
        """Read a few more tokens of each (sequence, tokens) in one batch, with the logits after each token.

        Returns where in the batch each part begins: logits are asked for by place.
        """
        self._settle()
        return self._decode(parts, every=True)

    def roll_back(self, length: int, sequence: int = 0) -> int:
        """Forget all but the first `length` tokens of a sequence; returns how many are left.

        Sliding-window, recurrent and hybrid models may be unable to forget a part: then all is forgotten, and 0
        returned.
        """
        self._settle()
        cached = self.sequences[sequence]
        length = min(length, len(cached.tokens))
        self._unsure = True
        if length < len(cached.tokens) and not (
            self._whole(sequence) and self._lib.llama_memory_seq_rm(self._memory, sequence, length, -1)
        ):
            length = 0
            self._lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        del cached.tokens[length:]
        self._unsure = False
        return length

    def _whole(self, sequence: int) -> bool:
        """Whether a sequence is held from its first token on.

        A sliding window's cache gives up what the window has left, wherever it needs room, and a state on its way
        to a larger cache leaves it out; a recurrent state holds the end alone. Such a cache can go on, not back.
        """
        return bool(self._lib.llama_memory_seq_pos_min(self._memory, sequence) <= 0)

    def logits(self, place: int) -> Any:
        """The logits (a numpy array) after the token at a place of the last batch; -1 is its last."""
        return self._logits(place).copy()

    def likeliest(self, place: int) -> int:
        """The token with the highest logit at a place; as llama.cpp's greedy sampler, which first copies them all."""
        return int(self._logits(place).argmax())

    def chances(self, place: int) -> Any:
        """The probability of each token at a place: float32, (n_vocab,)."""
        import numpy as np

        chances = np.exp(self._logits(place) - self._logits(place).max())
        return chances / chances.sum()

    def _logits(self, place: int) -> Any:
        pointer = self._lib.llama_get_logits_ith(self.handle, place)
        return self._as_array(pointer, shape=(self.model.n_vocab,))

    def use_threads(self, threads: int, batch_threads: int) -> None:
        """From now on write single tokens with so many threads, and read batches with so many."""
        self._lib.llama_set_n_threads(self.handle, threads, batch_threads)

    def held(self, room: int) -> list[tuple[Cached, bytes]]:
        """What `take_over` needs of each sequence: tokens and state, as far as `room` for so many tokens holds them."""
        found = []
        for i, cached in enumerate(self.sequences):
            fits = len(cached.tokens) <= room  # a state takes room of its own, even for a prefix that was shared
            room -= len(cached.tokens) if fits else 0
            found.append((cached, self.state(i) if fits else b""))
        return found

    def take_over(self, held: Sequence[tuple[Cached, bytes]]) -> None:
        """Hold what another context over the same model held, which may be closed by now."""
        for i, (cached, state) in enumerate(held[: len(self.sequences)]):
            self.restore(cached, state, i)

    def state(self, sequence: int = 0) -> bytes:
        """What the cache holds of a sequence, as `restore` takes it; empty if nothing."""
        self._settle()
        if not self.sequences[sequence].tokens:
            return b""
        size = self._lib.llama_state_seq_get_size(self.handle, sequence)
        state = (ctypes.c_uint8 * size)()
        return ctypes.string_at(state, self._lib.llama_state_seq_get_data(self.handle, state, size, sequence))

    def restore(self, cached: Cached, state: bytes, sequence: int = 0) -> bool:
        """Let a sequence hold what one of the same model held elsewhere; False, and it holds nothing, without room."""
        self.roll_back(0, sequence)
        data = ctypes.cast(ctypes.c_char_p(state), ctypes.POINTER(ctypes.c_uint8))
        forget_errors()
        self._unsure = True
        taken = bool(state) and bool(self._lib.llama_state_seq_set_data(self.handle, data, len(state), sequence))
        if taken:
            self.sequences[sequence] = Cached(list(cached.tokens), cached.adapted_from)
        else:
            self._lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        self._unsure = False
        return taken

    def close(self) -> None:
        """Free the cache."""
        if self.handle is not None:
            self._lib.llama_batch_free(self._batch)
            self._lib.llama_free(self.handle)
            self.handle = None
            release_freed_memory()  # else what a growing context held comes on top of what it needs next

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _switch(self, on: bool) -> None:
        """Turn the adapter on or off; only where it changes, since llama.cpp then plans its graphs anew."""
        if on == self._adapter_is_on:
            return
        if self._adapter is None:
            raise ModelError("no adapter was opened with this context")
        self._adapter_is_on = None
        adapters = (self._lib.llama_adapter_lora_p_ctypes * 1)(self._adapter.handle)
        status = self._lib.llama_set_adapters_lora(self.handle, adapters, int(on), (ctypes.c_float * 1)(ADAPTER_SCALE))
        if status:
            raise ModelError(f"llama.cpp cannot switch the adapter {self._adapter.header.path} (status {status})")
        self._adapter_is_on = on

    def _read_on(self, tokens: Sequence[int], sequence: int, stop: Stop | None) -> None:
        for start in range(0, len(tokens), self.n_batch):
            if stop and stop():
                raise Stopped
            part = tokens[start : start + self.n_batch]
            with self._halting(stop if len(part) > _AT_ONCE else None):
                self._decode([(sequence, part)], every=False)

    @contextmanager
    def _halting(self, stop: Stop | None) -> Iterator[None]:
        """Let `stop` end a decode half-way, as a CPU takes seconds for a batch of a large model. Raises Stopped.

        llama.cpp then forgets the batch, and keeps what was there before.
        """
        if stop is None:
            yield
            return
        asked, raised = time.monotonic(), list[BaseException]()

        def halt(_: Any) -> bool:
            nonlocal asked
            if raised or (now := time.monotonic()) - asked < _ASK_EVERY:
                return bool(raised)
            asked = now
            try:
                return stop()
            except BaseException as error:  # an interrupt must not be lost in a callback
                raised.append(error)
                return True

        callback = self._lib.ggml_abort_callback(halt)
        self._lib.llama_set_abort_callback(self.handle, callback, None)
        try:
            yield
        except Stopped:
            if raised:
                raise raised[0] from None
            raise
        finally:
            self._lib.llama_set_abort_callback(self.handle, self._lib.ggml_abort_callback(), None)

    def _decode(self, parts: Sequence[tuple[int, Sequence[int]]], *, every: bool) -> list[int]:
        """Decode the next tokens of sequences in one batch, with the logits after `every` token or the last.

        Returns where in the batch each part begins. The tokens are noted once llama.cpp holds them: an interrupt in
        between leaves `_unsure` behind, never a cache that holds less than it says.
        """
        batch, size, places = self._batch, 0, []
        for sequence, tokens in parts:
            places.append(size)
            held = len(self.sequences[sequence].tokens)
            for i, token in enumerate(tokens):
                batch.token[size] = token
                batch.pos[size] = held + i
                batch.n_seq_id[size] = 1
                batch.seq_id[size][0] = sequence
                batch.logits[size] = every or i == len(tokens) - 1
                size += 1
        batch.n_tokens = size
        forget_errors()
        self._unsure = True
        status = self._lib.llama_decode(self.handle, batch)
        if status == _ABORTED and all(
            self._lib.llama_memory_seq_rm(self._memory, sequence, len(self.sequences[sequence].tokens), -1)
            for sequence, _ in parts
        ):
            self._unsure = False
            raise Stopped
        if status:
            self._clear()  # what a failed batch left behind is unknown
            raise ModelError(
                f"llama.cpp failed with status {status} at a batch of {size:,} tokens in a context of {self.n_ctx:,}: "
                f"{last_error('no reason given')}"
            )
        for sequence, tokens in parts:
            self.sequences[sequence].tokens.extend(tokens)
        self._unsure = False
        return places

    def _clear(self) -> None:
        self._lib.llama_memory_clear(self._memory, False)
        self.sequences = [Cached() for _ in self.sequences]
        self._unsure = False

    def _settle(self) -> None:
        """After an interrupt: forget everything, since cache and account may disagree in any way."""
        if self._unsure:
            self._clear()


def quantized(kv: str) -> bool:
    """Whether a cache type is one of blocks, which llama.cpp reads through flash attention only."""
    return kv.startswith("q")


def kv_type(name: str) -> int:
    """The ggml type number of a cache type. Raises UsageError for an unknown name."""
    if name not in KV_TYPES:
        raise UsageError(f"unknown type of KV cache {name!r}; expected one of {', '.join(KV_TYPES)}")
    return KV_TYPES[name]


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The length of the longest common prefix."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
