"""The gate: the edit is taken, or the answer kept, by what the aligner itself holds more likely.

An aligner that has nothing to improve, or has lost its way, may write an edit that it holds less likely than the
answer. The price is one reading of edit and answer behind the request; the cache holds everything before it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gate:
    """Takes an edit whose mean log-likelihood per token exceeds the answer's by more than `margin` (nats)."""

    margin: float = 0.0

    def takes(self, edit: float, answer: float) -> bool:
        """Whether the edit is taken, by the two likelihoods."""
        return edit - answer > self.margin


OPEN = Gate(float("-inf"))  # takes every edit, and so tells how it compares
