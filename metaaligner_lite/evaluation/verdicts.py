"""What judges said, and what baselines wrote, kept in a file beside the report: a second run only asks what is new."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from ..journal import Journal
from .judges import Said

_SETTINGS = {"kept by": "mal eval"}  # whatever was asked stays true: every key holds all that its value follows from


class Kept:
    """The store. A failure is kept as one, and asked again; several threads may write.

    Raises FileProblem if it is in use, damaged, or cannot be written; UsageError for the file of another command.
    """

    def __init__(self, path: Path, *, start_over: bool = False) -> None:
        self._journal = Journal(path, _SETTINGS, start_over=start_over)
        self._lock = threading.Lock()

    def __enter__(self) -> Kept:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._journal.close()

    def said(self, key: bytes) -> Said | None:
        """What a judge said, None if it was not asked, or the asking failed."""
        held = self.value(key)
        if held is None or "verdict" not in held:
            return None
        names = ("verdict", "raw", "seconds", "tokens", "on_answers")
        return Said(**{name: held[name] for name in names if held.get(name) is not None})

    def keep(self, key: bytes, judge: str, said: Said) -> None:
        """Keep what a judge said."""
        told = {name: getattr(said, name) for name in ("verdict", "raw", "error", "seconds", "tokens", "on_answers")}
        self.put(key, {"judge": judge, **told})

    def value(self, key: bytes) -> dict[str, Any] | None:
        """What was kept under a key, None if nothing, or a failure."""
        with self._lock:
            if key not in self._journal or self._journal.failed(key):
                return None
            return self._journal.read(key)

    def put(self, key: bytes, value: dict[str, Any]) -> None:
        """Keep something; it is on the disk when this returns. With an "error" it counts as a failure."""
        with self._lock:
            self._journal.append(key, value)
