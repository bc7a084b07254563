"""Prove that what was written is the same model. What does not pass raises ModelError, and no file keeps its name.

For each file: token ids on the probe text; logits of llama.cpp against this package's own forward pass over the
source; rows of every tensor, read back and dequantized, against the source; a short greedy run.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import numpy as np

from metaaligner_lite.errors import ModelError
from metaaligner_lite.gguf_file import GgufHeader, TensorInfo, read_header

from . import outputs, tensors, tokens
from .checkpoint import F32
from .imatrix import Matrix
from .libllama import opened
from .plan import Step
from .probe import SENTENCE
from .quantize import PLAIN, needs_matrix, quantize
from .report import FileCheck, Progress

if TYPE_CHECKING:
    from .job import Job

# How far logits may lie from the reference, as a share of their spread. llama.cpp rounds activations to the file's
# type before it multiplies, so this bounds rounding; a wrong name, permutation or constant gives 0.1 to 1.4.
_LOGITS = {"F32": 2e-3, "F16": 2e-2, "BF16": 8e-2}
# How far a tensor's rows may lie from the source, as a share of their size. Quantized rows at 2 bits reach 0.4.
_ROWS = {"F32": 0.0, "F16": 6e-4, "BF16": 5e-3}
_MERGED = 1e-6  # what a merged row may differ by besides: some BLAS sum a few rows in another order than many
_QUANTIZED_ROWS = 0.6
_SAMPLED = 4  # rows of each tensor
GREEDY = 8


def check(
    job: Job, start: Path, files: outputs.Staged, progress: Progress, matrix: Matrix | None = None
) -> list[FileCheck]:
    """Check every output, and the file that quantizing started from.

    Raises ModelError, naming file, check and both values, at the first failure.
    """
    encode = tokens.reference_encoder(job.model.tokenizer)
    ids = encode(SENTENCE)[:48]
    if job.vocabulary.add.get("bos"):
        ids = [job.vocabulary.specials["bos"], *ids]
    everything = {**({job.base_type: start} if job.needs_base else {}), **files}
    progress("verifying", 0, 1 + len(everything))
    expected = job.reference().logits(ids)
    found = []
    for done, (name, path) in enumerate(everything.items(), 1):
        progress("verifying", done, 1 + len(everything))
        result = check_file(name, path, job, ids, expected, encode, greedy=name in files)
        if matrix is not None:
            result = replace(result, without_matrix=without_matrix(name, start, files, ids, expected))
        found.append(result)
    progress("verifying", 1 + len(everything), 1 + len(everything))
    return [result for result in found if result.type in files]


def without_matrix(name: str, start: Path, files: outputs.Staged, ids: Sequence[int], expected: F32) -> float | None:
    """The logits' error of a type quantized without an importance matrix; None for types that cannot be."""
    if name in PLAIN or needs_matrix(name):
        return None
    path = files.extra(f"without-{name}.gguf")
    quantize(start, path, name, lambda done, total: None)
    with opened(path) as model:
        logits = model.logits(ids)
    path.unlink()
    return _distance(logits, expected)


def check_file(
    name: str, path: Path, job: Job, ids: Sequence[int], expected: F32, encode: tokens.Encoder, *, greedy: bool
) -> FileCheck:
    """All checks on one file; `greedy`: the short run, too, for files that are kept."""
    rows = tensor_errors(name, path, job.steps)
    with opened(path) as model:
        if (difference := tokens.first_difference(model, encode)) is not None:
            raise ModelError(f"the {name} file tokenizes differently: {difference}")
        logits, written = model.run(ids, GREEDY if greedy else 0)

    def rounding() -> F32:
        return job.reference(name).logits(ids)

    error, agreement = logits_error(name, logits, expected, rounding, routed=bool(job.model.architecture.expert))
    return FileCheck(name, error, agreement, rows, tuple(written))


def logits_error(
    name: str,
    logits: F32,
    expected: F32,
    rounding: Callable[[], F32] | None = None,
    rounded: Iterable[str] = (),
    *,
    routed: bool = False,
) -> tuple[float, float]:
    """Distance from the reference's logits, and the share of equal likeliest tokens.

    Raises ModelError if an unquantized file is further away than rounding explains. Some models amplify rounding:
    then the file must be near a reference that rounds as llama.cpp does, which `rounding` computes. `rounded`: types
    that the reference itself was rounded to. `routed`: a mixture of experts, where rounding sends a token to another
    expert now and then, and that position goes elsewhere; the median position is judged instead of all together.
    """
    if logits.shape != expected.shape:
        raise ModelError(f"the {name} file gives {logits.shape[1]} logits, the source {expected.shape[1]}")
    if not np.isfinite(logits).all():
        hint = "; its activations overflow float16: use --bf16" if name == "F16" else ""
        raise ModelError(f"the {name} file gives logits that are not finite{hint}")
    error, judged = _distance(logits, expected), _median_distance if routed else _distance
    found = judged(logits, expected)
    agreement = float((logits.argmax(-1) == expected.argmax(-1)).mean())
    limit = max(_LOGITS.get(kind, 0.0) for kind in (name, *rounded)) if name in _LOGITS else math.inf
    amplified = found > limit and rounding is not None and name != "F32" and judged(logits, rounding()) <= limit
    if found > limit and not amplified:
        raise ModelError(
            f"the {name} file computes something else than the source: its logits are {found:.2g} of their spread "
            f"away, {limit:.2g} is rounding; please report this model"
        )
    return error, agreement


def _distance(logits: F32, expected: F32) -> float:
    """How far logits lie from others, as a share of those others' spread."""
    centred = expected - expected.mean(-1, keepdims=True)
    return _ratio(logits - logits.mean(-1, keepdims=True) - centred, centred)


def _median_distance(logits: F32, expected: F32) -> float:
    """The distance at the median position."""
    return float(np.median([_distance(one[None], other[None]) for one, other in zip(logits, expected, strict=True)]))


def tensor_errors(name: str, path: Path, steps: Sequence[Step]) -> dict[str, float]:
    """Read rows of every tensor back and compare them with the source. Returns the mean error by ggml type."""
    header = read_header(path)
    header.check_tensors()
    written = {tensor.name: tensor for tensor in header.tensors}
    if lost := sorted({step.name for step in steps} ^ set(written)):
        raise ModelError(f"the {name} file lacks or adds tensors: {lost[0]!r}")
    errors: dict[str, list[float]] = {}
    for step in steps:
        tensor = written[step.name]
        rows = sample_rows(step.name, tensor.elements // tensor.shape[0])
        found = read_rows(header, tensor, rows)
        if found is None:
            continue
        expected = tensors.rows_of(step, rows)
        error = row_error(step.name, name, tensor.type_name, found, expected, merged=step.merged)
        errors.setdefault(tensor.type_name, []).append(error)
    return {kind: float(np.mean(found)) for kind, found in sorted(errors.items())}


def row_error(tensor: str, file: str, kind: str, found: F32, expected: F32, *, merged: bool = False) -> float:
    """How far rows are from their source. Raises ModelError beyond what rounding to their ggml type explains."""
    error = _ratio(found - expected, expected)
    if not error <= _ROWS.get(kind, _QUANTIZED_ROWS) + merged * _MERGED:
        raise ModelError(f"{tensor} in the {file} file is {error:.2g} of its size away from the source as {kind}")
    return error


def sample_rows(name: str, rows: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """A few rows of a tensor, the same ones each time."""
    drawn = np.random.default_rng(zlib.crc32(name.encode())).integers(0, rows, _SAMPLED)
    return np.unique(drawn)


def read_rows(header: GgufHeader, tensor: TensorInfo, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> F32 | None:
    """Rows of a tensor in a GGUF file as float32; None if gguf-py cannot dequantize its type."""
    count = tensor.elements // tensor.shape[0]
    width = tensor.bytes // count
    offset = header.data_offset + tensor.offset
    raw = np.memmap(header.path, mode="r", dtype=np.uint8, offset=offset, shape=(count, width))[rows]
    try:
        return np.asarray(gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(tensor.type)), np.float32)
    except NotImplementedError:
        return None


def _ratio(difference: F32, reference: F32) -> float:
    """Root mean square of one as a share of the other's."""
    scale = float(np.sqrt(np.mean(np.square(reference, dtype=np.float64))))
    error = float(np.sqrt(np.mean(np.square(difference, dtype=np.float64))))
    return error if scale == 0.0 else error / scale
