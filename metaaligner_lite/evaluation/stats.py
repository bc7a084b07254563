"""Rates and paired differences with 95 % intervals, clustered by query; p-values; the number of comparisons.

Answers of several policies to one query stand and fall together, so everything here takes (query, value) and counts
queries as the things that vary. Intervals are those of the ratio of sums with a cluster-robust error, moved toward the
middle by two queries that nobody asked (Agresti and Coull 1998 for shares, Agresti and Min 2005 for paired
differences): they hold what they promise for dozens of queries, too, and for shares of 0 and 1.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Any

from .report import Interval

Values = Iterable[tuple[str, float]]

_Z = NormalDist().inv_cdf(0.975)
_FLIPS, _SEED = 9999, 0
_EXACT = 13  # queries up to which all signs are tried
_FEWEST = 10  # pairs for a rate at equal length
_BESIDES = 0.05  # of them on each side of equal


def share(values: Values) -> Interval | None:
    """A mean of values between 0 and 1 with its interval; None of nothing."""
    return _interval(values, [(0.0, 1.0), (1.0, 1.0)], 0.0)


def difference(values: Values) -> Interval | None:
    """A mean of paired differences between -1 and 1 with its interval and the p of no difference; None of nothing."""
    held = list(values)
    found = _interval(held, [(-1.0, 0.5), (1.0, 0.5), (0.0, 1.0)], -1.0)
    if found is None:
        return None
    return Interval(found.value, found.low, found.high, found.n, found.queries, sign_flip(held))


def _interval(values: Values, unasked: Sequence[tuple[float, float]], least: float) -> Interval | None:
    """The mean with its interval. `unasked` are (value, weight) of the queries that nobody asked."""
    clusters = _clustered(values)
    if not clusters:
        return None
    total, count = (sum(pair[i] for pair in clusters) for i in (0, 1))
    mean, queries = total / count, len(clusters)
    if queries == 1:
        return Interval(mean, None, None, int(count), queries)
    size = count / queries
    weighed = [(t, n, 1.0) for t, n in clusters] + [(value * size, size, weight) for value, weight in unasked]
    whole = sum(n * weight for _, n, weight in weighed)
    middle = sum(t * weight for t, _, weight in weighed) / whole
    spread = sum(weight * (t - middle * n) ** 2 for t, n, weight in weighed)
    half = t_quantile(queries - 1) * math.sqrt(spread * queries / (queries - 1)) / whole
    low, high = max(least, middle - half), min(1.0, middle + half)
    return Interval(mean, min(low, mean), max(high, mean), int(count), queries)


def _clustered(values: Values) -> list[tuple[float, float]]:
    """The sum of the values, and their number, of each query."""
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for query, value in values:
        totals[query][0] += value
        totals[query][1] += 1
    return [(total, count) for total, count in totals.values()]


def bootstrap(values: Values, *, draws: int = 2000, seed: int = 0) -> tuple[float, float, float] | None:
    """The mean and its 95 % interval by percentiles of a bootstrap that draws whole queries, with all their answers.

    For a paired difference the values are differences. None of nothing; one query alone has no interval: it spans
    -inf to inf.
    """
    import numpy as np

    clusters = _clustered(values)
    if not clusters:
        return None
    mean = sum(total for total, _ in clusters) / sum(count for _, count in clusters)
    if len(clusters) == 1:
        return mean, float("-inf"), float("inf")
    table, generator = np.asarray(clusters, dtype=float), np.random.default_rng(seed)
    means: list[float] = []
    step = max(1, 4_000_000 // len(table))
    for start in range(0, draws, step):
        picks = generator.integers(0, len(table), (min(step, draws - start), len(table)))
        sums = table[picks].sum(axis=1)
        means += (sums[:, 0] / sums[:, 1]).tolist()
    means.sort()
    return mean, means[int(0.025 * draws)], means[min(draws - 1, int(0.975 * draws))]


def sign_flip(values: Values) -> float:
    """The p-value of "no difference": how often flipping the signs of whole queries gives as large a sum, or larger.

    All flips up to 13 queries that differ, else 9,999 and the one observed: never below 0.0001.
    """
    import numpy as np

    totals = np.array([total for total, _ in _clustered(values) if abs(total) > 1e-9])
    if not len(totals):
        return 1.0
    observed = abs(float(totals.sum())) - 1e-9
    if len(totals) <= _EXACT:
        numbers = np.arange(1 << len(totals))
        signs = 1 - 2 * ((numbers[:, None] >> np.arange(len(totals))) & 1)
        return float(np.mean(np.abs(signs @ totals) >= observed))
    room = 1 << (len(totals) - 1).bit_length()
    found = np.abs(_signs(room)[:, : len(totals)] @ totals.astype(np.float32)) >= observed - 1e-4
    return float((1 + found.sum()) / (1 + _FLIPS))


@lru_cache(maxsize=2)
def _signs(queries: int) -> Any:
    import numpy as np

    drawn = np.random.default_rng(_SEED).integers(0, 2, (_FLIPS, queries), dtype=np.int8)
    return (2 * drawn - 1).astype(np.float32)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of one family of comparisons, as Holm (1979) adjusts them: their order and place stay."""
    found = [1.0] * len(p_values)
    least = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[i]))
        found[i] = least
    return found


def at_equal_length(pairs: Iterable[tuple[str, float, float]]) -> Interval | None:
    """The rate of (query, score, difference of lengths) as it would be at equal length.

    A logistic regression of the score (1 win, 0.5 tie, 0 loss) on the difference of lengths, divided by its spread and
    flattened by tanh as AlpacaEval does; told is its value at 0. A light pull toward 0 keeps a score that length
    explains wholly from running off. None of fewer than 10 pairs, one query, lengths or scores that do not differ, or
    lengths that nearly all lie on one side: what would be at 0 is a guess then, whose interval would be far too narrow.
    """
    import numpy as np

    held = list(pairs)
    queries = {query: i for i, query in enumerate(dict.fromkeys(query for query, _, _ in held))}
    lengths = np.array([length for _, _, length in held], dtype=float)
    if len(held) < _FEWEST or len(queries) < 2 or not (spread := float(np.sqrt(np.mean(lengths**2)))):
        return None
    if min((lengths >= 0).sum(), (lengths <= 0).sum()) < max(2, _BESIDES * len(held)):
        return None
    scores = np.array([score for _, score, _ in held], dtype=float)
    if scores.min() == scores.max():  # nothing to fit: an interval of no width would follow
        return None
    table = np.column_stack([np.ones(len(held)), np.tanh(lengths / spread)])
    pull = np.diag([0.1, 0.1])
    weights = np.zeros(2)
    for _ in range(50):
        fitted = 1 / (1 + np.exp(-table @ weights))
        bend = table.T @ (table * (fitted * (1 - fitted))[:, None]) + pull
        step = np.linalg.solve(bend, table.T @ (scores - fitted) - pull @ weights)
        weights += step
        if float(np.abs(step).max()) < 1e-9:
            break
    fitted = 1 / (1 + np.exp(-table @ weights))
    bend = table.T @ (table * (fitted * (1 - fitted))[:, None]) + pull
    slopes = np.zeros((len(queries), 2))
    np.add.at(slopes, [queries[query] for query, _, _ in held], table * (scores - fitted)[:, None])
    inverse = np.linalg.inv(bend)
    count = len(queries)
    error = math.sqrt(float((inverse @ (slopes.T @ slopes) @ inverse)[0, 0]) * count / (count - 1))
    half = t_quantile(count - 1) * error
    value, low, high = (1 / (1 + math.exp(-x)) for x in (weights[0], weights[0] - half, weights[0] + half))
    return Interval(value, low, high, len(held), count)


def kappa(pairs: Iterable[tuple[str, str]]) -> float | None:
    """Cohen's kappa of two who put the same things into categories; None where chance alone would agree wholly."""
    held = list(pairs)
    if not held:
        return None
    n = len(held)
    agreed = sum(one == other for one, other in held) / n
    kinds = {kind for pair in held for kind in pair}
    chance = sum(sum(a == kind for a, _ in held) * sum(b == kind for _, b in held) for kind in kinds) / n**2
    return None if chance == 1 else (agreed - chance) / (1 - chance)


@lru_cache(maxsize=4096)
def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, by the expansion of Cornish and Fisher; off by 0.002 at 3 degrees."""
    if freedom in (1, 2):
        return {1: 12.7062, 2: 4.3027}[freedom]
    z, v = _Z, float(freedom)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / v ** (i + 1) for i, term in enumerate(terms))
