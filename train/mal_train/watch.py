"""The clock of a stage: what is due, how far it is, and the learning rate that follows from it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

from . import distributed
from .collate import Plan
from .lora import memory
from .progress import Progress, Step
from .recipe import Training


class Watch:
    """Time and tokens of one stage. `tick` once per optimizer step; the rest reads what it found."""

    def __init__(
        self,
        name: str,
        order: Plan,
        per_step: int,
        minutes: float,
        training: Training,
        progress: Progress,
        later: int = 0,
    ) -> None:
        self.name, self.training, self.progress = name, training, progress
        self.later = later  # tokens of the stages after this one
        self.steps = len(order) // per_step
        self.limit = minutes * 60
        self.tokens, self.edits = [0], [0]  # read after each step, by all processes together
        for i in range(self.steps):
            batches = slice(i * per_step, (i + 1) * per_step)
            self.tokens.append(self.tokens[-1] + sum(order.tokens[batches]))
            self.edits.append(self.edits[-1] + sum(map(len, order.batches[batches])))
        self.now = 0.0  # seconds since the stage began, as agreed at the last tick
        self.evaluating = 0.0  # seconds of them that went into evaluations
        self.over = self.checkpoint_due = self.evaluation_due = False
        self._before = self._evaluating_before = 0.0
        self._first = 0
        self._start = time.monotonic()
        self._saved = 0.0
        self._evaluated = 0

    def went_on(self, history: Sequence[Mapping[str, float]]) -> None:
        """Take up the clock of an interrupted run from the entries it logged."""
        timed = [entry for entry in history if "seconds" in entry]
        if timed:
            self.now = self._before = self._saved = timed[-1]["seconds"]
            self._first = int(timed[-1]["step"])
            self.evaluating = self._evaluating_before = timed[-1]["evaluating"]
        self._evaluated = sum("eval_loss" in entry for entry in history)

    def begin(self) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def elapsed(self) -> float:
        """Seconds of training, those before an interruption included."""
        return self._before + time.monotonic() - self._start

    def tick(self, step: int) -> None:
        """Decide, the same in every process, what is due after this step."""
        self.now = distributed.agree(self.elapsed())
        self.over = 0 < self.limit <= self.now
        every = self.training.checkpoint_minutes * 60
        self.checkpoint_due = 0 < every <= self.now - self._saved
        if self.checkpoint_due:
            self._saved = self.now
        times = int(self._done(step) * self.training.evaluations)
        self.evaluation_due = times > self._evaluated and step < self.steps
        self._evaluated = max(self._evaluated, times)

    def rate(self, step: int) -> float:
        """The factor on the learning rate: a linear rise, then the schedule, down to nothing at the end."""
        done, rise = self._done(step), self.training.warmup
        up = min(1.0, (done + 1 / max(1, self.steps)) / rise) if rise else 1.0
        left = min(1.0, max(0.0, (1 - done) / max(1e-9, 1 - rise)))
        down = {"constant": 1.0, "linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * left))}
        return min(up, down[self.training.schedule])

    def tell(self, step: int, loss: float) -> None:
        """Report a step, and the time left of the run, later stages at this one's speed."""
        here = self.elapsed() - self._before - (self.evaluating - self._evaluating_before)
        speed = (self.tokens[step] - self.tokens[min(self._first, step)]) / max(1e-9, here)
        left, later = (n / max(1e-9, speed) for n in (self.tokens[-1] - self.tokens[step], self.later))
        if self.limit:  # stages share the time by their tokens
            left = min(left, self.limit - self.elapsed())
            later = min(later, self.limit * self.later / max(1, self.tokens[-1]))
        self.progress.step(Step(self.name, step, self.steps, loss, speed, left + later, memory()))

    def _done(self, step: int) -> float:
        """How far the stage is, 0 to 1: by its plan or, with a time limit, by the clock if that is further."""
        planned = step / max(1, self.steps)
        return max(planned, min(1.0, self.now / self.limit)) if self.limit else planned
