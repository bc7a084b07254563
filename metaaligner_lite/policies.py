"""Where a weak answer comes from: a GGUF model, a model on a server, or a text that is already there."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, Self

from .errors import MalError
from .generation import GREEDY, Generation, OnText, Sampling, Settings, Stop
from .pieces import Piece, encode
from .prompts import Message, chat_prompt, fit, opens_thoughts
from .templates import PLAIN_DIALOGUE, ChatTemplate, run_on_marks
from .thoughts import ThoughtFilter, split_thoughts

if TYPE_CHECKING:
    from .endpoint import Endpoint
    from .llama.engine import Engine


_EXPECTED = 64  # tokens that an answer must have room for


@dataclass(frozen=True, slots=True)
class Answer:
    """A weak answer, how it was generated, and the engine whose KV cache holds it (None if it was given).

    `reasoning` are the thoughts that stood before it; with those and no text, the policy did not get to an answer.
    `notes` say what of the conversation the policy had to be told in another way.
    """

    text: str
    generation: Generation | None = None
    engine: Engine | None = None
    reasoning: str = ""
    notes: tuple[str, ...] = ()


class Policy(Protocol):
    """Anything that answers a query.

    One that works on another machine may say `elsewhere = True`: the aligner then reads the query while it thinks, and
    the answer while it writes.
    """

    def answer(
        self,
        query: str,
        on_text: OnText | None = None,
        history: Sequence[Message] = (),
        *,
        stop: Stop | None = None,
    ) -> Answer:
        """The weak answer to `query`; `on_text` gets it as it grows.

        `history` is given if there were turns before, `stop` if the caller may want to end it early.
        """


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """A policy that was asked elsewhere: its answer is at hand, and may be empty.

    Thoughts before it are taken apart. `generation`, `reasoning` and `notes` tell of its writing, if a model wrote it
    that is closed by now.
    """

    text: str
    generation: Generation | None = None
    reasoning: str = ""
    notes: tuple[str, ...] = ()

    def answer(
        self,
        query: str,
        on_text: OnText | None = None,
        history: Sequence[Message] = (),
        *,
        stop: Stop | None = None,
    ) -> Answer:
        """The given text, whatever the query."""
        if self.reasoning:
            return Answer(self.text, self.generation, reasoning=self.reasoning, notes=self.notes)
        return replace(_taken_apart(self.text, self.generation), notes=self.notes)


class GgufPolicy:
    """A chat model in a GGUF file, asked in its own chat template (a plain dialogue if it has none)."""

    def __init__(
        self,
        engine: Engine,
        *,
        template: ChatTemplate | None = None,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
    ) -> None:
        self.engine = engine
        self.template = template or engine.model.template or PLAIN_DIALOGUE
        self._marks = run_on_marks(self.template, engine.model.specials)
        self.sampling = sampling or GREEDY
        self.max_tokens = max_tokens
        self.stops: tuple[str, ...] = ()
        self.copies: tuple[str, ...] = ()

    def asked(self, settings: Settings) -> Self:
        """The same policy with the settings of one request."""
        other = copy.copy(self)
        other.sampling, other.max_tokens = settings.sampling, settings.max_tokens
        other.stops, other.copies = settings.stops, settings.copies
        return other

    def check(self, query: str, history: Sequence[Message] = ()) -> None:
        """Raise what `answer` would raise before it reads anything: PromptTooLong, with the numbers."""
        turns, _ = fit([*history, Message("user", query)], self.template)
        self.engine.check(chat_prompt(turns, self.template), min(self.max_tokens or _EXPECTED, _EXPECTED))

    def answer(
        self,
        query: str,
        on_text: OnText | None = None,
        history: Sequence[Message] = (),
        *,
        stop: Stop | None = None,
    ) -> Answer:
        """The model's answer. Raises PromptTooLong if conversation and answer do not fit its context."""
        (answer,) = self.answer_all([(query, history)], on_text, stop=stop)
        assert isinstance(answer, Answer)  # else it was raised
        return answer

    def tokens(self, query: str, history: Sequence[Message] = ()) -> int:
        """How many tokens a conversation up to the answer takes."""
        turns, _ = fit([*history, Message("user", query)], self.template)
        return len(encode(chat_prompt(turns, self.template), self.engine.model))

    def answer_all(
        self,
        questions: Sequence[tuple[str, Sequence[Message]]],
        on_text: OnText | None = None,
        *,
        stop: Stop | None = None,
        in_flight: int = 0,
        strict: bool = True,
    ) -> list[Answer | MalError]:
        """The answers to queries with the turns before each, at most `in_flight` written at once (0: all).

        `on_text` gets the first as it grows. Raises MalError if a conversation cannot be told to the model, or does not
        fit; if not `strict`, that one fails alone: the error stands in its place.
        """
        from .llama.engine import Request

        found: dict[int, Answer | MalError] = {}
        requests: dict[int, Request] = {}
        told: dict[int, tuple[str, tuple[str, ...]]] = {}
        answering: ThoughtFilter | None = None
        for i, (query, history) in enumerate(questions):
            try:
                turns, notes = fit([*history, Message("user", query)], self.template)
                prompt = chat_prompt(turns, self.template)
            except MalError as error:
                if strict:
                    raise
                found[i] = error
                continue
            told[i] = opens_thoughts(prompt), notes
            if on_text and not i:
                answering = ThoughtFilter(on_text, told[i][0])
            feed = answering.feed if answering and not i else None
            requests[i] = Request(prompt, copies=self.copies, marks=self._marks, stops=self.stops, on_text=feed)
        texts = self.engine.write(
            list(requests.values()),
            max_tokens=self.max_tokens,
            sampling=self.sampling,
            stop=stop,
            in_flight=in_flight,
            strict=strict,
        )
        if answering:
            answering.close()
        for i, text in zip(requests, texts, strict=True):
            opened, notes = told[i]
            found[i] = (
                text
                if isinstance(text, MalError)
                else replace(_taken_apart(text.text, text, opened), engine=self.engine, notes=notes)
            )
        return [found[i] for i in range(len(questions))]


class EndpointPolicy:
    """A model on an OpenAI-compatible server, which has its chat template.

    `chosen` are the parts of `sampling` that a user named: for the others the server's own hold.
    """

    elsewhere = True

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        sampling: Sampling | None = None,
        chosen: frozenset[str] = frozenset(),
        max_tokens: int | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.sampling = sampling or GREEDY
        self.chosen = chosen
        self.max_tokens = max_tokens
        self.stops: tuple[str, ...] = ()

    def asked(self, settings: Settings) -> Self:
        """The same policy with the settings of one request."""
        other = copy.copy(self)
        other.sampling, other.max_tokens, other.stops = settings.sampling, settings.max_tokens, settings.stops
        other.chosen = settings.chosen
        return other

    def check(self, query: str, history: Sequence[Message] = ()) -> None:
        """A server tells itself what does not fit."""

    def answer(
        self,
        query: str,
        on_text: OnText | None = None,
        history: Sequence[Message] = (),
        *,
        stop: Stop | None = None,
    ) -> Answer:
        """The model's answer. Raises PromptTooLong if it does not fit its context, EndpointError if that fails."""
        from .endpoint import Listener, settings_of

        heard = Listener(on_text)
        reply = self.endpoint.chat(
            [*history, Message("user", query)],
            settings_of(self.sampling, self.chosen, self.max_tokens, self.stops),
            heard.feed,
            lambda: bool(heard.ended) or (stop is not None and stop()),
        )
        generation = heard.generation(reply)
        answer = _taken_apart(generation.text, generation)
        apart = "\n\n".join(part for part in (reply.reasoning, answer.reasoning) if part)
        return replace(answer, reasoning=apart)


class Continuation:
    """A policy that goes on with a text, rather than answering it: no chat template, no turns."""

    def __init__(self, policy: GgufPolicy | EndpointPolicy) -> None:
        self.policy = policy

    def check(self, query: str, history: Sequence[Message] = ()) -> None:
        """Raise PromptTooLong if the text does not fit."""
        if isinstance(policy := self.policy, GgufPolicy):
            policy.engine.check(_plain(query), min(policy.max_tokens or _EXPECTED, _EXPECTED))

    def answer(
        self,
        query: str,
        on_text: OnText | None = None,
        history: Sequence[Message] = (),
        *,
        stop: Stop | None = None,
    ) -> Answer:
        """How the model goes on. Raises PromptTooLong if it does not fit, EndpointError if a server fails."""
        policy = self.policy
        if isinstance(policy, EndpointPolicy):
            from .endpoint import Listener, settings_of

            heard = Listener(on_text)
            settings = settings_of(policy.sampling, policy.chosen, policy.max_tokens, policy.stops)
            reply = policy.endpoint.complete(
                query, settings, heard.feed, lambda: bool(heard.ended) or (stop is not None and stop())
            )
            generation = heard.generation(reply)
            return Answer(generation.text, generation)
        from .llama.engine import Request

        request = Request(_plain(query), copies=policy.copies, stops=policy.stops, on_text=on_text)
        (text,) = policy.engine.write([request], max_tokens=policy.max_tokens, sampling=policy.sampling, stop=stop)
        assert isinstance(text, Generation)  # else it was raised
        return Answer(text.text, text)


def _plain(text: str) -> tuple[Piece, ...]:
    return (Piece(text, content=True),)


def _taken_apart(text: str, generation: Generation | None, opened: str = "") -> Answer:
    """An answer and the thoughts before it; the text itself if there are none."""
    split = split_thoughts(text, opened)
    if split.reasoning or (text.strip() and not split.answer):
        return Answer(split.answer, generation, reasoning=split.reasoning or text.strip())
    return Answer(split.answer if split.answer != text.strip() else text, generation)
