"""A Correction as people and programs read it: word diff, one-line account, JSON record."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .generation import Counts, Generation

if TYPE_CHECKING:
    from .align import Correction

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
_SAME, _REMOVED, _ADDED = "same", "removed", "added"


def word_diff(before: str, after: str) -> list[tuple[str, str]]:
    """What changed, word by word: ("same" | "removed" | "added", text) in reading order.

    The pieces that are not "added" spell `before`; those that are not "removed" spell `after`.
    """
    a, b = _WORDS.findall(before), _WORDS.findall(after)
    changes: list[tuple[str, str]] = []
    for kind, a0, a1, b0, b1 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind == "equal":
            changes.append((_SAME, "".join(a[a0:a1])))
            continue
        changes += [(_REMOVED, "".join(a[a0:a1]))] * (a1 > a0)
        changes += [(_ADDED, "".join(b[b0:b1]))] * (b1 > b0)
    return list(_joined(changes))


def _joined(changes: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Make a rewritten passage one removal and one addition, not confetti around single spaces and commas."""
    removed = added = ""
    for i, (kind, text) in enumerate(changes):
        bridge = kind == _SAME and not re.search(r"\w", text) and 0 < i < len(changes) - 1
        if bridge and (removed or added):
            removed, added = removed + text, added + text
        elif kind == _REMOVED:
            removed += text
        elif kind == _ADDED:
            added += text
        else:
            yield from _change(removed, added)
            removed = added = ""
            yield _SAME, text
    yield from _change(removed, added)


def _change(removed: str, added: str) -> Iterator[tuple[str, str]]:
    tail = ""
    while removed and added and removed[-1] == added[-1] and removed[-1].isspace():
        tail, removed, added = removed[-1] + tail, removed[:-1], added[:-1]
    if removed:
        yield _REMOVED, removed
    if added:
        yield _ADDED, added
    if tail:
        yield _SAME, tail


def plain_diff(before: str, after: str) -> str:
    """The word diff without colours, in wdiff's notation: [-removed-]{+added+}."""
    marks = {_SAME: "{}", _REMOVED: "[-{}-]", _ADDED: "{{+{}+}}"}
    return "".join(marks[kind].format(text) for kind, text in word_diff(before, after))


def printable(text: str) -> str:
    """Text without control characters: a model's answer must not drive the terminal it is shown on."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf") or c in "\u200d\u200c")


def account(corrections: Sequence[Correction]) -> list[str]:
    """Tokens read, reused and written, and seconds: one line for a correction, for several one each and the policy's.

    `corrections` are of one answer, as from `align_each`: what the policy cost is told once.
    """
    answer = corrections[0].answer.generation
    policy = f"policy: {_cost([answer.counts])}" if answer else ""
    edits = [_edits(correction, named=len(corrections) > 1) for correction in corrections if correction.edits]
    if len(corrections) == 1:
        return [" | ".join(part for part in (policy, *edits) if part)]
    return [line for line in (policy, *edits) if line]


def _edits(correction: Correction, *, named: bool) -> str:
    rounds = f", {len(correction.edits)} rounds" if len(correction.edits) > 1 else ""
    names = f" ({objective_names(correction)})" if named else ""
    return f"aligner{names}{rounds}: {_cost([edit.counts for edit in correction.edits])}"


def objective_names(correction: Correction) -> str:
    """The names of what was asked for, as headings say them."""
    return ", ".join(objective.name for objective in correction.objectives)


def _cost(counts: Sequence[Counts]) -> str:
    def total(name: str) -> Any:
        return sum(getattr(one, name) for one in counts)

    copied = f" ({total('accepted')} of them copied)" if total("accepted") else ""
    return (
        f"{total('read')} tokens read, {total('reused')} reused in {total('read_seconds'):.2f} s, "
        f"{total('written')} written{copied} in {total('write_seconds'):.2f} s"
    )


def notes(correction: Correction) -> list[str]:
    """What a reader must know of how the texts came about: a failure, a limit reached, a run-on cut off."""
    told = list(correction.answer.notes)
    if correction.failure and correction.aligned:
        told.append(f"the last round failed, this is the text of the round before: {correction.failure}")
    elif correction.failure:
        told.append(f"the correction failed, this is the answer as it was: {correction.failure}")
    if correction.preference is not None and not correction.aligned and correction.edit and not correction.failure:
        told.append("the answer stays: the aligner holds it likelier than its own edit")
    for name, generation in (("policy", correction.answer.generation), ("aligner", correction.edit)):
        if generation and generation.finish == "length":
            count = len(generation.tokens) or generation.counts.written  # a server gives no tokens, only their number
            at = f"at {count} tokens" if count else "at its limit"
            told.append(f"the {name} was stopped {at}; `max_tokens` sets another limit")
        if generation and generation.finish == "run-on":
            told.append(f"the {name} went on to invent the user's next turn; its text ends before that")
        if generation and generation.finish == "loop" and not (generation is correction.edit and correction.failure):
            told.append(f"the {name} went round in circles; its text ends before the second round")
    if not correction.aligned and correction.text != correction.answer.text:
        told.append("the answer repeated itself or went on to invent the user's next turn; it ends before that now")
    return told


def record(correction: Correction) -> dict[str, Any]:
    """The JSON form of a correction: plain values only."""
    return {
        "query": correction.query,
        "objectives": {objective.name: objective.description for objective in correction.objectives},
        "answer": correction.answer.text,
        "reasoning": correction.answer.reasoning,
        "text": correction.text,
        "aligned": correction.aligned,
        "preference": correction.preference,
        "failure": correction.failure,
        "layout": correction.layout,
        "policy": _stage(correction.answer.generation),
        "aligner": _stage(correction.edit),
        "rounds": [_stage(edit) for edit in correction.edits],
    }


def _stage(generation: Generation | None) -> dict[str, Any] | None:
    return None if generation is None else {"finish": generation.finish, **asdict(generation.counts)}
