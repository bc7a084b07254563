"""What suits this machine: flash attention, threads, repacking and batch costs, measured once per model shape.

The measured work is that of editing: single tokens, short batches of drafts, a request to read. `measure` tries one
thing after the other, each with the best of what came before; `remember` keeps the result per machine, build of
llama.cpp and model shape, and `open_engine` asks `remembered` (flags of the user's go first).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import FileProblem
from ..gguf_file import GgufHeader
from ..paths import cache_dir
from .context import Context, default_threads, hardware_threads
from .model import open_model
from .probe import library_build, repack_is_safe, this_machine

SIZES = (1, 2, 4, 8, 16, 32)
_FILLED = 128  # tokens in the cache while measuring
_WORK = ((1, 24), (8, 8), (16, 4), (_FILLED, 1))  # decodes of an edit: batch size, how many; the last reads the request
_SECONDS = 40.0  # no new setting is tried after that
_EACH = 0.4  # seconds to measure one batch size


@dataclass(frozen=True, slots=True)
class Tuning:
    """The best settings for a model shape here, and what a decode of n tokens costs with them: (n, seconds)."""

    flash: bool
    threads: int
    repack: bool
    costs: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting that was measured; `seconds` for the work of a short edit."""

    flash: bool
    threads: int
    repack: bool
    seconds: float


def measure(
    path: str | Path, *, gpu_layers: int = -1, on_trial: Callable[[Trial], None] = lambda _: None
) -> tuple[Tuning, list[Trial]]:
    """Try settings on a model for up to a minute; the best one, and all that were tried. Raises as open_model."""
    deadline = time.perf_counter() + _SECONDS
    trials: list[Trial] = []
    costs: tuple[tuple[int, float], ...] = ()

    def late() -> bool:
        return bool(trials) and time.perf_counter() > deadline

    def best() -> Trial:
        return min(trials, key=lambda trial: trial.seconds)

    for repack in (True, False) if repack_is_safe() else (False,):
        if late():
            break
        with open_model(path, gpu_layers=gpu_layers, repack=repack) as model:
            for flash in (best().flash,) if trials else (False, True):
                if late():
                    break
                with Context(model, 2 * _FILLED, flash=flash) as context:
                    here = []
                    for threads in (best().threads,) if trials else tuple(_thread_counts()):
                        if late():
                            break
                        here.append(Trial(flash, threads, repack, _work(context, threads)))
                        trials.append(here[-1])
                        on_trial(here[-1])
                    if best() in here:
                        context.use_threads(best().threads)
                        costs = tuple((size, _cost(context, size)) for size in SIZES)
    return Tuning(best().flash, best().threads, best().repack, costs), trials


def _work(context: Context, threads: int) -> float:
    """Seconds for the work of a short edit."""
    context.use_threads(threads)
    reading = _read(context)
    return sum(times * (reading if size == _FILLED else _cost(context, size)) for size, times in _WORK)


def _read(context: Context) -> float:
    """Seconds to read as many tokens as the cache is then filled with."""
    context.roll_back(0)
    began = time.perf_counter()
    context.read([token % context.model.n_vocab for token in range(_FILLED)])
    return time.perf_counter() - began


def _cost(context: Context, size: int) -> float:
    """Seconds of a decode of `size` tokens: the lower quartile, since whatever disturbs makes it longer."""
    tokens = [token % context.model.n_vocab for token in range(size)]
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < _EACH and len(seconds) < 50):
        began = time.perf_counter()
        context.extend([(0, tokens)])
        seconds.append(time.perf_counter() - began)
        context.roll_back(_FILLED)
    usual = sorted(seconds[1:])  # the first of a size plans the graph
    return usual[len(usual) // 4]


def _thread_counts() -> Iterator[int]:
    """One per core first, then what else may suit: every hardware thread, one core left free, half of them."""
    cores = default_threads()
    yield from dict.fromkeys(n for n in (cores, hardware_threads(), cores - 1, cores // 2) if n > 0)


def remembered(header: GgufHeader, gpu_layers: int = -1) -> Tuning | None:
    """What was measured for a model of this shape on this machine with this library; None if nothing was."""
    entry: Any = _memory().get(_key(header, gpu_layers))
    try:
        costs = tuple((int(size), float(seconds)) for size, seconds in entry["costs"])
        tuning = Tuning(bool(entry["flash"]), int(entry["threads"]), bool(entry["repack"]), costs)
    except (KeyError, TypeError, ValueError):
        return None  # absent, damaged or of another version
    sound = 0 < tuning.threads <= 4096 and all(0 < seconds < 1e6 for _, seconds in costs)
    return tuning if sound and tuple(size for size, _ in costs) == SIZES else None


def remember(header: GgufHeader, tuning: Tuning, gpu_layers: int = -1) -> Path:
    """Keep a measurement; returns the file. Raises FileProblem if it cannot be written."""
    path = _path()
    entries = _memory() | {_key(header, gpu_layers): asdict(tuning)}
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(entries, indent=1), encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise FileProblem(f"cannot keep the measurement in {path}: {error}; MAL_HOME names another folder") from error
    return path


def count() -> int:
    """How many measurements are kept."""
    return len(_memory())


def _path() -> Path:
    return cache_dir() / "tune.json"


def _memory() -> dict[str, Any]:
    try:
        entries = json.loads(_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _key(header: GgufHeader, gpu_layers: int) -> str:
    """Machine, build and shape: the names, sizes and types of all tensors; models that differ by weights share it."""
    shape = [(tensor.name, tensor.shape, tensor.type) for tensor in header.tensors]
    facts = [
        this_machine(),
        hardware_threads(),
        library_build(),
        header.text("general.architecture"),
        gpu_layers,
        shape,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
