"""What suits this machine: flash attention, repacking, F16, threads and batch costs, measured once per model shape.

The measured work is that of editing: single tokens, short batches of drafts, a request to read. `measure` begins with
what runs without tuning, changes one thing after the other, each with the best of what came before, and says what it
had no time for; `remember` keeps the result per machine, build of llama.cpp and model shape, and `open_engine` asks
`remembered` (flags of the user's go first).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from .. import files
from ..errors import FileProblem
from ..gguf_file import GgufHeader, read_header
from ..paths import cache_dir
from .context import Context
from .draft import BatchCosts
from .library import library_build
from .machine import default_threads, hardware_threads, this_machine, usual_threads
from .model import Model, open_model
from .probe import repack_is_safe
from .unpacked import can_be_unpacked, suits, unpacked

SIZES = (1, 2, 4, 8, 16, 32)
_ORDER = (1, 8, 16, 2, 4, 32)  # what tells settings apart comes first: a slow model gets no further
_REQUEST = 128  # tokens of a request to read; so many are in the cache while measuring, unless reading takes too long
_WORK = ((1, 24), (8, 8), (16, 4))  # decodes of an edit: batch size, how many
_SECONDS = 50.0  # nothing that would end later is begun; what is left of the minute is for misjudging that
_FIRST = 16.0  # ... nor in the first trial what would end later than this: other settings are to be tried too
_READING = 4.0  # seconds for reading, if its tokens were written one by one; the truth is a quarter
_EACH = 0.4  # seconds to measure one batch size, or three times as long to measure it thrice
_GAIN = 0.97  # a setting has to be so much faster than those before it: less is within what measurements differ


@dataclass(frozen=True, slots=True)
class Setting:
    """What can be set: `threads` write single tokens, `batch_threads` read batches, `unpack` runs the copy as F16."""

    flash: bool
    threads: int
    batch_threads: int
    repack: bool
    unpack: bool = False


@dataclass(frozen=True, slots=True)
class Tuning(Setting):
    """The best setting for a model shape here, and what a decode of n tokens costs with it: (n, seconds)."""

    costs: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting that was measured; `seconds` for the work of a short edit."""

    setting: Setting
    costs: tuple[tuple[int, float], ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """All trials, the untuned setting first, and what there was no time for: settings, and batch sizes in all trials.

    The costs of sizes without a measurement follow the built-in curve from the next smaller size on.
    """

    trials: list[Trial]
    not_tried: list[Setting]
    not_measured: tuple[int, ...]

    @property
    def best(self) -> Trial:
        """The fastest trial; of those that differ no more than measurements do, the earliest."""
        return _best(self.trials)

    @property
    def tuning(self) -> Tuning:
        """What to remember."""
        return Tuning(**asdict(self.best.setting), costs=self.best.costs)


def measure(
    path: str | Path, *, gpu_layers: int = -1, on_trial: Callable[[Trial], None] = lambda _: None
) -> Measurement:
    """Try settings on a model, what matters most first, and end within a minute. Raises as open_model.

    Only opening the model and its first few decodes take as long as they take.
    """
    trials: list[Trial] = []
    not_tried: list[Setting] = []
    with _Bench(path, gpu_layers, time.perf_counter() + _SECONDS) as bench:

        def attempt(setting: Setting) -> None:
            if setting in [trial.setting for trial in trials]:
                return
            if trial := bench.attempt(setting):
                trials.append(trial)
                on_trial(trial)
            else:
                not_tried.append(setting)

        attempt(bench.untuned())
        attempt(replace(trials[0].setting, flash=not trials[0].setting.flash))
        if trials[0].setting.repack:
            attempt(replace(_best(trials).setting, repack=False))
        if bench.can_unpack:
            attempt(replace(_best(trials).setting, unpack=not trials[0].setting.unpack))
        for threads, batch_threads in _thread_pairs():
            attempt(replace(_best(trials).setting, threads=threads, batch_threads=batch_threads))
        return Measurement(trials, not_tried, tuple(size for size in SIZES if size not in bench.sizes))


def _best(trials: Sequence[Trial]) -> Trial:
    best = trials[0]
    for trial in trials:
        best = trial if trial.seconds < _GAIN * best.seconds else best
    return best


def _thread_pairs() -> Iterator[tuple[int, int]]:
    """For single tokens and for batches: one per core, one and all, then what else may suit."""
    cores = default_threads()
    others = (n for n in (hardware_threads(), cores - 1, cores // 2) if n > 0)
    yield from dict.fromkeys([(cores, cores), (1, cores), *((n, n) for n in others)])


class _Bench:
    """A model to try settings on, with a deadline; opened anew, or given another context, only where a setting asks.

    The first trial finds how many tokens can be read and which batch sizes be measured in its share of the time;
    the others measure the same, so that they can be compared.
    """

    def __init__(self, path: str | Path, gpu_layers: int, deadline: float) -> None:
        self._path, self._gpu_layers, self._deadline = path, gpu_layers, deadline
        self._model: Model | None = None
        self._context: Context | None = None
        self._now: tuple[bool, bool, bool | None] = (False, False, None)  # repack, unpack and flash of what is open
        self._header = read_header(Path(path))
        self.can_unpack = can_be_unpacked(self._header, gpu_layers)
        self._unpack = suits(self._header, gpu_layers)
        self._opening = 0.0  # seconds
        self._first: Trial | None = None
        self._first_took = 0.0
        self._filled = _REQUEST
        self._reads_like = 0.0  # so many single tokens
        self.sizes: tuple[int, ...] = _ORDER

    def untuned(self) -> Setting:
        """What runs if nothing was measured."""
        model = self._model_for(repack_is_safe(), self._unpack)
        threads, batch_threads = usual_threads(model.header.file_size)
        return Setting(model.on_gpu, threads, batch_threads, self._now[0], model.unpacked)

    def attempt(self, setting: Setting) -> Trial | None:
        """Measure a setting; None if that would not end in time. The first is always measured, as far as time goes."""
        if self._first and time.perf_counter() + self._expected(self._first, setting) > self._deadline:
            return None
        context = self._context_for(setting)
        context.use_threads(setting.threads, setting.batch_threads)
        began, until = time.perf_counter(), self._deadline
        single = _decode(context, 1)
        if not self._first:
            until = min(until, began + _FIRST)
            single = _decode(context, 1)  # the one before brought mapped weights into memory
            self._filled = max(1, min(_REQUEST, int(_READING / max(single, 1e-9))))
        elif time.perf_counter() + (1 + self._reads_like) * single > until:
            return None
        reading = _read(context, self._filled)
        costs = _costs(context, self.sizes, until)
        if not self._first:
            self.sizes, self._reads_like = tuple(costs), reading / max(single, 1e-9)
        elif len(costs) < len(self.sizes):
            return None  # slower than expected
        whole = _whole(costs, BatchCosts(flash=setting.flash and not context.model.on_gpu))
        seconds = reading * _REQUEST / self._filled + sum(times * dict(whole)[size] for size, times in _WORK)
        trial = Trial(setting, whole, seconds)
        if not self._first:
            self._first, self._first_took = trial, time.perf_counter() - began
        return trial

    def _expected(self, first: Trial, setting: Setting) -> float:
        """Seconds for a trial: those of the first, opening the model, fewer threads for single tokens."""
        fewer = max(1.0, first.setting.threads / setting.threads)
        opening = self._opening if (setting.repack, setting.unpack) != self._now[:2] else 0.0
        return opening + self._first_took + 2 * (fewer - 1) * first.costs[0][1]

    def _model_for(self, repack: bool, unpack: bool) -> Model:
        if self._model is None or self._now[:2] != (repack, unpack):
            self.close()
            began = time.perf_counter()
            weights = unpacked(self._header) if unpack else None
            self._model = open_model(self._path, gpu_layers=self._gpu_layers, repack=repack, weights=weights)
            self._now = (repack, unpack, None)
            self._opening = max(self._opening, time.perf_counter() - began)
        return self._model

    def _context_for(self, setting: Setting) -> Context:
        model = self._model_for(setting.repack, setting.unpack)
        if self._context is None or self._now[2] != setting.flash:
            self._close_context()
            self._context = Context(model, 2 * _REQUEST, flash=setting.flash)
            self._now = (setting.repack, setting.unpack, setting.flash)
        return self._context

    def _close_context(self) -> None:
        if self._context is not None:
            self._context.close()
            self._context = None

    def close(self) -> None:
        """Free what is open."""
        self._close_context()
        if self._model is not None:
            self._model.close()
            self._model = None

    def __enter__(self) -> _Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read(context: Context, count: int) -> float:
    """Seconds to read so many tokens; the cache then holds them."""
    context.roll_back(0)
    began = time.perf_counter()
    context.read([token % context.model.n_vocab for token in range(count)])
    return time.perf_counter() - began


def _decode(context: Context, size: int) -> float:
    """Seconds of one decode of `size` tokens, which the cache then forgets."""
    held = len(context.sequences[0].tokens)
    began = time.perf_counter()
    context.extend([(0, [token % context.model.n_vocab for token in range(size)])])
    seconds = time.perf_counter() - began
    context.roll_back(held)
    return seconds


def _costs(context: Context, sizes: Sequence[int], until: float) -> dict[int, float]:
    """Seconds of a decode of each size that surely ends in time, and of one token in any case."""
    costs: dict[int, float] = {}
    for size in sizes:
        # A batch never costs more than its tokens one by one, nor than a larger batch.
        at_most = min((cost * max(1.0, size / known) for known, cost in costs.items()), default=0.0)
        if not costs or time.perf_counter() + at_most + 3 * _EACH <= until:
            costs[size] = _cost(context, size)
    return costs


def _cost(context: Context, size: int) -> float:
    """Seconds of a decode of `size` tokens: the lower quartile, since whatever disturbs makes it longer."""
    seconds = [_decode(context, size)]
    while sum(seconds) < (_EACH if len(seconds) >= 3 else 3 * _EACH) and len(seconds) < 50:
        seconds.append(_decode(context, size))
    usual = sorted(seconds[1:] or seconds)  # the first of a size plans the graph
    return usual[len(usual) // 4]


def _whole(costs: Mapping[int, float], shape: BatchCosts) -> tuple[tuple[int, float], ...]:
    """The cost of every size; what was not measured as the shape goes on from the next smaller one that was."""
    below = {size: max(known for known in costs if known <= size) for size in SIZES}
    return tuple((size, costs[known] * shape(size) / shape(known)) for size, known in below.items())


def remembered(header: GgufHeader, gpu_layers: int = -1) -> Tuning | None:
    """What was measured for a model of this shape on this machine with this library; None if nothing was."""
    entry: Any = files.recall(_path()).get(_key(header, gpu_layers))
    try:
        costs = tuple((int(size), float(seconds)) for size, seconds in entry["costs"])
        threads = int(entry["threads"]), int(entry["batch_threads"])
        tuning = Tuning(bool(entry["flash"]), *threads, bool(entry["repack"]), bool(entry["unpack"]), costs)
    except (KeyError, TypeError, ValueError):
        return None  # absent, damaged or of another version
    sound = all(0 < count <= 4096 for count in threads) and all(0 < seconds < 1e6 for _, seconds in costs)
    return tuning if sound and tuple(size for size, _ in costs) == SIZES else None


def remember(header: GgufHeader, tuning: Tuning, gpu_layers: int = -1) -> Path:
    """Keep a measurement; returns the file. Raises FileProblem if it cannot be written."""
    path = _path()
    try:
        files.remember(path, {_key(header, gpu_layers): asdict(tuning)})
    except OSError as error:
        raise FileProblem(f"cannot keep the measurement in {path}: {error}; MAL_HOME names another folder") from error
    return path


def count() -> int:
    """How many measurements are kept."""
    return len(files.recall(_path()))


def _path() -> Path:
    return cache_dir() / "tune.json"


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
