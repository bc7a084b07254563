"""Who may reach the server: its own page and programs on this machine, and whom its owner named.

A web page elsewhere can make a browser send requests here. It cannot hide its Origin, nor take a name of ours for its
Host: a name that its own DNS points here (rebinding) is none of those allowed. Numbers cannot be rebound.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from .protocol import Refused

_WITHOUT_KEY = ("/", "/health")  # the page asks for the key; a watchdog need not know it


@dataclass(frozen=True, slots=True)
class Door:
    """What is let in. `hosts` are further names of this server, `origins` web pages elsewhere ("*": all), `key` what
    every client must know ("": none)."""

    key: str = field(default="", repr=False)
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    def refuses(self, method: str, path: str, headers: Headers) -> Refused | None:
        """Why a request is not let in, None if it is."""
        host = headers.get("host", "")
        if not self._knows(host):
            return Refused(
                403,
                f"the server does not answer to the name {_shown(host)}; --allow-host adds it",
                kind="permission_error",
                code="host_not_allowed",
            )
        if not self._own(method, host, headers):
            origin = headers.get("origin", "another site")
            return Refused(
                403,
                f"web pages of {_shown(origin)} may not use this server; --allow-origin lets them",
                kind="permission_error",
                code="origin_not_allowed",
            )
        if self.key and path not in _WITHOUT_KEY and method != "OPTIONS" and not self._opens(headers):
            wrong = Refused(
                401,
                "this server wants its API key: Authorization: Bearer KEY",
                kind="authentication_error",
                code="invalid_api_key",
            )
            wrong.headers["WWW-Authenticate"] = "Bearer"
            return wrong
        return None

    def _knows(self, host: str) -> bool:
        name = host_name(host)
        if name in ("localhost", *(allowed.lower() for allowed in self.hosts)) or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _own(self, method: str, host: str, headers: Headers) -> bool:
        """Whether a request is of a program, of the server's own page, or of a page that is allowed."""
        if (origin := headers.get("origin")) is not None:
            return "*" in self.origins or origin in self.origins or urlsplit(origin).netloc == host
        site = headers.get("sec-fetch-site", "none")
        if site in ("none", "same-origin"):
            return True
        # A link elsewhere may lead here: the page opens, and nothing of it can be read there.
        return method == "GET" and headers.get("sec-fetch-mode") == "navigate"

    def _opens(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        return hmac.compare_digest(given.encode(), self.key.encode())


def host_name(host: str) -> str:
    """The name in a Host header, without the port."""
    found = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::\d*)?|([^:\[\]/@\s]+)(?::\d*)?", host.strip())
    return (found[1] or found[2]).lower().rstrip(".") if found else ""


def loopback(address: str) -> bool:
    """Whether an address that is to be listened on can be reached from this machine alone."""
    if address.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


class Guard:
    """Lets a request pass to the app, or answers it with the refusal."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app, self.door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Speak ASGI."""
        if scope["type"] == "http":
            refusal = self.door.refuses(scope["method"], scope["path"], Headers(scope=scope))
            if refusal:
                await answered(refusal)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def answered(error: Refused) -> Response:
    """The response that tells of an error."""
    return JSONResponse(error.body, error.status, headers=error.headers)


def _shown(text: str) -> str:
    return repr(text[:100])


# What a browser is told of the page: it may load nothing from elsewhere, and stand in nobody's frame.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; connect-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
