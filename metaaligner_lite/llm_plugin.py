"""A plugin of Simon Willison's `llm` (extra [llm]): models whose every answer is aligned.

    llm -m aligned/SmolLM2 -o objectives "empathy,clarity" "My parcel is late."
    llm -m aligned -o policy model.gguf -o objectives brevity "..."

The aligned text streams as it is written. What it cost, and the policy's own answer, are in llm's log (response_json).
Models stay open while `llm chat` goes on. llm itself is imported here alone.
"""

from __future__ import annotations

import atexit
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any

import llm
from llm.parts import TextPart
from pydantic import Field

from . import models
from .errors import MalError
from .pair import Choice, Pair
from .prompts import Message


class AlignedOptions(llm.Options):
    """What `-o NAME VALUE` takes, as the options of `mal align` do."""

    objectives: str = Field("", description='What a better answer does: "empathy,clarity", "calm: The response ..."')
    policy: str | None = Field(None, description="The model that answers: GGUF file, owner/repo[:QUANT], URL")
    policy_model: str = Field("", description="Which of the policy's server's models")
    aligner: str | None = Field(None, description="The model that edits, named likewise, or 'self'")
    aligner_model: str = Field("", description="Which of the aligner's server's models")
    adapter: str | None = Field(None, description="An activated adapter")
    max_tokens: int | None = Field(None, ge=1, description="Longest text of each stage")
    temperature: float = Field(0.0, ge=0, description="The policy's; 0 is greedy and repeatable")
    edit_temperature: float = Field(0.0, ge=0, description="The aligner's; an edit is best greedy")
    seed: int = Field(0, ge=0, lt=2**32, description="Makes sampling repeatable")
    rounds: int = Field(1, ge=1, description="Edit the edit, up to so many times in all")
    best_of: int = Field(1, ge=1, description="The likeliest of so many edits")
    gate: bool = Field(False, description="Keep the answer where the aligner itself holds its edit too unlikely")
    ctx_size: int = Field(0, ge=0, description="Most tokens of prompt and text together")
    threads: int = Field(0, ge=0, description="CPU threads")

    def choice(self, policy: str | None) -> Choice:
        """The pair that they name; `policy` answers where none is named."""
        from .generation import Sampling

        return Choice(
            self.policy or policy,
            self.aligner,
            self.adapter,
            sampling=Sampling(self.temperature, seed=self.seed),
            edit_temperature=self.edit_temperature,
            max_tokens=self.max_tokens,
            engine={"ctx_size": self.ctx_size, "threads": self.threads},
            policy_model=self.policy_model,
            aligner_model=self.aligner_model,
        )


class Aligned(llm.Model):
    """A policy whose answers are aligned; the installed one unless `policy` names another, or an option does."""

    can_stream = True
    Options = AlignedOptions  # type: ignore[assignment]  # llm declares a class of its own

    def __init__(self, model_id: str, policy: str | None = None) -> None:
        self.model_id = model_id
        self._policy = policy
        self._stack = ExitStack()
        self._open: tuple[Choice, Pair] | None = None

    def execute(
        self, prompt: llm.Prompt, stream: bool, response: llm.Response, conversation: llm.Conversation | None
    ) -> Iterator[str]:
        """The aligned answer, in parts if it streams. Raises llm.ModelError, in one line that tells what to do."""
        try:
            yield from self._execute(prompt, stream, response)
        except MalError as error:
            told = re.sub(r"`([a-z_]+)`|--([a-z][a-z-]+)", _option, " ".join(str(error).split()))
            raise llm.ModelError(told) from error

    def _execute(self, prompt: llm.Prompt, stream: bool, response: llm.Response) -> Iterator[str]:
        from .align import Correction, align
        from .best import best_of
        from .gate import OPEN, Gate
        from .objectives import load_catalogue, resolve
        from .output import record

        options = prompt.options
        assert isinstance(options, AlignedOptions)
        wanted = resolve(options.objectives, load_catalogue())
        history, query = turns(prompt)
        pair = self._pair(options)
        streams = stream and options.rounds == options.best_of == 1 and not options.gate

        def work(tell: Callable[[str], None], stop: Callable[[], bool]) -> Correction:
            return align(
                query,
                wanted,
                policy=pair.policy,
                aligner=best_of(pair.aligner, options.best_of),
                history=history,
                rounds=options.rounds,
                on_edit=tell if streams else None,
                stop=stop,
                gate=Gate() if options.gate else OPEN if options.best_of > 1 else None,
            )

        parts: list[str] = []
        correction = None
        for part in _beside(work):
            if isinstance(part, str):
                parts.append(part)
                yield part
            else:
                correction = part
        assert isinstance(correction, Correction)
        shown = "".join(parts)
        if not shown:
            yield correction.text
        elif shown.strip() != correction.text.strip():  # it failed after all: what was shown cannot be taken back
            yield f"\n\n[{correction.failure}; the answer as it was:]\n{correction.text}"
        if correction.failure and not correction.text.strip():
            raise llm.ModelError(correction.failure)
        response.response_json = record(correction)
        stages = [stage for stage in (correction.answer.generation, *correction.edits) if stage]
        read = sum(stage.counts.read + stage.counts.reused for stage in stages)
        reused = sum(stage.counts.reused for stage in stages)
        written = sum(stage.counts.written for stage in stages)
        response.set_usage(input=read, output=written, details={"cached_tokens": reused})

    def _pair(self, options: AlignedOptions) -> Pair:
        """The pair that the options name, open until others are named or the program ends."""
        from .pair import open_pair

        choice = options.choice(self._policy)
        if self._open is None or self._open[0] != choice:
            self.close()
            atexit.register(self.close)
            self._open = choice, self._stack.enter_context(open_pair(choice))
        return self._open[1]

    def close(self) -> None:
        """Close the models."""
        self._open = None
        self._stack.close()
        atexit.unregister(self.close)


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    """Tell llm of the models."""
    register(Aligned("aligned"))
    if path := models.BASE.path:
        register(Aligned("aligned/SmolLM2", str(path)))


def turns(prompt: llm.Prompt) -> tuple[list[Message], str]:
    """The turns before a query, and the query, as llm holds them."""
    found = []
    for message in prompt.messages:
        text = "\n".join(part.text for part in message.parts if isinstance(part, TextPart))
        if text.strip() and message.role in ("system", "user", "assistant"):
            found.append(Message(message.role, text))
    if prompt.system and not any(turn.role == "system" for turn in found):
        found.insert(0, Message("system", prompt.system))
    query = found.pop().content if found and found[-1].role == "user" else ""
    return found, query


def _beside(work: Callable[[Callable[[str], None], Callable[[], bool]], Any]) -> Iterator[Any]:
    """What some work on a thread tells, then what it gives; left early, it is stopped."""
    queue: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    left = threading.Event()

    def run() -> None:
        try:
            queue.put(("end", work(lambda text: queue.put(("part", text)), left.is_set)))
        except BaseException as error:
            queue.put(("error", error))

    worker = threading.Thread(target=run, name="aligned", daemon=True)
    worker.start()
    try:
        while True:
            kind, value = queue.get()
            if kind == "error":
                raise value
            yield value
            if kind == "end":
                return
    finally:
        left.set()
        worker.join()


def _option(match: re.Match[str]) -> str:
    """How llm calls an option."""
    return f"-o {(match[1] or match[2]).replace('-', '_')}"
