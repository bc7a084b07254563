"""Importance matrices: how much each input of each weight matters, measured on a text while the model reads it.

For every matrix of every layer the squares of its inputs are summed, by column (and by expert). Quantizing then rounds
so that the columns that matter lose least. Computed through llama.cpp's own eval callback on the unquantized file,
kept in llama.cpp's format: GGUF of the type "imatrix" (since 2025), or the older .dat, which is read but not written.
"""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from metaaligner_lite.errors import FileProblem, MalError, ModelError, UsageError
from metaaligner_lite.files import decode_text
from metaaligner_lite.gguf_file import GgufHeader, TensorInfo, read_header

from .checkpoint import F32
from .libllama import LoadedModel, opened
from .outputs import Staged
from .report import Progress

CHUNK = 512  # tokens read at once, from an empty context each time
MOST = 128  # chunks; more hardly change a matrix
LEAST = 256  # tokens below which a text says too little
_TEXT = 8 << 20  # bytes of a text that are looked at
_LARGEST = 1 << 30  # bytes of a matrix file
_F32 = 0
_DIMS, _SOURCES, _NAME = 4, 10, 64
_ENDINGS = (".in_sum2", ".counts")


@dataclass(frozen=True)
class Matrix:
    """Sums of squared inputs by tensor, each of shape (matrices, row length), and how many inputs were summed.

    `counts` has one number for each of a tensor's matrices. `chunks` and `dataset` say what it was computed from.
    """

    sums: Mapping[str, F32]
    counts: Mapping[str, F32]
    chunks: int
    dataset: str
    notes: tuple[str, ...] = ()

    def values(self) -> dict[str, F32]:
        """The mean square of each input, flat, as llama.cpp's quantizer takes it; 1 for experts nothing was sent to."""
        found = {}
        for name, sums in self.sums.items():
            counts = self.counts[name].reshape(-1, 1)
            means = np.where(counts > 0, sums / np.maximum(counts, 1), np.float32(1))
            found[name] = np.ascontiguousarray(means.reshape(-1), np.float32)
        return found

    def check(self, header: GgufHeader) -> None:
        """Raise ModelError if it was not made of a model of this shape."""
        tensors = {tensor.name: tensor for tensor in header.tensors}
        for name, sums in self.sums.items():
            if name in tensors and _shape(tensors[name]) != sums.shape:
                raise ModelError(
                    f"the importance matrix has {sums.shape} numbers for {name!r}, the model {_shape(tensors[name])}: "
                    "it was made of another model"
                )
        layers = [name for name in tensors if _matters(tensors[name])]
        missing = [name for name in layers if name not in self.sums]
        if 2 * len(missing) > len(layers):  # some architectures have matrices that nothing is multiplied with
            raise ModelError(
                f"the importance matrix says nothing of {len(missing)} of the model's {len(layers)} matrices, such as "
                f"{missing[0]!r}: it was made of another model, or of too short a text"
            )

    def save(self, path: Path) -> None:
        """Write it in llama.cpp's format."""
        writer = gguf.GGUFWriter(None, "")
        writer.kv_data[0].clear()  # such a file names no architecture
        writer.add_string("general.type", "imatrix")
        writer.add_array("imatrix.datasets", [self.dataset])
        writer.add_uint32("imatrix.chunk_count", self.chunks)
        writer.add_uint32("imatrix.chunk_size", CHUNK)
        for name in sorted(self.sums):
            writer.add_tensor(name + ".in_sum2", self.sums[name].astype(np.float32))
            writer.add_tensor(name + ".counts", self.counts[name].reshape(-1, 1).astype(np.float32))
        try:
            writer.write_header_to_file(path)
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()


def is_matrix(path: Path) -> bool:
    """Whether a file holds a matrix rather than a text to compute one from. Raises FileProblem if it is not there."""
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise FileProblem(f"cannot read {path}: {error.strerror or error}") from error
    return head.startswith(b"GGUF") or path.suffix == ".dat" or b"\0" in head[:64]


def read(path: Path) -> Matrix:
    """Read a matrix file. Raises FileProblem if it is damaged, or a GGUF file of another kind."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
        if path.stat().st_size > _LARGEST:
            raise FileProblem(f"{path} is larger than any importance matrix; is it a model?")
        found = _read_gguf(path) if magic == b"GGUF" else _read_legacy(path)
    except MalError:
        raise
    except (OSError, ValueError, struct.error) as error:
        raise FileProblem(f"cannot read {path}: {error}; compute the matrix again from a text") from error
    if not found.sums:
        raise FileProblem(f"{path} holds no matrix; compute it again from a text")
    for name, sums in found.sums.items():
        if not np.isfinite(sums).all() or not np.isfinite(found.counts[name]).all() or (sums < 0).any():
            raise FileProblem(f"{path} holds numbers for {name!r} that are no sums of squares; compute it again")
    return found


def _read_gguf(path: Path) -> Matrix:
    header = read_header(path)
    if (kind := header.text("general.type")) != "imatrix":
        raise FileProblem(f"{path} is a GGUF file of the type {kind!r}, expected 'imatrix', or a text to read")
    header.check_tensors()
    tensors = {tensor.name: tensor for tensor in header.tensors}
    sums, counts = {}, {}
    for name in tensors:
        if name.endswith(".in_sum2"):
            plain = name.removesuffix(".in_sum2")
            if f"{plain}.counts" not in tensors:
                raise FileProblem(f"{path} has sums for {plain!r} and no counts; it is damaged")
            sums[plain], counts[plain] = (_numbers(header, tensors[plain + ending]) for ending in _ENDINGS)
            if sums[plain].shape[0] != counts[plain].size:
                raise FileProblem(f"{path} has sums and counts for {plain!r} that do not fit each other; it is damaged")
    chunks = header.metadata.get("imatrix.chunk_count", 0)
    datasets = header.metadata.get("imatrix.datasets", ())
    said = ", ".join(map(str, datasets)) if isinstance(datasets, tuple) else ""
    return Matrix(sums, counts, chunks if isinstance(chunks, int) else 0, said or path.name)


def _numbers(header: GgufHeader, tensor: TensorInfo) -> F32:
    if tensor.type != _F32:
        raise FileProblem(f"{header.path} holds {tensor.name!r} as {tensor.type_name}, expected F32; it is damaged")
    with header.path.open("rb") as file:
        file.seek(header.data_offset + tensor.offset)
        raw = np.frombuffer(file.read(tensor.bytes), "<f4")
    return raw.reshape(-1, tensor.shape[0]).astype(np.float32)


def _read_legacy(path: Path) -> Matrix:
    """The form before 2025: a count, then name, calls, values; the values are means times calls."""
    data = memoryview(path.read_bytes())
    at = 0

    def integer() -> int:
        nonlocal at
        (value,) = struct.unpack_from("<i", data, at)
        at += 4
        if not 0 <= value <= len(data):
            raise FileProblem(f"{path} announces {value:,} of something; it is no importance matrix, or damaged")
        return int(value)

    sums, counts = {}, {}
    for _ in range(integer()):
        length = integer()
        name = bytes(data[at : at + length]).decode("utf-8")
        at += length
        calls, size = integer(), integer()
        values = np.frombuffer(data[at : at + 4 * size], "<f4")
        if len(values) != size or not size or not name:
            raise FileProblem(f"{path} ends inside the numbers for {name!r}; it is damaged")
        at += 4 * size
        sums[name], counts[name] = values.reshape(1, -1).astype(np.float32), np.asarray([max(calls, 1)], np.float32)
    chunks, dataset = 0, path.name
    if at + 8 <= len(data):
        chunks = integer()
        length = integer()
        dataset = bytes(data[at : at + length]).decode("utf-8", errors="replace") or dataset
    return Matrix(sums, counts, chunks, dataset)


def fitted(matrix: Matrix, header: GgufHeader) -> Matrix:
    """The matrix with a row for each expert, where an older file has them one after the other. Checked, see `check`."""
    tensors = {tensor.name: tensor for tensor in header.tensors}
    sums, counts = dict(matrix.sums), dict(matrix.counts)
    for name, found in matrix.sums.items():
        if name in tensors and found.shape[0] == 1 and math.prod(_shape(tensors[name])) == found.size:
            rows = _shape(tensors[name])[0]
            sums[name] = found.reshape(rows, -1)
            counts[name] = np.repeat(matrix.counts[name].reshape(-1)[:1], rows)
    made = Matrix(sums, counts, matrix.chunks, matrix.dataset, matrix.notes)
    made.check(header)
    return made


def _shape(tensor: TensorInfo) -> tuple[int, int]:
    """Matrices and inputs of each."""
    return math.prod(tensor.shape[2:]), tensor.shape[0]


def _matters(tensor: TensorInfo) -> bool:
    """Whether llama.cpp weighs a tensor: the matrices of the layers, routers aside."""
    return len(tensor.shape) > 1 and tensor.name.startswith("blk.") and tensor.type in _UNQUANTIZED_WIDE


_UNQUANTIZED_WIDE = (0, 1, 30)  # F32, F16, BF16


class _Tensor(ctypes.Structure):
    """ggml_tensor up to its name (ggml.h); `_agrees` compares it with what ggml itself says."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * _DIMS),
        ("nb", ctypes.c_size_t * _DIMS),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * _SOURCES),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * _NAME),
    )


def compute(model_path: Path, text: Path, advance: Callable[[int, int], None]) -> Matrix:
    """Compute the matrix of an unquantized GGUF file from a text; `advance` is told tokens read and in all.

    Raises UsageError for a text that is too short, FileProblem for one that cannot be read.
    """
    content = _read_text(text)
    header = read_header(model_path)
    wanted = {tensor.name: tensor for tensor in header.tensors if _matters(tensor)}
    with opened(model_path) as model:
        trained = int(header.metadata.get(f"{header.text('general.architecture')}.context_length", CHUNK))
        size = min(CHUNK, trained)
        ids = model.tokenize(content, add_special=False)
        bos = [token] if (token := _bos(model)) is not None else []
        step = size - len(bos)
        chunks = [ids[at : at + step] for at in range(0, len(ids) - step + 1, step)] or [ids]
        if len(ids) < min(LEAST, step):
            raise UsageError(
                f"{text} has {len(ids)} tokens; an importance matrix takes {min(LEAST, step)} or more, best 50,000"
            )
        notes: tuple[str, ...] = ()
        if len(chunks) > MOST:
            notes = (f"the importance matrix was computed from the first {MOST * step:,} tokens of {text}",)
        chunks, collector = chunks[:MOST], _Collector(wanted)
        total = sum(map(len, chunks))
        with model.evaluated(size, collector.ask_or_collect) as context:
            for done, chunk in enumerate(chunks):
                advance(done * step, total)
                model.read(context, [*bos, *chunk])
                if collector.fault is not None:
                    raise collector.fault
        advance(total, total)
    return Matrix(
        {name: found.astype(np.float32) for name, found in collector.sums.items()},
        {name: found.astype(np.float32) for name, found in collector.counts.items()},
        len(chunks),
        text.name,
        notes,
    )


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(_TEXT)
            more = bool(file.read(1))
    except OSError as error:
        raise FileProblem(f"cannot read {path}: {error.strerror or error}") from error
    if more:  # whole lines, so that no character is cut
        raw = raw[: raw.rfind(b"\n") + 1] or raw.decode("utf-8", errors="ignore").encode()
    return decode_text(raw, str(path))


def _bos(model: LoadedModel) -> int | None:
    """The token that llama.cpp puts before every text, if it does."""
    found = model.tokenize("a", add_special=True)
    plain = model.tokenize("a")
    return found[0] if len(found) > len(plain) and found[1 : 1 + len(plain)] == plain else None


class _Collector:
    """Sums the squares of what goes into each wanted tensor, as llama.cpp's callback shows it."""

    def __init__(self, wanted: Mapping[str, TensorInfo]) -> None:
        self.wanted = wanted
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.counts: dict[str, NDArray[np.float64]] = {}
        self.fault: BaseException | None = None  # an exception cannot pass through C
        self.agreed = False

    def ask_or_collect(self, address: int, ask: bool, _: Any) -> bool:
        """Asked first, for each step of the computation, whether its result is wanted; then called with it."""
        try:
            node = _Tensor.from_address(address)
            if not self.agreed:
                self._agree(address, node)
            weight = self._weight(node)
            if ask or weight is None:
                return weight is not None
            self._collect(weight, node)
        except BaseException as error:
            self.fault = error
            return False
        return True

    def _agree(self, address: int, node: _Tensor) -> None:
        """Raise ModelError if this library lays tensors out in another way than `_Tensor`."""
        from llama_cpp import _ggml

        get_name = getattr(_ggml.libggml, "ggml_get_name", None)
        if get_name is not None:
            get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
            if get_name(address) != node.name:
                raise ModelError(
                    "this llama.cpp lays out its tensors in a way not known here; pass --imatrix a file that "
                    "llama.cpp's own llama-imatrix made"
                )
        self.agreed = True

    def _weight(self, node: _Tensor) -> TensorInfo | None:
        """The tensor of the model that a step multiplies with; None for every other step."""
        if not node.src[0] or not node.src[1]:
            return None
        weight = _Tensor.from_address(node.src[0])
        found = self.wanted.get(weight.name.decode("utf-8", errors="replace"))
        if found is None or tuple(weight.ne[: len(found.shape)]) != found.shape:
            return None
        other = _Tensor.from_address(node.src[1])
        return found if other.type == _F32 and other.ne[0] == found.shape[0] else None

    def _collect(self, tensor: TensorInfo, node: _Tensor) -> None:
        matrices, width = _shape(tensor)
        x = _array(_Tensor.from_address(node.src[1]), np.float32)  # (..., tokens, width)
        sums = self.sums.setdefault(tensor.name, np.zeros((matrices, width)))
        if matrices == 1:
            rows = x.reshape(-1, width)
            counts = self.counts.setdefault(tensor.name, np.zeros(1))
            sums[0] += np.einsum("ij,ij->j", rows, rows, dtype=np.float64)
            counts[0] += len(rows)
        elif node.src[2]:
            counts = self.counts.setdefault(tensor.name, np.zeros(matrices))
            ids = _array(_Tensor.from_address(node.src[2]), np.int32)[0, 0]  # (tokens, experts used)
            inputs = np.broadcast_to(x[0], (*ids.shape, width))  # one for all experts, or one for each
            for expert in np.unique(ids):
                rows = inputs[ids == expert]
                sums[expert] += np.einsum("ij,ij->j", rows, rows, dtype=np.float64)
                counts[expert] += len(rows)
        if not np.isfinite(sums).all():
            raise ModelError(f"what goes into {tensor.name} is not finite; the model's activations overflow")


def _array(tensor: _Tensor, kind: type[np.generic]) -> NDArray[Any]:
    """The numbers of a tensor in this process's memory, last dimension first as numpy has it; not copied."""
    shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
    reach = sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + np.dtype(kind).itemsize
    raw = np.frombuffer((ctypes.c_char * reach).from_address(tensor.data), kind)
    return np.lib.stride_tricks.as_strided(raw, shape, strides)


def existing(given: Path | None) -> Matrix | None:
    """The matrix of a file that is one already; None for a text, or for nothing."""
    return read(given) if given is not None and is_matrix(given) else None


def settle(
    found: Matrix | None,
    given: Path | None,
    start: Path,
    files: Staged,
    targets: Mapping[str, Path],
    progress: Progress,
) -> Matrix | None:
    """The matrix to quantize with: the one found, or one computed from the text given and kept beside the outputs."""
    if given is None:
        return None
    if found is not None:
        return fitted(found, read_header(start))
    made = compute(start, given, lambda done, total: progress("reading for the matrix", done, total))
    made.check(read_header(start))
    kept = next(iter(targets.values())).parent / f"{given.stem}-imatrix.gguf"
    made.save(files.also(kept))
    return made


@contextmanager
def for_quantizer(matrix: Matrix | None, params: Any, lib: Any) -> Iterator[None]:
    """Hand a matrix to llama.cpp's quantizer, and its description for the file's metadata; nothing if there is none."""
    if matrix is None:
        yield
        return
    values = matrix.values()
    entries = (lib.llama_model_imatrix_data * (len(values) + 1))()
    for entry, (name, numbers) in zip(entries, values.items(), strict=False):
        entry.name, entry.size = name.encode(), numbers.size
        entry.data = numbers.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    said = _overrides(lib, {"dataset": matrix.dataset, "entries_count": len(values), "chunks_count": matrix.chunks})
    params.imatrix = ctypes.cast(entries, type(params.imatrix))
    params.kv_overrides = ctypes.cast(said, type(params.kv_overrides))
    yield  # entries, values and overrides live until here


def _overrides(lib: Any, said: Mapping[str, str | int]) -> Any:
    found = (lib.llama_model_kv_override * (len(said) + 1))()
    for entry, (key, value) in zip(found, said.items(), strict=False):
        entry.key = f"quantize.imatrix.{key}".encode()
        if isinstance(value, int):
            entry.tag, entry.value.val_i64 = _OVERRIDE_INT, value
        else:
            entry.tag, entry.value.val_str = _OVERRIDE_STR, value.encode()[:120].decode("utf-8", "ignore").encode()
    return found


_OVERRIDE_INT, _OVERRIDE_STR = 0, 3  # LLAMA_KV_OVERRIDE_TYPE_*
