"""llama.cpp for checking what was written: token ids, logits, a greedy run. Quiet, on the CPU, in full precision."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np

from metaaligner_lite.errors import ModelError
from metaaligner_lite.llama.library import library
from metaaligner_lite.llama.machine import hardware_threads

from .checkpoint import F32

_ERROR, _CONTINUED = 4, 5  # GGML_LOG_LEVEL_*
_STRING_OVERRIDE = 3  # LLAMA_KV_OVERRIDE_TYPE_STR
_GGML_F32 = 0
_SMALL = 50_000_000  # parameters; below, threads wait for each other longer than they compute


@contextmanager
def listening(on_line: Callable[[str], None] | None = None) -> Iterator[list[str]]:
    """Collect llama.cpp's error lines, pass every finished line to `on_line`, and print nothing.

    Ctrl-C while llama.cpp works is heard when it has finished.
    """
    lib = library()
    errors: list[str] = []
    level_now, pending = _CONTINUED, ""

    def hear(level: int, text: bytes, _: Any) -> None:
        nonlocal level_now, pending
        level_now = level_now if level == _CONTINUED else level
        pending += text.decode("utf-8", errors="replace")
        if pending.endswith("\n"):
            line, pending = pending.strip(), ""
            if line and level_now == _ERROR:
                errors.append(line)
            if line and on_line:
                on_line(line)

    callback = lib.llama_log_callback(hear)
    before, data = lib.llama_log_callback(), ctypes.c_void_p()
    lib.llama_log_get(ctypes.byref(before), ctypes.byref(data))
    lib.llama_log_set(callback, None)
    try:
        with _never_interrupted(hear.__code__):
            yield errors
    finally:
        lib.llama_log_set(before, data)


@contextmanager
def _never_interrupted(code: CodeType) -> Iterator[None]:
    """Hold back a Ctrl-C that comes while `code` runs, which C called: raised there, it would be lost."""
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def interrupted(number: int, frame: FrameType | None) -> None:
        inner = frame
        while inner is not None and inner.f_code is not code:
            inner = inner.f_back
        if inner is not None:
            held.append(number)
        else:
            before(number, frame)

    signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        before(held[0], None)


class LoadedModel:
    """A GGUF file open in llama.cpp."""

    def __init__(self, lib: Any, model: Any) -> None:
        self.lib, self.model = lib, model
        self.vocab = lib.llama_model_get_vocab(model)
        self.low_rank: Any = None
        self.size: int = lib.llama_vocab_n_tokens(self.vocab)

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """Token ids of `text`."""
        raw = text.encode()
        room = len(raw) + 8
        ids = (ctypes.c_int32 * room)()
        count = self.lib.llama_tokenize(self.vocab, raw, len(raw), ids, room, add_special, parse_special)
        if count < 0:
            raise ModelError(f"llama.cpp needs {-count} tokens for a text of {len(raw)} bytes")
        return list(ids[:count])

    def run(self, ids: Sequence[int], steps: int) -> tuple[F32, list[int]]:
        """Logits after each of `ids`, shape (len(ids), vocabulary), and the `steps` likeliest tokens that follow."""
        written: list[int] = []
        with self._context(len(ids) + steps) as context:
            logits = rows = self._decode(context, ids, 0)
            while len(written) < steps:
                written.append(int(rows[-1].argmax()))
                if len(written) < steps:
                    rows = self._decode(context, written[-1:], len(ids) + len(written) - 1)
        return logits, written

    def logits(self, ids: Sequence[int]) -> F32:
        """Logits after each of `ids`, shape (len(ids), vocabulary)."""
        return self.run(ids, 0)[0]

    def greedy(self, ids: Sequence[int], steps: int) -> list[int]:
        """The `steps` likeliest tokens after `ids`, one by one."""
        return self.run(ids, steps)[1]

    @contextmanager
    def adapter(self, path: Path) -> Iterator[None]:
        """Run with an adapter file, on every token."""
        with listening() as errors:
            self.low_rank = self.lib.llama_adapter_lora_init(self.model, os.fsencode(path))
            if not self.low_rank:
                raise ModelError(f"llama.cpp cannot open the adapter file: {_first(errors)}")
        try:
            yield
        finally:
            self.lib.llama_adapter_lora_free(self.low_rank)
            self.low_rank = None

    @contextmanager
    def evaluated(self, length: int, on_step: Callable[[int, bool, Any], bool]) -> Iterator[Any]:
        """A context of `length` tokens that shows `on_step` every step of its computation (see ggml-backend.h)."""
        with self._context(length, self.lib.ggml_backend_sched_eval_callback(on_step)) as context:
            yield context

    def read(self, context: Any, ids: Sequence[int]) -> None:
        """Read tokens from an empty context; what comes of it is left there."""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(context), True)
        self._decode(context, ids, 0, keep=False)

    @contextmanager
    def _context(self, length: int, on_step: Any = None) -> Iterator[Any]:
        lib = self.lib
        params = lib.llama_context_default_params()
        if on_step is not None:
            params.cb_eval = on_step
        params.n_ctx = params.n_batch = params.n_ubatch = max(length, 32)
        small = lib.llama_model_n_params(self.model) < _SMALL
        params.n_threads = params.n_threads_batch = 1 if small else _free_cores()
        params.type_k = params.type_v = _GGML_F32
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.offload_kqv = params.op_offload = False
        with listening() as errors:
            context = lib.llama_init_from_model(self.model, params)
            if not context:
                raise ModelError(f"llama.cpp cannot run the converted file: {_first(errors)}")
            try:
                if self.low_rank:
                    adapters = (lib.llama_adapter_lora_p_ctypes * 1)(self.low_rank)
                    lib.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(1.0))
                yield context
            finally:
                lib.llama_free(context)

    def _decode(self, context: Any, ids: Sequence[int], position: int, keep: bool = True) -> F32:
        lib = self.lib
        batch = lib.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for i, token in enumerate(ids):
                batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position + i, 1
                batch.seq_id[i][0] = 0
                batch.logits[i] = True
            if status := lib.llama_decode(context, batch):
                raise ModelError(f"llama.cpp cannot run the converted file: llama_decode returned {status}")
            if not keep:
                return np.empty((0, self.size), np.float32)
            return np.ctypeslib.as_array(lib.llama_get_logits(context), (len(ids), self.size)).copy()
        finally:
            lib.llama_batch_free(batch)


def _free_cores() -> int:
    """Cores that nobody else uses: llama.cpp's threads wait for the slowest of them, spinning."""
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, min(hardware_threads(), (os.cpu_count() or 1) - round(busy)))


@contextmanager
def opened(path: Path, *, vocab_only: bool = False, pre: str = "") -> Iterator[LoadedModel]:
    """Open a GGUF file; `pre` replaces its pre-tokenizer. Raises ModelError with llama.cpp's own words."""
    lib = library()
    params = lib.llama_model_default_params()
    params.vocab_only, params.n_gpu_layers = vocab_only, 0
    params.use_extra_bufts = False  # some builds crash on AMX, and repacking changes rounding
    overrides = (lib.llama_model_kv_override * 2)()
    if pre:
        overrides[0].tag, overrides[0].key = _STRING_OVERRIDE, b"tokenizer.ggml.pre"
        overrides[0].value.val_str = pre.encode()
        params.kv_overrides = overrides
    with listening() as errors:
        model = lib.llama_model_load_from_file(os.fsencode(path), params)
        if not model:
            raise ModelError(f"llama.cpp cannot open the converted file: {_first(errors)}")
        try:
            yield LoadedModel(lib, model)
        finally:
            lib.llama_model_free(model)


def _first(errors: list[str]) -> str:
    return errors[0] if errors else "it does not say why"
