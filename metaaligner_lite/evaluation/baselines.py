"""What could explain a gain away: the answer itself, tidied, edited by a prompt alone, in equal mode, by the gate."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from ..align import Correction
from ..aligners import GgufAligner
from ..errors import MalError, PromptTooLong
from ..gate import Gate, own_margin
from ..gguf_file import sampled_digest
from ..loops import tidy
from ..many import Case, align_many
from ..policies import Answer, GivenAnswer
from .intact import tidied
from .protocol import Item, Progress
from .report import ALIGNED, TIDIED
from .verdicts import Kept

_AT_ONCE = 16  # rows between two notes of progress


def with_tidied(items: Sequence[Item]) -> list[Item]:
    """The items with their answers without loops, invented turns and a last sentence that is not ended."""
    return [replace(item, texts={**item.texts, TIDIED: tidied(tidy(item.answer))}) for item in items]


def identity(aligner: GgufAligner) -> str:
    """What an aligner's texts follow from, but for the rows: its files, layout, mode and limit."""
    headers = [aligner.engine.model.header]
    headers += [aligner.engine.adapter.header] if aligner.engine.adapter else []
    files = " + ".join(f"{header.path.name} {sampled_digest(header).hex()[:16]}" for header in headers)
    return f"{files}, {aligner.layout}, equal {aligner.equal}, {aligner.max_tokens} tokens"


def with_edits(
    items: Sequence[Item], variant: str, aligner: GgufAligner, kept: Kept, progress: Progress = lambda *_: None
) -> tuple[list[Item], int]:
    """The items with edits of another kind, and how many failed; what was kept is not written again.

    An edit that failed leaves the answer, as it does for a user.
    """
    who = identity(aligner)
    found: dict[str, dict[str, object]] = {}
    missing = []
    for item in items:
        if (held := kept.value(_key(who, item))) is not None:
            found[item.key] = held
        else:
            missing.append(item)
    progress(variant, len(found), len(items))
    for start in range(0, len(missing), _AT_ONCE):
        some = missing[start : start + _AT_ONCE]

        def ended(i: int, came: Correction | MalError, some: Sequence[Item] = some) -> None:
            value = _value(came)
            kept.put(_key(who, some[i]), {"variant": variant, "by": who, **value})
            found[some[i].key] = value
            progress(variant, len(found), len(items))

        cases = [Case(item.query, item.requested, item.history, item.answer) for item in some]
        align_many(cases, policy=GivenAnswer(""), aligner=aligner, on_done=ended)
    failed = sum(bool(value.get("error") or value.get("failure")) for value in found.values())
    return [_with(item, variant, found[item.key]) for item in items], failed


def _value(came: Correction | MalError) -> dict[str, object]:
    if isinstance(came, MalError):
        return {"text": None, "error": str(came)}
    counts = came.edit.counts if came.edit else None
    return {
        "text": came.text,
        "failure": came.failure,  # of the text itself, a loop: it would come again
        "error": came.failure if came.error else None,
        "tokens": counts.written if counts else 0,
        "seconds": round(counts.read_seconds + counts.write_seconds, 4) if counts else 0.0,
    }


def _with(item: Item, variant: str, value: dict[str, object]) -> Item:
    text = value.get("text")
    costs = {name: float(cost) for name in ("tokens", "seconds") if isinstance(cost := value.get(name), int | float)}
    return replace(
        item,
        texts={**item.texts, variant: text if isinstance(text, str) else item.answer},
        costs={**item.costs, variant: costs},
    )


def with_gate(
    items: Sequence[Item],
    variant: str,
    aligner: GgufAligner,
    kept: Kept,
    of: str = ALIGNED,
    progress: Progress = lambda *_: None,
) -> list[Item]:
    """The items with the edit where the gate takes it, else the answer."""
    gate, who = Gate(), identity(aligner)
    gated = []
    for number, item in enumerate(items, 1):
        edit, answer = item.texts[of], item.answer
        text = edit
        if edit.strip() != answer.strip() and answer.strip():
            key = hashlib.blake2b(json.dumps(["gate", who, *_parts(item), edit]).encode(), digest_size=16).digest()
            held = kept.value(key)
            if held is None:
                held = _judged(item, edit, aligner)
                kept.put(key, {"gate": who, **held})
            own = own_margin(aligner, item.requested)
            text = edit if "edit" in held and gate.takes(held["edit"], held["answer"], own) else answer
        gated.append(replace(item, texts={**item.texts, variant: text}))
        progress(variant, number, len(items))
    return gated


def _judged(item: Item, edit: str, aligner: GgufAligner) -> dict[str, float]:
    try:
        one, other = aligner.likelihoods(
            item.query, Answer(item.answer), item.requested, [edit, item.answer], item.history
        )
    except PromptTooLong:  # as in a run: what cannot be judged is not taken
        return {}
    return {"edit": one, "answer": other}


def _key(who: str, item: Item) -> bytes:
    return hashlib.blake2b(json.dumps(["edit", who, *_parts(item)]).encode(), digest_size=16).digest()


def _parts(item: Item) -> list[object]:
    objectives = [[objective.name, objective.description] for objective in item.requested]
    return [item.query, [[turn.role, turn.content] for turn in item.history], item.answer, objectives]
