"""One request to a server, with its retries: what comes of it, event by event."""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from ..errors import EndpointError, MalError, PromptTooLong
from ..generation import Stop
from .complaints import Complaint, asked_wait, complaint_in, complaint_of, listed, short

if TYPE_CHECKING:
    import socket

    import httpx2

    from .client import Endpoint

_POLL = 0.05  # seconds between two questions whether to stop
_LONGEST_WAIT = 60.0  # seconds that a server may ask to wait; who asks for more is not waited for
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})  # a later attempt may succeed

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


class NotFound(EndpointError):
    """An address that the server does not have."""


class Retry(Exception):
    """Ask again after `seconds` (None: the usual ones); `error` is what to raise if that is no use."""

    def __init__(self, error: EndpointError, seconds: float | None = None, most: int = 99) -> None:
        super().__init__(str(error))
        self.error, self.seconds, self.most = error, seconds, most


class Without(Exception):
    """Ask again at once without a setting that the server does not take."""


@dataclass(slots=True)
class Call:
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
            except NotFound:
                if len(bases) < 2:
                    raise
                del bases[0]  # the same server, with or without /v1
            except Without as setting:
                self._drop(str(setting))
            except Retry as again:
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
                raise Retry(self._error("does not answer"), most=2) from error
            raise self._error(f"was silent for {server.timeout:g} s; `timeout` sets how long to wait") from error
        except httpx2.ConnectError as error:
            why = f"cannot be reached ({short(str(error))}); is it running, and is this its address?"
            raise Retry(self._error(why), most=3) from error
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            if self._gone.is_set():
                return
            raise Retry(self._error(self._broken(short(str(error)) or type(error).__name__))) from error
        finally:
            self._socket = None

    def _read(self, got: httpx2.Response) -> None:
        import httpx2

        kind = got.headers.get("content-type", "").partition(";")[0].strip().lower()
        if got.status_code != 200:
            got.read()
            raise self._refusal(got.status_code, complaint_of(got.text, kind), got.headers)
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
                        raise self._error(self._broken(short(data))) from error
                    raise self._error(f"sent what is no JSON: {short(data, 80)}") from error
                self._error_within(raw, event=event.event)
                finish = self._chunk(raw) or finish
        except httpx2.TransportError:
            if not finish:
                raise
        if not finish and not done:
            raise Retry(self._error(self._broken("the connection ended without an end of the answer")))
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
            told = complaint_in(raw)
            status = int(told.code) if told.code.isdigit() else 0
            if self._written:
                raise self._error(self._broken(told.message))
            raise self._refusal(status, told, {})

    def _refusal(self, status: int, told: Complaint, headers: Mapping[str, str]) -> Exception:
        """What a refused request means: an error, or how to ask again."""
        server, stage = self.endpoint.server, self.endpoint.server.stage
        told = Complaint(self._hidden(told.message), told.code, told.param)
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
            return NotFound(
                f"{server.name} has no {self.path} ({status}: {told.message or 'not found'}); "
                "expected the base URL of an OpenAI-compatible API, such as http://localhost:11434/v1"
            )
        if 300 <= status < 400:
            return self._error(f"has moved to {headers.get('location', 'another address')}; name that one")
        if status in (0, 400, 422) and (setting := self._setting(told)):
            return Without(setting)
        said = f"answers {status}: {told.message}" if status else f"reports an error: {told.message}"
        error = self._error(said)
        if status not in _AGAIN or told.code == "insufficient_quota" or headers.get("x-should-retry") == "false":
            return error
        seconds = asked_wait(headers)
        if seconds is not None and seconds > _LONGEST_WAIT:
            return self._error(f"asks to come back in {seconds:,.0f} s ({status}: {told.message})")
        return Retry(error, seconds)

    def _setting(self, told: Complaint) -> str:
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
        has = f"; it has: {listed(found)}" if found else ""
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


def one(call: Call) -> Any:
    """What a request for one document brings."""
    return next((value for kind, value in call.events() if kind == "whole"), None)
