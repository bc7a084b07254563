"""The server itself: uvicorn, with an end that lets requests end, and no patience for connections that ask nothing."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import UsageError
from .worker import Workers

_PATIENCE = 30.0  # seconds for a whole request's head
_BACKLOG = 512


class _Protocol(H11Protocol):
    """HTTP that closes a connection on which no request is under way for too long.

    uvicorn waits for the first byte of a request, and for the rest of its head, for ever.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to look after it."""
        super().connection_made(transport)
        self._served: Any = None
        self._look = self.loop.call_later(_PATIENCE, self._look_after)

    def connection_lost(self, exc: Exception | None) -> None:
        """Look after it no more."""
        self._look.cancel()
        super().connection_lost(exc)

    def _look_after(self) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.cycle is self._served and not self.transport.is_closing():
            self.transport.close()
            return
        self._served = self.cycle if idle else None
        self._look = self.loop.call_later(_PATIENCE, self._look_after)


class Server(uvicorn.Server):
    """Serves an application until it is told to end; then requests have `grace` seconds to end, or are told.

    `ready` is called once it listens.
    """

    def __init__(
        self,
        app: Starlette,
        listener: socket.socket,
        workers: Workers,
        *,
        grace: float = 30.0,
        ready: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=60,
            timeout_graceful_shutdown=int(grace) + 15,
        )
        super().__init__(config)
        self._listener, self._workers, self._grace, self._ready, self._say = listener, workers, grace, ready, say
        self._ending: threading.Thread | None = None

    def serve_forever(self) -> None:
        """Serve; returns when everything has ended."""
        try:
            self.run(sockets=[self._listener])
        finally:
            self._end(0.0)
            if self._ending:
                self._ending.join()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal: the first lets what is in flight end, the second does not."""
        if self._ending:
            self._workers.hurry()
        elif left := self._workers.running + self._workers.waiting:
            self._say(f"shutting down; {left} requests have {self._grace:g} s to end")
        self._end(self._grace)
        self.should_exit = True

    def _end(self, grace: float) -> None:
        if self._ending is None:
            self._ending = threading.Thread(target=self._workers.close, args=(grace,), name="ending")
            self._ending.start()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises UsageError if the address is taken, or none of this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}: {error.strerror or error}") from error
    try:
        if sys.platform != "win32":  # there it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; name another with `port`"
        ) from error
    return listener
