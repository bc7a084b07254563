"""A bounded queue before a few threads, each of which works on one request at a time.

What they write with GGUF models meets in one thread (llama/turns.py), where it shares batches. A request that is
cancelled leaves the queue, or ends at its next token. Clients that ask for much wait behind their own requests: the
next one is always of the client who was served longest ago.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from ..align import Correction, align
from ..errors import MalError, UsageError
from ..gate import Gate
from ..generation import Generation, editing
from ..llama.turns import Turns
from ..pair import Pair, as_recommended
from ..policies import Answer, Continuation, EndpointPolicy, GgufPolicy, GivenAnswer
from .protocol import Order, Refused, refused

if TYPE_CHECKING:
    from ..aligners import EndpointAligner, GgufAligner

_STUCK = 60.0  # seconds without a step

Asked = GgufPolicy | EndpointPolicy | Continuation
Tell = Callable[[str, Any], None]  # "answer" and "edit" come with text as it grows, then "done" or "error"


@dataclass(frozen=True, slots=True)
class Result:
    """What came of an order: a correction, or an answer that was not to be edited."""

    order: Order
    answer: Answer
    correction: Correction | None = None

    @property
    def text(self) -> str:
        """What the client gets."""
        return self.correction.text if self.correction else self.answer.text

    @property
    def failure(self) -> str:
        """Why the correction failed, "" if it did not."""
        return self.correction.failure if self.correction else ""

    @property
    def written(self) -> Generation | None:
        """The generation that the text is of, None if no model wrote it."""
        return self.correction.edit if self.correction and self.correction.aligned else self.answer.generation


@dataclass(slots=True, eq=False)
class Job:
    """An order on its way. `tell` is called from other threads."""

    order: Order
    tell: Tell
    deadline: float
    begun: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    why: str = ""  # why it was cancelled, if not by its client

    def stop(self) -> bool:
        """Whether to end here."""
        return self.cancelled or time.monotonic() > self.deadline


class Workers:
    """The threads and their queue, over an opened pair. `in_flight` requests are worked on at once."""

    def __init__(
        self,
        pair: Pair,
        *,
        in_flight: int = 4,
        capacity: int = 64,
        time_limit: float = 600.0,
        shelf_bytes: int = 0,
    ) -> None:
        self.in_flight, self.capacity, self.time_limit = in_flight, capacity, time_limit
        self.on_end: list[Callable[[Job, Result | Refused], None]] = []  # who is told of each job that has ended
        if not hasattr(pair.policy, "asked"):
            raise UsageError("a given answer cannot be served; name a policy")
        self.policy, self.aligner = cast("GgufPolicy | EndpointPolicy", pair.policy), pair.aligner
        engines = {id(it.engine): it.engine for it in (pair.policy, pair.aligner) if hasattr(it, "engine")}
        self.turns = Turns(in_flight, shelf_bytes) if engines else None
        self._engines = list(engines.values())
        for engine in self._engines:
            engine.turns = self.turns
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()  # by client; who was served last stands last
        self._running: dict[int, Job] = {}
        self._wake = threading.Condition()
        self._closing = False
        self._end_by = float("inf")
        self._usual = 1.0  # seconds that a request takes, a moving average
        self._threads = [
            threading.Thread(target=self._work, args=(i,), name=f"request-{i}", daemon=True) for i in range(in_flight)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        with self._wake:
            return sum(map(len, self._waiting.values()))

    @property
    def running(self) -> int:
        """Requests being worked on."""
        return len(self._running)

    @property
    def state(self) -> str:
        """`ready`, `busy` (new requests wait) or `stuck` (nothing has moved for a minute)."""
        now = time.monotonic()
        if self.turns and self.turns.busy and now - self.turns.beat > _STUCK:
            return "stuck"
        if any(now > job.deadline + _STUCK for job in list(self._running.values())):
            return "stuck"
        return "busy" if self.running >= self.in_flight else "ready"

    def check(self, order: Order) -> None:
        """Raise what an order would fail by at once: a prompt that does not fit."""
        if order.answer is None:
            self._policy(order).check(order.query, order.history)

    def submit(self, order: Order, tell: Tell) -> Job:
        """Put an order in the queue. Raises Refused where it is full (429), or the server is closing (503)."""
        job = Job(order, tell, float("inf"))
        with self._wake:
            if self._closing:
                raise Refused(503, "the server is shutting down", code="shutting_down")
            if self.waiting >= self.capacity:
                full = Refused(
                    429,
                    f"{self.waiting} requests wait already; try again later",
                    kind="rate_limit_error",
                    code="queue_full",
                )
                seconds = self._usual * self.waiting / self.in_flight
                full.headers["Retry-After"] = str(max(1, round(seconds)))
                raise full
            self._waiting.setdefault(order.client, deque()).append(job)
            self._wake.notify()
        return job

    def cancel(self, job: Job, why: str = "") -> None:
        """End a job: it leaves the queue, or stops at its next token."""
        job.cancelled, job.why = True, why
        with self._wake:
            jobs = self._waiting.get(job.order.client)
            if jobs and job in jobs:
                jobs.remove(job)
                if not jobs:
                    del self._waiting[job.order.client]

    def close(self, grace: float = 0.0) -> None:
        """Take no more, wait `grace` seconds for what is there, then tell the rest that the server is shutting down."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._end_by = min(self._end_by, time.monotonic() + grace)
        while (self.running or self.waiting) and time.monotonic() < self._end_by:
            time.sleep(0.02)
        with self._wake:
            left = [job for jobs in self._waiting.values() for job in jobs]
            self._waiting.clear()
            running = list(self._running.values())
        why = "the server is shutting down"
        for job in left:
            self._end(job, Refused(503, why, code="shutting_down"))
        for job in running:
            self.cancel(job, why)
        for thread in self._threads:
            thread.join(timeout=10)
        if self.turns:
            self.turns.close()
            for engine in self._engines:
                engine.turns = None

    def hurry(self) -> None:
        """Let a `close` that waits wait no longer."""
        self._end_by = 0.0

    def _next(self, number: int) -> Job | None:
        """The next job, for a thread; None once there will be none."""
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._closing)
            if not self._waiting:
                return None
            client, jobs = next(iter(self._waiting.items()))
            job = jobs.popleft()
            if jobs:
                self._waiting.move_to_end(client)
            else:
                del self._waiting[client]
            job.deadline = time.monotonic() + self.time_limit
            self._running[number] = job
            return job

    def _work(self, number: int) -> None:
        while (job := self._next(number)) is not None:
            begun = time.monotonic()
            try:
                result: Result | Refused = self._result(job)
            except MalError as error:
                result = refused(error)
            except Exception as error:  # one request must not end the server; the log tells of it
                result = Refused(500, f"the server failed: {type(error).__name__}")
                result.__cause__ = error
            self._usual = 0.9 * self._usual + 0.1 * (time.monotonic() - begun)
            if job.cancelled and job.why:
                result = Refused(503, job.why, code="shutting_down")
            with self._wake:
                del self._running[number]
            self._end(job, result)

    def _end(self, job: Job, result: Result | Refused) -> None:
        for told in self.on_end:
            told(job, result)
        job.tell("error" if isinstance(result, Refused) else "done", result)

    def _policy(self, order: Order) -> Asked:
        """The policy with the settings of an order, for one that has no answer yet."""
        settings = order.settings
        if isinstance(self.policy, GgufPolicy):
            sampling = as_recommended(self.policy.engine, settings.sampling, settings.chosen)
            settings = replace(settings, sampling=sampling)
        policy = self.policy.asked(settings)
        return policy if order.chat else Continuation(policy)

    def _aligner(self, order: Order) -> GgufAligner | EndpointAligner:
        """The aligner with the settings of an order. Most clients send a temperature; it is meant for the answer."""
        settings = order.settings
        sampling = editing(settings.sampling, order.edit_temperature)
        return self.aligner.asked(replace(settings, sampling=sampling))

    def _result(self, job: Job) -> Result:
        order = job.order
        policy = self._policy(order) if order.answer is None else GivenAnswer(order.answer)

        def on_answer(text: str) -> None:
            job.tell("answer", text)

        def on_edit(text: str) -> None:
            job.tell("edit", text)

        # Told is what will be sent: the policy's answer as it is written only to who asked to see it.
        if not order.objectives:
            answer = policy.answer(order.query, on_answer if order.stream else None, order.history, stop=job.stop)
            self._in_time(job, answer)
            return Result(order, answer)
        correction = align(
            order.query,
            order.objectives,
            policy=policy,
            aligner=self._aligner(order),
            history=order.history,
            rounds=order.rounds,
            on_answer=on_answer if order.stream and order.show_both else None,
            # What a gate may take back is not streamed.
            on_edit=on_edit if order.stream and not order.gate else None,
            stop=job.stop,
            gate=Gate() if order.gate else None,
        )
        self._in_time(job, correction.answer)
        if correction.edit and correction.edit.finish == "stopped" and not job.cancelled:
            correction = replace(correction, failure=f"the time limit of {self.time_limit:g} s was reached")
        return Result(order, correction.answer, correction)

    def _in_time(self, job: Job, answer: Answer) -> None:
        """Raise Refused where the policy was stopped by the time limit."""
        if answer.generation and answer.generation.finish == "stopped" and not job.cancelled:
            raise Refused(503, f"the time limit of {self.time_limit:g} s was reached", code="time_limit")
