"""A base ready for the rules, and what comes of it: one edit, one row."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .situations import advice, by_message, feeling
from .sources import Base
from .texts import Unit, count, split


@dataclass(frozen=True, slots=True)
class Case:
    """A base ready for the rules: its units, and the sentences that acknowledge a feeling in its query."""

    base: Base
    units: tuple[Unit, ...]
    felt: str = ""
    words: int = 0

    @property
    def query(self) -> str:
        """The message answered."""
        return self.base.query


@dataclass(frozen=True, slots=True)
class Edit:
    """One row to be: `weak` and `target` are the same where the answer is good as it is."""

    id: str
    base: Base
    weak: str
    target: str
    objectives: tuple[str, ...]
    tie: bool = False

    @property
    def stays(self) -> bool:
        """Whether the answer is to be written again word for word."""
        return self.weak == self.target

    def row(self) -> dict[str, Any]:
        """The row that `mal train-lora` reads."""
        row: dict[str, Any] = {"id": self.id, "query": self.base.query}
        if self.base.history:
            row["history"] = [{"role": role, "content": content} for role, content in self.base.history]
        if self.stays:
            row["answers"] = [{"text": self.weak, "ratings": {}, "good": list(self.objectives)}]
        else:
            low = 1 if self.tie else 0
            row["answers"] = [
                {"text": self.weak, "ratings": dict.fromkeys(self.objectives, low)},
                {"text": self.target, "ratings": dict.fromkeys(self.objectives, 1)},
            ]
        return row


def case(base: Base, seed: int) -> Case:
    """A base as the rules take it."""
    units = tuple(split(base.text))
    felt = feeling(base.query, random.Random(f"{seed}/felt/{base.query}"))
    return Case(base, units, felt, count(base.text))


def own_cases(seed: int) -> Iterator[Base]:
    """Our own messages with a feeling, each with two sober answers."""
    for number, (message, situation) in enumerate(by_message().items()):
        for copy in range(2):
            rng = random.Random(f"{seed}/situation/{number}/{copy}")
            yield Base(f"felt/{number}/{copy}", message, advice(situation, rng), "own words")
