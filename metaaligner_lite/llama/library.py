"""Load llama.cpp once, quietly, and keep its last words for error messages."""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import ModelError
from .machine import bound_spinning

_ERROR_LEVEL = 4  # GGML_LOG_LEVEL_ERROR in ggml.h
_errors: deque[str] = deque(maxlen=8)
_keep: list[Any] = []  # ctypes callbacks must outlive their registration


@cache
def library() -> ModuleType:
    """The low-level llama_cpp bindings, initialized, with threads that do not spin without bounds.

    Raises ModelError if the library cannot be loaded.
    """
    bound_spinning()
    try:
        import llama_cpp.llama_cpp as lib
    except (ImportError, OSError, RuntimeError) as error:
        raise ModelError(
            f"llama-cpp-python cannot be loaded ({error}); reinstall it: pip install --force-reinstall llama-cpp-python"
        ) from error

    callback = lib.llama_log_callback(_remember)
    _keep.append(callback)
    lib.llama_log_set(callback, None)
    lib.llama_backend_init()
    module: ModuleType = lib
    return module


def library_build() -> str:
    """Version, place and date of the library, without loading it."""
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec

    spec = find_spec("llama_cpp")
    folder = Path(spec.origin).parent / "lib" if spec and spec.origin else Path()
    files = sorted(folder.glob("*llama*")) if folder.is_dir() else []
    stamps = [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    try:
        named = version("llama-cpp-python")
    except PackageNotFoundError:  # bindings laid somewhere on the path, without what pip keeps of a package
        named = "of no package"
    return f"llama-cpp-python {named} {folder} {' '.join(stamps)}"


def _remember(level: int, text: bytes, _: Any) -> None:
    if level == _ERROR_LEVEL:
        _errors.append(text.decode("utf-8", errors="replace").strip())


def last_error(default: str) -> str:
    """The first error llama.cpp logged since the last call (later ones follow from it), else `default`."""
    said = next((line for line in _errors if line), default)
    _errors.clear()
    return said


def forget_errors() -> None:
    """Drop what was logged, before a step whose errors matter."""
    _errors.clear()


def release_freed_memory() -> None:
    """Return freed buffers to the system, which glibc would keep for later; elsewhere nothing."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(ctypes.c_size_t(0))
