"""Where a run writes: a folder beside the wanted one, renamed at the end; an interrupted run is found there again."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metaaligner_lite.errors import FileProblem, UsageError
from metaaligner_lite.files import write_whole

from . import distributed

_IDENTITY = "run.json"
BASE = "base"  # a base that came as a GGUF file, as a folder while it is needed


def begin(out: Path, identity: Mapping[str, Any], *, resume: bool, force: bool) -> Path:
    """The folder to work in. `identity` (of identity.py) must be the interrupted run's to go on with it.

    Raises FileProblem if something is in the way, UsageError if the interrupted run was another one.
    """
    beside = out.with_name(out.name + ".part")
    if distributed.is_main():
        _check_out(out, force)
        if resume:
            _check_same(beside, identity)
        elif beside.exists() and not force:
            raise FileProblem(
                f"{beside} holds an unfinished run; go on with it with --resume, or start over with --force"
            )
        else:
            try:
                shutil.rmtree(beside, ignore_errors=True)
                beside.mkdir(parents=True)
                write_whole(beside / _IDENTITY, json.dumps(identity))
            except OSError as error:
                raise FileProblem(f"cannot write to {beside}: {error}") from error
    distributed.wait()
    return beside


def finish(beside: Path, out: Path) -> None:
    """Put the folder in its place, then drop what was needed on the way.

    In this order a kill between any two steps leaves a run that can be resumed, or a finished one.
    """
    old = out.with_name(f"{out.name}.old-{time.time_ns()}")
    if out.exists():
        out.rename(old)
    beside.rename(out)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(out / "stages", ignore_errors=True)
    shutil.rmtree(out / BASE, ignore_errors=True)
    (out / _IDENTITY).unlink(missing_ok=True)


def abandon(beside: Path) -> bool:
    """After a failure: whether there is something to resume; if there is not, the folder goes."""
    kept = any(beside.glob("stages/*/checkpoint-*")) or any(beside.glob("stages/*/done.json"))
    if not kept and distributed.is_main():
        shutil.rmtree(beside, ignore_errors=True)
    return kept


def _check_out(out: Path, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; --out names a folder")
    if out.exists() and not force:
        raise FileProblem(f"{out} exists already; name another --out, or replace it with --force")


def _check_same(beside: Path, identity: Mapping[str, Any]) -> None:
    try:
        before = json.loads((beside / _IDENTITY).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileProblem(f"there is no interrupted run to resume in {beside}; start one without --resume") from error
    now = _flat(json.loads(json.dumps(identity)))
    before = _flat(before)
    changed = [key for key in now | before if now.get(key) != before.get(key)]
    if changed:
        key = changed[0]
        raise UsageError(
            f"the interrupted run in {beside} had {key} = {before.get(key)!r}, this one has {now.get(key)!r}; "
            "repeat the command as it was with --resume added, or start over with --force"
        )


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
