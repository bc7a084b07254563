"""What writing a text takes and gives: how tokens are chosen, the text, why it ended, what it cost. Plain records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

OnText = Callable[[str], None]
Stop = Callable[[], bool]  # asked between batches of reading and rounds of writing: whether to end here


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. Temperature 0 is greedy; else the same seed gives the same text.

    `repeat_penalty` (1: none) and `dry` (0: none) make what was written already less likely. They are off by default:
    they change what is written, and an edit repeats on purpose. Loops are cut without them (loops.py).
    """

    temperature: float = 0.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    seed: int = 0
    repeat_penalty: float = 1.0
    dry: float = 0.0

    @property
    def plain(self) -> bool:
        """Whether it is the likeliest token that is taken, and nothing else counts."""
        return self.temperature <= 0 and self.repeat_penalty == 1 and not self.dry


GREEDY = Sampling()
_AGAIN = 0.7  # the temperature where a greedy text would only come again


def sampled(sampling: Sampling, number: int) -> Sampling:
    """How another text of the same is written, the first, second ... `number`: with the next seed, never greedily."""
    return replace(sampling, seed=(sampling.seed + number) % 2**32, temperature=sampling.temperature or _AGAIN)


def editing(sampling: Sampling, temperature: float = 0.0) -> Sampling:
    """How an aligner writes where its policy writes by `sampling`: greedily, whatever the policy's temperature.

    Variety is wanted of an answer; of an edit the likeliest is, and bars (llama/sure.py) hold for greedy writing only.
    """
    return replace(sampling, temperature=temperature)


@dataclass(frozen=True, slots=True)
class Bar:
    """How sure an aligner must be of a sentence of the answer to leave it as it is, 0 to 1 (llama/sure.py).

    `edges` counts where an edit begins and where the answer ends, `between` before each other sentence.
    """

    edges: float
    between: float


@dataclass(frozen=True, slots=True)
class Settings:
    """How one text of many is to be written: what differs from request to request.

    The text ends before any of `stops`. `copies` are texts that it will probably repeat in parts.
    """

    sampling: Sampling = GREEDY
    chosen: frozenset[str] = frozenset()
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Counts:
    """What one generation cost. `reused` prompt tokens were in the KV cache already and were not read again.

    Of the `written` tokens, `accepted` were guessed (out of `drafted` guesses) and cost no decode of their own; what a
    loop wrote before it was noticed is counted, too.
    """

    read: int
    reused: int
    written: int
    drafted: int
    accepted: int
    read_seconds: float
    write_seconds: float


@dataclass(frozen=True, slots=True)
class Generation:
    """A generated text, its tokens (the end token left out), why it ended, and what it cost.

    `finish` is "end" (the model ended it), "run-on" (it began a turn of the user's; the text stops before), "loop" (it
    went round in circles; the text stops before the second round), "stop" (it came to a text that was to end it),
    "length" (the limit was reached: the text may lack its end) or "stopped" (the caller stopped it).
    """

    text: str
    tokens: tuple[int, ...]
    finish: str
    counts: Counts
