"""What the page's tests stand on: a server that answers as scripted in the wire format, and a headless Chromium.

The server is the standard library's: what the real one does is tested with the real one.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

PAGE = Path(__file__).parent.parent / "metaaligner_lite" / "serve" / "page.html"
OBJECTIVES = [
    {"name": "empathy", "description": "The response should show understanding of the user's feelings.", "known": True},
    {"name": "clarity", "description": "The response should be easy to follow.", "known": True},
    {"name": "brevity", "description": "The response should be short.", "known": True},
    {"name": "politeness", "description": "The response should be polite and courteous.", "known": True},
    {"name": "safe for children", "description": "The response should be fit for a child of eight.", "known": True},
]
# A step of an answer: a chunk or an error as JSON, raw text, seconds to wait, or an event to wait for.
Step = dict[str, Any] | str | float | threading.Event

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = (
    "needs Chromium and its driver: `apt-get install chromium chromium-driver`, or Chrome with chromedriver on PATH"
)


def policy(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"reasoning_content": text}, "finish_reason": None}]}


def aligned(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


def finish(policy_text: str, objectives: list[str], **told: Any) -> dict[str, Any]:
    stages = {
        "policy": {"read": 41, "reused": 12, "written": 38, "copied": 0, "seconds": 1.94},
        "edit": {"read": 96, "reused": 33, "written": 47, "copied": 29, "seconds": 0.82},
    }
    meta = {"objectives": objectives, "policy_text": policy_text, "aligned": True, "failure": "", "preference": None}
    return {
        "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
        "metaaligner": {**meta, "stages": stages, **told},
    }


def answer(before: str, after: str, objectives: list[str], **told: Any) -> list[Step]:
    """A whole answer, word by word, with a comment that keeps the line alive in between."""
    words = [policy(word) for word in before.split(" ")[:1]] + [policy(" " + word) for word in before.split(" ")[1:]]
    edited = [aligned(word) for word in after.split(" ")[:1]] + [aligned(" " + word) for word in after.split(" ")[1:]]
    return [*words, ": keep-alive\n\n", *edited, finish(before, objectives, **told), "data: [DONE]\n\n"]


def names(body: dict[str, Any]) -> list[str]:
    """The objectives that a request names."""
    given = body["metaaligner"].get("objectives") or ["empathy"]
    return [one if isinstance(one, str) else one["name"] for one in given]


@dataclass
class StandIn:
    """A running server: what it was asked, and how it answers."""

    reply: Callable[[dict[str, Any]], list[Step]]
    key: str = ""
    busy: int = 0  # how many requests are told to come again
    asked: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)  # a client went in the middle of an answer
    url: str = ""

    def start_over(self, reply: Callable[[dict[str, Any]], list[Step]]) -> None:
        """Forgets what it was asked and told, for the next test."""
        self.reply, self.key, self.busy = reply, "", 0
        self.asked, self.paths, self.left = [], [], threading.Event()


class _Handler(BaseHTTPRequestHandler):
    stand: StandIn

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.stand.paths.append(self.path)
        if self.path == "/":
            self._send(200, PAGE.read_bytes(), "text/html; charset=utf-8")
        elif self.path == "/blank":
            self._send(200, b"<!doctype html><title>blank</title>", "text/html")
        elif self.path.startswith("/v1/") and self._refused():
            return
        elif self.path == "/v1/objectives":
            self._json(200, {"data": OBJECTIVES})
        elif self.path == "/v1/models":
            self._json(200, {"data": [{"id": "aligned"}, {"id": "policy"}]})
        else:
            self._json(404, {"error": {"message": "no such page", "type": "invalid_request_error"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._refused():
            return
        if self.stand.busy > 0:
            self.stand.busy -= 1
            self._json(
                429, {"error": {"message": "the queue is full", "type": "rate_limit_error"}}, {"Retry-After": "1"}
            )
            return
        self.stand.asked.append(body)
        steps = self.stand.reply(body)
        if steps and isinstance(steps[0], dict) and "status" in steps[0]:
            self._json(steps[0]["status"], {"error": steps[0]["error"]})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            for step in steps:
                self._step(step)
        except OSError:
            self.stand.left.set()

    def _step(self, step: Step) -> None:
        if isinstance(step, float):
            time.sleep(step)
        elif isinstance(step, threading.Event):
            while not step.wait(0.05):  # a comment now and then finds out whether the client is still there
                self.wfile.write(b": keep-alive\n\n")
                self.wfile.flush()
        else:
            text = step if isinstance(step, str) else f"data: {json.dumps(step)}\n\n"
            self.wfile.write(text.encode())
            self.wfile.flush()

    def _refused(self) -> bool:
        if not self.stand.key or self.headers.get("Authorization") == f"Bearer {self.stand.key}":
            return False
        self._json(401, {"error": {"message": "wrong key", "type": "authentication_error", "code": "invalid_api_key"}})
        return True

    def _json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), "application/json", headers)

    def _send(self, status: int, data: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving(reply: Callable[[dict[str, Any]], list[Step]]) -> Iterator[StandIn]:
    """A stand-in server on a free port of this machine."""
    stand = StandIn(reply)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"stand": stand}))
    server.daemon_threads = True
    stand.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield stand
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def browser_found() -> bool:
    return bool(_browser() and shutil.which("chromedriver"))


def _browser() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def open_browser(folder: Path) -> Chrome:
    """A headless Chromium with an empty profile and nothing to say to the world; downloads go to `folder`."""
    options = ChromeOptions()
    options.binary_location = _browser() or ""
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
        *("disable-component-update", "disable-sync", "disable-dev-shm-usage", "hide-scrollbars", "lang=en-US"),
        *("force-prefers-reduced-motion", "disable-extensions", "renderer-process-limit=1"),
        f"user-data-dir={folder / 'profile'}",
    ):
        options.add_argument(f"--{flag}")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return Chrome(options=options, service=Service(executable_path=shutil.which("chromedriver")))
