"""What a figure needs beside it: the processor, the versions, and how much other programs disturbed the run."""

import hashlib
import os
import platform
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import metaaligner_lite

DISTURBED = 0.05
PACKAGES = ("llama-cpp-python", "numpy", "torch", "transformers")
HERE = Path(metaaligner_lite.__file__).parent
TRAINED = Path(__file__).parents[1] / "tests" / "models"
Result = dict[str, Any]


class Bystanders:
    """How much of the processors others take: all that is busy, less this process and its descendants."""

    def __init__(self) -> None:
        self._began, self._busy, self._own = time.perf_counter(), _busy(), _own()

    def share(self) -> float:
        """Since it was made, of all processors."""
        taken = time.perf_counter() - self._began
        return max(0.0, (_busy() - self._busy) - (_own() - self._own)) / taken / (os.cpu_count() or 1)


def undisturbed(run: Callable[[], Result], patience: int) -> Result:
    """Run until others took at most 5 % of the processors ("foreign"), up to `patience` times anew; the best result."""
    tried: list[Result] = []
    for _ in range(patience + 1):
        bystanders = Bystanders()
        result = run()
        tried.append(result | {"foreign": round(bystanders.share(), 3)})
        if tried[-1]["foreign"] <= DISTURBED:
            break
    return min(tried, key=lambda result: result["foreign"])


def _busy() -> float:
    """Seconds that all processors have been busy, time stolen by other machines included."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    parents, ticks = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it may have ended
            fields = stat.read_text().rpartition(")")[2].split()
            pid = int(stat.parent.name)
            parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    own = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in own} - own:
        own |= more
    return sum(ticks.get(pid, 0) for pid in own) / os.sysconf("SC_CLK_TCK")


def machine(threads: int) -> Result:
    """The processor, the threads used, and the versions of what was measured."""
    processor = platform.processor()
    flags: list[str] = []
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        label, _, value = line.partition(":")
        if label.strip() == "model name":
            processor = value.strip()
        elif label.strip() == "flags":
            flags = sorted(flag for flag in value.split() if flag.startswith(("avx512f", "avx512_bf16", "amx", "avx2")))
            break
    return {
        "processor": processor,
        "flags": flags,
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        # Figures of another state of the code, or of another pair, are other figures.
        "runtime": _digest([*HERE.glob("*.py"), *HERE.glob("llama/*.py")]),
        "trained": _digest(TRAINED.glob("*.gguf")),
        **_versions(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _digest(files: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()[:8]


def peak_mb() -> float:
    """The most memory this process ever held."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):  # on Linux ru_maxrss remembers the process that started this one
            return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if platform.system() == "Darwin" else 1 << 10)
