"""From steps to bytes: read a few rows, change them as planned, hand them on in the output type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from metaaligner_lite.errors import ModelError

from .adapter import Rows
from .checkpoint import F32, as_float32, row_chunks
from .plan import Step

_NATIVE = {"F32": gguf.GGMLQuantizationType.F32, "F16": gguf.GGMLQuantizationType.F16}
_NATIVE["BF16"] = gguf.GGMLQuantizationType.BF16


def stream(step: Step, kind: gguf.GGMLQuantizationType) -> Iterator[NDArray[np.uint8]]:
    """The bytes of one tensor in type `kind`, a few rows at a time.

    Raises ModelError if a number is not finite, or does not fit float16.
    """
    if step.parts:
        for part in step.parts:
            yield from stream(part, kind)
        return
    if step.source is None:
        yield encode(np.asarray([step.constants], np.float32), kind, step.name)
        return
    stored, order = _stored(step), row_order(step)
    unchanged = step.low_rank is None and (step.times, step.plus) == (1.0, 0.0)
    for span in row_chunks(*stored.shape):
        rows = span if order is None else order[span]
        if unchanged and _NATIVE.get(step.source.dtype) == kind:
            chunk = stored[rows]
            if not _finite(chunk, step.source.dtype):
                raise _not_finite(step.name)
            yield np.ascontiguousarray(chunk).view(np.uint8)
        else:
            yield encode(_numbers(step, stored, rows), kind, step.name)


def rows_of(step: Step, rows: NDArray[np.int64]) -> F32:
    """Some rows of a tensor as planned, in float32; for comparing with what was written. A vector is one row."""
    if step.parts:
        height = step.shape[1]
        return np.concatenate([rows_of(step.parts[row // height], np.asarray([row % height])) for row in rows])
    if step.source is None:
        return np.asarray([step.constants], np.float32)
    stored, order = _stored(step), row_order(step)
    if len(step.shape) == 1:
        return _numbers(step, stored, slice(None) if order is None else order).reshape(1, -1)
    return _numbers(step, stored, rows if order is None else order[rows])


def _stored(step: Step) -> NDArray[Any]:
    """The numbers as stored, as rows that row_order and low_rank speak of; of a vector each number is a row."""
    assert step.source is not None
    stored = step.source.stored()
    return stored.T if step.transposed or len(step.shape) == 1 else stored


def _numbers(step: Step, stored: NDArray[Any], rows: Rows) -> F32:
    """Some rows with everything done to them."""
    assert step.source is not None
    numbers = as_float32(stored[rows], step.source.dtype)
    if step.low_rank is not None:
        numbers = step.low_rank.merged(numbers, rows)
    if step.times != 1.0:
        numbers = numbers * np.float32(step.times)
    return numbers if step.plus == 0.0 else numbers + np.float32(step.plus)


def row_order(step: Step) -> NDArray[np.int64] | None:
    """Which source row each row comes from, or None if they stay in place.

    Hugging Face rotates the first half of a head's rows with the second; llama.cpp rotates neighbours.
    """
    if not step.heads:
        return None
    rows = np.arange(step.shape[0], dtype=np.int64)
    return rows.reshape(step.heads, 2, -1).swapaxes(1, 2).reshape(-1)


def encode(numbers: F32, kind: gguf.GGMLQuantizationType, name: str) -> NDArray[np.uint8]:
    """Float32 rows as bytes of type `kind`. Raises ModelError if one is not finite or overflows float16."""
    if not np.isfinite(numbers).all():
        raise _not_finite(name)
    if kind == gguf.GGMLQuantizationType.F16:
        with np.errstate(over="ignore"):
            halves = numbers.astype(np.float16)
        if not np.isfinite(halves).all():
            raise ModelError(
                f"{name} holds numbers up to {np.abs(numbers).max():.3g}, float16 ends at 65504; use --bf16 instead"
            )
        return halves.view(np.uint8)
    if kind == gguf.GGMLQuantizationType.F32:
        return np.ascontiguousarray(numbers).view(np.uint8)
    packed: NDArray[np.uint8] = gguf.quants.quantize(numbers, kind)
    return packed


def _finite(stored: NDArray[Any], dtype: str) -> bool:
    exponent = np.uint16(0x7F80)  # bfloat16: all ones in the exponent is infinity or not a number
    finite = (stored & exponent) != exponent if dtype == "BF16" else np.isfinite(stored)
    return bool(finite.all())


def _not_finite(name: str) -> ModelError:
    return ModelError(f"{name} holds numbers that are not finite: its training has diverged; take another checkpoint")
