"""What a run tells while it trains: step, loss, tokens per second, time left and memory, on stderr."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Step:
    """Where a run stands after an optimizer step."""

    stage: str
    step: int
    steps: int
    loss: float
    tokens_per_second: float
    seconds_left: float  # of the whole run
    memory: int  # bytes: of the accelerator if there is one, else of this process

    def __str__(self) -> str:
        return (
            f"{self.stage} {self.step}/{self.steps}  loss {self.loss:.3f}  {self.tokens_per_second:,.0f} tokens/s  "
            f"{clock(self.seconds_left)} left  {self.memory / 2**30:.1f} GiB"
        )


class Progress(Protocol):
    """Hears what happens in a run; `say` a sentence, `step` an optimizer step."""

    def say(self, text: str) -> None:
        """A sentence worth keeping."""

    def step(self, step: Step) -> None:
        """One more optimizer step is done."""


class Silent:
    """Hears nothing."""

    def say(self, text: str) -> None:
        """Drop it."""

    def step(self, step: Step) -> None:
        """Drop it."""


class Console:
    """Talks on stderr: one live line on a terminal, else a line every `every` seconds."""

    def __init__(self, every: float = 15.0) -> None:
        from rich.console import Console as Rich

        self._rich = Rich(stderr=True, highlight=False)
        self._live = self._rich.is_terminal
        self._every = every
        self._last = 0.0
        self._open = False

    def say(self, text: str) -> None:
        """Print a line of its own."""
        self._close()
        self._rich.print(text, markup=False)

    def step(self, step: Step) -> None:
        """Renew the live line, or print one now and then."""
        now, done = time.monotonic(), step.step >= step.steps
        if now - self._last < (0.2 if self._live else self._every) and not done:
            return
        self._last = now
        if self._live:
            sys.stderr.write(f"\r\x1b[2K{step}"[: self._rich.width + 4])
            sys.stderr.flush()
            self._open = True
            if done:
                self._close()
        else:
            self._rich.print(str(step), markup=False, soft_wrap=True)

    def _close(self) -> None:
        if self._open:
            sys.stderr.write("\n")
            self._open = False


def clock(seconds: float) -> str:
    """A duration as people read it, such as 1:02:03 or 4:05."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
