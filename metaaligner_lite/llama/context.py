"""One KV cache: what it holds, reuse of the longest common prefix, roll-back."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import ModelError
from .draft import BatchCosts
from .library import forget_errors, last_error, library
from .model import Adapter, Model

BATCH = 512  # tokens per llama_decode call while reading
_SEQUENCE = 0
_NEVER = sys.maxsize


class Context:
    """A KV cache over a model. `tokens` is what it holds, in order; `costs` what a decode of n tokens takes here."""

    def __init__(self, model: Model, n_ctx: int, *, threads: int = 0, adapter: Adapter | None = None) -> None:
        self._lib = library()
        self.model = model
        self.tokens: list[int] = []
        self._adapter = adapter
        self._adapter_is_on = False
        self._adapted_from = _NEVER  # the cache holds the base's K/V before this position, the adapter's from there on
        threads = threads or default_threads()
        params = self._lib.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = min(BATCH, n_ctx)
        params.n_threads = params.n_threads_batch = threads
        if not self._lib.llama_supports_gpu_offload() or model.gpu_layers == 0:
            # On a CPU flash attention makes single tokens and short batches 1.4 to 2.9 times slower.
            params.flash_attn_type = self._lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        forget_errors()
        self.handle: Any = self._lib.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise ModelError(
                f"llama.cpp cannot make a context of {n_ctx:,} tokens for {model.path}: "
                f"{last_error('out of memory?')}; try a smaller --ctx-size"
            )
        self.n_ctx: int = self._lib.llama_n_ctx(self.handle)
        self.n_batch: int = params.n_batch
        self._memory = self._lib.llama_get_memory(self.handle)
        self._batch = self._lib.llama_batch_init(self.n_batch, 0, 1)
        self.costs = BatchCosts()
        # What cannot forget a rejected draft must not be given one.
        self.can_draft: bool = not (
            self._lib.llama_model_is_recurrent(model.handle) or self._lib.llama_model_is_hybrid(model.handle)
        )

    def read(self, tokens: Sequence[int], adapted_from: int | None = None) -> int:
        """Make the cache hold exactly `tokens`, reading only what it lacks; returns how many were reused.

        From the position `adapted_from` on the adapter acts, on what is written next too; without it, nowhere.
        What was read the other way is not reused. The last token is read anew, since its logits are wanted.
        """
        if not 0 < len(tokens) <= self.n_ctx:
            raise ModelError(f"cannot read {len(tokens):,} tokens into a context of {self.n_ctx:,}")
        start = _NEVER if adapted_from is None else adapted_from
        keep = min(common_prefix(self.tokens, tokens), len(tokens) - 1)
        if start != self._adapted_from:
            keep = min(keep, start, self._adapted_from)
        keep = self.roll_back(keep)
        self._adapted_from = start
        self._switch(False)
        self._decode(tokens[keep:start])
        if start < len(tokens):
            self._switch(True)
            self._decode(tokens[max(keep, start) :])
        return keep

    def extend(self, tokens: Sequence[int]) -> None:
        """Read a few more tokens, with the logits after each of them (a token to continue from, and its draft)."""
        began = time.perf_counter()
        self._decode(tokens, all_logits=True)
        self.costs.record(len(tokens), time.perf_counter() - began)

    def roll_back(self, length: int) -> int:
        """Forget all but the first `length` tokens; returns how many are left.

        Sliding-window, recurrent and hybrid models cannot forget a part: then all is forgotten, and 0 returned.
        """
        if length < len(self.tokens) and not self._lib.llama_memory_seq_rm(self._memory, _SEQUENCE, length, -1):
            length = 0
        if length == 0:
            self._lib.llama_memory_clear(self._memory, False)
        del self.tokens[length:]
        return length

    def close(self) -> None:
        """Free the cache."""
        if self.handle is not None:
            self._lib.llama_batch_free(self._batch)
            self._lib.llama_free(self.handle)
            self.handle = None

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
        adapters = (self._lib.llama_adapter_lora_p_ctypes * 1)(self._adapter.handle)
        status = self._lib.llama_set_adapters_lora(self.handle, adapters, int(on), (ctypes.c_float * 1)(1.0))
        if status:
            raise ModelError(f"llama.cpp cannot switch the adapter {self._adapter.header.path} (status {status})")
        self._adapter_is_on = on

    def _decode(self, tokens: Sequence[int], all_logits: bool = False) -> None:
        batch = self._batch
        for start in range(0, len(tokens), self.n_batch):
            chunk = tokens[start : start + self.n_batch]
            position = len(self.tokens)
            batch.n_tokens = len(chunk)
            for i, token in enumerate(chunk):
                batch.token[i] = token
                batch.pos[i] = position + i
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = _SEQUENCE
                batch.logits[i] = all_logits
            batch.logits[len(chunk) - 1] = True
            forget_errors()
            status = self._lib.llama_decode(self.handle, batch)
            if status:
                self.roll_back(0)  # what a failed batch left behind is unknown
                raise ModelError(
                    f"llama.cpp failed with status {status} at token {position:,} of a context of {self.n_ctx:,}: "
                    f"{last_error('no reason given')}"
                )
            self.tokens.extend(chunk)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The length of the longest common prefix."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def default_threads() -> int:
    """As many threads as this process may use physical cores: a second thread per core slows decoding."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = set()
    for cpu in allowed:
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            return max(1, len(allowed))
    return max(1, len(cores))
