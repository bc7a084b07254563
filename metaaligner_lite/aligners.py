"""Who edits: a GGUF model, with or without an activated adapter, on an engine of its own or the policy's; a server."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, Self, cast

from .errors import MalError, ModelError, UsageError
from .generation import GREEDY, Bar, Generation, OnText, Sampling, Settings, Stop
from .objectives import Objective
from .pieces import Prompt, encode
from .policies import Answer
from .prompts import (
    CONVERSATION,
    IN_TURNS,
    LAYOUTS,
    Message,
    edit_messages,
    edit_prompt,
    fit,
    invocation,
    opens_thoughts,
)
from .stutter import StutterFilter, unstuttered
from .templates import ChatTemplate, run_on_marks
from .thoughts import ThoughtFilter, split_thoughts

if TYPE_CHECKING:
    from .endpoint import Endpoint
    from .gate import Gate
    from .llama.engine import Engine, Request

_AHEAD = 120  # characters of an answer, about a batch of 30 tokens
_AT_ONCE = 4  # edits that a server writes side by side


class Aligner(Protocol):
    """Anything that edits a weak answer toward objectives. `layout` names how it is prompted."""

    layout: str

    def edit(
        self,
        query: str,
        answers: Sequence[tuple[Answer, Sequence[Objective]]],
        on_text: OnText | None = None,
        history: Sequence[Message] = (),
        *,
        stop: Stop | None = None,
    ) -> list[Generation]:
        """Edit each of several weak answers to one query toward its own objectives; `on_text` gets the first.

        `history` are the turns before the query; `stop` is given if the caller may want to end early. Raises
        PromptTooLong if a prompt and its edit do not fit.
        """

    def likelihoods(
        self,
        query: str,
        answer: Answer,
        objectives: Sequence[Objective],
        texts: Sequence[str],
        history: Sequence[Message] = (),
    ) -> list[float]:
        """How likely each text is as an edit: mean log-likelihood per token (nats), asked where a gate judges."""

    def reading_ahead(
        self,
        query: str,
        objectives: Sequence[Objective],
        on_text: OnText | None = None,
        history: Sequence[Message] = (),
    ) -> AbstractContextManager[OnText | None]:
        """Read while a policy elsewhere writes; gives the listener it is to tell, which tells `on_text`.

        One that cannot read ahead gives `on_text` back.
        """


@dataclass(frozen=True, slots=True)
class Edit:
    """An edit to be made: of the answer to a query, which may have turns before it, toward some objectives.

    `sampling` takes the place of the aligner's own.
    """

    query: str
    answer: Answer
    objectives: Sequence[Objective]
    history: Sequence[Message] = ()
    sampling: Sampling | None = None


class GgufAligner:
    """An aligner model with the prompt layout it was trained for, read from its manifest unless given.

    `draft` lets it guess tokens from the answer it edits and verify them in batches: faster, and the same text but
    for near-ties, which batches may round the other way. `equal` asks for an equally good answer instead of a better
    one (the paper's t = equal): what an evaluation compares with.
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
        equal: bool = False,
    ) -> None:
        self.engine = engine
        trained = engine.adapter or engine.model
        self.manifest = trained.manifest
        self.layout = layout or (self.manifest.layout if self.manifest else "")
        if self.layout not in LAYOUTS:
            known = f"`layout` {' | '.join(LAYOUTS)}"
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
        self._marks = run_on_marks(self.template if self.layout in IN_TURNS else None, engine.model.specials)
        self.sampling = sampling or GREEDY
        self.max_tokens = max_tokens
        self.draft = draft
        self.equal = equal
        self.stops: tuple[str, ...] = ()
        self.copies: tuple[str, ...] = ()
        self._ahead = threading.Lock()

    def asked(self, settings: Settings) -> Self:
        """The same aligner with the settings of one request."""
        other = copy.copy(self)
        other.sampling, other.max_tokens = settings.sampling, settings.max_tokens
        other.stops, other.copies = settings.stops, settings.copies
        return other

    def edit(
        self,
        query: str,
        answers: Sequence[tuple[Answer, Sequence[Objective]]],
        on_text: OnText | None = None,
        history: Sequence[Message] = (),
        *,
        stop: Stop | None = None,
    ) -> list[Generation]:
        """Edit each of several weak answers to one query toward its own objectives, side by side.

        `history` are the turns before the query. `on_text` gets the first as it grows. Raises PromptTooLong if the
        prompts and edits do not fit the context.
        """
        edits = [Edit(query, answer, objectives, history) for answer, objectives in answers]
        return cast(list[Generation], self.edit_all(edits, on_text, stop=stop))

    def edit_all(
        self,
        edits: Sequence[Edit],
        on_text: OnText | None = None,
        *,
        stop: Stop | None = None,
        in_flight: int = 0,
        on_done: Callable[[int, Generation | MalError], None] | None = None,
        strict: bool = True,
    ) -> list[Generation | MalError]:
        """Edit answers to any queries, at most `in_flight` at once (0: all); `on_done` gets each as it ends.

        Raises MalError if a prompt cannot be made, or does not fit; if not `strict`, that one fails alone: the error
        stands in its place.
        """
        found: dict[int, Generation | MalError] = {}
        requests: dict[int, Request] = {}
        opened: dict[int, str] = {}
        editing: ThoughtFilter | None = None
        told: StutterFilter | None = None
        for i, edit in enumerate(edits):
            try:
                prompt = self._prompt(edit)
            except MalError as error:
                if strict:
                    raise
                found[i] = error
                continue
            opened[i] = opens_thoughts(prompt)
            if on_text and not i:
                told = StutterFilter(on_text, edit.answer.text)
                editing = ThoughtFilter(told.feed, opened[i])
            requests[i] = self._request(edit, prompt, editing.feed if editing and not i else None)
        numbers = list(requests)

        def ended(number: int, text: Generation | MalError) -> None:
            i = numbers[number]
            if isinstance(text, Generation):
                text = _shown(text, opened[i], edits[i].answer)
            found[i] = text
            if on_done:
                on_done(i, text)

        if on_done:
            for i in list(found):
                on_done(i, found[i])
        texts = self.engine.write(
            list(requests.values()),
            max_tokens=self.max_tokens,
            sampling=self.sampling,
            adapted=self.engine.adapter is not None,
            stop=stop,
            in_flight=in_flight,
            on_done=ended,
            strict=strict,
        )
        for number, text in enumerate(texts):
            if numbers[number] not in found:  # it did not fit
                ended(number, text)
        if editing and told:
            editing.close()
            told.close()
        return [found[i] for i in range(len(edits))]

    def tokens(self, edit: Edit) -> int:
        """How many tokens the prompt of an edit takes."""
        return len(encode(self._prompt(edit), self.engine.model))

    def _prompt(self, edit: Edit) -> Prompt:
        return edit_prompt(
            self.layout,
            edit.query,
            edit.answer.text,
            edit.objectives,
            self.template,
            equal=self.equal,
            answer_tokens=self._cached(edit.answer),
            history=edit.history,
            known=self.known,
        )

    def _request(self, edit: Edit, prompt: Prompt, on_text: OnText | None) -> Request:
        from .llama.engine import Request

        length = len(self.engine.model.encode_text(edit.answer.text))
        return Request(
            prompt,
            # An edit is about as long as what it edits; a runaway one is stopped at twice that.
            expected=length + 64,
            usual=2 * length + 256,
            # What will probably survive: most of the answer, and what the query quotes (a name, a passage, its code).
            copies=(edit.answer.text, edit.query, *self.copies) if self.draft else (),
            # An answer that holds such a line itself may keep it.
            marks=[mark for mark in self._marks if mark.strip() not in edit.answer.text],
            stops=self.stops,
            on_text=on_text,
            sampling=edit.sampling,
            edits=edit.answer.text,
            bar=self._bar(edit.objectives),
            # What an aligner was trained on is of prose; another objective may ask for comments in the code.
            keeps_code=all(objective.name in self.known for objective in edit.objectives),
        )

    def margin(self, objectives: Sequence[Objective]) -> float:
        """By how much an edit must be likelier than its answer to pass a gate (nats per token), by the manifest.

        It goes with bars, which act where edits are greedy: elsewhere 0.
        """
        if self.equal or not self.manifest or not self.sampling.plain:
            return 0.0
        return self.manifest.margin(objective.name for objective in objectives)

    def _bar(self, objectives: Sequence[Objective]) -> Bar | None:
        if self.equal or not self.manifest:
            return None
        return self.manifest.bar(objective.name for objective in objectives)

    def likelihoods(
        self,
        query: str,
        answer: Answer,
        objectives: Sequence[Objective],
        texts: Sequence[str],
        history: Sequence[Message] = (),
    ) -> list[float]:
        """How likely each text is as the edit of an answer: mean log-likelihood per token (nats), as gate.py compares.

        Raises PromptTooLong if a text does not fit.
        """
        prompt = self._prompt(Edit(query, answer, objectives, history))
        return self.engine.likelihoods(prompt, texts, adapted=self.engine.adapter is not None)

    def told(self, turns: Sequence[Message]) -> tuple[str, ...]:
        """What of a conversation this aligner must be told in another way, in words."""
        return fit(turns, self.template if self.layout in IN_TURNS else None)[1]

    @contextmanager
    def reading_ahead(
        self,
        query: str,
        objectives: Sequence[Objective],
        on_text: OnText | None = None,
        history: Sequence[Message] = (),
    ) -> Iterator[OnText | None]:
        """Read the query, then the answer as it grows, beside the policy; gives a listener that also tells `on_text`.

        Worth it where the policy works on another machine: it never waits for the reading, which has a thread of its
        own. On the same processor both would share its time; bench/ahead.py compares. One answer at a time is read
        ahead: more would drive each other out of the cache.
        """
        if not self._ahead.acquire(blocking=False):
            yield on_text
            return
        try:
            with self._reading(query, objectives, on_text, history) as listen:
                yield listen
        finally:
            self._ahead.release()

    @contextmanager
    def _reading(
        self, query: str, objectives: Sequence[Objective], on_text: OnText | None, history: Sequence[Message]
    ) -> Iterator[OnText]:
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

    def _cached(self, answer: Answer) -> tuple[int, ...]:
        """The tokens an answer was written with, if this engine wrote them and they spell it: its cache then fits."""
        if answer.engine is not self.engine or answer.generation is None:
            return ()
        model, tokens = self.engine.model, answer.generation.tokens
        return model.whole(tokens) if model.text(tokens).strip() == answer.text else ()


class EndpointAligner:
    """A model on an OpenAI-compatible server, prompted in `layout` (the conversation unless named).

    A server that holds an aligner of ours, or its base with the adapter, renders the same prompts as a local run.
    Layouts in turns are sent as a chat; those of the paper as a text to go on with, or as one message of the user's
    where the server only chats. Nothing of a KV cache is shared. `known` are the objectives it was trained on.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        layout: str = "",
        known: Mapping[str, str] | None = None,
        sampling: Sampling | None = None,
        chosen: frozenset[str] = frozenset(),
        max_tokens: int | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.layout = layout or CONVERSATION
        if self.layout not in LAYOUTS:
            raise UsageError(f"unknown prompt layout {layout!r}; expected `layout` {' | '.join(LAYOUTS)}")
        self.known = known or {}
        self.sampling = sampling or GREEDY
        self.chosen = chosen
        self.max_tokens = max_tokens
        self.stops: tuple[str, ...] = ()
        self._chats = self.layout in IN_TURNS

    def asked(self, settings: Settings) -> Self:
        """The same aligner with the settings of one request."""
        other = copy.copy(self)
        other.sampling, other.max_tokens, other.stops = settings.sampling, settings.max_tokens, settings.stops
        other.chosen = settings.chosen
        return other

    def edit(
        self,
        query: str,
        answers: Sequence[tuple[Answer, Sequence[Objective]]],
        on_text: OnText | None = None,
        history: Sequence[Message] = (),
        *,
        stop: Stop | None = None,
    ) -> list[Generation]:
        """Edit each of several weak answers to one query toward its own objectives, side by side.

        Raises PromptTooLong if one does not fit the context, EndpointError if the server fails.
        """
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as workers:
            others = [workers.submit(self._edit, query, *one, None, history, stop) for one in answers[1:]]
            return [self._edit(query, *answers[0], on_text, history, stop), *(one.result() for one in others)]

    def reading_ahead(
        self,
        query: str,
        objectives: Sequence[Objective],
        on_text: OnText | None = None,
        history: Sequence[Message] = (),
    ) -> AbstractContextManager[OnText | None]:
        """A server cannot be made to read ahead."""
        return nullcontext(on_text)

    def likelihoods(
        self,
        query: str,
        answer: Answer,
        objectives: Sequence[Objective],
        texts: Sequence[str],
        history: Sequence[Message] = (),
    ) -> list[float]:
        """Raises UsageError: a server tells no likelihoods of texts that it did not write."""
        raise self.silent()

    def silent(self) -> UsageError:
        """What to say where a gate is asked for."""
        return UsageError(
            f"the server {self.endpoint.server.name} tells no likelihoods, which the gate compares; leave `gate` out"
        )

    def told(self, turns: Sequence[Message]) -> tuple[str, ...]:
        """What of a conversation this aligner must be told in another way, in words."""
        return () if self.layout in IN_TURNS else fit(turns, None)[1]

    def _edit(
        self,
        query: str,
        answer: Answer,
        objectives: Sequence[Objective],
        on_text: OnText | None,
        history: Sequence[Message],
        stop: Stop | None,
    ) -> Generation:
        from .endpoint import Listener, NoCompletions, settings_of

        # A runaway edit is stopped here: a limit of tokens would count the thoughts of a model that thinks.
        told = StutterFilter(on_text, answer.text) if on_text else None
        heard = Listener(told.feed if told else None, most=0 if self.max_tokens else 4 * len(answer.text) + 1000)
        # An edit repeats on purpose; llama-cpp-python's server and others punish that unless told.
        settings = settings_of(self.sampling, self.chosen | {"repeat_penalty"}, self.max_tokens, self.stops)

        def halt() -> bool:
            return bool(heard.ended) or (stop is not None and stop())

        messages = edit_messages(self.layout, query, answer.text, objectives, history=history, known=self.known)
        reply = None
        if not self._chats:
            try:
                reply = self.endpoint.complete(messages[0].content, settings, heard.feed, halt)
            except NoCompletions:
                self._chats = True
        reply = reply or self.endpoint.chat(messages, settings, heard.feed, halt)
        edit = heard.generation(reply)
        if told:
            told.close()
        return _shown(edit, "", answer)


def _shown(edit: Generation, opened: str, answer: Answer) -> Generation:
    """An edit without what the aligner thought before it, and without sentences that it says twice in a row."""
    return replace(edit, text=unstuttered(split_thoughts(edit.text, opened).answer, answer.text))


def check_gate(aligner: object, gate: Gate | None) -> None:
    """Raise UsageError where a server is to be judged by a gate, before anything is written."""
    if gate is not None and isinstance(aligner, EndpointAligner):
        raise aligner.silent()
