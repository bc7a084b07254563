"""Read the header of a GGUF file (version 2 and 3) without trusting it and without loading the model.

gguf-py's GGUFReader reads every array into memory and believes every count it finds; files here come from
strangers, and `mal info` should answer at once. Format: ggml docs/gguf.md.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import FileProblem
from .files import HEAD, impostor

MAX_ARRAY = 1024  # longer arrays (vocabularies) are counted, not read
VOCABULARY = "tokenizer.ggml.tokens"

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4
_F32, _LONGEST = 0, 1 << 20  # a ggml type, and bytes of the longest vector that is no damage
# What some converters write and others do not: the head of a tied model, factors made from the metadata.
_ADDED = {"output.weight", "rope_freqs.weight"}


@dataclass(frozen=True, slots=True)
class LongArray:
    """An array that was counted but not read; `distinct` tells of a vocabulary that no token occurs twice."""

    count: int
    distinct: bool = True


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: `shape` in GGUF order (row length first), `type` a ggml type number, `offset` into the data."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def type_name(self) -> str:
        """The ggml type's name, such as Q4_K."""
        from gguf.constants import GGMLQuantizationType

        try:
            return str(GGMLQuantizationType(self.type).name)
        except ValueError:
            return f"type {self.type}"

    @property
    def bytes(self) -> int:
        """Its size in the file. Raises FileProblem for an unknown type or a row that is no multiple of a block."""
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        try:
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType(self.type)]
        except (ValueError, KeyError):
            raise FileProblem(f"tensor {self.name!r} has the unknown ggml type {self.type}; update gguf") from None
        if self.shape[0] % block:
            raise FileProblem(f"tensor {self.name!r}: rows of {self.shape[0]} are no multiple of the block of {block}")
        return self.elements // int(block) * int(size)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says of itself. `data_offset` is where tensor data begins, in bytes."""

    path: Path
    version: int
    metadata: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    file_size: int

    def text(self, key: str, default: str = "") -> str:
        """A metadata string; `default` if absent. Raises FileProblem if the key holds something else."""
        value = self.metadata.get(key, default)
        if not isinstance(value, str):
            raise FileProblem(f"{self.path}: metadata key {key!r} should hold a text, found {type(value).__name__}")
        return value

    def check_tensors(self) -> int:
        """The bytes of all tensors, each checked to lie inside the file. Raises FileProblem with both sizes."""
        total = 0
        for tensor in self.tensors:
            end = self.data_offset + tensor.offset + tensor.bytes
            if end > self.file_size:
                raise FileProblem(
                    f"{self.path} is cut short: tensor {tensor.name!r} ends at byte {end:,}, "
                    f"the file at {self.file_size:,}; download or convert it again"
                )
            total += tensor.bytes
        return total


# What a file says of how its model likes to be sampled, by its name here (llama.cpp, general.sampling.*).
_SAMPLING = {
    "temp": ("temperature", 0.0, 10.0),
    "top_k": ("top_k", 0, 2**31 - 1),
    "top_p": ("top_p", 0.0, 1.0),
    "min_p": ("min_p", 0.0, 1.0),
    "penalty_repeat": ("repeat_penalty", 0.0, 10.0),
}


def recommended_sampling(header: GgufHeader) -> dict[str, float]:
    """The sampling that a file recommends, by the names of `Sampling`; a value out of its range is left out."""
    found: dict[str, float] = {}
    for key, (name, least, most) in _SAMPLING.items():
        value = header.metadata.get(f"general.sampling.{key}")
        if isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most:
            found[name] = int(value) if name == "top_k" else round(float(value), 6)
    return found


def read_header(path: Path, max_array: int = MAX_ARRAY) -> GgufHeader:
    """Read metadata and tensor descriptions. Arrays longer than `max_array` become `LongArray`.

    Raises FileProblem, naming what was found: no such file, a folder, not GGUF, cut short, impossible counts.
    """
    if path.is_dir():
        raise FileProblem(
            f"{path} is a folder, expected a .gguf file; `mal convert {path}` makes one from a model folder"
        )
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size < 24:
                what = impostor(file.read(HEAD))
                advice = f"it is {what}" if what and size else "download or convert it again"
                raise FileProblem(f"{path} is {size} bytes, too short for a GGUF file; {advice}")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Parser(path, data, size, max_array).header()
    except FileNotFoundError:
        raise FileProblem(f"no such file: {path}; expected the path of a .gguf file") from None
    except (PermissionError, IsADirectoryError, ValueError) as error:
        raise FileProblem(f"cannot read {path}: {error}") from error


def base_fingerprint(header: GgufHeader) -> str:
    """A SHA-256 that all quantizations of one base share, and other bases hardly ever; "" for a file without norms.

    Over the architecture, the shapes and the norms, which stay float32 in every quantization, rounded to bfloat16.
    Weights merged from an adapter that left the norms alone are not told apart.
    """
    found = hashlib.sha256(header.text("general.architecture").encode())
    vectors = 0
    with header.path.open("rb") as file:
        for tensor in sorted(header.tensors, key=lambda tensor: tensor.name):
            if tensor.name in _ADDED:
                continue
            found.update(f"\0{tensor.name}\0{tensor.shape}\0".encode())
            if len(tensor.shape) == 1 and tensor.type == _F32 and tensor.bytes <= _LONGEST:
                file.seek(header.data_offset + tensor.offset)
                raw = file.read(tensor.bytes)
                numbers = struct.unpack(f"<{len(raw) // 4}I", raw[: len(raw) // 4 * 4])
                found.update(struct.pack(f"<{len(numbers)}H", *((n + 0x8000 >> 16) & 0xFFFF for n in numbers)))
                vectors += 1
    return found.hexdigest() if vectors else ""


def sampled_digest(header: GgufHeader) -> bytes:
    """A SHA-256 of a file's size, head and samples of its weights: not of its name or date."""
    size = header.path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with header.path.open("rb") as file:
        digest.update(file.read(header.data_offset))
        for part in range(64):
            file.seek(header.data_offset + (size - header.data_offset) * part // 64)
            digest.update(file.read(4096))
    return digest.digest()


class _Parser:
    """A cursor over the file. Every step checks what is left before it reads."""

    def __init__(self, path: Path, data: mmap.mmap, size: int, max_array: int) -> None:
        self.path, self.data, self.size, self.max_array, self.at = path, data, size, max_array, 0
        self.key = ""  # whose value is being read

    def header(self) -> GgufHeader:
        magic = self.data[:4]
        if magic != b"GGUF":
            what = impostor(self.data[:HEAD])
            advice = f"it is {what}" if what else "is this a model file in GGUF format?"
            raise self.problem(f"begins with {magic!r}, expected b'GGUF'", advice)
        self.at = 4
        version = self.scalar("<I")
        if version not in (2, 3):
            other = int.from_bytes(struct.pack("<I", version), "big")
            what = "big-endian" if other in (2, 3) else f"GGUF version {version}"
            raise self.problem(f"is {what}, expected little-endian version 2 or 3", "convert it again")
        n_tensors, n_keys = self.scalar("<Q"), self.scalar("<Q")
        # The smallest entry: a key of one byte with a one-byte value; a tensor of one dimension.
        if n_keys * 14 + n_tensors * 33 > self.size:
            raise self.problem(f"announces {n_tensors:,} tensors and {n_keys:,} keys", "it is damaged")
        metadata = dict(self.pairs(n_keys))
        tensors = tuple(self.tensors(n_tensors))
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
            raise self.problem(f"has an alignment of {alignment!r}, expected a power of two", "it is damaged")
        data_offset = -(-self.at // alignment) * alignment
        return GgufHeader(self.path, version, metadata, tensors, data_offset, self.size)

    def pairs(self, count: int) -> Iterator[tuple[str, Any]]:
        seen: set[str] = set()
        for _ in range(count):
            key = self.string()
            if key in seen:
                raise self.problem(f"repeats the metadata key {key!r}", "it is damaged")
            seen.add(key)
            self.key = key
            yield key, self.value(self.scalar("<I"))

    def tensors(self, count: int) -> Iterator[TensorInfo]:
        seen: set[str] = set()
        for _ in range(count):
            name = self.string()
            n_dimensions = self.scalar("<I")
            if name in seen or not 1 <= n_dimensions <= _MAX_DIMENSIONS:
                raise self.problem(
                    f"describes tensor {name!r} twice or with {n_dimensions} dimensions", "it is damaged"
                )
            seen.add(name)
            shape = tuple(self.scalar("<Q") for _ in range(n_dimensions))
            if not 0 < math.prod(shape) < 1 << 48:
                raise self.problem(f"gives tensor {name!r} the shape {shape}", "it is damaged")
            yield TensorInfo(name, shape, self.scalar("<I"), self.scalar("<Q"))

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array()
        if kind not in _SCALARS:
            raise self.problem(
                f"holds a metadata value of unknown kind {kind}", "it is damaged, or newer than this program"
            )
        return self.scalar(_SCALARS[kind])

    def array(self) -> Any:
        kind, count = self.scalar("<I"), self.scalar("<Q")
        if kind == _ARRAY or kind not in (*_SCALARS, _STRING):
            raise self.problem(f"holds an array of kind {kind}", "it is damaged, or newer than this program")
        width = 8 if kind == _STRING else struct.calcsize(_SCALARS[kind])
        self.need(count * width)
        if count <= self.max_array:
            return tuple(self.value(kind) for _ in range(count))
        if kind != _STRING:
            self.skip(count * width)
            return LongArray(count)
        seen: set[bytes] = set()
        for _ in range(count):
            began, length = self.at, self.scalar("<Q")
            self.skip(length)
            if self.key == VOCABULARY:
                seen.add(self.data[began : self.at])
        return LongArray(count, len(seen) == count or self.key != VOCABULARY)

    def string(self) -> str:
        length = self.scalar("<Q")
        self.need(length)
        raw = self.data[self.at : self.at + length]
        self.at += length
        return raw.decode("utf-8", errors="replace")

    def scalar(self, form: str) -> Any:
        width = struct.calcsize(form)
        self.need(width)
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += width
        return value

    def skip(self, count: int) -> None:
        self.need(count)
        self.at += count

    def need(self, count: int) -> None:
        if self.at + count > self.size:
            raise self.problem(f"ends at byte {self.size:,} inside its header", "download or convert it again")

    def problem(self, found: str, advice: str) -> FileProblem:
        return FileProblem(f"{self.path} {found}; {advice}")
