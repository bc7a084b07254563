"""align(): weak answer -> prompt -> aligner -> Correction. Read this first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .errors import ModelError, PromptTooLong, UsageError
from .objectives import Objective, resolve
from .policies import Draft, Policy
from .prompts import LAYOUTS, ChatTemplate, edit_prompt, invocation

if TYPE_CHECKING:
    from .llama.decode import Generation, OnText, Sampling
    from .llama.engine import Engine


@dataclass(frozen=True, slots=True)
class Correction:
    """An aligned answer and what it cost. `text` is the weak answer itself where the correction failed.

    `failure` says why it failed ("" if it did not); `edit` is the aligner's generation, None if it never began.
    """

    query: str
    objectives: tuple[Objective, ...]
    draft: Draft
    text: str
    layout: str
    edit: Generation | None = None
    failure: str = ""


def align(
    query: str,
    objectives: str | Iterable[str | Objective],
    *,
    policy: Policy,
    aligner: Aligner,
    on_draft: OnText | None = None,
    on_edit: OnText | None = None,
) -> Correction:
    """Let `policy` answer `query`, then let `aligner` edit that answer toward `objectives` (paper section 3.3).

    The texts stream to `on_draft` and `on_edit`. A correction that does not fit the aligner's context, or comes
    out empty, leaves the weak answer as it was and says so in `failure`. Raises UsageError for an empty query or
    an unknown objective, and what the policy raises.
    """
    return align_each(query, [objectives], policy=policy, aligner=aligner, on_draft=on_draft, on_edit=on_edit)[0]


def align_each(
    query: str,
    objective_sets: Iterable[str | Iterable[str | Objective]],
    *,
    policy: Policy,
    aligner: Aligner,
    on_draft: OnText | None = None,
    on_edit: OnText | None = None,
) -> list[Correction]:
    """As `align`, with one correction of the same answer for each set of objectives, written side by side.

    The shared part of the prompts is read once. `on_edit` gets the first correction as it grows.
    """
    if not query.strip():
        raise UsageError("the query is empty; give a question or a message to answer")
    wanted = [tuple(resolve(objectives)) for objectives in objective_sets]
    draft = policy.answer(query, on_draft)
    kept = [Correction(query, objectives, draft, draft.text, aligner.layout) for objectives in wanted]
    try:
        edits = aligner.edit(query, draft, wanted, on_edit)
    except PromptTooLong as error:
        return [replace(correction, failure=str(error)) for correction in kept]
    return [
        replace(correction, edit=edit, text=edit.text)
        if edit.text
        else replace(correction, edit=edit, failure="the aligner wrote nothing")
        for correction, edit in zip(kept, edits, strict=True)
    ]


class Aligner:
    """An aligner model with the prompt layout it was trained for, read from its manifest unless given.

    `draft` lets it guess tokens from the answer it edits and verify them in batches: faster, the same text.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        layout: str = "",
        template: ChatTemplate | None = None,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        draft: bool = True,
    ) -> None:
        from .llama.decode import GREEDY

        self.engine = engine
        trained = engine.adapter or engine.model
        self.manifest = trained.manifest
        self.layout = layout or (self.manifest.layout if self.manifest else "")
        if self.layout not in LAYOUTS:
            found = (
                f"names the layout {self.layout!r}" if self.layout else "has no manifest that names its prompt layout"
            )
            raise UsageError(f"{trained.header.path} {found}; name it with --layout {' | '.join(LAYOUTS)}")
        self.template = engine.model.template or template
        if engine.adapter and list(engine.adapter.invocation) != invocation(self.template, engine.model):
            raise ModelError(
                f"{trained.header.path} waits for another edit request than {engine.model.path.name} is sent; "
                "it was trained for another base, another chat template or another version of this program"
            )
        self.sampling = sampling or GREEDY
        self.max_tokens = max_tokens
        self.draft = draft

    def edit(
        self,
        query: str,
        draft: Draft,
        objective_sets: Sequence[Sequence[Objective]],
        on_text: OnText | None = None,
    ) -> list[Generation]:
        """Edit a weak answer toward each set of objectives.

        Raises PromptTooLong if a prompt and its edit do not fit the context.
        """
        answer, tokens = draft.text, self._cached(draft)
        prompts = [
            edit_prompt(self.layout, query, answer, objectives, self.template, answer_tokens=tokens)
            for objectives in objective_sets
        ]
        length = len(self.engine.model.encode_text(answer))
        # An edit is about as long as what it edits; a runaway one is stopped at twice that.
        return self.engine.run(
            prompts,
            max_tokens=self.max_tokens,
            expected=length + 64,
            usual=2 * length + 256,
            sampling=self.sampling,
            on_text=on_text,
            copies=(answer, query) if self.draft else (),
            adapted=self.engine.adapter is not None,
        )

    def _cached(self, draft: Draft) -> tuple[int, ...]:
        """The tokens a draft was written with, if this engine wrote them and they spell it: its cache then fits."""
        if draft.engine is not self.engine or draft.generation is None:
            return ()
        tokens = draft.generation.tokens
        return tokens if self.engine.model.text(tokens).strip() == draft.text else ()
