"""The gate: the edit is taken, or the answer kept, by what the aligner itself holds more likely.

An aligner that has nothing to improve, or has lost its way, may write an edit that it holds less likely than the
answer. The price is one reading of edit and answer behind the request; the cache holds everything before it.

An edit that a high bar made (llama/sure.py) is by its nature less likely than what greedy writing would have kept. So
one that is BARRED less likely is taken, too: chosen on edits of the aligner that ships, where 0 takes back most of what
was gained, and BARRED three quarters of the edits that lost the meaning (bench/LOG.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .objectives import Objective

BARRED = -0.25


@dataclass(frozen=True, slots=True)
class Gate:
    """Takes an edit whose mean log-likelihood per token exceeds the answer's by more than `margin` (nats).

    None is what fits the aligner: 0, or BARRED where it writes by a high bar.
    """

    margin: float | None = None

    def takes(self, edit: float, answer: float, *, barred: bool = False) -> bool:
        """Whether the edit is taken, by the two likelihoods; `barred` says how it was written."""
        margin = (BARRED if barred else 0.0) if self.margin is None else self.margin
        return edit - answer > margin


OPEN = Gate(float("-inf"))  # takes every edit, and so tells how it compares


def barred(aligner: object, objectives: Sequence[Objective]) -> bool:
    """Whether an aligner writes by a high bar for some objectives; one that does not say does not."""
    says = getattr(aligner, "barred", None)
    return bool(says and says(objectives))
