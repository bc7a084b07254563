"""A model on a server: asked for chats and for texts to go on with."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from ..errors import EndpointError, UsageError, require_extra
from ..generation import Counts, OnText, Sampling, Stop
from ..prompts import Message
from .call import Call, NotFound, one
from .complaints import listed
from .server import Server, bases_of, client_of, key_of

_ASIDE = 5.0  # seconds for a question that a run can do without


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server wrote: text, the thoughts it kept apart, why it ended (as Generation.finish), counts, seconds.

    Tokens are 0 where the server does not count. `read_seconds` last to the first word, thoughts included.
    """

    text: str
    reasoning: str
    finish: str
    prompt_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    read_seconds: float = 0.0
    write_seconds: float = 0.0

    @property
    def counts(self) -> Counts:
        """The same, as an engine counts."""
        read = max(0, self.prompt_tokens - self.cached_tokens)
        return Counts(read, self.cached_tokens, self.written_tokens, 0, 0, self.read_seconds, self.write_seconds)


def settings_of(
    sampling: Sampling, chosen: frozenset[str], max_tokens: int | None, stops: Sequence[str] = ()
) -> dict[str, Any]:
    """Sampling as a request says it. What is no part of OpenAI's API is sent where a user `chosen` it, alone."""
    settings: dict[str, Any] = {"temperature": sampling.temperature}
    if sampling.temperature > 0:
        settings["seed"] = sampling.seed
        settings |= {name: getattr(sampling, name) for name in ("top_p", "top_k", "min_p") if name in chosen}
    if "repeat_penalty" in chosen:
        settings["repeat_penalty"] = sampling.repeat_penalty
    if sampling.dry:
        settings["dry_multiplier"] = sampling.dry
    if max_tokens is not None:
        settings["max_tokens"] = max_tokens
    if stops:
        settings["stop"] = list(stops)
    return settings


class Endpoint:
    """A model on a server. Safe to use from several threads; close it, or use it in a `with` block.

    `say` gets a line about each thing worth knowing: a wait, a setting that the server does not take. Raises
    MissingExtra without httpx2, UsageError for a URL or a key that cannot be.
    """

    def __init__(self, server: Server, say: Callable[[str], None] = lambda _: None) -> None:
        require_extra("endpoint", "httpx2")
        self.server = server
        self._say = say
        self._key = key_of(server)
        self._bases = bases_of(server)
        self._model = server.model
        self._refused: set[str] = set()  # settings that this server does not take
        self._client = client_of(server, self._key)

    def __repr__(self) -> str:
        return f"Endpoint({self.server.name!r}, {self._model!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    @property
    def model(self) -> str:
        """The model's name; the only one's if none was named. Raises as `models`, UsageError if there are more."""
        if not self._model:
            found = self.models()
            if len(found) != 1:
                has = f"it has: {listed(found)}" if found else "it names none"
                raise UsageError(f"{self.server.name}: name a model with `{self.server.stage}_model`; {has}")
            self._model = found[0]
        return self._model

    def models(self) -> list[str]:
        """The names of the server's models. Raises EndpointError if it does not say them."""
        call = Call(self, "/models", None)
        raw = one(call)
        listed = raw.get("data", raw.get("models")) if isinstance(raw, dict) else raw
        names = [one.get("id", one.get("name")) for one in listed or [] if isinstance(one, dict)]
        return [name for name in names if isinstance(name, str)]

    def adapters(self) -> list[str]:
        """The file names of the LoRA adapters that a llama-server applies; none of a server that does not tell."""
        import httpx2

        root = str(self._bases[0]).partition("?")[0].rstrip("/").removesuffix("/v1")
        try:
            answer = self._client.get(f"{root}/lora-adapters", timeout=_ASIDE)
            held = answer.json() if answer.status_code == 200 else []
        except (httpx2.HTTPError, ValueError):
            return []
        told = [one for one in held if isinstance(one, dict) and one.get("scale")] if isinstance(held, list) else []
        return [re.split(r"[\\/]", str(one.get("path", "")))[-1] for one in told]

    def check(self) -> None:
        """Raise EndpointError if nothing answers, or the key is refused, before any work is done."""
        with suppress(NotFound):  # some servers have no list
            self.models()
        _ = self.model

    def chat(
        self,
        messages: Sequence[Message],
        settings: Mapping[str, Any],
        on_text: OnText | None = None,
        stop: Stop | None = None,
    ) -> Reply:
        """The assistant's next turn; `on_text` gets it as it grows.

        Raises PromptTooLong if it does not fit the model's context, EndpointError for everything else that goes wrong:
        an answer that breaks off is a failed one, not a short one.
        """
        turns = [{"role": message.role, "content": message.content} for message in messages]
        return self._write("/chat/completions", {"messages": turns, **settings}, on_text, stop)

    def complete(
        self, prompt: str, settings: Mapping[str, Any], on_text: OnText | None = None, stop: Stop | None = None
    ) -> Reply:
        """How a text goes on, without a chat template. Raises as `chat`, NoCompletions if the server only chats."""
        try:
            return self._write("/completions", {"prompt": prompt, **settings}, on_text, stop)
        except NotFound as error:
            raise NoCompletions(str(error)) from error

    def _write(self, path: str, body: dict[str, Any], on_text: OnText | None, stop: Stop | None) -> Reply:
        body = {"model": self.model, **body, "stream": True, "stream_options": {"include_usage": True}}
        call = Call(self, path, body)
        begun, first = time.monotonic(), 0.0
        text: list[str] = []
        thoughts: list[str] = []
        finish, usage = "stopped", {}
        for kind, value in call.events(stop):
            if kind == "text":
                first = first or time.monotonic()
                text.append(value)
                if on_text:
                    on_text(value)
            elif kind == "thought":
                thoughts.append(value)
            elif kind == "usage":
                usage = value
            else:
                finish = value
        ended = time.monotonic()
        cached = usage.get("prompt_tokens_details")
        return Reply(
            "".join(text),
            "".join(thoughts).strip(),
            finish,
            _number(usage.get("prompt_tokens")),
            _number(cached.get("cached_tokens")) if isinstance(cached, dict) else 0,
            _number(usage.get("completion_tokens")),
            (first or ended) - begun,
            ended - (first or ended),
        )


class NoCompletions(EndpointError):
    """A server that knows chats alone."""


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0
