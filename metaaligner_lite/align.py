"""align(): weak answer -> prompt -> aligner -> Correction. Read this first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .aligners import Aligner, check_gate
from .errors import EndpointError, MalError, PromptTooLong, UsageError
from .gate import Gate, own_margin
from .generation import Generation, OnText, Stop
from .loops import tidy
from .objectives import Objective, resolve
from .policies import Answer, Policy
from .prompts import Message


@dataclass(frozen=True, slots=True)
class Correction:
    """An aligned answer and what it cost. Where a round failed, `text` is what it was before: at first the weak answer.

    `aligned` says whether `text` is the aligner's; it is not where the gate kept what was there. `failure` says why a
    round failed ("" if none did); `edits` are the aligner's generations, one per round that began. A weak answer that
    stays loses its own loop or invented turn.
    """

    query: str
    objectives: tuple[Objective, ...]
    answer: Answer
    text: str
    layout: str
    edits: tuple[Generation, ...] = ()
    aligned: bool = False
    failure: str = ""
    error: MalError | None = None  # what the last round failed by, where the failure is an error
    preference: float | None = None  # of the last edit over what it edited, in nats per token, where a gate asked

    @property
    def edit(self) -> Generation | None:
        """The last round's generation, None if none began."""
        return self.edits[-1] if self.edits else None


def align(
    query: str,
    objectives: str | Iterable[str | Objective],
    *,
    policy: Policy,
    aligner: Aligner,
    history: Sequence[Message] = (),
    rounds: int = 1,
    on_answer: OnText | None = None,
    on_edit: OnText | None = None,
    stop: Stop | None = None,
    gate: Gate | None = None,
) -> Correction:
    """Let `policy` answer `query`, then let `aligner` edit that answer toward `objectives` (paper section 3.3).

    `history` holds the turns before the query, as their reader saw them. With several `rounds` the edit is edited
    again, until a round changes nothing. The texts stream to `on_answer` and `on_edit`. A correction that does not fit
    the aligner's context, comes out empty, goes round in circles, is stopped or whose server fails leaves the text as
    it was and says so in `failure`; a `gate` may keep the text, too. Once `stop` says so, what runs ends. Raises
    UsageError for an empty query or an unknown objective, and what the policy raises.
    """
    return align_each(
        query,
        [objectives],
        policy=policy,
        aligner=aligner,
        history=history,
        rounds=rounds,
        on_answer=on_answer,
        on_edit=on_edit,
        stop=stop,
        gate=gate,
    )[0]


def align_each(
    query: str,
    objective_sets: Iterable[str | Iterable[str | Objective]],
    *,
    policy: Policy,
    aligner: Aligner,
    history: Sequence[Message] = (),
    rounds: int = 1,
    on_answer: OnText | None = None,
    on_edit: OnText | None = None,
    stop: Stop | None = None,
    gate: Gate | None = None,
) -> list[Correction]:
    """As `align`, with one correction of the same answer for each set of objectives, written side by side.

    The shared part of the prompts is read once. `on_edit` gets the first correction as it grows; with several rounds,
    which may each be the last, it gets none.
    """
    if not query.strip():
        raise UsageError("the query is empty; give a question or a message to answer")
    check_gate(aligner, gate)
    wanted = [tuple(resolve(objectives)) for objectives in objective_sets]
    # A policy that knows no turns is asked single questions as ever; nor does every policy know how to stop.
    turns: dict[str, Any] = {"history": history} if history else {}
    options = turns | ({"stop": stop} if stop else {})
    if getattr(policy, "elsewhere", False):
        with aligner.reading_ahead(query, wanted[0], on_answer, **turns) as listen:
            answer = policy.answer(query, listen, **options)
    else:
        answer = policy.answer(query, on_answer, **options)
    corrections = [Correction(query, objectives, answer, tidy(answer.text), aligner.layout) for objectives in wanted]
    if missing := nothing_to_edit(answer):
        return [replace(correction, failure=missing) for correction in corrections]
    editing = dict(enumerate([answer] * len(wanted)))  # what the next round edits, by correction
    for _ in range(rounds):
        each = [(text, wanted[i]) for i, text in editing.items()]
        try:
            edits = aligner.edit(query, each, on_edit if rounds == 1 else None, **options)
        except (PromptTooLong, EndpointError) as error:  # the answer is there, whatever becomes of its edit
            for i in editing:
                corrections[i] = replace(corrections[i], failure=str(error), error=error)
            break
        for i, edit in zip(list(editing), edits, strict=True):
            before = corrections[i]
            corrections[i] = after_round(before, edit)
            if gate and corrections[i].aligned and edit.text != before.text:
                corrections[i] = judged(gate, corrections[i], before, editing[i], aligner, history)
            # Settled: the next round would do the same.
            if corrections[i].failure or corrections[i].text == before.text:
                del editing[i]
            else:
                editing[i] = Answer(edit.text)
        if not editing:
            break
    return corrections


def judged(
    gate: Gate,
    after: Correction,
    before: Correction,
    edited: Answer,
    aligner: Aligner,
    history: Sequence[Message],
) -> Correction:
    """What the gate makes of one more round: the correction after it, or what was there before."""
    edit, kept = aligner.likelihoods(after.query, edited, after.objectives, [after.text, edited.text], history)
    preference = edit - kept
    if gate.takes(edit, kept, own_margin(aligner, after.objectives)):
        return replace(after, preference=preference)
    return replace(before, edits=after.edits, preference=preference)


def after_round(before: Correction, edit: Generation | MalError) -> Correction:
    """The correction after one more round."""
    if isinstance(edit, MalError):
        return replace(before, failure=str(edit), error=edit)
    failure = _FAILURES.get(edit.finish, "" if edit.text else "the aligner wrote nothing")
    if failure:
        return replace(before, edits=(*before.edits, edit), failure=failure)
    return replace(before, edits=(*before.edits, edit), text=edit.text, aligned=True)


_FAILURES = {"loop": "the aligner went round in circles", "stopped": "the aligner was stopped"}


def nothing_to_edit(answer: Answer) -> str:
    """Why there is nothing to edit, "" if there is."""
    if answer.generation and answer.generation.finish == "stopped":
        return "the policy was stopped"
    if answer.generation and answer.generation.finish == "length" and not answer.text.strip():
        return "the policy's thoughts took all the tokens it may write, no answer followed; raise `max_tokens`"
    if answer.reasoning and not answer.text.strip():
        return "the policy wrote only thoughts, no answer"
    return "" if answer.text.strip() else "there is no answer to edit: it is empty"
