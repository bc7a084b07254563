"""The whole corpus: sources to bases, bases to edits, edits to balanced rows, and the account of it all."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaaligner_lite.errors import DataError, FileProblem
from metaaligner_lite.files import write_whole
from metaaligner_lite.records import Account

from . import special
from .compose import HEADLINES, WITHHELD, edits
from .edit import Edit, case, own_cases
from .judge import flaw, losses
from .readers import LEFT, SOURCES, own_answers
from .sources import Base, Excluded, Source, check, dump, excluded, read
from .stays import stays
from .tables import by_objective, by_rule, by_shape, share
from .texts import count, normal

_LISTED = re.compile(r"\n\s*(?:[-*•]|\d+[.)]) ")
_STAYS = {"politeness": 0.27, "readability": 0.25, "repetition": 0.27, "clarity": 0.24, "brevity": 0.13}
_STAY = 0.22  # of the edits of each other objective
_LOST = 0.02  # of the edits of an objective, those that lose another by its rule
_SHARES = {  # of the edits, at most; what is left over of one is given to none
    "brevity": 0.30, "politeness": 0.29, "empathy": 0.11, "clarity": 0.18, "readability": 0.20, "simplicity": 0.08,
    "repetition": 0.17, "structure": 0.11, "positivity": 0.06, "encouragement": 0.06, "harmlessness": 0.07,
    "helpfulness": 0.05, "honesty": 0.06, "formality": 0.07, "instruction following": 0.04,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Corpus:
    """The edits, and what became of every source."""

    edits: tuple[Edit, ...]
    accounts: tuple[tuple[Source, Account], ...]
    dropped: Counter[str]
    excluded: Excluded


def make(data: Path, *, own: Path | None = None, size: int = 15_000, seed: int = 0) -> Corpus:
    """All edits of all sources, balanced. Raises FileProblem naming the source if a folder is missing."""
    found, accounts, kept_out = bases(data, own)
    dropped: Counter[str] = Counter()
    chosen = balanced(_all([*found, *own_cases(seed)], seed), size, dropped)
    if not chosen:
        raise DataError("no edit could be made of the data; is --data the right folder?")
    return Corpus(tuple(chosen), tuple(accounts), dropped, kept_out)


def bases(data: Path, own: Path | None = None) -> tuple[list[Base], list[tuple[Source, Account]], Excluded]:
    """All real answers with their queries, what became of every source, and the queries that are kept out."""
    if not data.is_dir():
        raise FileProblem(f"{data} is no folder; --data names the one that holds hh-rlhf/, rm-bench/, rows/ ...")
    if own and not own.is_file():
        raise FileProblem(f"{own} is missing; python -m mal_train.corpus.own_answers writes it")
    check(data, SOURCES)
    kept_out = excluded(data)
    accounts: list[tuple[Source, Account]] = []
    every: list[Base] = []
    for source, folder in [*((source, data) for source in SOURCES), *([(own_answers(own), own.parent)] if own else [])]:
        found, account = read(source, folder, kept_out)
        accounts.append((source, account))
        every += found
    return every, accounts, kept_out


def _all(bases: Sequence[Base], seed: int) -> Iterator[Edit]:
    """The edits of all bases, the rare kinds of text first, the others in an order that the seed draws."""

    def order(base: Base) -> tuple[bool, bytes]:
        common = base.source.startswith("hh-rlhf") and not _LISTED.search(base.text)
        return common, hashlib.sha256(f"{seed}/{base.id}".encode()).digest()

    for base in sorted(bases, key=order):
        rng = random.Random(f"{seed}/base/{base.id}")
        if base.objectives == ("harmlessness",):
            yield from special.refusals(base, seed)
        elif base.objectives:
            yield from special.given(base)
        elif base.source == "hh-rlhf harmless" and (
            base.history or special.harmful(base.query + base.text) or special.refuses(base.text)
        ):
            yield from special.refusals(base, seed)
        else:
            item = case(base, seed)
            copies = 5 if base.source.startswith("SmolLM2") else 2
            yield from edits(item, seed, copies)
            yield from stays(item, seed)
            if rng.random() < 0.14 and not item.felt:
                yield from special.instructed(base, seed)
            if rng.random() < 0.12:
                yield from special.ties(base, seed)


def balanced(found: Iterable[Edit], size: int, dropped: Counter[str]) -> list[Edit]:
    """As many edits as asked for: each objective up to its share, a fixed part of each being answers that stay.

    Taken as they come, until there are enough. What the evaluation's rules find fault with is counted in `dropped`.
    """
    taken: Counter[str] = Counter()
    stayed: Counter[str] = Counter()
    lost: Counter[tuple[str, str]] = Counter()
    chosen: list[Edit] = []
    seen: set[tuple[str, str, tuple[str, ...]]] = set()
    for edit in found:
        if len(chosen) >= size:
            break
        mark = (normal(edit.base.query), edit.weak, edit.objectives)
        if mark in seen or any(taken[o] >= _SHARES[o] * size for o in edit.objectives):
            continue
        if edit.stays and any(stayed[o] >= _STAYS.get(o, _STAY) * (taken[o] + 8) for o in edit.objectives):
            continue
        seen.add(mark)
        if reason := flaw(edit):
            dropped[reason] += 1
            continue
        losing = [(o, name) for name in losses(edit) for o in edit.objectives]
        if any(lost[pair] >= _LOST * taken[pair[0]] for pair in losing):
            dropped[f"{losing[0][1]} would be lost"] += 1
            continue
        lost.update(losing)
        chosen.append(edit)
        taken.update(edit.objectives)
        if edit.stays:
            stayed.update(edit.objectives)
    return chosen


def write(corpus: Corpus, out: Path, *, held_out: float = 0.03, seed: int = 0) -> Iterator[str]:
    """Write rows, held-out rows and manifest; yields the account in lines. No query stands in both files."""
    sides: dict[bool, list[Edit]] = {False: [], True: []}
    for edit in sorted(corpus.edits, key=lambda edit: _place(edit, seed)):
        digest = hashlib.sha256(f"{seed}/{normal(edit.base.query)}".encode()).digest()
        sides[int.from_bytes(digest[:8], "big") < held_out * 2**64].append(edit)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f"{out.stem}-heldout{out.suffix}")
    write_whole(out, "".join(dump(edit.row()) + "\n" for edit in sides[False]))
    write_whole(beside, "".join(dump(edit.row()) + "\n" for edit in sides[True]))
    manifest = out.with_name(f"{out.stem}-manifest.json")
    write_whole(manifest, json.dumps(_manifest(corpus, sides, seed), indent=1, ensure_ascii=False) + "\n")
    yield from report(corpus)
    yield f"{len(sides[False]):,} rows in {out}, {len(sides[True]):,} in {beside}, sources and licences in {manifest}"


def _place(edit: Edit, seed: int) -> bytes:
    """Where a row comes: the edits of one answer together, the answers in an order that the seed draws."""
    return hashlib.sha256(f"{seed}/row/{edit.base.query}/{edit.weak}".encode()).digest()


def _manifest(corpus: Corpus, sides: dict[bool, list[Edit]], seed: int) -> dict[str, Any]:
    used = Counter(edit.base.source for edit in corpus.edits)
    return {
        "seed": seed,
        "rows": len(sides[False]),
        "held_out": len(sides[True]),
        "objectives": dict(Counter(o for e in corpus.edits for o in e.objectives).most_common()),
        "withheld": list(WITHHELD),
        "sources": [
            {
                "name": source.name, "files": list(source.files), "licence": source.licence, "origin": source.origin,
                "read": account.read, "used": account.used, "refused": dict(account.refused.most_common()),
            }
            for source, account in corpus.accounts
        ],
        "edits_by_source": dict(used.most_common()),
        "own_words": "messages with a feeling, advice, phrases: MIT, as this software",
        "dropped": dict(corpus.dropped.most_common()),
        "left": LEFT,
        "kept_out_by": corpus.excluded.hits,
    }  # fmt: skip


def report(corpus: Corpus) -> Iterator[str]:
    """Sources with their accounts, then objective by objective what there is to learn."""
    for source, account in corpus.accounts:
        first, *others = account.lines()
        yield f"{source.name} ({source.licence}): {first}"
        yield from (f"    {line}" for line in others)
    for name, reason in LEFT.items():
        yield f"{name}: left out: {reason}"
    total = corpus.edits
    yield ""
    yield "dropped: " + "; ".join(f"{number:,} {reason}" for reason, number in corpus.dropped.most_common())
    yield ""
    yield from by_objective(total)
    yield ""
    yield from by_rule(total)
    yield ""
    yield from by_shape(total)
    prefixes = {(edit.base.query, edit.weak) for edit in total}
    size = sum(count(e.target) for e in total) + sum(count(weak) + count(query) for query, weak in prefixes)
    headline = share(total, lambda e: bool(set(e.objectives) & set(HEADLINES)))
    turns, given = share(total, lambda e: bool(e.base.history)), share(total, lambda e: bool(e.base.objectives))
    yield f"{len(total):,} edits of {len(prefixes):,} answers, {size:,} words; {headline:.0%} name a headline objective"
    yield f"{turns:.0%} carry turns before; {given:.0%} are pairs as their sources have them"
    yield f"withheld: {', '.join(WITHHELD)}"
