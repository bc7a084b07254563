"""The protocol: pairs of texts, each judged in both orders. Disagreement is a tie, and tells of the judge.

Identical texts tie and nobody is asked. What is no verdict stays out of every rate: "unparsed" where the judge said
something else in one of the orders, "failed" where it could not be asked.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..objectives import Objective
from ..prompts import Message
from .judges import Judge, Question, Said, key_of
from .prompts import dialogue
from .report import ANSWER, GOLDEN, UNALIGNED, Asked, Position, Rerun, Verdict
from .report import Judge as Told
from .verdicts import Kept


@dataclass(frozen=True, slots=True)
class Item:
    """A row to be judged: its texts by variant, the golden answer if there is one, and what was asked for."""

    key: str
    source: str
    place: str
    policy: str
    query: str
    requested: tuple[Objective, ...]
    texts: Mapping[str, str]
    golden: str | None = None
    history: tuple[Message, ...] = ()
    outcome: str = ""
    costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # variant -> "tokens", "seconds"

    @property
    def asked(self) -> str:
        """The query with the turns before it."""
        return dialogue(self.query, self.history)

    @property
    def answer(self) -> str:
        """The policy's answer."""
        return self.texts[UNALIGNED]

    @property
    def request(self) -> str:
        """The names of what was asked for."""
        return ",".join(objective.name for objective in self.requested)

    @property
    def cluster(self) -> str:
        """A short name of the query, the same wherever it is asked."""
        return hashlib.blake2b(" ".join(self.asked.split()).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Pair:
    """A variant's text against a reference, on an objective."""

    item: Item
    objective: Objective
    variant: str
    reference: str

    @property
    def texts(self) -> tuple[str, str]:
        """The variant's text, and the reference."""
        other = self.item.golden if self.reference == GOLDEN else self.item.answer
        return self.item.texts[self.variant], other or ""

    @property
    def identical(self) -> bool:
        """Whether there is nothing to judge."""
        one, other = self.texts
        return one.strip() == other.strip()

    def question(self, order: int) -> Question:
        """What a judge is asked; in order 2 the reference stands first."""
        one, other = self.texts
        first, second = (other, one) if order == 2 else (one, other)
        return Question(self.item.asked, self.item.answer, self.objective, first, second)


def pairs_of(items: Iterable[Item], objectives: Sequence[Objective], variants: Sequence[str]) -> list[Pair]:
    """All pairs: every variant against the golden answer, and all but the unaligned against the policy's answer."""
    return [
        Pair(item, objective, variant, reference)
        for item in items
        for objective in objectives
        for variant in variants
        if variant in item.texts
        for reference in (GOLDEN, ANSWER)
        if (item.golden if reference == GOLDEN else variant != UNALIGNED)
    ]


Progress = Callable[[str, int, int], None]  # a judge's name, judgements done, of how many


@dataclass(slots=True)
class Judged:
    """What a judge made of its pairs."""

    told: Told
    verdicts: list[Verdict]


def judge_pairs(
    judge: Judge,
    pairs: Sequence[Pair],
    kept: Kept,
    progress: Progress = lambda *_: None,
    *,
    rerun_share: float = 0.0,
    seed: int = 0,
) -> Judged:
    """Let a judge judge the pairs that it takes; what was kept is not asked again.

    Of the kept and the new, `rerun_share` is asked once more, and compared.
    """
    mine = [pair for pair in pairs if judge.takes(pair.item.asked, pair.objective)]
    orders = (1, 2) if judge.positional else (0,)
    # Several pairs may ask the same: an edit that is the tidied answer, too. It is asked once.
    questions = {
        key_of(judge, question): question
        for pair in mine
        if not pair.identical
        for question in (pair.question(order) for order in orders)
    }
    said = {key: found for key in questions if judge.keeps and (found := kept.said(key))}
    held = len(said)
    began = time.perf_counter()
    _ask(judge, {key: q for key, q in questions.items() if key not in said}, said, kept, progress)
    seconds = time.perf_counter() - began
    verdicts = [_verdict(judge, pair, orders, said) for pair in mine]
    shares = [one.on_answers for one in said.values() if one.on_answers is not None]
    told = replace(
        judge.told,
        wanted=len(questions),
        asked=len(questions) - held,
        kept=held,
        unparsed=sum(one.verdict == "unparsed" for one in said.values()),
        failed=sum(one.verdict == "failed" for one in said.values()),
        seconds=round(seconds, 3),
        on_answers=sum(shares) / len(shares) if shares else None,
        position=_position(judge, mine, said) if judge.positional else None,
        rerun=_again(judge, questions, said, rerun_share, seed) if rerun_share and judge.keeps else None,
    )
    return Judged(told, verdicts)


def _ask(
    judge: Judge, questions: Mapping[bytes, Question], said: dict[bytes, Said], kept: Kept, progress: Progress
) -> None:
    keys, done = list(questions), len(said)
    whole = done + len(keys)

    def on_said(i: int, found: Said) -> None:
        nonlocal done
        done += 1
        said[keys[i]] = found
        if judge.keeps:
            kept.keep(keys[i], judge.told.fingerprint, found)
        progress(judge.told.name, done, whole)

    if keys:
        judge.ask(list(questions.values()), on_said)


def _again(
    judge: Judge, questions: Mapping[bytes, Question], said: Mapping[bytes, Said], share: float, seed: int
) -> Rerun:
    """Ask a share once more; the kept verdicts stay as they were."""
    whole = [key for key in questions if said[key].verdict != "failed"]
    ranked = sorted(whole, key=lambda key: hashlib.blake2b(key, salt=seed.to_bytes(8, "little")).digest())
    keys = ranked[: round(share * len(ranked)) or min(1, len(ranked))]
    found: dict[int, Said] = {}
    if keys:
        judge.ask([questions[key] for key in keys], found.__setitem__)
    heard = {key: found[i] for i, key in enumerate(keys) if found[i].verdict != "failed"}
    return Rerun(len(heard), sum(said[key].verdict == one.verdict for key, one in heard.items()))


def _verdict(judge: Judge, pair: Pair, orders: Sequence[int], said: Mapping[bytes, Said]) -> Verdict:
    item = pair.item
    outcome, asked = "tie", list[Asked]()
    if not pair.identical:
        for order in orders:
            one = said[key_of(judge, pair.question(order))]
            asked.append(Asked(order, one.verdict, one.raw, one.error, one.seconds, one.tokens))
        outcome = outcome_of([(one.order, one.verdict) for one in asked])
    return Verdict(
        item.key,
        item.policy,
        item.cluster,
        item.request,
        judge.told.name,
        pair.objective.name,
        pair.variant,
        pair.reference,
        outcome,
        pair.identical,
        tuple(asked),
    )


def outcome_of(orders: Sequence[tuple[int, str]]) -> str:
    """What (order, verdict) of one pair come to, as the text sees it that stood first in order 1 (and 0)."""
    said = [verdict for _, verdict in orders]
    for none in ("failed", "unparsed"):
        if none in said:
            return none
    seen = {_seen(order, verdict) for order, verdict in orders}
    return seen.pop() if len(seen) == 1 else "tie"


def _seen(order: int, verdict: str) -> str:
    if verdict == "tie":
        return "tie"
    return "win" if (verdict == "first") == (order != 2) else "lose"


def disagreed(verdict: Verdict) -> bool:
    """Whether a tie comes of two orders that contradict each other."""
    return verdict.outcome == "tie" and len({_seen(one.order, one.verdict) for one in verdict.orders}) > 1


def _position(judge: Judge, pairs: Sequence[Pair], said: Mapping[bytes, Said]) -> Position:
    """How often the place won, over distinct pairs of texts."""
    asked = {
        frozenset(keys): tuple(said[key].verdict for key in keys)
        for pair in pairs
        if not pair.identical
        for keys in [tuple(key_of(judge, pair.question(order)) for order in (1, 2))]
    }
    return position_of(asked.values())


def position_of(verdicts: Iterable[Sequence[str]]) -> Position:
    """What pairs of verdicts in both orders, each "first", "second" or "tie" by place, tell of a judge."""
    agreed = first = second = mixed = 0
    for one, other in verdicts:
        if {one, other} & {"failed", "unparsed"}:
            continue
        if one != other and "tie" in (one, other):
            mixed += 1
        elif one == other == "first":
            first += 1
        elif one == other == "second":
            second += 1
        else:
            agreed += 1
    return Position(agreed + first + second + mixed, agreed, first, second, mixed)
