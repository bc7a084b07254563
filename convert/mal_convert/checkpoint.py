"""Read a model folder: its config and the tensors of its safetensors files, without trusting or copying them.

The safetensors library hands numpy no bfloat16 and copies each tensor whole; here a tensor is a typed view of the
mapped file, read a few rows at a time. Every size, shape and offset is checked against the file before it is used.
Format: huggingface/safetensors README, "Format". No pickle is ever opened.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaaligner_lite.errors import FileProblem, MalError, ModelError
from metaaligner_lite.files import HEAD, decode_text, impostor, read_head

F32 = NDArray[np.float32]

# safetensors dtype -> numpy's type for its bits; bfloat16 has none of its own
_STORED: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
_WIDTH = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2}
_MAX_HEADER = 100 << 20  # the limit of the safetensors library itself
_MAX_JSON = 128 << 20
_CHUNK = 1 << 20  # float32 numbers held at once while a tensor streams: they fit the processor's cache


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """Where one tensor lies: `shape` in PyTorch order, `offset` in bytes from the start of `file`.

    `transposed`: the file holds the matrix the other way round; `shape` and `stored` are as PyTorch has it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    transposed: bool = False

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def rows(self) -> int:
        """How many rows it has; a vector is one row."""
        return self.shape[0] if len(self.shape) > 1 else 1

    def stored(self) -> NDArray[Any]:
        """The numbers as stored, shape (rows, row length), mapped from the file; bfloat16 as its 16 bits."""
        kind, shape = _STORED[self.dtype], (self.rows, self.row_length)
        if not self.transposed:
            return np.memmap(self.file, mode="r", dtype=kind, offset=self.offset, shape=shape)
        return np.memmap(self.file, mode="r", dtype=kind, offset=self.offset, shape=shape[::-1]).T

    def item(self, i: int) -> SourceTensor:
        """One of the matrices that a tensor of three dimensions holds."""
        size = math.prod(self.shape[1:]) * _WIDTH.get(self.dtype, 1)
        return replace(self, shape=self.shape[1:], offset=self.offset + i * size)

    def part(self, start: int, count: int) -> SourceTensor:
        """Some neighbouring rows."""
        size = math.prod(self.shape[1:]) * _WIDTH.get(self.dtype, 1)
        return replace(self, shape=(count, *self.shape[1:]), offset=self.offset + start * size)

    @property
    def row_length(self) -> int:
        """How many numbers a row holds."""
        return self.elements // self.rows


def as_float32(stored: NDArray[Any], dtype: str) -> F32:
    """Stored numbers as float32, exactly except for float64."""
    if dtype == "BF16":
        bits = stored.astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
    return stored.astype(np.float32)


def row_chunks(rows: int, row_length: int) -> Iterator[slice]:
    """Slices of rows that keep about 4 MB of float32 in memory at a time."""
    step = max(1, _CHUNK // max(row_length, 1))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


@dataclass(frozen=True)
class Checkpoint:
    """A model folder: `config` as read from config.json, and where each tensor lies."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, SourceTensor]

    @cached_property
    def dtype(self) -> str:
        """The type its matrices are stored in, the widest where they differ: F32, F16 or BF16."""
        kinds = {tensor.dtype for tensor in self.tensors.values() if len(tensor.shape) > 1}
        kinds = kinds or {tensor.dtype for tensor in self.tensors.values()}
        return kinds.pop() if len(kinds) == 1 and not kinds & {"F64"} else "F32"


def open_checkpoint(folder: Path) -> Checkpoint:
    """Find config and tensors of a model folder; no tensor data is read.

    Raises FileProblem if something is missing, damaged or stored in pickles.
    """
    config = read_json(folder / "config.json")
    tensors = read_tensors(folder)
    return Checkpoint(folder, config, tensors)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises FileProblem if it is missing, damaged, too large or no object."""
    try:
        if (size := path.stat().st_size) > _MAX_JSON:
            raise FileProblem(f"{path} is {size:,} bytes, more than any such file needs; is it the right one?")
        if what := impostor(read_head(path)):
            raise FileProblem(f"{path} is {what}")
        found = json.loads(decode_text(path.read_bytes(), str(path)))
    except FileNotFoundError:
        raise FileProblem(f"{path.name} is missing in {path.parent}; copy it from the original model folder") from None
    except MalError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise FileProblem(f"cannot read {path}: {error}; copy it again from the original model folder") from error
    if not isinstance(found, dict):
        raise FileProblem(f"{path} holds a {type(found).__name__}, expected a JSON object")
    return found


def read_optional_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or an empty one if there is no such file."""
    return read_json(path) if path.is_file() else {}


def read_tensors(folder: Path, stem: str = "model") -> dict[str, SourceTensor]:
    """Where each tensor of a folder lies, from one safetensors file or from the shards its index names.

    Raises FileProblem if shards are missing or the index names tensors that no shard has.
    """
    index = folder / f"{stem}.safetensors.index.json"
    single = folder / f"{stem}.safetensors"
    if index.is_file():
        return _read_shards(index)
    if single.is_file():
        return {tensor.name: tensor for tensor in read_safetensors(single)}
    raise _no_safetensors(folder, single)


def has_weights(folder: Path) -> bool:
    """Whether a folder holds the safetensors of a whole model."""
    return any((folder / f"model.safetensors{ending}").is_file() for ending in ("", ".index.json"))


def has_pickles(folder: Path) -> bool:
    """Whether a folder holds a whole model's weights in pickles, which are not read."""
    return next(folder.glob("pytorch_model*.bin"), None) is not None


def _read_shards(index: Path) -> dict[str, SourceTensor]:
    wanted = read_json(index).get("weight_map")
    if not isinstance(wanted, dict) or not all(isinstance(name, str) for name in wanted.values()):
        raise FileProblem(f"{index} has no weight_map of tensor names to file names; copy it again")
    shards = sorted(set(wanted.values()))
    if foreign := [name for name in shards if Path(name).name != name]:
        raise FileProblem(f"{index} points outside its folder: {foreign[0]!r}")
    if absent := [name for name in shards if not (index.parent / name).is_file()]:
        raise FileProblem(f"{len(absent)} of {len(shards)} shards are missing in {index.parent}: {', '.join(absent)}")
    found = {tensor.name: tensor for shard in shards for tensor in read_safetensors(index.parent / shard)}
    if lost := sorted(set(wanted) - set(found)):
        raise FileProblem(f"{index} names {len(lost)} tensors that no shard holds, such as {lost[0]!r}; download again")
    return found


def read_safetensors(path: Path) -> list[SourceTensor]:
    """Where the tensors of one safetensors file lie, in file order. Raises FileProblem if anything does not fit."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(HEAD)
            if head[8:9] != b"{" and (what := impostor(head)):  # the header's length may begin like anything
                raise FileProblem(f"{path} is {what}")
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(_MAX_HEADER, size - 8):
                raise FileProblem(
                    f"{path} is {size:,} bytes and announces a header of {length:,}; it is damaged or cut short: "
                    "download or save it again"
                )
            header = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, FileProblem):
            raise
        raise FileProblem(f"cannot read {path}: {error}; download or save it again") from error
    if not isinstance(header, dict):
        raise FileProblem(f"{path}: the header is a {type(header).__name__}, expected a JSON object")
    entries = [_entry(path, name, raw, 8 + length, size) for name, raw in header.items() if name != "__metadata__"]
    return sorted(entries, key=lambda tensor: tensor.offset)


def _entry(path: Path, name: str, raw: object, start: int, size: int) -> SourceTensor:
    """One checked entry of a safetensors header."""
    match raw:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise FileProblem(f"{path}: tensor {name!r} is described by {str(raw)[:80]}, not dtype, shape, offsets")
    if not all(type(n) is int and 0 <= n < 1 << 40 for n in shape) or len(shape) > 8:
        raise FileProblem(f"{path}: tensor {name!r} has the shape {str(shape)[:80]}, expected up to 8 sizes")
    if not 0 <= begin <= end <= size - start:
        raise FileProblem(
            f"{path} is damaged or cut short: tensor {name!r} lies at bytes {begin:,} to {end:,} "
            f"of {size - start:,}; download or save it again"
        )
    width = _WIDTH.get(dtype)
    if width is not None and math.prod(shape) * width != end - begin:
        raise FileProblem(
            f"{path}: tensor {name!r} has {end - begin:,} bytes, but {dtype} {shape} needs {math.prod(shape) * width:,}"
        )
    return SourceTensor(name, dtype, tuple(shape), path, start + begin)


def require_float(tensor: SourceTensor) -> None:
    """Raise ModelError, with the way out, if a tensor holds anything but plain floating-point numbers."""
    if tensor.dtype not in _STORED:
        raise ModelError(
            f"tensor {tensor.name!r} is stored as {tensor.dtype}: the checkpoint is quantized already; "
            "convert the original 16 or 32-bit one"
        )


def _no_safetensors(folder: Path, expected: Path) -> FileProblem:
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickles:
        return FileProblem(
            f"{folder} holds its weights in pickles ({pickles[0]}), which can run code when opened and are never read "
            "here; save it again with transformers: model.save_pretrained(FOLDER)"
        )
    if not folder.exists():
        return FileProblem(f"no such folder: {folder}")
    return FileProblem(f"{expected.name} is missing in {folder}; expected a Hugging Face model folder")
