"""This machine: how many threads may run, and which processor runs them. Nothing heavy is imported."""

from __future__ import annotations

import os
import platform
from pathlib import Path

SMALL = 32_000_000  # bytes of a model whose single tokens one thread writes best (bench/LOG.md)


def hardware_threads() -> int:
    """As many threads as this process may run at once."""
    return len(_allowed())


def usual_threads(file_size: int) -> tuple[int, int]:
    """Threads for single tokens and for batches of a model whose file is so large, where nothing was measured."""
    cores = default_threads()
    # A small model's single token is written before a second thread that lost its core comes back.
    return (1 if file_size < SMALL else cores), cores


def default_threads() -> int:
    """As many threads as this process may use physical cores: a second thread per core slows decoding."""
    cores = set()
    for cpu in _allowed():
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            return hardware_threads()
    return max(1, len(cores))


def _allowed() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def this_machine() -> str:
    """System, processor and the vector extensions it has."""
    flags = sorted(flag for flag in _cpuinfo("flags").split() if flag.startswith(("amx", "avx")))
    return " ".join([platform.system(), platform.machine(), processor_name(), *flags]).strip()


def processor_name() -> str:
    """The processor as its maker calls it, where the system tells."""
    return _cpuinfo("model name") or platform.processor() or "not known"


def _cpuinfo(label: str) -> str:
    """The first such line of Linux's /proc/cpuinfo, "" elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    found = (value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == label)
    return next(found, "")
