"""This machine: how many threads may run, how long they spin while they wait, and the processor. Imports nothing heavy.

Functions that ask the system take the folder its /proc and /sys are found in, so that tests can show them another.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, MutableMapping
from pathlib import Path

SMALL = 32_000_000  # bytes of a model whose single tokens one thread writes best (bench/LOG.md)
ROOT = Path("/")
# Between the parts of a token OpenMP's threads wait for the slowest. GCC's let them spin for so long that one whose
# core is lent to another program keeps all others from working, and itself from coming back (bench/busy.py). LLVM's
# and Intel's are left as they are: whole milliseconds of KMP_BLOCKTIME bring nothing, 0 makes an idle machine half as
# fast, and "20us", which would suit, older ones do not know.
SPINNING = {"GOMP_SPINCOUNT": "1000"}
_RESPECTED = (*SPINNING, "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


def hardware_threads(root: Path = ROOT) -> int:
    """As many threads as this process may run at once: its affinity, and not above the container's quota."""
    granted = quota(root)
    allowed = len(_allowed())
    return allowed if granted is None else max(1, min(allowed, int(granted)))


def usual_threads(file_size: int) -> tuple[int, int]:
    """Threads for single tokens and for batches of a model whose file is so large, where nothing was measured."""
    cores = default_threads()
    # A small model's single token is written before a second thread that lost its core comes back.
    return (1 if file_size < SMALL else cores), cores


def default_threads(root: Path = ROOT) -> int:
    """As many threads as this process may use physical cores: a second thread per core slows decoding."""
    cores = set()
    for cpu in _allowed():
        try:
            cores.add((root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            return hardware_threads(root)
    return max(1, min(len(cores), hardware_threads(root)))


def threads_said(root: Path = ROOT) -> str:
    """How many threads may run, of how many, and why not more, for people."""
    threads, allowed, present = hardware_threads(root), len(_allowed()), os.cpu_count() or 1
    if threads < allowed:
        return f"{threads} of {allowed} cores: the container's quota"
    if allowed < present:
        return f"{threads} of {present} cores: this process may use no others"
    used = default_threads(root)
    return f"all {threads} cores" if used == threads else f"{used}: one for each two of {threads} that share a core"


def _allowed() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def quota(root: Path = ROOT) -> float | None:
    """So many cores' worth of time its control groups grant this process (a container's --cpus); None: no limit.

    Of the process's own group and those around it the least counts. What is not there, or damaged, limits nothing.
    Source: Linux, admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst.
    """
    return min(_quotas(root), default=None)


def _quotas(root: Path) -> Iterator[float]:
    mounts = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, colon, group = rest.partition(":")
        if not colon:
            continue
        parts = [part for part in group.split("/") if part not in ("", "..")]
        if not controllers:  # version 2, alone or beside version 1
            for folder in _upward([mounts, mounts / "unified"], parts):
                yield from _granted(_read(folder / "cpu.max").split())
        elif "cpu" in controllers.split(","):
            for folder in _upward([mounts / controllers, mounts / "cpu"], parts):
                yield from _granted(
                    [*_read(folder / "cpu.cfs_quota_us").split(), *_read(folder / "cpu.cfs_period_us").split()]
                )


def _upward(mounts: list[Path], parts: list[str]) -> Iterator[Path]:
    """A group's folders from its own to the root; in a container the root may be the group, whatever it is called."""
    for mount in mounts:
        for depth in range(len(parts), -1, -1):
            yield mount.joinpath(*parts[:depth])


def _granted(words: list[str]) -> Iterator[float]:
    """Quota by period, both in microseconds; nothing for "max", -1 and what is damaged."""
    try:
        granted, period = map(int, words)
    except ValueError:
        return
    if granted > 0 and period > 0:
        yield granted / period


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def bound_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let OpenMP's threads spin for a bounded time, unless the environment says how they wait.

    OpenMP reads the environment once, when it is loaded: call this before llama.cpp or torch is.
    """
    if not any(name in environment for name in _RESPECTED):
        environment.update(SPINNING)


def spinning_said(environment: MutableMapping[str, str] = os.environ) -> str:
    """How OpenMP's threads wait if it is loaded now, for people."""
    found = {name: environment[name] for name in _RESPECTED if name in environment}
    if not found:
        return "as the library does by itself"
    spelled = ", ".join(f"{name}={value}" for name, value in found.items())
    return f"bounded ({spelled})" if found == SPINNING else f"as your environment says ({spelled})"


def this_machine() -> str:
    """System, processor and the vector extensions it has."""
    flags = sorted(flag for flag in _cpuinfo("flags").split() if flag.startswith(("amx", "avx")))
    return " ".join([platform.system(), platform.machine(), processor_name(), *flags]).strip()


def processor_name() -> str:
    """The processor as its maker calls it, where the system tells."""
    return _cpuinfo("model name") or platform.processor() or "not known"


def _cpuinfo(label: str) -> str:
    """The first such line of Linux's /proc/cpuinfo, "" elsewhere."""
    lines = _read(ROOT / "proc/cpuinfo").splitlines()
    found = (value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == label)
    return next(found, "")
