"""align(): weak answer -> prompt -> aligner -> Correction. Read this first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from .aligners import Aligner
from .errors import PromptTooLong, UsageError
from .generation import Generation, OnText
from .objectives import Objective, resolve
from .policies import Answer, Policy
from .prompts import Message


@dataclass(frozen=True, slots=True)
class Correction:
    """An aligned answer and what it cost. Where a round failed, `text` is what it was before: at first the weak answer.

    `failure` says why it failed ("" if it did not); `edits` are the aligner's generations, one per round that began.
    """

    query: str
    objectives: tuple[Objective, ...]
    answer: Answer
    text: str
    layout: str
    edits: tuple[Generation, ...] = ()
    failure: str = ""

    @property
    def edit(self) -> Generation | None:
        """The last round's generation, None if none began."""
        return self.edits[-1] if self.edits else None

    @property
    def aligned(self) -> bool:
        """Whether `text` is the aligner's."""
        return any(edit.text for edit in self.edits)


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
) -> Correction:
    """Let `policy` answer `query`, then let `aligner` edit that answer toward `objectives` (paper section 3.3).

    `history` holds the turns before the query, as their reader saw them. With several `rounds` the edit is edited
    again, until a round changes nothing. The texts stream to `on_answer` and
    `on_edit`. A correction that does not fit the aligner's context, or comes out empty, leaves the text as it was and
    says so in `failure`. Raises UsageError for an empty query or an unknown objective, and what the policy raises.
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
) -> list[Correction]:
    """As `align`, with one correction of the same answer for each set of objectives, written side by side.

    The shared part of the prompts is read once. `on_edit` gets the first correction as it grows; with several rounds,
    which may each be the last, it gets none.
    """
    if not query.strip():
        raise UsageError("the query is empty; give a question or a message to answer")
    wanted = [tuple(resolve(objectives)) for objectives in objective_sets]
    turns = (history,) if history else ()  # a policy that knows no turns is asked single questions as ever
    if getattr(policy, "elsewhere", False):
        with aligner.reading_ahead(query, wanted[0], on_answer, *turns) as listen:
            answer = policy.answer(query, listen, *turns)
    else:
        answer = policy.answer(query, on_answer, *turns)
    corrections = [Correction(query, objectives, answer, answer.text, aligner.layout) for objectives in wanted]
    open_ = dict(enumerate([answer] * len(wanted)))  # what the next round edits, by correction
    for _ in range(rounds):
        try:
            edits = aligner.edit(
                query, [(text, wanted[i]) for i, text in open_.items()], on_edit if rounds == 1 else None, *turns
            )
        except PromptTooLong as error:
            for i in open_:
                corrections[i] = replace(corrections[i], failure=str(error))
            break
        for i, edit in zip(list(open_), edits, strict=True):
            before = corrections[i]
            corrections[i] = replace(
                before,
                edits=(*before.edits, edit),
                text=edit.text or before.text,
                failure="" if edit.text else "the aligner wrote nothing",
            )
            if edit.text in ("", before.text):  # failed, or settled: the next round would do the same
                del open_[i]
            else:
                open_[i] = Answer(edit.text)
        if not open_:
            break
    return corrections
