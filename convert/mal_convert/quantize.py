"""Quantize a GGUF file with llama.cpp, in this process. Also the names of every file type it makes."""

from __future__ import annotations

import ctypes
import errno
import math
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import gguf

from metaaligner_lite.errors import ModelError, UsageError
from metaaligner_lite.gguf_file import read_header
from metaaligner_lite.llama.library import library
from metaaligner_lite.llama.machine import hardware_threads

from .imatrix import Matrix, for_quantizer
from .libllama import listening

PLAIN = ("F32", "F16", "BF16")  # written by this package; all others by llama.cpp
_NEARLY_FULL = 1 << 20
_BUFFER = 32 << 20  # bytes of rows llama.cpp holds at once
_NEEDS_IMATRIX = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "Q2_K_S")
_NO_TARGET = ("GUESSED", "MXFP4_MOE", "NVFP4", "Q1_0", "Q2_0")  # of other models, or not to be read back


def file_types() -> dict[str, int]:
    """Every type a model can be converted to: name, such as Q4_K_M, -> llama.cpp's number."""
    names = {kind.name.partition("_")[2]: int(kind) for kind in gguf.LlamaFileType if kind.name != "GUESSED"}
    return {name: number for name, number in names.items() if name not in _NO_TARGET}


def parse_type(text: str, matrix: bool = False) -> str:
    """A type's name as llama.cpp writes it; `matrix`: there is an importance matrix.

    Raises UsageError, listing all, for an unknown one, or one that needs a matrix.
    """
    name = text.strip().upper().replace("-", "_")
    name = {"Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "Q3_K": "Q3_K_M"}.get(name, name)
    if name not in file_types():
        raise UsageError(f"unknown type {text!r}; expected one of {', '.join(sorted(offered()))}")
    if needs_matrix(name) and not matrix:
        raise UsageError(
            f"{name} needs an importance matrix: pass --imatrix with a text to compute one from, or use Q2_K or IQ3_S"
        )
    return name


def offered() -> list[str]:
    """The types that can be made without an importance matrix."""
    return [name for name in file_types() if not needs_matrix(name)]


def needs_matrix(name: str) -> bool:
    """Whether llama.cpp makes a type only with an importance matrix."""
    return name in _NEEDS_IMATRIX


def room(file_type: str, shape: Sequence[int]) -> int:
    """The most bytes a tensor of `shape` (in PyTorch order) takes in a file of this type; exact for plain ones.

    llama.cpp puts some matrices into larger types than the file's, up to Q8_0, and those that fill no block into F16.
    """
    elements = math.prod(shape)
    if len(shape) == 1 or file_type == "F32":
        return 4 * elements
    if file_type in PLAIN or shape[-1] % 32:
        return 2 * elements
    return 9 * elements // 8


def quantize(
    source: Path, target: Path, file_type: str, advance: Callable[[int, int], None], matrix: Matrix | None = None
) -> list[str]:
    """Write `target` as a quantized copy of `source`; `advance` is told bytes of the source done and in all.

    Returns llama.cpp's warnings, such as tensors that needed another type. Raises ModelError if it fails.
    """
    lib = library()
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.nthread = file_types()[file_type], hardware_threads()
    params.max_buf_size = _BUFFER
    warnings: list[str] = []
    sizes = {tensor.name: tensor.bytes for tensor in read_header(source).tensors}
    done, current = 0, ""

    def hear(line: str) -> None:
        nonlocal done, current
        if found := re.match(r"\[ *\d+/ *\d+\] +(\S+)", line):
            done, current = done + sizes.get(current, 0), found[1]
            advance(done, sum(sizes.values()))
        elif "fallback" in line or "requires" in line:
            warnings.append(line)

    with for_quantizer(matrix, params, lib), listening(hear) as errors:
        status = lib.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params))
    if status:
        if shutil.disk_usage(target.parent).free < _NEARLY_FULL:  # llama.cpp does not say why a write failed
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise ModelError(f"llama.cpp cannot quantize to {file_type}: {errors[-1] if errors else f'status {status}'}")
    read_header(target).check_tensors()  # a last write that failed goes unnoticed by llama.cpp
    advance(sum(sizes.values()), sum(sizes.values()))
    return warnings
