"""A data file as text: unpacked, decoded, a piece at a time, and never more of it than was asked for.

What a file begins with tells how it is packed (gzip, zstandard, xz, bzip2, zip) and encoded (UTF-8, or what a byte
order mark says). Memory does not grow with the file: a packed one that swells beyond belief is refused.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, cast

from .errors import FileProblem, MalError, UsageError, require_extra
from .files import encoding_of

PACKED = (".gz", ".zst", ".xz", ".bz2", ".zip")
LONGEST = 1 << 24  # characters of a line or of a JSON value; parsed, the worst of that size takes 0.4 GB
_SWOLLEN, _AT_LEAST = 200, 1 << 24  # times its own size, once that many bytes came out; text packs 3 to 50 times
_MEMORY = 1 << 28  # that unpacking may take; an xz header can ask for 4 GB
_PIECE = 1 << 16  # characters
_MAGIC = {
    b"\x1f\x8b": ".gz",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"\xfd7zXZ\x00": ".xz",
    b"BZh": ".bz2",
    b"PK\x03\x04": ".zip",
    b"PK\x05\x06": ".zip",  # an empty one
}
_ERRORS = (  # zipfile has no one error for a damaged file
    *(OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, struct.error),
    *(RuntimeError, NotImplementedError, ValueError, IndexError, KeyError, OverflowError, MemoryError),
)


def packing(path: Path) -> str:
    """How a file is packed, one of `PACKED`; "" if it is not. Raises FileProblem if it is not what its name says."""
    with path.open("rb") as file:
        head = file.read(8)
    found = next((suffix for magic, suffix in _MAGIC.items() if head.startswith(magic)), "")
    named = path.suffix.lower()
    if named in PACKED and not found and head:
        raise FileProblem(f"cannot read {path}: it is no {named} file, as its name says")
    return found


def inner_name(path: Path) -> str:
    """The name of what is packed in a file: without .gz and the like, of a zip the one data file in it.

    Raises UsageError for a zip of several, FileProblem if it cannot be read.
    """
    if path.suffix.lower() == ".zip" and path.is_file():
        with _told(path), zipfile.ZipFile(path) as archive:
            return _member(archive, path).filename
    return path.stem if path.suffix.lower() in PACKED else path.name


@contextmanager
def open_text(path: Path, errors: str = "strict") -> Iterator[IO[str]]:
    """The text of a file, line ends as they are. Raises FileProblem for what is no text, or packed beyond reason."""
    with ExitStack() as opened, _told(path):
        raw = _Bounded(_unpacked(path, packing(path), opened), path)
        buffer = io.BufferedReader(cast(io.RawIOBase, raw), 1 << 18)
        head = buffer.peek(1 << 12)
        refuse_impostors(head, path)
        encoding = encoding_of(head)
        if encoding == "utf-8" and head[:64].count(0) * 3 > len(head[:64]):
            raise FileProblem(
                f"{path} holds zero bytes: no text, or UTF-16 without a byte order mark; "
                "convert that first, for example with: iconv -f utf-16le -t utf-8"
            )
        # newline="": a CSV field may hold line ends of its own
        text = io.TextIOWrapper(buffer, encoding=encoding, errors=errors, newline="")
        text._CHUNK_SIZE = _PIECE  # type: ignore[attr-defined]
        opened.callback(text.detach)
        try:
            yield text
        except UnicodeDecodeError as error:
            raise FileProblem(f"{path} is not UTF-8 text ({_brief(error)}); save it as UTF-8") from error


def lines_of(file: IO[str], path: Path) -> Iterator[str]:
    """The lines of a text, with their ends. Raises FileProblem for one that is longer than any record.

    Not by readline: that is slow for short lines, and iteration has no limit.
    """
    chunk = file.read(_PIECE)
    end = "\r" if "\n" not in chunk and "\r" in chunk[:-1] else "\n"
    held: list[str] = []
    size = 0
    while chunk:
        if end in chunk:
            held.append(chunk)
            lines = "".join(held).split(end)
            held = [lines.pop()]
            size = len(held[0])
            for line in lines:
                yield line + end
        else:
            held.append(chunk)
            size += len(chunk)
        if size > LONGEST:
            raise FileProblem(
                f"{path} has a line of over {LONGEST:,} characters; is it {path.suffix or 'text'} at all?"
            )
        chunk = file.read(_PIECE)
    if last := "".join(held):
        yield last


def refuse_impostors(head: bytes, path: Path) -> None:
    """Raise FileProblem, naming it, for what is often found in place of a download."""
    start = head.lstrip()[:64].lower()
    if start.startswith(b"version https://git-lfs"):
        raise FileProblem(f"{path} is a git-lfs pointer, not the data; fetch that with: git lfs pull")
    if start.startswith((b"<!doctype html", b"<html")):
        raise FileProblem(f"{path} is a web page, not the data; download the file itself (often a link named raw)")


def _unpacked(path: Path, kind: str, opened: ExitStack) -> BinaryIO:
    file = opened.enter_context(path.open("rb"))
    if kind == ".gz":
        return cast(BinaryIO, opened.enter_context(gzip.GzipFile(fileobj=file)))
    if kind == ".bz2":
        return cast(BinaryIO, _Unpacked(file, bz2.BZ2Decompressor))
    if kind == ".xz":
        return cast(BinaryIO, _Unpacked(file, lambda: lzma.LZMADecompressor(memlimit=_MEMORY)))
    if kind == ".zst":
        return _zstandard(file)
    if kind == ".zip":
        archive = opened.enter_context(zipfile.ZipFile(file))
        return cast(BinaryIO, opened.enter_context(archive.open(_member(archive, path))))
    return file


def _zstandard(file: BinaryIO) -> BinaryIO:
    """By Python itself from 3.14 on, else by pyarrow, which Parquet needs anyway."""
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        require_extra("parquet", "pyarrow")
        import pyarrow

        return cast(BinaryIO, pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd"))
    return cast(BinaryIO, _Unpacked(file, zstd.ZstdDecompressor))


def _member(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    files = [info for info in archive.infolist() if not info.is_dir() and not info.filename.startswith("__MACOSX/")]
    data = [
        info for info in files if PurePosixPath(info.filename).suffix.lower() not in (".md", ".txt", ".license", "")
    ]
    if len(found := data or files) != 1:
        names = ", ".join(info.filename for info in found[:5])
        raise UsageError(f"{path} holds {len(found)} files ({names or 'none'}); unpack it and name the one to read")
    return found[0]


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What goes wrong while a file is unpacked, as one FileProblem."""
    try:
        yield
    except MalError:
        raise
    except _ERRORS as error:
        raise FileProblem(f"cannot read {path}: {_brief(error)}") from error


def _brief(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


class _Unpacked(io.RawIOBase):
    """Packed streams, one behind the other, unpacked as they are read."""

    def __init__(self, file: BinaryIO, make: Callable[[], Any]) -> None:
        self._file, self._make, self._unpacker = file, make, make()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            data = b""
            if self._unpacker.eof:
                data = self._unpacker.unused_data.lstrip(b"\0") or self._file.read(1 << 16).lstrip(b"\0")
                if not data:
                    return 0
                self._unpacker = self._make()
            elif self._unpacker.needs_input and not (data := self._file.read(1 << 16)):
                raise EOFError("it ends in the middle")
            if found := self._unpacker.decompress(data, len(buffer)):
                buffer[: len(found)] = found
                return len(found)


class _Bounded(io.RawIOBase):
    """A stream that stops where no honest file would go on."""

    def __init__(self, raw: BinaryIO, path: Path) -> None:
        self._raw, self._path, self._read = raw, path, 0
        self._most = max(_AT_LEAST, _SWOLLEN * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._raw.readinto(buffer)  # type: ignore[attr-defined]
        self._read += count or 0
        if self._read > self._most:
            raise FileProblem(
                f"{self._path} unpacks to over {_SWOLLEN} times its size, as no real text does; unpack it first"
            )
        return count or 0
