"""Where a weak answer comes from: a GGUF model, or a text that is already there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .generation import GREEDY, Generation, OnText, Sampling
from .prompts import PLAIN_DIALOGUE, ChatTemplate, Message, chat_prompt

if TYPE_CHECKING:
    from .llama.engine import Engine


@dataclass(frozen=True, slots=True)
class Answer:
    """A weak answer, how it was generated, and the engine whose KV cache holds it (None if it was given)."""

    text: str
    generation: Generation | None = None
    engine: Engine | None = None


class Policy(Protocol):
    """Anything that answers a query.

    One that works on another machine may say `elsewhere = True`: the aligner then reads the query while it thinks, and
    the answer while it writes.
    """

    def answer(self, query: str, on_text: OnText | None = None, history: Sequence[Message] = ()) -> Answer:
        """The weak answer to `query`; `on_text` gets it as it grows. `history` is given if there were turns before."""


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """A policy that was asked elsewhere: its answer is at hand, and may be empty.

    `generation` tells what the answer cost, if a model wrote it that is closed by now.
    """

    text: str
    generation: Generation | None = None

    def answer(self, query: str, on_text: OnText | None = None, history: Sequence[Message] = ()) -> Answer:
        """The given text, whatever the query."""
        return Answer(self.text, self.generation)


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
        self.sampling = sampling or GREEDY
        self.max_tokens = max_tokens

    def answer(self, query: str, on_text: OnText | None = None, history: Sequence[Message] = ()) -> Answer:
        """The model's answer. Raises PromptTooLong if conversation and answer do not fit its context."""
        prompt = chat_prompt([*history, Message("user", query)], self.template)
        (generation,) = self.engine.run([prompt], max_tokens=self.max_tokens, sampling=self.sampling, on_text=on_text)
        return Answer(generation.text, generation, self.engine)
