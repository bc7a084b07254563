"""What a run has done so far, in a file beside its output: one JSON line per row, on the disk before the next begins.

The first line holds the settings; a run with others may not go on with it. A line that was torn by a kill or a full
disk is cut away, and its row done again. In memory are a key and a place per row, no texts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from .errors import FileProblem, UsageError
from .records import Record, json_line

_FORM = 1  # of the journal itself


class Journal:
    """A journal, opened to go on with. Only one process can have it open.

    `start_over` sets an earlier one aside, under a name of its own. Raises UsageError if `settings` are not those it
    was begun with, FileProblem if it is damaged, in use, or cannot be written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, start_over: bool = False) -> None:
        self.path = path
        if start_over and path.exists():
            path.rename(_free(path))
        self._places: dict[bytes, int] = {}  # where the line of a row begins; a failed one's is negative
        try:
            self._file: BinaryIO = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | _BINARY, 0o666), "r+b", 0)
        except OSError as error:
            raise FileProblem(f"cannot open {path}: {error.strerror or error}") from error
        self._reader: BinaryIO | None = None
        try:
            _lock(self._file, path)
            self._reader = path.open("rb")
            self._end = 0
            self._recover(json.loads(json.dumps(settings)))
        except BaseException:
            self.close()
            raise

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def failed(self, key: bytes) -> bool:
        """Whether a row was done, and failed."""
        return self._places.get(key, 0) < 0

    def append(self, key: bytes, result: Record) -> None:
        """Note what came of a row; it is on the disk when this returns. Raises FileProblem if it cannot be."""
        place = self._end
        self._write({"key": key.hex(), **result})
        self._places[key] = -place if result.get("error") else place

    def read(self, key: bytes) -> Record:
        """What came of a row, last. Raises KeyError for one that was not done."""
        assert self._reader
        self._reader.seek(abs(self._places[key]))
        record: Record = json.loads(self._reader.readline())
        return record

    def close(self, *, remove: bool = False) -> None:
        """Let go of the file; `remove` it if it is of no more use."""
        if self._reader:
            self._reader.close()
        if remove:
            self.path.unlink(missing_ok=True)
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _recover(self, settings: Mapping[str, Any]) -> None:
        """Read what is there, cut a torn end away; begin anew if there is nothing."""
        assert self._reader
        head: Record | None = None
        damaged = -1  # the number of a line that cannot be read: no harm at the end
        for number, line in enumerate(self._reader, 1):
            if damaged >= 0:
                raise FileProblem(f"{self.path} is damaged in line {damaged}; take it away, or `start_over`")
            try:
                record = json.loads(line) if line.endswith(b"\n") else None
                if record is None:
                    raise ValueError
                if head is None:
                    head = record
                    _compare(self.path, head, settings)
                else:
                    self._places[bytes.fromhex(record["key"])] = -self._end if record.get("error") else self._end
            except (ValueError, KeyError, TypeError) as error:
                if isinstance(error, UsageError):
                    raise
                damaged = number
            else:
                self._end += len(line)
        if damaged >= 0:
            self._file.truncate(self._end)
        self._file.seek(self._end)
        if head is None:
            self._write({"journal": _FORM, "settings": settings})
            _sync_folder(self.path.parent)

    def _write(self, record: Record) -> None:
        line = json_line(record)
        try:
            view = memoryview(line)
            while view:
                view = view[self._file.write(view) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(self._end)
            self._file.seek(self._end)
            raise FileProblem(
                f"cannot write {self.path}: {error.strerror or error}; what is done is kept, run the same again"
            ) from error
        self._end += len(line)


def _compare(path: Path, head: Record, settings: Mapping[str, Any]) -> None:
    begun = head["settings"] if head.get("journal") == _FORM else {"journal": head.get("journal")}
    differing = sorted(name for name in {*begun, *settings} if begun.get(name) != settings.get(name))
    if differing:
        told = "; ".join(f"{name}: {_short(begun.get(name))}, now {_short(settings.get(name))}" for name in differing)
        raise UsageError(
            f"{path} was begun with other settings ({told}); go on with the same, or `start_over` beside it"
        )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _free(path: Path) -> Path:
    number = 1
    while (other := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return other


def _lock(file: BinaryIO, path: Path) -> None:
    """Take the file for this process; where the system has no such locks, nothing keeps a second one out."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FileProblem(f"{path} is in use: the same batch runs already") from error


def _sync_folder(folder: Path) -> None:
    """Let a new file's name survive a power cut, where folders can be synced."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


_BINARY = getattr(os, "O_BINARY", 0)
