"""A client of OpenAI-compatible servers (Ollama, llama-server, vLLM, LM Studio, hosted ones), and what they do wrong.

HTTP and server-sent events are httpx2's, which huggingface_hub and openai stand on, too; the openai package would add
types for APIs that nothing here calls, and refuses some of what real servers send. Nothing is imported from it until an
endpoint is opened. The reading happens on a thread of its own, so that a caller can stop while the server thinks.
"""

from __future__ import annotations

import ipaddress
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from .errors import EndpointError, MalError, PromptTooLong, UsageError, require_extra
from .generation import Counts, Generation, OnText, Sampling, Stop
from .loops import LoopGuard
from .prompts import Message
from .thoughts import ThoughtFilter

if TYPE_CHECKING:
    import socket

    import httpx2

_POLL = 0.05  # seconds between two questions whether to stop
_CONNECT = 10.0  # seconds
_LONGEST_WAIT = 60.0  # seconds that a server may ask to wait; who asks for more is not waited for
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})  # a later attempt may succeed
_SHOWN = 10  # models that an error names

_CONTEXT = re.compile(
    r"context[ _](length|size|window)|maximum context|exceed\w* .{0,40}context|prompt is too long|max_model_len"
    r"|too many (input )?tokens",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"model\b.{0,120}\b(not found|does ?n[o']t exist|not exist|not available|not loaded|unknown)"
    r"|(unknown|invalid|no such|no) model",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Server:
    """A server as a user names it: a base URL, with or without /v1, and a model of it ("" if it has but one).

    `key_env` is the environment variable that holds its key; `stage`, "policy" or "aligner", is what errors call it.
    `timeout` are the seconds for which it may be silent, `attempts` how often it is asked before it counts as failed.
    """

    url: str
    model: str = ""
    key_env: str = ""
    stage: str = "policy"
    timeout: float = 600.0
    attempts: int = 5

    @property
    def name(self) -> str:
        """The URL as it may be shown: without a password or a query."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")

    @property
    def host(self) -> str:
        """Its host, in lower case."""
        return (urlsplit(self.url).hostname or "").lower()

    def __repr__(self) -> str:
        return f"Server({self.name!r}, {self.model!r})"  # a URL may hold a password


def is_url(name: object) -> bool:
    """Whether what a user named is a server's URL, rather than a file or a repository."""
    return isinstance(name, str) and re.match(r"https?://", name, re.IGNORECASE) is not None


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
        self._key = _key(server)
        self._bases = _bases(server)
        self._model = server.model
        self._refused: set[str] = set()  # settings that this server does not take
        self._client = _client(server, self._key)

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
                has = f"it has: {_listed(found)}" if found else "it names none"
                raise UsageError(f"{self.server.name}: name a model with `{self.server.stage}_model`; {has}")
            self._model = found[0]
        return self._model

    def models(self) -> list[str]:
        """The names of the server's models. Raises EndpointError if it does not say them."""
        call = _Call(self, "/models", None)
        raw = _one(call)
        listed = raw.get("data", raw.get("models")) if isinstance(raw, dict) else raw
        names = [one.get("id", one.get("name")) for one in listed or [] if isinstance(one, dict)]
        return [name for name in names if isinstance(name, str)]

    def check(self) -> None:
        """Raise EndpointError if nothing answers, or the key is refused, before any work is done."""
        with suppress(_NotFound):  # some servers have no list
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
        except _NotFound as error:
            raise NoCompletions(str(error)) from error

    def _write(self, path: str, body: dict[str, Any], on_text: OnText | None, stop: Stop | None) -> Reply:
        body = {"model": self.model, **body, "stream": True, "stream_options": {"include_usage": True}}
        call = _Call(self, path, body)
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


class _NotFound(EndpointError):
    """An address that the server does not have."""


class _Retry(Exception):
    """Ask again after `seconds` (None: the usual ones); `error` is what to raise if that is no use."""

    def __init__(self, error: EndpointError, seconds: float | None = None, most: int = 99) -> None:
        super().__init__(str(error))
        self.error, self.seconds, self.most = error, seconds, most


class _Without(Exception):
    """Ask again at once without a setting that the server does not take."""


@dataclass(slots=True)
class _Call:
    """One request, with its retries, on a thread of its own."""

    endpoint: Endpoint
    path: str
    body: dict[str, Any] | None
    _queue: SimpleQueue[tuple[str, Any]] = field(default_factory=SimpleQueue)
    _gone: threading.Event = field(default_factory=threading.Event)
    _socket: socket.socket | None = None
    _written: int = 0  # characters of text and thoughts

    def events(self, stop: Stop | None = None) -> Iterator[tuple[str, Any]]:
        """What comes: ("text" | "thought" | "usage" | "end" | "whole", value). None at all once `stop` says so."""
        worker = threading.Thread(target=self._work, daemon=True, name="endpoint")
        worker.start()
        try:
            while not (stop and stop()):
                try:
                    kind, value = self._queue.get(timeout=_POLL)
                except Empty:
                    continue
                if kind == "done":
                    return
                if kind == "error":
                    raise value
                if kind == "note":
                    self.endpoint._say(value)
                else:
                    yield kind, value
        finally:
            self._gone.set()
            self._hang_up()

    def _hang_up(self) -> None:
        """Let a worker that waits for the server know: it would wait for minutes."""
        if (held := self._socket) is not None:
            import socket

            with suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)

    def _work(self) -> None:
        try:
            self._attempts()
            self._queue.put(("done", None))
        except BaseException as error:  # the caller's thread raises it
            self._queue.put(("error", error))

    def _attempts(self) -> None:
        server, bases = self.endpoint.server, list(self.endpoint._bases)
        failed = 0
        while True:
            try:
                self._attempt(bases[0])
                self.endpoint._bases = bases[:1]
                return
            except _NotFound:
                if len(bases) < 2:
                    raise
                del bases[0]  # the same server, with or without /v1
            except _Without as setting:
                self._drop(str(setting))
            except _Retry as again:
                failed += 1
                if self._written or failed >= min(server.attempts, again.most):
                    raise again.error from again
                seconds = again.seconds
                if seconds is None:
                    seconds = min(0.5 * 2 ** (failed - 1), 8.0) * random.uniform(0.75, 1.25)
                if seconds >= 2:
                    self._queue.put(("note", f"{again.error}; asking again in {seconds:.0f} s"))
                if self._gone.wait(seconds):
                    return

    def _drop(self, setting: str) -> None:
        self.endpoint._refused.add(setting)
        off = setting == "repeat_penalty" and (self.body or {}).get(setting) == 1.0
        if not off and setting not in ("max_tokens", "stream", "stream_options"):
            self._queue.put(("note", f"{self.endpoint.server.name} takes no {setting}; it is left out"))

    def _payload(self) -> dict[str, Any] | None:
        """The body, without what the server refused."""
        if self.body is None:
            return None
        refused, body = self.endpoint._refused, dict(self.body)
        if "max_tokens" in refused and "max_tokens" in body:  # what newer models of OpenAI call it
            body["max_completion_tokens"] = body["max_tokens"]
        if "stream" in refused:
            body.pop("stream_options", None)
        return {name: value for name, value in body.items() if name not in refused}

    def _attempt(self, base: httpx2.URL) -> None:
        import httpx2

        server = self.endpoint.server
        url = base.copy_with(path=base.path.rstrip("/") + self.path)
        try:
            with self.endpoint._client.stream("GET" if self.body is None else "POST", url, json=self._payload()) as got:
                stream = got.extensions.get("network_stream")
                self._socket = stream.get_extra_info("socket") if stream is not None else None
                if self._gone.is_set():
                    return
                self._read(got)
        except httpx2.TimeoutException as error:
            if isinstance(error, httpx2.ConnectTimeout):
                raise _Retry(self._error("does not answer"), most=2) from error
            raise self._error(f"was silent for {server.timeout:g} s; `timeout` sets how long to wait") from error
        except httpx2.ConnectError as error:
            why = f"cannot be reached ({_short(str(error))}); is it running, and is this its address?"
            raise _Retry(self._error(why), most=3) from error
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            if self._gone.is_set():
                return
            raise _Retry(self._error(self._broken(_short(str(error)) or type(error).__name__))) from error
        finally:
            self._socket = None

    def _read(self, got: httpx2.Response) -> None:
        import httpx2

        kind = got.headers.get("content-type", "").partition(";")[0].strip().lower()
        if got.status_code != 200:
            got.read()
            raise self._refusal(got.status_code, _told(got.text, kind), got.headers)
        if kind == "text/event-stream":
            got.encoding = "utf-8"  # whatever the header says: the format has no other
            self._read_events(httpx2.EventSource(got, max_event_size=16 << 20))
            return
        try:
            raw = json.loads(got.read())
        except ValueError as error:
            what = f"answers with {kind or 'something'} that is no JSON; is this the address of its API?"
            raise self._error(what) from error
        self._error_within(raw)
        if self.body is None:
            self._queue.put(("whole", raw))
            return
        finish = self._chunk(raw)
        if not isinstance(raw, dict) or not raw.get("choices"):
            raise self._error("answers without `choices`; is this an OpenAI-compatible API?")
        self._end(finish or "stop")

    def _read_events(self, events: httpx2.EventSource) -> None:
        import httpx2

        finish, done = "", False
        try:
            for event in events:
                if self._gone.is_set():
                    return
                data = event.data.strip()
                if done := data == "[DONE]":
                    break
                if not data:
                    continue
                try:
                    raw = json.loads(data)
                except ValueError as error:
                    if event.event == "error":
                        raise self._error(self._broken(_short(data))) from error
                    raise self._error(f"sent what is no JSON: {_short(data, 80)}") from error
                self._error_within(raw, event=event.event)
                finish = self._chunk(raw) or finish
        except httpx2.TransportError:
            if not finish:
                raise
        if not finish and not done:
            raise _Retry(self._error(self._broken("the connection ended without an end of the answer")))
        self._end(finish or "stop")

    def _chunk(self, raw: Any) -> str:
        """Tell what a chunk, or a whole answer, holds; its finish_reason, "" if none."""
        if not isinstance(raw, dict):
            return ""
        if isinstance(raw.get("usage"), dict):
            self._queue.put(("usage", raw["usage"]))
        choices = raw.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        if choice.get("index") not in (None, 0):
            return ""
        said = choice.get("delta") or choice.get("message") or {}
        if not isinstance(said, dict):
            said = {}
        thought = said.get("reasoning_content") or said.get("reasoning") or ""
        content = said.get("content") or said.get("refusal") or choice.get("text") or ""
        text, inside = _split_parts(content)
        for kind, part in (("thought", (thought if isinstance(thought, str) else "") + inside), ("text", text)):
            if part:
                self._written += len(part)
                self._queue.put((kind, part))
        finish = choice.get("finish_reason")
        return finish if isinstance(finish, str) else ""

    def _end(self, finish: str) -> None:
        if finish == "content_filter":
            raise self._error("ended the answer by its content filter")
        if finish in ("tool_calls", "function_call"):
            raise self._error("wanted to call a tool instead of an answer; name a model that answers in text")
        if finish == "error":
            raise self._error(self._broken("it says no reason"))
        self._queue.put(("end", "length" if finish in ("length", "max_tokens") else "end"))

    def _error_within(self, raw: Any, event: str = "") -> None:
        """Raise what an error says that came with a status of 200, or in the middle of a stream."""
        if isinstance(raw, list) and len(raw) == 1:
            raw = raw[0]
        if not isinstance(raw, dict):
            return
        if raw.get("error") or raw.get("object") == "error" or event == "error":
            told = _told_json(raw)
            status = int(told.code) if told.code.isdigit() else 0
            if self._written:
                raise self._error(self._broken(told.message))
            raise self._refusal(status, told, {})

    def _refusal(self, status: int, told: _Told, headers: Mapping[str, str]) -> Exception:
        """What a refused request means: an error, or how to ask again."""
        server, stage = self.endpoint.server, self.endpoint.server.stage
        told = _Told(self._hidden(told.message), told.code, told.param)
        if told.code in ("context_length_exceeded", "exceed_context_size_error") or (
            status in (0, 400, 413, 422, 500) and _CONTEXT.search(told.message)
        ):
            return PromptTooLong(f"{server.name}: prompt and answer do not fit the context: {told.message}")
        if self.body is not None and (
            told.code == "model_not_found" or (status in (0, 400, 404, 422) and _NO_MODEL.search(told.message))
        ):
            return self._no_model()
        if status == 401:
            if self.endpoint._key:
                return self._error(f"refuses the key: {told.message or 'unauthorized'}")
            return self._error(f"wants a key: set MAL_API_KEY, or name its variable with `{stage}_key_env`")
        if status in (404, 405, 501):
            return _NotFound(
                f"{server.name} has no {self.path} ({status}: {told.message or 'not found'}); "
                "expected the base URL of an OpenAI-compatible API, such as http://localhost:11434/v1"
            )
        if 300 <= status < 400:
            return self._error(f"has moved to {headers.get('location', 'another address')}; name that one")
        if status in (0, 400, 422) and (setting := self._setting(told)):
            return _Without(setting)
        said = f"answers {status}: {told.message}" if status else f"reports an error: {told.message}"
        error = self._error(said)
        if status not in _AGAIN or told.code == "insufficient_quota" or headers.get("x-should-retry") == "false":
            return error
        seconds = _asked_wait(headers)
        if seconds is not None and seconds > _LONGEST_WAIT:
            return self._error(f"asks to come back in {seconds:,.0f} s ({status}: {told.message})")
        return _Retry(error, seconds)

    def _setting(self, told: _Told) -> str:
        """The setting that a server says it does not take, "" if it is something else."""
        if self.body is None:
            return ""
        optional = [name for name in self.body if name not in ("model", "messages", "prompt", *self.endpoint._refused)]
        if told.param in optional:
            return told.param
        words = set(re.findall(r"\w+", told.message))
        return next((name for name in sorted(optional, key=len, reverse=True) if name in words), "")

    def _no_model(self) -> EndpointError:
        server = self.endpoint.server
        try:
            found = self.endpoint.models()
        except MalError:
            found = []
        has = f"; it has: {_listed(found)}" if found else ""
        return self._error(f"has no model {self.endpoint._model!r}; name one with `{server.stage}_model`{has}")

    def _broken(self, why: str) -> str:
        after = f"after {self._written:,} characters" if self._written else "before the first word"
        return f"broke off {after}: {why or 'it says no reason'}"

    def _error(self, what: str) -> EndpointError:
        return EndpointError(f"{self.endpoint.server.name} {self._hidden(what)}")

    def _hidden(self, text: str) -> str:
        """A server's words without the key, which some repeat."""
        key = self.endpoint._key
        return text.replace(key, "[key]") if key else text


def _one(call: _Call) -> Any:
    """What a request for one document brings."""
    return next((value for kind, value in call.events() if kind == "whole"), None)


@dataclass(frozen=True, slots=True)
class _Told:
    """What a server says of an error."""

    message: str
    code: str = ""
    param: str = ""


def _told(text: str, kind: str) -> _Told:
    try:
        return _told_json(json.loads(text))
    except ValueError:
        title = re.search(r"<title>(.*?)</title>", text, re.DOTALL | re.IGNORECASE)
        return _Told(_short(title[1] if title else "" if "html" in kind else text))


def _told_json(raw: Any) -> _Told:
    """{"error": {...}}, {"error": "..."}, {"detail": ...} of FastAPI, {"message": ...}: each program has its own."""
    if isinstance(raw, list) and raw:
        raw = raw[0]
    if not isinstance(raw, dict):
        return _Told(_short(str(raw)))
    error = raw.get("error") or raw.get("detail") or raw
    if isinstance(error, list) and error:  # FastAPI names each field that it did not like
        first = error[0] if isinstance(error[0], dict) else {"msg": error[0]}
        place = first.get("loc")
        param = str(place[-1]) if isinstance(place, list) and place else ""
        return _Told(_short(f"{param}: {first.get('msg', '')}"), "", param)
    if not isinstance(error, dict):
        return _Told(_short(str(error)))
    names = [str(error[name]) for name in ("code", "type", "status_code") if error.get(name) is not None]
    told = [name for name in names if name in _CODES] + [name for name in names if name.isdigit()] + names
    code = told[0] if told else ""
    message = error.get("message") or error.get("msg") or error.get("detail") or ", ".join(names)
    return _Told(_short(str(message)), code, str(error.get("param") or ""))


_CODES = ("context_length_exceeded", "exceed_context_size_error", "model_not_found", "insufficient_quota")


def _split_parts(content: Any) -> tuple[str, str]:
    """The text and the thoughts of a content: a string, or parts."""
    if isinstance(content, str):
        return content, ""
    text, thoughts = "", ""
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            text += part
        elif isinstance(part, dict):
            if "thinking" in part or part.get("type") in ("thinking", "reasoning"):
                inner = _split_parts(part.get("thinking", part.get("text", "")))
                thoughts += inner[0] + inner[1]
            elif isinstance(said := part.get("text", part.get("refusal")), str):
                text += said
    return text, thoughts


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks to wait: a number, or a date as HTTP writes it."""
    if milliseconds := headers.get("retry-after-ms"):
        with suppress(ValueError):
            return max(0.0, float(milliseconds) / 1000)
    asked = headers.get("retry-after", "").strip()
    if not asked:
        return None
    with suppress(ValueError):
        return max(0.0, float(asked))
    try:
        date = parsedate_to_datetime(asked)
    except (ValueError, TypeError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def _bases(server: Server) -> list[httpx2.URL]:
    """The addresses to try in turn: what was named, and the same with /v1 (first, where no path was named)."""
    import httpx2

    try:
        url = httpx2.URL(server.url)
    except httpx2.InvalidURL as error:
        raise UsageError(f"{server.name} is no URL: {error}") from error
    if not url.host:
        raise UsageError(f"{server.url} names no host; expected a URL such as http://localhost:11434/v1")
    path = re.sub(r"(/chat/completions|/completions|/models|/responses)?/*$", "", url.path)
    named = (
        url.copy_with(path=path or "/", username=None, password=None)
        if url.userinfo
        else url.copy_with(path=path or "/")
    )
    versioned = url.copy_with(path=f"{path}/v1")
    if re.search(r"/v\d\w*(/|$)", path):
        return [named]
    return [named, versioned] if path else [versioned, named]


def _key(server: Server) -> str:
    """The server's key, "" if it has none. That of OpenAI goes to OpenAI alone, unless it is named."""
    names = [server.key_env] if server.key_env else ["MAL_API_KEY"]
    if not server.key_env and (server.host == "openai.com" or server.host.endswith(".openai.com")):
        names.append("OPENAI_API_KEY")
    name, key = next(((name, os.environ[name].strip()) for name in names if os.environ.get(name, "").strip()), ("", ""))
    if server.key_env and not key:
        raise UsageError(f"`{server.stage}_key_env` {server.key_env}: no such environment variable is set")
    if not key.isascii() or any(c.isspace() or not c.isprintable() for c in key):
        raise UsageError(f"the environment variable {name} holds no key: a key is one word of ASCII characters")
    return key


def _client(server: Server, key: str) -> httpx2.Client:
    import httpx2

    is_plain = urlsplit(server.url).scheme.lower() == "http"
    headers = {"Accept": "text/event-stream, application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    try:
        return httpx2.Client(
            headers=headers,
            timeout=httpx2.Timeout(server.timeout, connect=_CONNECT),
            trust_env=not _is_loopback(server.host),  # no proxy leads to this machine
            verify=not (_is_loopback(server.host) and is_plain),  # what is never used need not be loaded
        )
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        raise UsageError(f"the proxy that the environment names cannot be used: {_short(str(error))}") from error


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _short(text: str, most: int = 300) -> str:
    """A server's words on one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


@dataclass(slots=True)
class Listener:
    """Watches a text as it comes from a server: thoughts are withheld, loops are cut, as an engine does.

    `most` is a limit in characters, 0 for none.
    """

    on_text: OnText | None = None
    most: int = 0
    ended: str = ""  # why the text is to end here: "loop", "length"
    _text: str = ""
    _shown: int = 0
    _guard: LoopGuard = field(default_factory=LoopGuard)
    _filter: ThoughtFilter = field(init=False)

    def __post_init__(self) -> None:
        self._filter = ThoughtFilter(self.on_text)

    def feed(self, part: str) -> None:
        """Take the next part."""
        if self.ended:
            return
        self._text += part
        if (keep := self._guard.add(part)) is not None:
            self._text, self.ended = self._text[:keep].rstrip(), "loop"
        elif self.most and len(self._text) > self.most:
            self._text, self.ended = self._text[: self.most], "length"
        self._show(len(self._text) if self.ended else self._guard.safe)

    def generation(self, reply: Reply) -> Generation:
        """What the server wrote, as a generation of its own; call it once, at the end."""
        finish = self.ended or reply.finish
        if finish == "end" and (keep := self._guard.doubled()) is not None:
            self._text, finish = self._text[:keep].rstrip(), "loop"
        self._show(len(self._text))
        self._filter.close()
        return Generation(self._text, (), finish, reply.counts)

    def _show(self, end: int) -> None:
        if end > self._shown:
            self._filter.feed(self._text[self._shown : end])
            self._shown = end
