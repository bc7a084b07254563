"""What a question claims, and whether our interval bears it out: the published direction beside ours."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from metaaligner_lite.evaluation.report import Interval

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


def slope(points: Iterable[tuple[str, float, float]], draws: int = 2000, seed: int = 0) -> Interval | None:
    """How much the third rises with the second of (query, x, y), by least squares, with its 95 % interval.

    The interval is from a bootstrap that draws whole queries. None of points that share one x.
    """
    totals: dict[str, list[float]] = {}
    count = 0
    for query, x, y in points:
        count += 1
        sums = totals.setdefault(query, [0.0] * 5)
        for i, value in enumerate((1.0, x, y, x * x, x * y)):
            sums[i] += value
    rows = list(totals.values())
    whole = _slope(rows)
    if whole is None:
        return None
    if len(rows) == 1:
        return Interval(whole, None, None, count, 1)
    rng = random.Random(seed)
    drawn = (_slope(rng.choices(rows, k=len(rows))) for _ in range(draws))
    found = sorted(value for value in drawn if value is not None)
    low, high = found[int(0.025 * len(found))], found[min(len(found) - 1, int(0.975 * len(found)))]
    return Interval(whole, min(low, whole), max(high, whole), count, len(rows))


def _slope(rows: Sequence[Sequence[float]]) -> float | None:
    n, x, y, xx, xy = (sum(column) for column in zip(*rows, strict=True)) if rows else (0.0,) * 5
    spread = n * xx - x * x
    return (n * xy - x * y) / spread if spread > 1e-9 * max(1.0, n * xx) else None
