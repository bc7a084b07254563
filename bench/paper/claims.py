"""What a question claims, and whether our interval bears it out: the published direction beside ours."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from metaaligner_lite.evaluation.report import Interval
from metaaligner_lite.evaluation.stats import t_quantile

RISES, FALLS, HOLDS, SAME = "rises", "falls", "holds", "same"
REPLICATES, OPPOSITE, UNTOLD = "replicates", "opposite", "cannot be told at this n"
YES, NO = "yes", "no"
MARGIN = 0.05  # what holds may fall by so much, what is the same may differ by so much


@dataclass(frozen=True, slots=True)
class Claim:
    """One sentence with its direction, the published figure and its source, and what was measured here.

    `way`: the figure rises above 0, falls below it, holds (falls by less than MARGIN), or is the same (within MARGIN).
    `parts` are the figures of single trainings: a claim about training is borne out only if all point one way.
    """

    says: str
    way: str
    interval: Interval | None
    published: str = ""  # the paper's figure; "" for what the paper does not ask
    source: str = ""
    parts: tuple[float, ...] = ()

    @property
    def verdict(self) -> str:
        """REPLICATES or OPPOSITE, of what the paper does not ask YES or NO; UNTOLD if the interval leaves both open."""
        borne_out, refuted = (REPLICATES, OPPOSITE) if self.source else (YES, NO)
        found = self.interval
        if found is None or found.low is None or found.high is None:
            return UNTOLD
        low, high = (-found.high, -found.low) if self.way == FALLS else (found.low, found.high)
        if self.way == SAME:
            outside = low > MARGIN or high < -MARGIN
            return borne_out if low > -MARGIN and high < MARGIN else refuted if outside else UNTOLD
        least = -MARGIN if self.way == HOLDS else 0.0
        signed = [-part if self.way == FALLS else part for part in self.parts]
        if low > least and all(part > least for part in signed):
            return borne_out
        if high < least and all(part < least for part in signed):
            return refuted
        return UNTOLD

    def told(self) -> dict[str, Any]:
        """As JSON, the verdict with it."""
        return asdict(self) | {"verdict": self.verdict}


def slope(points: Iterable[tuple[str, float, float]]) -> Interval | None:
    """How much the third rises with the second of (query, x, y), by least squares, with its 95 % interval.

    The error is that of whole queries (cluster-robust), as in evaluation/stats.py. None of points that share one x.
    """
    held = list(points)
    if len({x for _, x, _ in held}) < 2:
        return None
    middle, height = mean(x for _, x, _ in held), mean(y for _, _, y in held)
    spread = sum((x - middle) ** 2 for _, x, _ in held)
    steep = sum((x - middle) * (y - height) for _, x, y in held) / spread
    pulls: dict[str, float] = defaultdict(float)
    for query, x, y in held:
        pulls[query] += (x - middle) * (y - height - steep * (x - middle))
    if (queries := len(pulls)) == 1:
        return Interval(steep, None, None, len(held), 1)
    error = math.sqrt(sum(pull**2 for pull in pulls.values()) * queries / (queries - 1)) / spread
    half = t_quantile(queries - 1) * error
    return Interval(steep, steep - half, steep + half, len(held), queries)
