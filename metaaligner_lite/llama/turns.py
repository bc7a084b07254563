"""Several callers, one thread that writes: texts of different callers share decode batches, and adapters never mix.

A batch has one model, and its adapter is on or off for all of it. So texts are written in rounds: the first that waits
says of which kind the round is, others of that kind join it while it goes on, and as soon as one of another kind is
the next in line, none joins any more. Nobody waits for longer than what is being written.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ModelError
from ..generation import Generation
from .decode import Task, write_side_by_side
from .shelf import Shelf

if TYPE_CHECKING:
    from .engine import Engine

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Job:
    """A text to be written by an engine, or other `work` that needs all engines idle."""

    engine: Engine | None = None
    task: Task | None = None
    adapted: bool = False
    work: Callable[[], Any] | None = None
    future: Future[Any] = field(default_factory=Future)


class Turns:
    """The one thread on which engines write, `in_flight` texts at most side by side.

    `shelf_bytes` of memory keep the prefixes of conversations for each engine. `beat` is when it last did a step.
    """

    def __init__(self, in_flight: int = 4, shelf_bytes: int = 0) -> None:
        self.in_flight = in_flight
        self.beat = time.monotonic()
        self._shelf_bytes = shelf_bytes
        self._shelves: dict[int, Shelf] = {}
        self._jobs: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._writing: list[_Job] = []
        self._thread = threading.Thread(target=self._work, name="turns", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether something is being written or waits."""
        return bool(self._writing or self._jobs)

    def write(self, engine: Engine, tasks: Sequence[Task], *, adapted: bool) -> list[Generation]:
        """Write texts beside those of other callers; returns when all have ended. Raises what the engine raises."""
        jobs = [_Job(engine, task, adapted) for task in tasks]
        self._add(jobs)
        return [job.future.result() for job in jobs]

    def alone(self, work: Callable[[], T]) -> T:
        """Do something while no engine writes."""
        job = _Job(work=work)
        self._add([job])
        found: T = job.future.result()
        return found

    def close(self) -> None:
        """End the thread; what waits fails."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _add(self, jobs: Sequence[_Job]) -> None:
        with self._wake:
            if self._closed:
                raise ModelError("the engines are closed")
            self._jobs.extend(jobs)
            self._wake.notify()

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._jobs or self._closed)
                if self._closed:
                    left, self._jobs = self._jobs, deque()
                    break
                job = self._jobs[0]
                if job.work:
                    self._jobs.popleft()
                    self._writing = [job]
                self.beat = time.monotonic()
            try:
                if job.work:
                    job.future.set_result(job.work())
                else:
                    self._round(job)
            except BaseException as error:  # the callers' threads raise it
                with self._wake:
                    failed = self._writing or [self._jobs.popleft()]
                for one in failed:
                    if not one.future.done():
                        one.future.set_exception(error)
            self._writing = []
        for job in left:
            job.future.set_exception(ModelError("the engines are closed"))

    def _round(self, first: _Job) -> None:
        assert first.engine and first.task
        self._writing = []
        context = first.engine.context_beside(first.task, self.in_flight, first.adapted)
        entered = _Round(self, first, context.n_ctx)
        shelf = None
        if self._shelf_bytes:
            shelf = self._shelves.setdefault(id(first.engine), Shelf(self._shelf_bytes))

        def ended(number: int, text: Generation) -> None:
            job = entered.taken.pop(number)
            self._writing = list(entered.taken.values())
            job.future.set_result(text)

        def go_on() -> bool:
            self.beat = time.monotonic()
            return self._closed

        write_side_by_side(context, entered, ended, go_on, in_flight=self.in_flight, shelf=shelf)


class _Round:
    """The jobs that may join a round: those of its kind that stand first in line and fit its context."""

    def __init__(self, turns: Turns, first: _Job, room: int) -> None:
        self._turns, self._first, self._room = turns, first, room
        self._number = 0
        self.taken: dict[int, _Job] = {}

    def next(self) -> Task | None:
        jobs = self._turns._jobs
        job = jobs[0] if jobs else None
        if job is None or job.engine is not self._first.engine or job.adapted != self._first.adapted:
            return None
        assert job.task
        # The first may be all that the context was made for.
        return job.task if job.task.size <= self._room or not self._number else None

    def take(self) -> int:
        with self._turns._wake:
            job = self._turns._jobs.popleft()
        self._number += 1
        self.taken[self._number] = job
        self._turns._writing = list(self.taken.values())
        return self._number

    def later(self) -> list[Task]:
        with self._turns._wake:
            jobs = list(self._turns._jobs)
        return [job.task for job in jobs if job.task and job.engine is self._first.engine]
