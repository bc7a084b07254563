"""Reading texts that people edit, and writing files so that no one ever finds a part of one."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from .errors import FileProblem

_ENCODINGS = (  # the longer mark first: UTF-16's begins UTF-32's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path, what: str = "") -> str:
    """A text that a person may have edited, as `decode_text` reads it. Raises FileProblem, which says `what` it is."""
    named = f"{what} {path}".strip()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileProblem(f"cannot read {named}: {error.strerror or error}") from error
    return decode_text(data, named)


def decode_text(data: bytes, source: str) -> str:
    """UTF-8, or what a byte order mark says; lines end in "\\n" alone. Raises FileProblem for anything else."""
    try:
        text = data.decode(encoding_of(data))
    except UnicodeDecodeError as error:
        raise FileProblem(
            f"{source} is not UTF-8 text (byte {error.start:,} is 0x{data[error.start]:02x}); "
            "convert it first, for example with: iconv -f latin1 -t utf-8"
        ) from error
    if "\0" in text:
        raise FileProblem(
            f"{source} holds zero bytes: no text, or UTF-16 without a byte order mark; "
            "convert that first, for example with: iconv -f utf-16le -t utf-8"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


HEAD = 512  # bytes of a file that tell what it is
_PAGES = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<error", b"<!--")
_POINTERS = {
    b"version https://git-lfs": "a git-lfs pointer, not the file itself: run `git lfs pull` in its folder",
    b"# xet version": "a xet pointer, not the file itself: fetch it with `hf download`",
    b"/annex/objects/": "a git-annex pointer, not the file itself: run `git annex get` in its folder",
}
_SAID = (b"entry not found", b"not found", b"access to ", b"invalid username", b"repository not found", b'{"error"')
_ARCHIVES = {
    b"\x1f\x8b\x08": "gzip",
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "7z",
    b"BZh": "bzip2",
}


def impostor(head: bytes) -> str:
    """What a file is that only stands in place of the one expected: a pointer, a page, an archive; "" for none.

    `head`: its first HEAD bytes. No file of weights, tokens or settings begins like any of these.
    """
    start = head.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    for mark, what in _POINTERS.items():
        if start.startswith(mark) or (mark.startswith(b"/") and mark in start[:200] and len(head) < HEAD):
            return what
    if start.startswith(_PAGES):
        return "a web page, not the file itself (a login or an error?): download it again, with `hf download`"
    if start.startswith(_SAID) and len(head) < HEAD:
        said = head.decode("utf-8", errors="replace").strip().split("\n")[0][:80]
        return f"a server's refusal ({said}), not the file itself: download it again, with `hf download`"
    for mark, kind in _ARCHIVES.items():
        if head.startswith(mark):
            pickle = ", perhaps weights in torch's own format" if kind == "zip" else ""
            return f"a {kind} archive{pickle}: unpack it, or take the file itself"
    if not head:
        return "empty: download or save it again"
    if len(head) >= 16 and not any(head):
        return "nothing but zeros at its beginning: a download that never finished; fetch it again"
    return ""


def read_head(path: Path) -> bytes:
    """The first HEAD bytes of a file. Raises OSError."""
    with path.open("rb") as file:
        return file.read(HEAD)


def encoding_of(data: bytes) -> str:
    """The encoding that a byte order mark at the beginning names; UTF-8 without one."""
    return next((encoding for mark, encoding in _ENCODINGS if data.startswith(mark)), "utf-8")


@contextmanager
def written_whole(path: Path, *, private: bool = False, beside: Path | None = None) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends; if it ends by an exception, nothing has changed.

    Several processes may write at once: the last one's file stays; where only one can, `beside` may name the file it
    is written in. `private` lets no other user read it.
    """
    beside = beside or path.with_name(f".{path.name}.{os.getpid()}")
    try:
        handle = os.open(
            beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600 if private else 0o666
        )
        with os.fdopen(handle, "wb") as file:
            yield file
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a text so that whoever is killed half-way leaves the old file or the new one."""
    with written_whole(path) as file:
        file.write(text.encode("utf-8"))


def recall(path: Path) -> dict[str, Any]:
    """What `remember` keeps in a file of ours: empty if it is not there, or damaged."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


def remember(path: Path, entries: Mapping[str, Any]) -> None:
    """Keep entries in a file of ours, beside those that are there. Raises OSError if it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(recall(path) | dict(entries), indent=1))
