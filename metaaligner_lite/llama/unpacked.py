"""A copy of a quantized model as F16, made once: some processors multiply floats faster than they unpack these types.

llama.cpp has kernels that multiply whole batches for F16, Q8_0, Q4_0, Q4_K and IQ4_NL (ggml-cpu/llamafile/sgemm.cpp,
ggml-cpu/repack.cpp); Q4_1, Q5_0 and Q5_1 go token by token. An edit mostly reads: of SmolLM2-135M, which its package
brings as Q4_1, two AVX2 cores read twice as many tokens a second from F16 (bench/LOG.md). The copy holds the same
weights, rounded to 11 bits. It takes disk and memory, so only small models are copied, and only for a processor.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..errors import FileProblem
from ..gguf_file import GgufHeader, base_fingerprint, read_header, sampled_digest
from ..paths import cache_dir
from .context import Context
from .library import library
from .machine import hardware_threads
from .model import check, open_model

_SLOW = {"Q4_1", "Q5_0", "Q5_1"}
_FLOATS = {"F32", "F16", "BF16", "F64"}
_LARGEST = 512_000_000  # bytes of a copy
_SPARE = 256_000_000  # bytes that a disk keeps free
_ABANDONED = 3600  # seconds after which a half-written copy is nobody's any more
_TEXT = "You could call them in the morning. I am sorry to hear that; 3 of 10 people wait for longer than a week."
_ALIKE = 0.99  # correlation of logits; activations are rounded to 8 bits beside quantized weights
_F16 = 1  # LLAMA_FTYPE_MOSTLY_F16 in llama.h


def suits(header: GgufHeader, gpu_layers: int) -> bool:
    """Whether a model runs from its copy where nothing was asked or measured: small, of slow types, on a processor."""
    slow = sum(tensor.elements for tensor in header.tensors if tensor.type_name in _SLOW)
    return can_be_unpacked(header, gpu_layers) and 2 * slow > _elements(header)


def can_be_unpacked(header: GgufHeader, gpu_layers: int) -> bool:
    """Whether there is something to unpack, and room for it: quantized matrices, at most 512 MB as F16, no GPU."""
    if 2 * _elements(header) > _LARGEST or all(tensor.type_name in _FLOATS for tensor in header.tensors):
        return False
    return gpu_layers == 0 or not library().llama_supports_gpu_offload()


def unpacked(header: GgufHeader, say: Callable[[str], None] = lambda _: None) -> Path:
    """The F16 copy of a model, made if it is not there yet; the model itself, and a line said, if it cannot be made."""
    copy = _folder() / f"{header.path.stem}-{sampled_digest(header).hex()[:16]}.gguf"
    if _is_copy(copy, header):
        return copy
    size = 2 * _elements(header)
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        _clear(copy.parent)
        if (free := shutil.disk_usage(copy.parent).free) < size + _SPARE:
            raise OSError(f"{free // 1_000_000:,} MB are free there")
        say(f"{header.path.name}: kept as F16, too, which is read faster ({size // 1_000_000:,} MB in {copy.parent})")
        _write(header, copy)
    except (OSError, FileProblem) as error:
        say(f"{header.path.name} runs as it is: no copy as F16 in {copy.parent} ({error})")
        return header.path
    return copy


def _write(header: GgufHeader, copy: Path) -> None:
    """Raises OSError, or FileProblem for a model that cannot be read, or a copy that is none."""
    check(header)
    lib = library()
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = _F16, hardware_threads(), True
    beside = copy.with_name(f".{copy.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        if lib.llama_model_quantize(os.fsencode(header.path), os.fsencode(beside), ctypes.byref(params)):
            raise FileProblem("llama.cpp could not write it")
        if not _is_copy(beside, header):
            raise FileProblem("what llama.cpp wrote is damaged")
        if not _agrees(header.path, beside):
            raise FileProblem("it says something else as F16")
        try:
            beside.replace(copy)
        except PermissionError:  # Windows, where another process has opened the one that it made meanwhile
            if not _is_copy(copy, header):
                raise
    finally:
        beside.unlink(missing_ok=True)


def _agrees(path: Path, copy: Path) -> bool:
    """Whether both say the same of a short text: F16 holds nothing beyond 65,504, where some models go."""
    import numpy as np

    found = []
    for file in (path, copy):
        with open_model(file, gpu_layers=0) as model, Context(model, 128) as context:
            context.read(model.encode_text(_TEXT)[:100])
            found.append(context.logits(-1))
    return bool(np.corrcoef(found)[0, 1] > _ALIKE)  # not where one of them is no number


def _clear(folder: Path) -> None:
    """Remove what killed runs left half-written."""
    for left in folder.glob(".*.gguf.*"):
        with suppress(FileNotFoundError):  # another process clears, too
            if time.time() - left.stat().st_mtime > _ABANDONED:
                left.unlink()


def _is_copy(path: Path, header: GgufHeader) -> bool:
    try:
        found = read_header(path)
        found.check_tensors()
        return base_fingerprint(found) == base_fingerprint(header)
    except (FileProblem, OSError):
        return False


def _elements(header: GgufHeader) -> int:
    return sum(tensor.elements for tensor in header.tensors)


def _folder() -> Path:
    return cache_dir() / "unpacked"
