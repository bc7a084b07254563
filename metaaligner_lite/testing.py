"""A policy and an aligner without models, for the tests of programs that use this package.

    policy = FakePolicy({"My parcel is late.": "Check it."})
    aligner = FakeAligner(lambda text, objectives: f"I'm sorry. {text}")
    assert align("My parcel is late.", "empathy", policy=policy, aligner=aligner).text == "I'm sorry. Check it."

They obey the protocols as the real ones do: texts stream word by word, a stop is heeded between two words, errors come
where they are wanted, and what they were asked is noted. Words are counted as tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from .errors import MalError
from .generation import Counts, Generation, OnText, Stop
from .objectives import Objective
from .policies import Answer
from .prompts import CONVERSATION, Message

__all__ = ["Asked", "FakeAligner", "FakePolicy"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a fake was asked: the query, the turns before it; an aligner also the answer and the objectives."""

    query: str
    history: tuple[Message, ...] = ()
    answer: str = ""
    objectives: tuple[Objective, ...] = ()


class FakePolicy:
    """Answers with a text, by a mapping from queries, or by a function of query and history.

    An error among the answers is raised in place of one. `reasoning` are the thoughts it keeps apart, `elsewhere` lets
    it pass for a policy on another machine. `asked` notes each question.
    """

    def __init__(
        self,
        answers: str | Mapping[str, str | MalError] | Callable[[str, Sequence[Message]], str],
        *,
        reasoning: str = "",
        elsewhere: bool = False,
    ) -> None:
        self.asked: list[Asked] = []
        self.reasoning = reasoning
        self.elsewhere = elsewhere
        self._answers = answers

    def answer(
        self,
        query: str,
        on_text: OnText | None = None,
        history: Sequence[Message] = (),
        *,
        stop: Stop | None = None,
    ) -> Answer:
        """The answer to `query`. Raises the error that stands in its place, KeyError if the mapping has neither."""
        self.asked.append(Asked(query, tuple(history)))
        if isinstance(self._answers, str):
            text: str | MalError = self._answers
        elif isinstance(self._answers, Mapping):
            text = self._answers[query]
        else:
            text = self._answers(query, history)
        if isinstance(text, MalError):
            raise text
        generation = _written(text, _words(query, *(turn.content for turn in history)), on_text, stop)
        return Answer(generation.text, generation, reasoning=self.reasoning)


class FakeAligner:
    """Edits with a function of text and objectives; an error that it raises, or gives back, is that of the edit.

    `likelihood` is what a gate compares, per token (nats); 0 for every text unless given. `asked` notes each edit.
    """

    def __init__(
        self,
        edit: Callable[[str, Sequence[Objective]], str | MalError],
        *,
        layout: str = CONVERSATION,
        likelihood: Callable[[str], float] = lambda _: 0.0,
    ) -> None:
        self.layout = layout
        self.asked: list[Asked] = []
        self._edit, self._likelihood = edit, likelihood

    def edit(
        self,
        query: str,
        answers: Sequence[tuple[Answer, Sequence[Objective]]],
        on_text: OnText | None = None,
        history: Sequence[Message] = (),
        *,
        stop: Stop | None = None,
    ) -> list[Generation]:
        """The edit of each answer; `on_text` gets the first."""
        edits: list[Generation] = []
        for number, (answer, objectives) in enumerate(answers):
            self.asked.append(Asked(query, tuple(history), answer.text, tuple(objectives)))
            text = self._edit(answer.text, objectives)
            if isinstance(text, MalError):
                raise text
            read = _words(query, answer.text, *(turn.content for turn in history))
            edits.append(_written(text, read, None if number else on_text, stop))
        return edits

    def likelihoods(
        self,
        query: str,
        answer: Answer,
        objectives: Sequence[Objective],
        texts: Sequence[str],
        history: Sequence[Message] = (),
    ) -> list[float]:
        """What `likelihood` says of each text."""
        return [self._likelihood(text) for text in texts]

    def reading_ahead(
        self,
        query: str,
        objectives: Sequence[Objective],
        on_text: OnText | None = None,
        history: Sequence[Message] = (),
    ) -> AbstractContextManager[OnText | None]:
        """Nothing is read ahead."""
        return nullcontext(on_text)


def _written(text: str, read: int, on_text: OnText | None, stop: Stop | None) -> Generation:
    """A text written word by word, as far as `stop` lets it come."""
    written: list[str] = []
    finish = "end"
    for word in re.findall(r"\s*\S+|\s+\Z", text):
        if stop and stop():
            finish = "stopped"
            break
        written.append(word)
        if on_text:
            on_text(word)
    return Generation("".join(written), (), finish, Counts(read, 0, len(written), 0, 0, 0.0, 0.0))


def _words(*texts: str) -> int:
    return sum(len(text.split()) for text in texts)
