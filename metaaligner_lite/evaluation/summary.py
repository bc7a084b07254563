"""Verdicts -> rates, gains, the tax of each request, what the texts are like: the numbers of a report."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from . import intact
from .protocol import Item, disagreed
from .report import (
    ALIGNED,
    ALL,
    ANSWER,
    GOLDEN,
    OUTCOMES,
    UNALIGNED,
    Cell,
    Counts,
    Coverage,
    Gain,
    Interval,
    Quality,
    Tax,
    Verdict,
)
from .stats import at_equal_length, difference, holm, share

_WINS = {"win": 1.0, "tie": 0.0, "lose": 0.0}
_WINS_AND_TIES = {"win": 1.0, "tie": 1.0, "lose": 0.0}
SCORES = {"win": 1.0, "tie": 0.5, "lose": 0.0}
_NET = {"win": 1.0, "tie": 0.0, "lose": -1.0}
LOST = 0.75  # a cosine below which a text says something else
_OF_LENGTH = ("brevity", "length")  # at equal length nothing of them is left to judge

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


def counts_of(verdicts: Iterable[Verdict]) -> Counts:
    """What became of some pairs."""
    held = list(verdicts)
    found = Counter(verdict.outcome for verdict in held)
    win, tie, lose, unparsed, failed = (found[outcome] for outcome in OUTCOMES)
    return Counts(
        win,
        tie,
        lose,
        unparsed,
        failed,
        identical=sum(verdict.identical for verdict in held),
        disagreed=sum(map(disagreed, held)),
    )


def cells_of(verdicts: Sequence[Verdict], items: Mapping[str, Item]) -> list[Cell]:
    """A cell for each policy, for all of them, and for each request where there are several."""
    policies = list(dict.fromkeys(verdict.policy for verdict in verdicts))
    requests = list(dict.fromkeys(verdict.request for verdict in verdicts))
    words = _Words(items)
    found: list[Cell] = []
    grouped = _by(verdicts, lambda v: (v.judge, v.objective, v.variant, v.reference))
    for (judge, objective, variant, reference), some in grouped.items():
        places = [(policy, ALL) for policy in policies if len(policies) > 1] + [(ALL, ALL)]
        places = places if len(policies) > 1 else [(policies[0], ALL)]
        places += [(ALL, request) for request in requests if len(requests) > 1]
        for policy, request in places:
            mine = [v for v in some if policy in (ALL, v.policy) and request in (ALL, v.request)]
            if mine:
                found.append(_cell(policy, request, judge, objective, variant, reference, mine, items, words))
    return _adjusted(
        found,
        lambda cell: cell.net,
        lambda cell, net: replace(cell, net=net),
        lambda cell: (cell.judge, cell.variant, cell.reference, cell.request == ALL, cell.asked),
    )


def _cell(
    policy: str,
    request: str,
    judge: str,
    objective: str,
    variant: str,
    reference: str,
    verdicts: Sequence[Verdict],
    items: Mapping[str, Item],
    words: _Words,
) -> Cell:
    clear = [verdict for verdict in verdicts if verdict.outcome in SCORES]

    def values(score: Mapping[str, float]) -> list[tuple[str, float]]:
        return [(verdict.query, score[verdict.outcome]) for verdict in clear]

    lengths = [(v.query, SCORES[v.outcome], words.longer(v)) for v in clear]
    return Cell(
        policy,
        request,
        judge,
        objective,
        all(objective in _names(items[verdict.row]) for verdict in verdicts),
        variant,
        reference,
        counts_of(verdicts),
        share(values(_WINS)),
        share(values(_WINS_AND_TIES)),
        share(values(SCORES)),
        difference(values(_NET)),
        None if objective in _OF_LENGTH else at_equal_length(lengths),
    )


def gains_of(verdicts: Sequence[Verdict], items: Mapping[str, Item]) -> list[Gain]:
    """What each variant gained over the unaligned answers, both against the golden ones, row by row."""
    golden = [v for v in verdicts if v.reference == GOLDEN and v.outcome in SCORES]
    before = {(v.judge, v.objective, v.row): v for v in golden if v.variant == UNALIGNED}
    policies = list(dict.fromkeys(verdict.policy for verdict in verdicts))
    found: list[Gain] = []
    grouped = _by((v for v in golden if v.variant != UNALIGNED), lambda v: (v.judge, v.objective, v.variant))
    for (judge, objective, variant), some in grouped.items():
        pairs = [(v, b) for v in some if (b := before.get((judge, objective, v.row)))]
        for policy in [*policies, ALL] if len(policies) > 1 else policies:
            mine = [(v, b) for v, b in pairs if policy in (ALL, v.policy)]
            wins, both = (
                difference((v.query, score[v.outcome] - score[b.outcome]) for v, b in mine)
                for score in (_WINS, _WINS_AND_TIES)
            )
            if wins and both:
                asked = all(objective in _names(items[v.row]) for v, _ in mine)
                found.append(Gain(policy, judge, objective, asked, variant, wins, both))
    return _adjusted(
        found,
        lambda gain: gain.wins,
        lambda gain, wins: replace(gain, wins=wins),
        lambda gain: (gain.judge, gain.variant, gain.asked),
    )


def tax_of(verdicts: Sequence[Verdict]) -> list[Tax]:
    """What each request did to each objective, asked for or not."""
    mine = [v for v in verdicts if v.variant == ALIGNED and v.reference == ANSWER and v.outcome in SCORES]
    found = []
    for (judge, request, objective), some in _by(mine, lambda v: (v.judge, v.request, v.objective)).items():
        net = difference((v.query, _NET[v.outcome]) for v in some)
        if net:
            found.append(Tax(request, objective, objective in request.split(","), judge, net))
    return _adjusted(
        found, lambda tax: tax.net, lambda tax, net: replace(tax, net=net), lambda tax: (tax.judge, tax.asked)
    )


def quality_of(
    items: Sequence[Item],
    variants: Sequence[str],
    failed: Mapping[str, int],
    meaning: Callable[[str, str], float] | None = None,
) -> list[Quality]:
    """What the texts of each variant are like, by policy and of all; `meaning` is the cosine of two texts."""
    policies = list(dict.fromkeys(item.policy for item in items))
    return [
        _quality(policy, variant, mine, failed.get(variant, 0) if policy == ALL or len(policies) == 1 else 0, meaning)
        for policy in ([*policies, ALL] if len(policies) > 1 else policies)
        for variant in variants
        if (mine := [item for item in items if policy in (ALL, item.policy) and variant in item.texts])
    ]


def _quality(
    policy: str,
    variant: str,
    items: Sequence[Item],
    failed: int,
    meaning: Callable[[str, str], float] | None,
) -> Quality:
    pairs = [(item.answer, item.texts[variant]) for item in items]
    ratios = [len(after.split()) / len(before.split()) for before, after in pairs if before.split()]
    kept = [meaning(*pair) for pair in pairs] if meaning else []
    costs = {
        name: [cost[name] for item in items if name in (cost := item.costs.get(variant, {}))]
        for name in ("tokens", "seconds")
    }
    return Quality(
        policy,
        variant,
        len(items),
        statistics.mean(intact.stays(*pair) for pair in pairs),
        statistics.mean(1.0 if intact.stays(*pair) else intact.copied(*pair) for pair in pairs),
        statistics.median(ratios) if ratios else None,
        statistics.mean(not after.strip() for _, after in pairs),
        statistics.mean(intact.loops(after) for _, after in pairs),
        statistics.mean(intact.runs_on(after) for _, after in pairs),
        statistics.mean(costs["tokens"]) if costs["tokens"] else None,
        statistics.mean(costs["seconds"]) if costs["seconds"] else None,
        failed if variant != ALIGNED else sum(item.outcome == "failed" for item in items),
        statistics.median(kept) if kept else None,
        statistics.mean(cosine < LOST for cosine in kept) if kept else None,
    )


def coverage_of(verdicts: Iterable[Verdict], unjudged: int = 0) -> Coverage:
    """How many pairs have a verdict; `unjudged` are those that no judge could take."""
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    return Coverage(outcomes.total() + unjudged, sum(outcomes[name] for name in SCORES))


class _Words:
    """How many words more a verdict's text has than its reference."""

    def __init__(self, items: Mapping[str, Item]) -> None:
        self._items = items
        self._counts: dict[tuple[str, str], int] = {}

    def longer(self, verdict: Verdict) -> float:
        reference = GOLDEN if verdict.reference == GOLDEN else UNALIGNED
        return float(self._count(verdict.row, verdict.variant) - self._count(verdict.row, reference))

    def _count(self, row: str, what: str) -> int:
        if (row, what) not in self._counts:
            item = self._items[row]
            text = item.golden if what == GOLDEN else item.texts[what]
            self._counts[row, what] = len((text or "").split())
        return self._counts[row, what]


def _names(item: Item) -> list[str]:
    return [objective.name for objective in item.requested]


def _by(items: Iterable[_V], key: Callable[[_V], _K]) -> dict[_K, list[_V]]:
    found: dict[_K, list[_V]] = defaultdict(list)
    for item in items:
        found[key(item)].append(item)
    return found


def _adjusted(
    found: Sequence[_V],
    interval: Callable[[_V], Interval | None],
    put: Callable[[_V, Interval], _V],
    family: Callable[[_V], Hashable],
) -> list[_V]:
    """The same with p-values as Holm adjusts them, within one family: a judge's comparisons of one kind and variant."""
    adjusted = list(found)
    for places in _by(range(len(found)), lambda i: family(found[i])).values():
        told = [(i, one) for i in places if (one := interval(found[i])) is not None and one.p is not None]
        for (i, one), p in zip(told, holm([one.p or 0.0 for _, one in told]), strict=True):
            adjusted[i] = put(found[i], replace(one, p_holm=p))
    return adjusted
