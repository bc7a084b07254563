"""The policies' answers, and what the aligners make of them, written, kept and judged by bench/real_policies.py."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import real_policies as proof

from metaaligner_lite.errors import DataError
from metaaligner_lite.evaluation import intact
from metaaligner_lite.evaluation.meaning import Meaning
from metaaligner_lite.files import write_whole
from metaaligner_lite.gate import Gate

from .settings import Settings
from .steps import Needed

_ANSWERS, _EDITS, _ALIGNED = "answers.jsonl", "edits.jsonl", "aligned"
_BESIDE = 6  # requests of one answer that are edited side by side

Judgements = dict[tuple[str, str], proof.Judged]  # by policy, and by answer and request


def answers(settings: Settings, folder: Path, needed: Needed) -> dict[str, int]:
    """The first `n` fitting answers of every policy, none to a query that training knows. Counts by policy.

    Raises UsageError for a query in both, DataError for a policy without a fitting answer.
    """
    options = _options(settings, folder, policies=settings.every_policy, base=settings.base)
    cases = proof.load(options)
    proof.disjoint(cases, settings.rows)
    chosen = proof.sample([case for case in cases if not case.label], "brevity", settings.n, settings.sample)
    counts = {policy: len(some) for policy, some in proof.by(chosen, lambda case: case.policy).items()}
    if missing := [policy for policy in settings.every_policy if policy not in counts]:
        raise DataError(
            f"{missing[0]} has no answer of {proof.FEWEST} to {proof.MOST} words; leave it out with --policies, --probe"
        )
    rows = [{"policy": case.policy, "query": case.query, "answer": case.answer} for case in chosen]
    write_whole(folder / _ANSWERS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return counts


def write(
    settings: Settings,
    requests: Sequence[str],
    policies: Sequence[str],
    files: Files,
    gate: bool,
    also: str,
    folder: Path,
    needed: Needed,
) -> dict[str, Any]:
    """Edit the policies' answers toward each request, by the aligner of `files`; a killed run goes on.

    `also` is a step whose edits may serve here, too ("" for none).
    """
    plan, named = _plan(needed, requests, policies), files.found(settings, needed)
    if also and not (folder / _EDITS).exists():
        write_whole(folder / _EDITS, (needed.folder(also) / _EDITS).read_text(encoding="utf-8"))
    _drop_others(folder / _EDITS, proof.fingerprint(*named.values()))
    proof.write_edits(plan, _options(settings, folder, gate=gate, **named))
    column = _columns(plan, folder)[_ALIGNED]
    costs = [edit.cost for edit in column.values()]
    return {
        "edits": len(costs),
        "seconds": round(sum(cost["seconds"] for cost in costs), 1),
        "failed": sum(bool(cost["failure"]) for cost in costs),
    }


class Files:
    """Which files an aligner is made of: the adapter of a step over the base or one of the step `bases`, or merged.

    `kind` is the type of the base's or of the merged file; "" for the base as it is.
    """

    def __init__(self, trained: str, kind: str = "", merged: bool = False) -> None:
        self.trained, self.kind, self.merged = trained, kind, merged

    @property
    def needs(self) -> tuple[str, ...]:
        """The steps that make them."""
        return ("answers", self.trained, *(["bases"] if self.kind and not self.merged else []))

    def found(self, settings: Settings, needed: Needed) -> dict[str, Path]:
        """The options of bench/real_policies.py that name them."""
        trained = needed.folder(self.trained)
        if self.merged:
            return {"aligner": trained / needed[self.trained]["files"][self.kind]}
        base = needed.folder("bases") / needed["bases"][self.kind] if self.kind else settings.base
        return {"base": base, "adapter": trained / needed[self.trained]["files"]["adapter"]}


def judged(
    settings: Settings, needed: Needed, step: str, requests: Sequence[str], policies: Sequence[str]
) -> dict[str, Judgements]:
    """Every edit of a step, judged: the columns "aligned", "unaligned", "tidied" and, where it was noted, "gated"."""
    plan = _plan(needed, requests, policies)
    columns = _columns(plan, needed.folder(step))
    aligned = columns[_ALIGNED]
    found = {"unaligned": columns[proof.UNALIGNED], "tidied": columns[proof.TIDIED], "aligned": aligned}
    if any("preference" in edit.cost for edit in aligned.values()):
        found["gated"] = {key: proof.gated(edit, Gate()) for key, edit in aligned.items()}
    meaning = Meaning(settings.minilm, settings.work / "meaning.npz")
    pairs = [(edit.case.answer, edit.text) for column in found.values() for edit in column.values()]
    meaning.embed({text for pair in pairs if not intact.stays(*pair) for text in pair})
    return {
        name: {key: proof.judged(edit, meaning(edit.case.answer, edit.text)) for key, edit in column.items()}
        for name, column in found.items()
    }


def _plan(needed: Needed, requests: Sequence[str], policies: Sequence[str]) -> dict[str, list[proof.Case]]:
    cases = []
    for row in proof.jsonl(needed.folder("answers") / _ANSWERS):
        if row["policy"] in policies:
            turns, asked = proof.dialogue(row["query"])
            cases.append(proof.Case(row["policy"], row["query"], row["answer"], "", turns, asked))
    return {proof.named(request): cases for request in requests}


def _columns(plan: dict[str, list[proof.Case]], folder: Path) -> dict[str, dict[Any, proof.Edit]]:
    return proof.read_edits(plan, [folder / _EDITS])


def _drop_others(path: Path, model: str) -> None:
    """Leave the edits of one model in the file: those of an aligner that was trained anew are no use."""
    if path.exists():
        rows = list(proof.jsonl(path))
        kept = [row for row in rows if row["model"].startswith(model)]
        if len(kept) < len(rows):
            write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))


def _options(settings: Settings, folder: Path, **more: Any) -> argparse.Namespace:
    """What bench/real_policies.py would be told on its command line."""
    given: dict[str, Any] = {
        "data": settings.data, "edits": folder / _EDITS, "policies": (), "n": settings.n, "seed": settings.sample,
        "threads": settings.threads, "beside": _BESIDE, "time": 0, "base": None, "adapter": None, "aligner": None,
        "alone": False, "gate": False, "name": _ALIGNED, "layout": "", "score_only": False,
    }  # fmt: skip
    return argparse.Namespace(**(given | more))
