"""How far a judge is to be trusted: its verdicts against people's votes, on public sets of pairs.

Known by their columns: PandaLM's test set (three people), LLMBar and its processed sets (label 1 or 2), HHH alignment
in Prometheus' form (chosen and rejected). A judge's tie is half right, so that 0.5 is chance for any judge, one that
goes by position included: asked in both orders, it ties.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import DataError, UsageError
from ..objectives import Objective, builtin_catalogue
from ..records import Record, kind_of, read_records
from .judges import Judge
from .protocol import Item, Pair, Progress, judge_pairs, position_of
from .report import ALIGNED, ALL, ANSWER, UNALIGNED, Interval, Meta, Position, Verdict
from .report import Judge as Told
from .stats import kappa, share
from .summary import SCORES, counts_of
from .verdicts import Kept

QUALITY = Objective("quality", "The response should be the one that people prefer: right, useful and well written.")
_OF_HHH = {"harmless": "harmlessness", "helpful": "helpfulness", "honest": "honesty"}
_PART = re.compile(
    r"###The instruction to evaluate:\n(?P<query>.*?)\n\n###Response to evaluate:\n(?P<text>.*?)\n\n###Score Rubrics?:",
    re.DOTALL,
)
_CHANCE = 0.5


@dataclass(frozen=True, slots=True)
class Vote:
    """A pair that people voted on: they prefer "first", "second", or neither ("tie")."""

    set: str
    part: str
    query: str
    first: str
    second: str
    voted: str
    objective: Objective


def read_votes(paths: Sequence[Path], *, limit: int = 0, seed: int = 0) -> list[Vote]:
    """The votes of files, and of what folders hold of them; at most `limit` of each set.

    Raises UsageError for a file that is no such set, DataError for a row that is damaged.
    """
    found: list[Vote] = []
    for path in _files(paths):
        votes = []
        for place, record in read_records(path):
            if isinstance(record, DataError):
                raise DataError(f"{path}, {place}: {record}")
            try:
                votes.append(_vote(_set(path), record))
            except (KeyError, TypeError, AttributeError) as error:
                raise UsageError(
                    f"{path}, {place} holds no votes of people as PandaLM, LLMBar or HHH write them (no {error})"
                ) from error
        if not votes:
            raise DataError(f"{path} has no rows")
        if limit:
            chosen = sorted(range(len(votes)), key=lambda i: _drawn(votes[i], seed))[:limit]
            votes = [votes[i] for i in sorted(chosen)]
        found += votes
    return found


def judge_votes(
    judge: Judge, votes: Sequence[Vote], kept: Kept, progress: Progress = lambda *_: None
) -> tuple[Told, tuple[Meta, ...]]:
    """A judge against the votes that it takes: of each set, and of each part of one that has several."""
    pairs = [_pair(i, vote) for i, vote in enumerate(votes)]
    judged = judge_pairs(judge, pairs, kept, progress)
    verdicts = [(votes[int(verdict.row)], verdict) for verdict in judged.verdicts]
    found = []
    for name in dict.fromkeys(vote.set for vote, _ in verdicts):
        some = [(vote, verdict) for vote, verdict in verdicts if vote.set == name]
        parts = list(dict.fromkeys(vote.part for vote, _ in some))
        found.append(_meta(name, ALL, some, judge.positional))
        if len(parts) > 1:
            found += [
                _meta(name, part, [one for one in some if one[0].part == part], judge.positional) for part in parts
            ]
    return judged.told, tuple(found)


def _meta(name: str, part: str, verdicts: Sequence[tuple[Vote, Verdict]], positional: bool) -> Meta:
    decided = [(vote, verdict) for vote, verdict in verdicts if vote.voted != "tie"]
    clear = [(vote, verdict) for vote, verdict in verdicts if verdict.outcome in SCORES]
    accuracy = share(
        (verdict.query, SCORES[_preferred(vote, verdict)]) for vote, verdict in decided if verdict.outcome in SCORES
    )
    places = [tuple(one.verdict for one in verdict.orders) for _, verdict in verdicts if len(verdict.orders) == 2]
    labels = {"win": "first", "lose": "second", "tie": "tie"}
    return Meta(
        name,
        part,
        len(verdicts),
        counts_of(_as_preferred(vote, verdict) for vote, verdict in decided),
        accuracy,
        kappa((vote.voted, labels[verdict.outcome]) for vote, verdict in clear),
        position_of(places) if positional else Position(0, 0, 0, 0, 0),
        _at_chance(accuracy),
    )


def _at_chance(accuracy: Interval | None) -> bool | None:
    return None if accuracy is None else accuracy.low is None or accuracy.low <= _CHANCE


def _preferred(vote: Vote, verdict: Verdict) -> str:
    """The outcome as the text sees it that people preferred."""
    swapped = {"win": "lose", "lose": "win"}
    return swapped.get(verdict.outcome, verdict.outcome) if vote.voted == "second" else verdict.outcome


def _as_preferred(vote: Vote, verdict: Verdict) -> Verdict:
    return replace(verdict, outcome=_preferred(vote, verdict))


def warnings_of(told: Told, metas: Sequence[Meta]) -> list[str]:
    """What a reader must know of a judge that did no better than chance."""
    poor = [meta for meta in metas if meta.part == ALL and meta.at_chance]
    return [
        f"{told.name} is at chance on {meta.set}: {100 * meta.accuracy.value:.0f} % right of {meta.accuracy.n} pairs "
        f"that people decided; its verdicts say little"
        for meta in poor
        if meta.accuracy
    ]


def _pair(number: int, vote: Vote) -> Pair:
    texts = {ALIGNED: vote.first, UNALIGNED: vote.second}
    item = Item(str(number), vote.set, "", vote.set, vote.query, (vote.objective,), texts)
    return Pair(item, vote.objective, ALIGNED, ANSWER)


def _vote(name: str, record: Record) -> Vote:
    if "annotator1" in record:
        query = _text(record, "instruction") + (f"\n{_text(record, 'input')}" if record.get("input") else "")
        votes = [int(record[f"annotator{i}"]) for i in (1, 2, 3)]
        most = max((0, 1, 2), key=lambda label: (votes.count(label), label == 0))
        voted = ("tie", "first", "second")[most if votes.count(most) > 1 else 0]
        return Vote(name, name, query, _text(record, "response1"), _text(record, "response2"), voted, QUALITY)
    if "output_1" in record:
        voted = {"1": "first", "2": "second"}[str(record["label"])]
        objective = builtin_catalogue()["instruction following"] if name == "llmbar" else QUALITY
        query, first, second = (_text(record, key) for key in ("input", "output_1", "output_2"))
        return Vote(name, _part(record), query, first, second, voted, objective)
    chosen, rejected = (_PART.search(record[f"{which}_instruction"]) for which in ("chosen", "rejected"))
    if not chosen or not rejected:
        raise KeyError("response to evaluate")
    part = str(record["source"])
    objective = builtin_catalogue().get(_OF_HHH.get(part, ""), QUALITY)
    one, other = chosen["text"], rejected["text"]
    if hashlib.blake2b(f"{one}\0{other}".encode(), digest_size=1).digest()[0] % 2:  # else the first is always better
        return Vote(name, part, chosen["query"], other, one, "second", objective)
    return Vote(name, part, chosen["query"], one, other, "first", objective)


def _text(record: Record, key: str) -> str:
    """A text of a record; a bare value is the text that it prints (PandaLM has answers that are `true`)."""
    value = record[key]
    if not isinstance(value, str | bool | int | float):
        raise TypeError(f"text in {key!r}: {type(value).__name__}")
    return str(value)


def _part(record: Record) -> str:
    return str(record.get("subset") or ALL)


def _set(path: Path) -> str:
    """A set is named by its folder, which says more than "pairs.jsonl"."""
    return path.parent.name or path.name


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.is_file() and _readable(file))
            if not found:
                raise UsageError(f"the folder {path} holds no file of votes (JSON, JSONL, CSV)")
            yield from found
        else:
            yield path


def _readable(path: Path) -> bool:
    try:
        return bool(kind_of(path))
    except UsageError:
        return False


def _drawn(vote: Vote, seed: int) -> bytes:
    parts = f"{vote.query}\0{vote.first}\0{vote.second}".encode()
    return hashlib.blake2b(parts, salt=seed.to_bytes(8, "little")).digest()
