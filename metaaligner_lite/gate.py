"""The gate: the edit is taken, or the answer kept, by what the aligner itself holds more likely.

An aligner that has nothing to improve, or has lost its way, may write an edit that it holds less likely than the
answer. The price is one reading of edit and answer behind the request; the cache holds everything before it.

An edit that a high bar made (llama/sure.py) is by its nature less likely than what greedy writing would have kept: a
margin of 0 would take most of what bars gain back. So an aligner's manifest may hold a margin for each objective
(`gates`), chosen by measurement as its bars are (bench/LOG.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .objectives import Objective


@dataclass(frozen=True, slots=True)
class Gate:
    """Takes an edit whose mean log-likelihood per token exceeds the answer's by more than `margin` (nats).

    None is the aligner's own margin for what is asked: 0 where it names none.
    """

    margin: float | None = None

    def takes(self, edit: float, answer: float, own: float = 0.0) -> bool:
        """Whether the edit is taken, by the two likelihoods; `own` is the aligner's margin."""
        return edit - answer > (own if self.margin is None else self.margin)


OPEN = Gate(float("-inf"))  # takes every edit, and so tells how it compares


def own_margin(aligner: object, objectives: Sequence[Objective]) -> float:
    """The margin that an aligner itself names for some objectives; 0 of one that names none."""
    names = getattr(aligner, "margin", None)
    return float(names(objectives)) if names else 0.0
