"""The routes: requests in, what the workers make of them out, whole or as a stream.

Everything slow happens on the workers' threads. Here each request has a mailbox, which they fill without ever waiting:
a client that reads slowly holds up nobody but itself.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..errors import MalError
from ..objectives import Objective
from ..output import printable
from . import answers
from .metrics import Metrics
from .openapi import description
from .protocol import Defaults, Order, Refused, chat_order, completion_order, refused
from .safety import PAGE_HEADERS, Door, Guard, answered
from .worker import Job, Result, Workers


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may cost: bytes of a body, seconds for sending it, seconds for which it may read nothing.

    `keep_alive` are the seconds after which a stream without text gets a comment.
    """

    body: int = 4_000_000
    sending: float = 30.0
    reading: float = 120.0
    keep_alive: float = 5.0


@dataclass(slots=True)
class Service:
    """What the routes know."""

    workers: Workers
    defaults: Defaults
    door: Door = field(default_factory=Door)
    limits: Limits = field(default_factory=Limits)
    known: Mapping[str, str] = field(default_factory=dict)  # what the aligner was trained on
    names: tuple[str, str] = ("", "")  # of the policy's model and the aligner's
    metrics: Metrics | None = None
    log: Callable[[str], None] | None = None
    log_texts: bool = False
    started: int = field(default_factory=lambda: int(time.time()))


def application(service: Service) -> Starlette:
    """The ASGI application."""
    routes = Routes(service)
    table: list[tuple[str, Any, str]] = [
        ("/", routes.page, "GET"),
        ("/health", routes.health, "GET"),
        ("/openapi.json", routes.openapi, "GET"),
        ("/v1/models", routes.models, "GET"),
        ("/v1/models/{name:path}", routes.model, "GET"),
        ("/v1/objectives", routes.objectives, "GET"),
        ("/v1/chat/completions", routes.chat, "POST"),
        ("/v1/completions", routes.completions, "POST"),
    ]
    if service.metrics:
        table.append(("/metrics", routes.metrics, "GET"))
    middleware = [Middleware(Guard, door=service.door)]
    if origins := service.door.origins:
        middleware.append(
            Middleware(
                CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"], max_age=600
            )
        )
    return Starlette(
        routes=[Route(path, route, methods=[method]) for path, route, method in table],
        middleware=middleware,
        exception_handlers={
            Refused: _refusal,
            HTTPException: _missing,
            ClientDisconnect: _gone,
            Exception: _failure,
        },
    )


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return answered(error)


async def _missing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {404: f"there is nothing at {request.url.path}", 405: f"{request.method} is not possible here"}
    told = Refused(error.status_code, said.get(error.status_code, error.detail))
    told.headers |= dict(error.headers or {})
    return answered(told)


async def _failure(_: Request, error: Exception) -> Response:
    return answered(Refused(500, f"the server failed: {type(error).__name__}"))


async def _gone(_: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


class Mailbox:
    """What the workers tell of one request, until it is fetched. `put` is called from any thread and never waits."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._told: deque[tuple[str, Any]] = deque()
        self._some = asyncio.Event()
        # One ring until it is fetched: waking the loop for each token took a tenth of the engines' time.
        self._rung = False

    def put(self, kind: str, value: Any) -> None:
        """Add a message."""
        self._told.append((kind, value))
        if self._rung:
            return
        self._rung = True
        with suppress(RuntimeError):  # the loop has ended: nobody waits
            self._loop.call_soon_threadsafe(self._some.set)

    async def fetch(self, seconds: float | None = None) -> list[tuple[str, Any]]:
        """All messages, as soon as there are any, neighbouring texts joined; none after so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._some.wait()
        self._some.clear()
        self._rung = False  # before the messages are taken: what comes later rings again
        found: list[tuple[str, Any]] = []
        while self._told:
            kind, value = self._told.popleft()
            if found and found[-1][0] == kind and isinstance(value, str):
                found[-1] = kind, found[-1][1] + value
            else:
                found.append((kind, value))
        return found


class Routes:
    """One method per route."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._page = (files(__package__) / "page.html").read_bytes()

    async def page(self, request: Request) -> Response:
        """The page to look at it."""
        return Response(self._page, media_type="text/html", headers=PAGE_HEADERS)

    async def health(self, request: Request) -> Response:
        """Whether it works: ready, busy or stuck."""
        workers = self.service.workers
        state = workers.state
        told = {"status": state, "running": workers.running, "waiting": workers.waiting}
        return JSONResponse(told, 503 if state == "stuck" else 200)

    async def openapi(self, request: Request) -> Response:
        """The description of all this."""
        return JSONResponse(description(metrics=self.service.metrics is not None))

    async def models(self, request: Request) -> Response:
        """The models by name."""
        return JSONResponse({"object": "list", "data": [self._model(name) for name in self.service.defaults.sets.ids]})

    async def model(self, request: Request) -> Response:
        """One model."""
        name = request.path_params["name"]
        if not self.service.defaults.sets.find(name, self.service.defaults.catalogue):
            raise Refused(404, f"there is no model {name!r}", param="model", code="model_not_found")
        return JSONResponse(self._model(name))

    def _model(self, name: str) -> dict[str, Any]:
        found = self.service.defaults.sets.find(name, self.service.defaults.catalogue)
        policy, aligner = self.service.names
        about = {"policy": policy, "objectives": [one.name for one in found.objectives] if found else []}
        if found and found.objectives:
            about["aligner"] = aligner
        return {
            "id": name,
            "object": "model",
            "created": self.service.started,
            "owned_by": "metaaligner-lite",
            "metaaligner": about,
        }

    async def objectives(self, request: Request) -> Response:
        """What an answer may be edited toward."""
        return JSONResponse({"data": [self._objective(one) for one in self.service.defaults.catalogue.values()]})

    def _objective(self, one: Objective) -> dict[str, Any]:
        known = self.service.known.get(one.name) == one.description
        return {"name": one.name, "description": one.description, "known": known}

    async def metrics(self, request: Request) -> Response:
        """What Prometheus reads."""
        assert self.service.metrics
        return Response(self.service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        return await self._answer(request, chat_order)

    async def completions(self, request: Request) -> Response:
        """Go on with a text."""
        return await self._answer(request, completion_order)

    async def _answer(self, request: Request, read: Callable[[bytes, Defaults, str], Order]) -> Response:
        begun = time.monotonic()
        body = await self._body(request)
        client = request.client.host if request.client else ""
        order = await _aside(len(body), lambda: read(body, self.service.defaults, client))
        await _aside(len(body), lambda: self._check(order))
        mailbox = Mailbox()
        job = self.service.workers.submit(order, mailbox.put)
        watch = asyncio.create_task(_hung_up(request.receive))
        try:
            if order.stream:
                first = await self._until_said(mailbox, watch)
                return _Stream(self, job, mailbox, watch, first, begun)
            said = await self._until_ended(mailbox, watch)
        except BaseException:
            self.service.workers.cancel(job)
            watch.cancel()
            raise
        watch.cancel()
        self.tell(job, said, begun)
        if isinstance(said, Refused):
            raise said
        return JSONResponse(answers.whole(order, said))

    def _check(self, order: Order) -> None:
        try:
            self.service.workers.check(order)
        except MalError as error:
            raise refused(error) from error

    async def _body(self, request: Request) -> bytes:
        most = self.service.limits.body
        too_large = Refused(413, f"the body is larger than {most:,} bytes", code="body_too_large")
        if (length := request.headers.get("content-length", "")).isdigit() and int(length) > most:
            raise too_large
        kind = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
        if kind != "application/json":  # what a web page's form can send without asking is none
            raise Refused(415, f"the body must be application/json, not {kind[:100]!r}")
        body = bytearray()
        try:
            async with asyncio.timeout(self.service.limits.sending):
                async for part in request.stream():
                    body += part
                    if len(body) > most:
                        raise too_large
        except TimeoutError:
            raise Refused(408, f"the body did not come within {self.service.limits.sending:g} s") from None
        return bytes(body)

    async def _until_said(self, mailbox: Mailbox, watch: asyncio.Task[None]) -> list[tuple[str, Any]]:
        """The first that is told, or nothing once a client should hear that it is waited for. Raises Refused."""
        fetch = asyncio.create_task(mailbox.fetch(self.service.limits.keep_alive))
        await asyncio.wait({watch, fetch}, return_when=asyncio.FIRST_COMPLETED)
        if not fetch.done():
            fetch.cancel()
            raise ClientDisconnect
        if (first := fetch.result()) and first[0][0] == "error":
            raise first[0][1]
        return first

    async def _until_ended(self, mailbox: Mailbox, watch: asyncio.Task[None]) -> Result | Refused:
        async def ended() -> Result | Refused:
            while True:
                for kind, value in await mailbox.fetch():
                    if kind in ("done", "error"):
                        found: Result | Refused = value
                        return found

        end = asyncio.create_task(ended())
        await asyncio.wait({watch, end}, return_when=asyncio.FIRST_COMPLETED)
        if not end.done():
            end.cancel()
            raise ClientDisconnect
        return end.result()

    def tell(self, job: Job, said: Result | Refused | None, begun: float) -> None:
        """A line for the log."""
        if not (log := self.service.log):
            return
        order = job.order
        outcome = "hung up" if said is None else f"{said.status} {said}" if isinstance(said, Refused) else "200"
        line = f"{order.model}: {outcome}, {time.monotonic() - begun:.2f} s"
        if isinstance(said, Result):
            used = answers.usage(said)
            line += f", {used['prompt_tokens']} + {used['completion_tokens']} tokens"
            if said.failure:
                line += f", the correction failed: {said.failure}"
        log(printable(line))
        if isinstance(said, Refused) and said.__cause__ and said.status == 500:
            log(printable(repr(said.__cause__)))
        if self.service.log_texts:
            texts = {"query": order.query}
            if isinstance(said, Result):
                texts |= {"policy": said.answer.text, "text": said.text}
            log(json.dumps(texts, ensure_ascii=False))


class _Stream(Response):
    """A stream of events that ends its work when the client hangs up, or reads nothing for too long."""

    def __init__(
        self,
        routes: Routes,
        job: Job,
        mailbox: Mailbox,
        watch: asyncio.Task[None],
        first: list[tuple[str, Any]],
        begun: float,
    ) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self.headers.update({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._routes, self._job, self._mailbox, self._watch = routes, job, mailbox, watch
        self._first, self._begun = first, begun

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        said: Result | Refused | None = None
        sending = asyncio.create_task(self._send(send))
        try:
            await asyncio.wait({self._watch, sending}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                said = sending.result()
        finally:
            self._routes.service.workers.cancel(self._job)  # nothing, if it has ended
            self._watch.cancel()
            sending.cancel()
            self._routes.tell(self._job, said, self._begun)

    async def _send(self, send: Send) -> Result | Refused | None:
        limits = self._routes.service.limits
        chunks = answers.Chunks(self._job.order)
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        told, heard = self._first, 0.0
        try:
            while True:
                parts: list[bytes] = []
                end: Result | Refused | None = None
                for kind, value in told:
                    if kind == "done":
                        parts += chunks.end(value)
                        end = value
                    elif kind == "error":
                        parts += chunks.failed(value)
                        end = value
                    else:
                        parts += chunks.text(kind, value)
                if not parts and time.monotonic() - heard >= limits.keep_alive:
                    parts = [answers.KEEP_ALIVE]
                if parts:
                    heard = time.monotonic()
                    async with asyncio.timeout(limits.reading):
                        body = {"type": "http.response.body", "body": b"".join(parts), "more_body": end is None}
                        await send(body)
                if end is not None:
                    return end
                told = await self._mailbox.fetch(limits.keep_alive)
        except TimeoutError:
            return None


async def _hung_up(receive: Receive) -> None:
    """Ends when the client has."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _aside(size: int, work: Callable[[], Any]) -> Any:
    """Do small work at once, and large work where it holds up nobody."""
    return work() if size < 20_000 else await asyncio.to_thread(work)
