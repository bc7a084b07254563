"""The best of several edits, by what the aligner itself holds likeliest, as the gate compares."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from .aligners import Aligner, Edit, EndpointAligner, GgufAligner
from .errors import UsageError
from .generation import Counts, Generation, OnText, Stop, sampled
from .objectives import Objective
from .policies import Answer
from .prompts import Message

if TYPE_CHECKING:
    from .llama.engine import Engine


class BestOf:
    """An aligner that writes `count` edits of each answer side by side, and gives the likeliest (nats per token).

    The first is written as ever, the others are sampled with the next seeds. An edit that went round in circles, or is
    empty, is taken only if all are so. The counts are of all of them. Nothing streams: which one stays is known at the
    end.
    """

    def __init__(self, aligner: GgufAligner, count: int) -> None:
        if count < 1:
            raise UsageError(f"`best_of` {count}: expected 1 or more edits")
        self.aligner = aligner
        self.count = count
        self.layout = aligner.layout
        self._judged: tuple[object, dict[str, float]] = (None, {})

    @property
    def engine(self) -> Engine:
        """The engine that writes."""
        return self.aligner.engine

    def edit(
        self,
        query: str,
        answers: Sequence[tuple[Answer, Sequence[Objective]]],
        on_text: OnText | None = None,
        history: Sequence[Message] = (),
        *,
        stop: Stop | None = None,
    ) -> list[Generation]:
        """The best edit of each answer. Raises PromptTooLong if the prompts and edits do not fit the context."""
        own = self.aligner.sampling
        ways = [sampled(own, number) if number else own for number in range(self.count)]
        edits = [
            Edit(query, answer, objectives, history, sampling) for answer, objectives in answers for sampling in ways
        ]
        written = [edit for edit in self.aligner.edit_all(edits, stop=stop) if isinstance(edit, Generation)]
        return [
            self._best(query, *answers[i], history, written[i * self.count : (i + 1) * self.count])
            for i in range(len(answers))
        ]

    def _best(
        self,
        query: str,
        answer: Answer,
        objectives: Sequence[Objective],
        history: Sequence[Message],
        edits: Sequence[Generation],
    ) -> Generation:
        counts = [edit.counts for edit in edits]
        total = Counts(*(sum(getattr(one, field.name) for one in counts) for field in fields(Counts)))
        if stopped := next((edit for edit in edits if edit.finish == "stopped"), None):
            return replace(stopped, counts=total)
        whole = {edit.text: edit for edit in reversed(edits) if edit.text and edit.finish != "loop"}
        if not whole:
            return replace(edits[0], counts=total)
        judged = self.likelihoods(query, answer, objectives, list(whole), history)
        likeliest = max(zip(judged, whole, strict=True), key=lambda pair: pair[0])[1]
        return replace(whole[likeliest], counts=total)

    def likelihoods(
        self,
        query: str,
        answer: Answer,
        objectives: Sequence[Objective],
        texts: Sequence[str],
        history: Sequence[Message] = (),
    ) -> list[float]:
        """As the aligner's own; what was asked of the same answer before is not read again."""
        about = (query, answer.text, tuple(objectives), tuple(history))
        before, known = self._judged  # at once: another thread may judge, too
        known = dict(known) if before == about else {}
        if new := [text for text in texts if text not in known]:
            known |= zip(new, self.aligner.likelihoods(query, answer, objectives, new, history), strict=True)
        self._judged = (about, known)
        return [known[text] for text in texts]

    def reading_ahead(
        self,
        query: str,
        objectives: Sequence[Objective],
        on_text: OnText | None = None,
        history: Sequence[Message] = (),
    ) -> AbstractContextManager[OnText | None]:
        """As the aligner's own."""
        return self.aligner.reading_ahead(query, objectives, on_text, history)

    def margin(self, objectives: Sequence[Objective]) -> float:
        """As the aligner's own."""
        return self.aligner.margin(objectives)

    def told(self, turns: Sequence[Message]) -> tuple[str, ...]:
        """What of a conversation the aligner must be told in another way, in words."""
        return self.aligner.told(turns)

    def tokens(self, edit: Edit) -> int:
        """How many tokens the prompt of an edit takes."""
        return self.aligner.tokens(edit)


def best_of(aligner: GgufAligner | EndpointAligner, count: int) -> Aligner:
    """An aligner that gives the best of `count` edits; itself, if that is one.

    Raises UsageError for a server's: it tells no likelihoods.
    """
    if count == 1:
        return aligner
    if not isinstance(aligner, GgufAligner):
        raise UsageError(
            f"the server {aligner.endpoint.server.name} tells no likelihoods, by which the best edit is chosen; "
            "leave `best_of` out"
        )
    return BestOf(aligner, count)
