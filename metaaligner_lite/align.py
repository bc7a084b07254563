"""align(): weak answer -> prompt -> aligner -> Correction. Read this first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .errors import ModelError, PromptTooLong, UsageError
from .generation import GREEDY, Generation, OnText, Sampling
from .objectives import Objective, resolve
from .policies import Draft, Policy
from .prompts import LAYOUTS, ChatTemplate, Message, edit_prompt, invocation

if TYPE_CHECKING:
    from .llama.engine import Engine


_AHEAD = 120  # characters of an answer, about a batch of 30 tokens


@dataclass(frozen=True, slots=True)
class Correction:
    """An aligned answer and what it cost. Where a round failed, `text` is what it was before: at first the weak answer.

    `failure` says why it failed ("" if it did not); `edits` are the aligner's generations, one per round that began.
    """

    query: str
    objectives: tuple[Objective, ...]
    draft: Draft
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
    on_draft: OnText | None = None,
    on_edit: OnText | None = None,
) -> Correction:
    """Let `policy` answer `query`, then let `aligner` edit that answer toward `objectives` (paper section 3.3).

    `history` holds the turns before the query, as their reader saw them. With several `rounds` the edit is edited
    again, until a round changes nothing. The texts stream to `on_draft` and
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
        on_draft=on_draft,
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
    on_draft: OnText | None = None,
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
        with aligner.reading_ahead(query, wanted[0], on_draft, *turns) as listen:
            draft = policy.answer(query, listen, *turns)
    else:
        draft = policy.answer(query, on_draft, *turns)
    corrections = [Correction(query, objectives, draft, draft.text, aligner.layout) for objectives in wanted]
    drafts = dict(enumerate([draft] * len(wanted)))  # what the next round edits, by correction
    for _ in range(rounds):
        try:
            edits = aligner.edit(
                query, [(draft, wanted[i]) for i, draft in drafts.items()], on_edit if rounds == 1 else None, *turns
            )
        except PromptTooLong as error:
            for i in drafts:
                corrections[i] = replace(corrections[i], failure=str(error))
            break
        for i, edit in zip(list(drafts), edits, strict=True):
            before = corrections[i]
            corrections[i] = replace(
                before,
                edits=(*before.edits, edit),
                text=edit.text or before.text,
                failure="" if edit.text else "the aligner wrote nothing",
            )
            if edit.text in ("", before.text):  # failed, or settled: the next round would do the same
                del drafts[i]
            else:
                drafts[i] = Draft(edit.text)
        if not drafts:
            break
    return corrections


class Aligner:
    """An aligner model with the prompt layout it was trained for, read from its manifest unless given.

    `draft` lets it guess tokens from the answer it edits and verify them in batches: faster, and the same text but
    for near-ties, which batches may round the other way.
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
        self.engine = engine
        trained = engine.adapter or engine.model
        self.manifest = trained.manifest
        self.layout = layout or (self.manifest.layout if self.manifest else "")
        if self.layout not in LAYOUTS:
            known = f"--layout {' | '.join(LAYOUTS)}"
            if layout:
                raise UsageError(f"unknown prompt layout {layout!r}; expected {known}")
            names = f"names the layout {self.layout!r}" if self.layout else "has no manifest that names its layout"
            raise UsageError(f"{trained.header.path} {names}; name the one it was trained in with {known}")
        self.template = engine.model.template or template
        self.known = self.manifest.objectives if self.manifest else {}
        if engine.adapter and list(engine.adapter.invocation) != invocation(self.layout, self.template, engine.model):
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
        drafts: Sequence[tuple[Draft, Sequence[Objective]]],
        on_text: OnText | None = None,
        history: Sequence[Message] = (),
    ) -> list[Generation]:
        """Edit each of several weak answers to one query toward its own objectives, side by side.

        `history` are the turns before the query. `on_text` gets the first as it grows. Raises PromptTooLong if the
        prompts and edits do not fit the context.
        """
        prompts = [
            edit_prompt(
                self.layout,
                query,
                draft.text,
                objectives,
                self.template,
                answer_tokens=self._cached(draft),
                history=history,
                known=self.known,
            )
            for draft, objectives in drafts
        ]
        length = max(len(self.engine.model.encode_text(text)) for text in {draft.text for draft, _ in drafts})
        # An edit is about as long as what it edits; a runaway one is stopped at twice that.
        return self.engine.run(
            prompts,
            max_tokens=self.max_tokens,
            expected=length + 64,
            usual=2 * length + 256,
            sampling=self.sampling,
            on_text=on_text,
            # What will probably survive: most of the answer, and what the query quotes (a name, a passage, its code).
            copies=[(draft.text, query) for draft, _ in drafts] if self.draft else (),
            adapted=self.engine.adapter is not None,
        )

    @contextmanager
    def reading_ahead(
        self,
        query: str,
        objectives: Sequence[Objective],
        on_text: OnText | None = None,
        history: Sequence[Message] = (),
    ) -> Iterator[OnText]:
        """Read the query, then the answer as it grows, beside the policy; gives a listener that also tells `on_text`.

        Worth it where the policy works on another machine: it never waits for the reading, which has a thread of its
        own. On the same processor both would share its time; bench/ahead.py compares.
        """
        answer, read = "", 0

        def reading() -> Future[None]:
            text = answer or "-"  # something to find its place by
            prompt = edit_prompt(self.layout, query, text, objectives, self.template, history=history, known=self.known)
            place = max(i for i, piece in enumerate(prompt) if piece.content and piece.text == text)
            return worker.submit(self.engine.read_ahead, prompt[: place + bool(answer)])

        with ThreadPoolExecutor(max_workers=1) as worker:
            pending = reading()

            def listen(part: str) -> None:
                nonlocal answer, read, pending
                if on_text:
                    on_text(part)
                answer += part
                if pending.done() and len(answer) - read >= _AHEAD:  # stretches worth a batch
                    pending.result()
                    read, pending = len(answer), reading()

            yield listen
            pending.result()

    def _cached(self, draft: Draft) -> tuple[int, ...]:
        """The tokens a draft was written with, if this engine wrote them and they spell it: its cache then fits."""
        if draft.engine is not self.engine or draft.generation is None:
            return ()
        tokens = draft.generation.tokens
        return tokens if self.engine.model.text(tokens).strip() == draft.text else ()
