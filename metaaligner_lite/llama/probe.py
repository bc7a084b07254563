"""The safe-start probe: does llama.cpp survive its default load on this machine?

On CPUs with AMX, llama.cpp built by an affected GCC (12.2; very likely GCC bug 114098) dies of SIGSEGV in its
first batch of repacked weights (ggml-org/llama.cpp#20824). A crash cannot be caught in the process, so a child
runs one batch of a tiny model of its own (probe.gguf); the answer is remembered per machine and library build.
Where it crashes, models are loaded without repacking: correct, and slower.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from ..paths import cache_dir
from .library import library_build
from .machine import this_machine

_CHILD = (sys.executable, "-m", "metaaligner_lite.llama.probe_child")
_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Probe:
    """One machine's answer. `outcome`: "safe", "crash" (killed in the default load), or "unknown" and why."""

    outcome: str
    detail: str
    machine: str
    library: str


@cache
def repack_is_safe() -> bool:
    """Whether models may be loaded with weight repacking; False only where the probe's child crashed."""
    return probe().outcome != "crash"


def probe(command: Sequence[str] = _CHILD, *, again: bool = False) -> Probe:
    """The remembered answer for this machine and library, or a new one (always, if `again`)."""
    machine, library = this_machine(), library_build()
    key = hashlib.sha256(f"{machine}\n{library}".encode()).hexdigest()[:16]
    memory = cache_dir() / "probe.json"
    if not again and (known := _remembered(memory).get(key)):
        return known
    outcome, detail = _run(command)
    result = Probe(outcome, detail, machine, library)
    if outcome != "unknown":
        _remember(memory, key, result)
    return result


def _run(command: Sequence[str]) -> tuple[str, str]:
    try:
        child = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "unknown", str(error)
    if child.returncode == 0:
        return "safe", "the default load works"
    # Killed by a signal on POSIX; an NTSTATUS error such as 0xC0000005 on Windows.
    if child.returncode < 0 or child.returncode >= 0xC0000000:
        return "crash", f"the default load was killed ({child.returncode})"
    last = child.stderr.decode("utf-8", errors="replace").strip().splitlines()[-1:]
    return "unknown", f"the probe ended with {child.returncode}: {''.join(last)}"


def _remembered(memory: Path) -> dict[str, Probe]:
    try:
        return {key: Probe(**entry) for key, entry in json.loads(memory.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # absent, or of another version: probe again


def _remember(memory: Path, key: str, result: Probe) -> None:
    entries = {k: asdict(v) for k, v in _remembered(memory).items()} | {key: asdict(result)}
    beside = memory.with_name(f"{memory.name}.{os.getpid()}")
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(entries, indent=1), encoding="utf-8")
        beside.replace(memory)
    except OSError:
        pass  # a home that cannot be written costs a probe per run, nothing else
