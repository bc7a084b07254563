"""Files that appear whole or not at all: written beside their place, synced, and renamed when everything has passed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from metaaligner_lite.errors import FileProblem

from .report import SPACE, Progress

MARGIN = 16 << 20  # metadata and what a file system keeps for itself


def _refuse_existing(paths: Sequence[Path], force: bool) -> None:
    """Raise FileProblem if a file would be overwritten without `force`, or if one is a folder."""
    for path in paths:
        if path.is_dir():
            raise FileProblem(f"{path} is a folder, expected a file name")
        if path.exists() and not force:
            raise FileProblem(f"{path} exists already; pass --force to replace it, or --out for another place")


def _need_space(folder: Path, needed: int, progress: Progress) -> None:
    """Announce what will be needed. Raises FileProblem, with both numbers, if `folder` has no room for it."""
    free = shutil.disk_usage(folder).free
    progress(SPACE, needed + MARGIN, free)
    if free < needed + MARGIN:
        raise FileProblem(
            f"{folder} has {size_text(free)} free, this conversion needs {size_text(needed + MARGIN)} while it runs; "
            "free some space, or pass --out with a folder on another disk"
        )


class Staged(dict[str, Path]):
    """Output type -> where its file is being written, under a hidden name."""

    def __init__(self, folder: Path, stack: ExitStack, force: bool) -> None:
        self.folder, self.stack, self.force = folder, stack, force
        self.beside: dict[Path, Path] = {}  # hidden file -> its name, of what goes with the outputs

    def also(self, path: Path) -> Path:
        """Room for a file that goes with the outputs and gets its name with them."""
        _refuse_existing([path], self.force)
        hidden = self.stack.enter_context(_scratch(path))
        self.beside[hidden] = path
        return hidden

    def extra(self, name: str) -> Path:
        """Room for one more file, which is removed in the end."""
        return self.stack.enter_context(_scratch(self.folder / name))


@contextmanager
def staged(targets: Mapping[str, Path], needed: int, force: bool, progress: Progress) -> Iterator[Staged]:
    """Hidden files for `targets` to be written to; they get their names if the block ends well, else they vanish.

    Raises FileProblem if one exists and `force` is not given, or if `needed` bytes have no room.
    """
    _refuse_existing(list(targets.values()), force)
    folder = next(iter(targets.values())).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileProblem(f"cannot make the folder {folder}: {error}") from error
    _need_space(folder, needed, progress)
    with ExitStack() as stack:
        stack.enter_context(_disk_full_explained(folder, needed))
        files = Staged(folder, stack, force)
        files.update({name: stack.enter_context(_scratch(path)) for name, path in targets.items()})
        yield files
        for name, path in files.items():
            _publish(path, targets[name])
        for path, target in files.beside.items():
            _publish(path, target)


@contextmanager
def _scratch(beside: Path) -> Iterator[Path]:
    """A hidden path beside a coming file; whatever is still there afterwards is removed."""
    path = beside.with_name(f".{beside.name}.{os.getpid()}.part")
    try:
        yield path
    finally:
        with suppress(FileNotFoundError):
            path.unlink()


@contextmanager
def _disk_full_explained(folder: Path, needed: int) -> Iterator[None]:
    """Turn the system's errors while writing into a FileProblem that says how much room was missing."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileProblem):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = size_text(shutil.disk_usage(folder).free)
            raise FileProblem(
                f"the disk filled up: {folder} had {free} left, this conversion needs {size_text(needed)}; nothing was "
                "left behind: free some space and run it again, or pass --out with a folder on another disk"
            ) from error
        raise FileProblem(
            f"cannot write into {folder}: {error}; nothing was left behind: name another place with --out"
        ) from error


def _publish(scratch_file: Path, path: Path) -> None:
    """Give a finished file its name, after its bytes have reached the disk."""
    with scratch_file.open("rb") as file:
        os.fsync(file.fileno())
    scratch_file.replace(path)


def size_text(count: float) -> str:
    """Bytes for people: 1.2 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
