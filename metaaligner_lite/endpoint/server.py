"""A server as a user names it, and what follows from that: addresses to try, its key, how it is connected to."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..errors import UsageError
from .complaints import short

if TYPE_CHECKING:
    import httpx2

_CONNECT = 10.0  # seconds


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


def bases_of(server: Server) -> list[httpx2.URL]:
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


def key_of(server: Server) -> str:
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


def client_of(server: Server, key: str) -> httpx2.Client:
    """The connections to a server. Raises UsageError for a proxy that cannot be."""
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
        raise UsageError(f"the proxy that the environment names cannot be used: {short(str(error))}") from error


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified
