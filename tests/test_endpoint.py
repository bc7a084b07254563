"""Policies and aligners on servers: a scripted one that does what real ones do wrong, and llama-cpp-python's own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import tiny

pytest.importorskip("httpx2")

from metaaligner_lite import (
    Choice,
    Endpoint,
    EndpointAligner,
    EndpointPolicy,
    GgufAligner,
    GgufPolicy,
    GivenAnswer,
    Message,
    PromptTooLong,
    Server,
    align,
    open_engine,
    open_pair,
)
from metaaligner_lite.errors import EndpointError, MalError, UsageError
from metaaligner_lite.gate import Gate
from metaaligner_lite.models import BASE, shipped_objectives
from metaaligner_lite.objectives import resolve
from metaaligner_lite.pieces import text_of
from metaaligner_lite.prompts import chat_prompt, edit_messages, edit_prompt
from metaaligner_lite.templates import ChatTemplate

SSE = "text/event-stream"
PING = ": ping\n\n"
KEY = "sk-a-key-that-nobody-may-see"


class Scripted(BaseHTTPRequestHandler):
    """Sends prepared replies in turn, the last one again and again: (status, headers, parts of the body)."""

    protocol_version = "HTTP/1.1"
    replies: list
    asked: list
    models = ("tiny",)
    adapters = None
    prefix = "/v1"

    def do_GET(self):
        self.asked.append((self.path, None, dict(self.headers)))
        if self.path.split("?")[0] == f"{self.prefix}/models" and self.models is not None:
            self.send(200, {}, [json.dumps({"data": [{"id": name} for name in self.models]})])
        elif self.path == "/lora-adapters" and self.adapters is not None:
            self.send(200, {}, [self.adapters])
        else:
            self.send(404, {}, ['{"detail":"Not Found"}'])

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body, dict(self.headers)))
        path = self.path.split("?")[0]
        paths = (f"{self.prefix}/chat/completions", f"{self.prefix}/completions")
        if not path.startswith("http") and path not in paths:  # a proxy is sent whole addresses
            self.send(404, {}, ['{"detail":"Not Found"}'])
            return
        self.send(*(self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]))

    def send(self, status, headers, parts):
        headers = {"Content-Type": "application/json", **headers}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            for part in parts:
                if isinstance(part, float):
                    time.sleep(part)
                    continue
                self.wfile.write(part if isinstance(part, bytes) else part.encode())
                self.wfile.flush()
        except OSError:
            self.asked.append(("hung up", None, {}))
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch) -> Iterator:
    """Start a scripted server; gives its address and what it was asked."""
    for name in [*os.environ]:
        if name.lower().endswith("_proxy") or name in ("OPENAI_API_KEY",):
            monkeypatch.delenv(name)
    servers = []

    def start(*replies, **settings):
        handler = type("Bound", (Scripted,), {"replies": list(replies), "asked": [], **settings})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", handler.asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def delta(text=None, finish=None, **more):
    said = ({"content": text} if text is not None else {}) | more
    return {"choices": [{"index": 0, "delta": said, "finish_reason": finish}]}


def events(*chunks, done=True, line="data: {}\n\n"):
    told = [line.format(json.dumps(chunk)) for chunk in chunks]
    return (200, {"Content-Type": SSE}, [*told, "data: [DONE]\n\n"] if done else told)


def whole(message, finish="stop"):
    return (200, {}, [json.dumps({"choices": [{"message": message, "finish_reason": finish}]})])


def failed(status, error, **headers):
    return (status, {name.replace("_", "-"): value for name, value in headers.items()}, [json.dumps(error)])


def ask(url, query="Hi", *, say=lambda _: None, stop=None, history=(), on_text=None, max_tokens=None, **settings):
    with Endpoint(Server(url, **{"model": "tiny", **settings}), say) as endpoint:
        return EndpointPolicy(endpoint, max_tokens=max_tokens).answer(query, on_text, history, stop=stop)


HELLO, WORLD, END = delta("Hello"), delta(", wörld."), delta(finish="stop")
SPLIT = 'data: {"choices":[{"delta":{"content":"Hello, wörld."},"finish_reason":"stop"}]}\n\n'.encode()
CUT = SPLIT.index("ö".encode()) + 1

READ = {
    "plain": events(HELLO, WORLD, END),
    "comments": (
        200,
        {"Content-Type": SSE},
        [PING, *events(HELLO)[2][:1], PING, *events(WORLD, END)[2]],
    ),
    "no space": events(HELLO, WORLD, END, line="data:{}\n\n"),
    "crlf": events(HELLO, WORLD, END, line="data: {}\r\n\r\n"),
    "event names": events(HELLO, WORLD, END, line="event: message\nid: 1\nretry: 5\ndata: {}\n\n"),
    "split character": (200, {"Content-Type": SSE}, [SPLIT[:CUT], 0.05, SPLIT[CUT:], "data: [DONE]\n\n"]),
    "charset": (200, {"Content-Type": f"{SSE}; charset=iso-8859-1"}, [SPLIT, "data: [DONE]\n\n"]),
    "byte by byte": (200, {"Content-Type": SSE}, [SPLIT[i : i + 1] for i in range(len(SPLIT))]),
    "empty choices": events({"choices": []}, HELLO, WORLD, END, {"choices": [], "usage": {"prompt_tokens": 9}}),
    "no choices": events({"id": "x"}, HELLO, WORLD, END),
    "null delta": events({"choices": [{"delta": None}]}, HELLO, WORLD, END),
    "role first": events(delta(role="assistant"), HELLO, WORLD, END),
    "done without a reason": events(HELLO, WORLD),
    "a reason without done": events(HELLO, WORLD, END, done=False),
    "other choices": events(HELLO, {"choices": [{"index": 1, "delta": {"content": "x"}}]}, WORLD, END),
    "content parts": events(delta([{"type": "text", "text": "Hello"}]), WORLD, END),
    "whole": whole({"content": "Hello, wörld."}),
    "whole in parts": whole({"content": [{"type": "text", "text": "Hello, wörld."}]}),
    "whole text": (200, {}, [json.dumps({"choices": [{"text": "Hello, wörld.", "finish_reason": "stop"}]})]),
    "refusal": whole({"content": None, "refusal": "Hello, wörld."}),
}


@pytest.mark.parametrize("case", READ)
def test_what_servers_send_is_read(serve, case):
    url, _ = serve(READ[case])
    shown = []
    answer = ask(url, on_text=shown.append)
    assert (answer.text, answer.generation.finish) == ("Hello, wörld.", "end")
    assert "".join(shown) == answer.text


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thoughts_are_kept_apart(serve, name):
    streamed = events(delta(**{name: "Hm. "}), delta(**{name: "So."}), HELLO, WORLD, END)
    for reply in (streamed, whole({name: "Hm. So.", "content": "Hello, wörld."})):
        answer = ask(serve(reply)[0])
        assert (answer.text, answer.reasoning) == ("Hello, wörld.", "Hm. So.")
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "Yes."}]
    for message in ({"content": "<think>Hm.</think>Yes."}, {"content": parts}):
        answer = ask(serve(whole(message))[0])
        assert (answer.text, answer.reasoning) == ("Yes.", "Hm.")


BAD = {
    "early end": (events(HELLO, done=False), "broke off after 5 characters: the connection ended without an end"),
    "nothing": (events(done=False), "broke off before the first word"),
    "cut": ((200, {"Content-Type": SSE, "Content-Length": "999"}, events(HELLO)[2][:1]), "broke off after 5 char"),
    "error in the middle": (events(HELLO, {"error": {"message": "out of memory"}}), "5 characters: out of memory"),
    "error event": (
        (200, {"Content-Type": SSE}, [*events(HELLO)[2][:1], 'event: error\ndata: {"message": "CUDA"}\n\n']),
        "broke off after 5 characters: CUDA",
    ),
    "error in a 200": ((200, {}, ['{"error": {"message": "no GPU", "code": 400}}']), "answers 400: no GPU"),
    "error text in a 200": ((200, {}, ['{"error": "no GPU"}']), "reports an error: no GPU"),
    "vllm's old error": ((200, {}, ['{"object": "error", "message": "no GPU", "code": 400}']), "answers 400: no GPU"),
    "no JSON": ((200, {"Content-Type": "text/html"}, ["<html>hi</html>"]), "answers with text/html that is no JSON"),
    "broken JSON": ((200, {"Content-Type": SSE}, ["data: {nope\n\n"]), "sent what is no JSON: {nope"),
    "no choices at all": ((200, {}, ["{}"]), "answers without `choices`"),
    "filter": (events(HELLO, delta(finish="content_filter")), "ended the answer by its content filter"),
    "tools": (events(delta(finish="tool_calls")), "wanted to call a tool"),
    "no key": (failed(401, {"error": {"message": "no"}}), "wants a key: set MAL_API_KEY, or name its variable with"),
    "not found": (failed(404, {"detail": "Not Found"}), "has no /chat/completions (404: Not Found); expected"),
    "no model": (
        failed(404, {"error": {"message": 'model "big" not found, try pulling it first'}}),
        "has no model 'tiny'; name one with `policy_model`; it has: tiny",
    ),
    "no model by code": (failed(400, {"error": {"message": "?", "code": "model_not_found"}}), "has no model 'tiny'"),
    "moved": (failed(308, {}, Location="https://elsewhere"), "has moved to https://elsewhere; name that one"),
    "fastapi": (failed(422, {"detail": [{"loc": ["body", "messages"], "msg": "too few"}]}), "422: messages: too few"),
    "quota": (
        failed(429, {"error": {"message": "pay", "type": "insufficient_quota"}}),
        "answers 429: pay",
    ),
    "hours": (failed(429, {"error": "later"}, Retry_After="7200"), "asks to come back in 7,200 s (429: later)"),
    "busy": (failed(503, {"error": {"message": "Loading model"}}, Retry_After="0"), "answers 503: Loading model"),
    "html": ((502, {"Content-Type": "text/html", "Retry-After": "0"}, ["<title>Bad Gateway</title>"]), "502: Bad Gat"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_goes_wrong_is_one_line_that_tells(serve, case):
    reply, message = BAD[case]
    url, _ = serve(reply)
    with pytest.raises(EndpointError) as raised:
        ask(url, attempts=2)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert url in str(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"code": 400, "message": "request (900 tokens) exceeds", "type": "exceed_context_size_error"}},
        {"error": {"code": "context_length_exceeded", "message": "too long", "param": "messages"}},
        {"object": "error", "message": "This model's maximum context length is 512 tokens, max_tokens", "code": 400},
        {"error": {"message": "Requested tokens (900) exceed context window of 512"}},
    ],
)
def test_a_context_that_does_not_hold_it(serve, error):
    url, asked = serve(failed(400, error))
    with pytest.raises(PromptTooLong, match="prompt and answer do not fit the context"):
        ask(url, max_tokens=9)
    assert len(asked) == 1


def test_thinking_that_took_the_limit_is_said(serve):
    url, _ = serve(whole({"content": None}, finish="length"))
    with Endpoint(Server(url)) as endpoint:
        found = align("Hi", "empathy", policy=EndpointPolicy(endpoint), aligner=EndpointAligner(endpoint))
    assert (found.text, found.aligned) == ("", False)
    assert "thoughts took all the tokens it may write, no answer followed; raise `max_tokens`" in found.failure


def test_a_limit_and_the_counts(serve):
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
    answer = ask(serve(events(HELLO, delta(finish="length"), {"choices": [], "usage": usage}))[0])
    counts = answer.generation.counts
    assert (answer.generation.finish, counts.read, counts.reused, counts.written) == ("length", 5, 4, 3)


def _in(seconds):
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(("asked_for", "least"), [("1", 1.0), (lambda: _in(2), 0.9), ("-3", 0.0), (None, 0.3)])
def test_retries_wait_as_long_as_the_server_asks(serve, asked_for, least):
    asked_for = asked_for() if callable(asked_for) else asked_for
    headers = {"Retry_After": asked_for} if asked_for else {}
    url, asked = serve(failed(429, {"error": "slow down"}, **headers), events(HELLO, END))
    begun = time.monotonic()
    assert ask(url).text == "Hello"
    assert least <= time.monotonic() - begun < least + 3
    assert len(asked) == 2


def test_retries_are_bounded_and_none_follows_a_text_that_was_shown(serve):
    url, asked = serve(failed(503, {"error": "busy"}, Retry_After="0"))
    with pytest.raises(EndpointError):
        ask(url, attempts=3)
    assert len(asked) == 3
    url, asked = serve(events(HELLO, done=False), events(HELLO, END))
    with pytest.raises(EndpointError, match="broke off"):
        ask(url)
    assert len(asked) == 1


def test_settings_that_a_server_does_not_take_are_left_out_and_said(serve):
    refused = [
        failed(400, {"error": {"message": "Unsupported parameter", "param": "max_tokens"}}),
        failed(400, {"error": {"message": "Unsupported value: 'temperature' does not support 0"}}),
        failed(422, {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]}),
    ]
    url, asked = serve(*refused, events(HELLO, END))
    notes = []
    assert ask(url, say=notes.append, max_tokens=7).text == "Hello"
    body = asked[-1][1]
    assert set(body) == {"model", "messages", "stream", "max_completion_tokens"}
    assert body["max_completion_tokens"] == 7
    assert notes == [f"{url} takes no temperature; it is left out"]


@pytest.mark.parametrize(
    ("prefix", "named"),
    [
        ("/v1", ""),
        ("/v1", "/"),
        ("/v1", "/v1"),
        ("/v1", "/v1/"),
        ("/v1", "/v1/chat/completions"),
        ("", ""),
        ("/api/v1", "/api"),
        ("/api/v1", "/api/v1/models"),
        ("/gateway/openai", "/gateway/openai/"),
        ("/v1beta/openai", "/v1beta/openai"),
    ],
)
def test_base_urls(serve, prefix, named):
    url, asked = serve(events(HELLO, END), prefix=prefix)
    assert ask(url + named).text == "Hello"
    assert asked[-1][0] == f"{prefix}/chat/completions"


def test_a_query_stays_and_is_not_shown(serve):
    url, asked = serve(failed(400, {"error": "no"}))
    with pytest.raises(EndpointError) as raised:
        ask(f"{url}/v1?api-version=7")
    assert asked[0][0] == "/v1/chat/completions?api-version=7"
    assert "api-version" not in str(raised.value)


def test_the_key_is_sent_and_never_shown(serve, monkeypatch):
    url, asked = serve(failed(401, {"error": {"message": f"Incorrect API key: {KEY}"}}))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-for-openai-alone")
    with pytest.raises(EndpointError, match="wants a key"):
        ask(url)
    assert "Authorization" not in asked[-1][2]
    monkeypatch.setenv("MAL_API_KEY", f" {KEY}\n")
    monkeypatch.setenv("OTHER", "another")
    for settings, sent in (({}, KEY), ({"key_env": "OTHER"}, "another")):
        with pytest.raises(EndpointError, match="refuses the key") as raised:
            ask(url, **settings)
        assert asked[-1][2]["Authorization"] == f"Bearer {sent}"
        assert sent not in str(raised.value)
    with pytest.raises(UsageError, match="`policy_key_env` ABSENT: no such environment variable is set"):
        ask(url, key_env="ABSENT")
    monkeypatch.setenv("OTHER", f"{KEY} and more")
    with pytest.raises(UsageError, match="OTHER holds no key") as raised:
        ask(url, key_env="OTHER")
    assert KEY not in str(raised.value)
    with Endpoint(Server(url.replace("//", "//me:secret@"))) as endpoint:
        shown = repr((endpoint, endpoint.server, endpoint._client.headers, endpoint._bases))
    assert "secret" not in shown and KEY not in shown


def test_proxies(serve, monkeypatch):
    """One is honoured, but never for this machine, nor where NO_PROXY says so."""
    proxy, asked = serve(events(HELLO, END))
    url, _ = serve(events(HELLO, END))
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("http_proxy", proxy)
    assert ask("http://model.invalid/v1").text == "Hello"
    assert asked[-1][0] == "http://model.invalid/v1/chat/completions"
    asked.clear()
    assert ask(url).text == "Hello"
    assert ask(url.replace("127.0.0.1", "localhost")).text == "Hello"
    monkeypatch.setenv("NO_PROXY", "model.invalid")
    monkeypatch.setenv("no_proxy", "model.invalid")
    with pytest.raises(EndpointError, match="cannot be reached"):
        ask("http://model.invalid/v1", attempts=1)
    assert not asked


def test_nobody_there_and_one_who_is_silent(serve):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(EndpointError, match=r"cannot be reached \(.*refused\); is it running"):
            ask(url, attempts=2)
    url, _ = serve((200, {"Content-Type": SSE}, [*events(HELLO)[2][:1], 2.0]))
    with pytest.raises(EndpointError, match=r"was silent for 0.3 s; `timeout` sets how long"):
        ask(url, timeout=0.3)


def _elapsed(since):
    since.append(time.monotonic())
    return since[-1] - since[0]


@pytest.mark.parametrize("silent", [True, False])
def test_stop_ends_it_at_once_and_hangs_up(serve, silent):
    parts = [3.0] if silent else [part for i in range(60) for part in (events(delta(f"w{i} "))[2][0], 0.05)]
    url, asked = serve((200, {"Content-Type": SSE}, parts))
    shown, since = [], []
    answer = ask(url, on_text=shown.append, stop=lambda: bool(shown) or (silent and _elapsed(since) > 0.3))
    assert not silent or _elapsed(since) < 2
    assert answer.generation.finish == "stopped"
    assert bool(answer.text) is not silent
    if not silent:
        time.sleep(0.5)
        assert asked[-1][0] == "hung up"


def test_a_loop_is_cut_and_the_server_left(serve):
    turn = "You may well be right about that, she said and went on with her work. "
    url, _ = serve(
        (200, {"Content-Type": SSE}, [part for _ in range(99) for part in (events(delta(turn))[2][0], 0.02)])
    )
    begun = time.monotonic()
    answer = ask(url)
    assert (answer.generation.finish, answer.text) == ("loop", turn.strip())
    assert time.monotonic() - begun < 1.9


def test_the_only_model_need_not_be_named(serve):
    url, asked = serve(events(HELLO, END))
    assert ask(url, model="").text == "Hello"
    assert asked[-1][1]["model"] == "tiny"
    several, _ = serve(events(HELLO, END), models=["a", "b"])
    with pytest.raises(UsageError, match="name a model with `policy_model`; it has: a, b"):
        ask(several, model="")
    none, _ = serve(events(HELLO, END), models=None)
    assert ask(none).text == "Hello"
    with Endpoint(Server(none, "tiny")) as endpoint:
        endpoint.check()


@pytest.mark.parametrize("layout", ["conversation", "conversation/brief"])
def test_an_edit_is_asked_for_in_the_same_words_as_of_a_file(serve, layout):
    url, asked = serve(events(HELLO, END))
    history = (Message("user", "One"), Message("assistant", "Two"))
    wanted = resolve("empathy,brevity")
    with Endpoint(Server(url, "tiny")) as endpoint:
        editor = EndpointAligner(endpoint, layout=layout)
        found = align("Hi", wanted, policy=GivenAnswer("Weak."), aligner=editor, history=history)
    assert (found.text, found.aligned) == ("Hello", True)
    sent = [Message(turn["role"], turn["content"]) for turn in asked[-1][1]["messages"]]
    template = ChatTemplate(tiny.CHATML)
    assert tuple(sent) == edit_messages(layout, "Hi", "Weak.", wanted, history=history)
    prompt = edit_prompt(layout, "Hi", "Weak.", wanted, template, history=history)
    assert text_of(chat_prompt(sent, template)) == text_of(prompt)


HELD = [7, {"id": 0, "path": "/models/a.gguf", "scale": 1.0}, {"path": "C:\\b.gguf", "scale": 0.5}]


@pytest.mark.parametrize(
    ("told", "names"),
    [
        (None, []),
        ("nonsense", []),
        ('{"path": "a.gguf"}', []),
        (json.dumps(HELD), ["a.gguf", "b.gguf"]),
        ('[{"path": "a.gguf", "scale": 0}, {"scale": 1}]', [""]),
    ],
)
def test_a_server_may_tell_its_adapters(serve, told, names):
    url, _ = serve(events(HELLO, END), adapters=told)
    with Endpoint(Server(url + "/v1", "tiny")) as endpoint:
        assert endpoint.adapters() == names


@pytest.mark.parametrize(("held", "brief"), [("smollm2-135m.gguf", True), ("other.gguf", False)])
def test_a_server_with_the_adapter_that_ships_gets_its_prompts(serve, held, brief):
    url, asked = serve(events(HELLO, END), adapters=json.dumps([{"path": f"/fleet/{held}", "scale": 1}]))
    with open_pair(Choice(aligner=url, aligner_model="tiny", answer="Weak.")) as pair:
        align("Hi", "empathy", policy=pair.policy, aligner=pair.aligner)
    layout = "conversation/brief" if brief else "conversation"
    known = shipped_objectives() if brief else {}
    expected = edit_messages(layout, "Hi", "Weak.", resolve("empathy"), known=known)
    assert [Message(turn["role"], turn["content"]) for turn in asked[-1][1]["messages"]] == list(expected)


def test_a_gate_over_a_server_is_refused_before_anything_is_asked(serve):
    url, asked = serve(events(HELLO, END))
    with Endpoint(Server(url, "tiny")) as endpoint, pytest.raises(UsageError, match="tells no likelihoods"):
        align("Hi", "empathy", policy=EndpointPolicy(endpoint), aligner=EndpointAligner(endpoint), gate=Gate())
    assert asked == []


def test_the_papers_layouts_are_texts_to_go_on_with(serve):
    wanted = resolve("empathy")
    prompt = text_of(edit_prompt("paper/imhi", "Hi", "Weak.", wanted))
    completion = {"choices": [{"text": "Kind.", "finish_reason": "stop"}]}
    for reply, path in ((events(completion), "/v1/completions"), (failed(404, {}), "/v1/chat/completions")):
        url, asked = serve(reply, events(delta("Kind."), END))
        with Endpoint(Server(url, "tiny")) as endpoint:
            editor = EndpointAligner(endpoint, layout="paper/imhi")
            assert align("Hi", wanted, policy=GivenAnswer("Weak."), aligner=editor).text == "Kind."
        assert asked[-1][0] == path
        assert asked[0][1]["prompt"] == prompt
    assert asked[-1][1]["messages"] == [{"role": "user", "content": prompt}]


def test_an_aligner_that_fails_leaves_the_answer(serve):
    url, _ = serve(failed(500, {"error": "broken"}, Retry_After="0"))
    with Endpoint(Server(url, "tiny", attempts=1)) as endpoint:
        found = align("Hi", "empathy", policy=GivenAnswer("Weak."), aligner=EndpointAligner(endpoint))
    assert (found.text, found.aligned) == ("Weak.", False)
    assert "answers 500: broken" in found.failure


def test_an_edit_says_no_sentence_twice_in_a_row(serve):
    sentence, told = "We look forward to hearing from you.", []
    url, _ = serve(events(*(delta(part) for part in ("Thanks. ", sentence, f" {sentence[:9]}", sentence[9:])), END))
    with Endpoint(Server(url, "tiny")) as endpoint:
        aligner, weak = EndpointAligner(endpoint), GivenAnswer("Weak.")
        found = align("Hi", "empathy", policy=weak, aligner=aligner, on_edit=told.append)
    assert found.text == "".join(told) == f"Thanks. {sentence}"


def test_a_runaway_edit_is_stopped(serve):
    words = (delta(f"word{i} ") for i in range(999))
    url, _ = serve(events(*words, END))
    with Endpoint(Server(url, "tiny")) as endpoint:
        found = align("Hi", "empathy", policy=GivenAnswer("Weak."), aligner=EndpointAligner(endpoint))
    assert found.edit.finish == "length"
    assert len(found.text) <= 1020


def mal(*args, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    command = [sys.executable, "-m", "metaaligner_lite", "align", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=kept | environment, timeout=120)


def test_the_command_line(serve, tiny_path):
    url, asked = serve(events(HELLO, WORLD, END))
    found = mal("Hi", "-o", "empathy", "--aligner", "self", "--json", MAL_POLICY=f"{url}/v1", MAL_POLICY_MODEL="tiny")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["text"] == "Hello, wörld."
    assert len([path for path, body, _ in asked if body]) == 2
    local = mal(
        "Hi", "-o", "empathy", "--policy", url, "--aligner", tiny_path, "--layout", "conversation", "--max-tokens", 9
    )
    assert local.returncode == 0, local.stderr
    unused = mal("Hi", "-o", "empathy", "--policy", tiny_path, "--policy-model", "x")
    assert (unused.returncode, "--policy-model belongs to a server" in unused.stderr) == (2, True)
    adapter = mal("Hi", "-o", "empathy", "--answer", "a", "--aligner", url, "--adapter", tiny_path)
    assert (adapter.returncode, "let the server hold it" in adapter.stderr) == (2, True)


def test_local_runs_load_no_http(tiny_path):
    code = (
        "import sys, metaaligner_lite.cli\n"
        "from metaaligner_lite.pair import Choice, open_pair\n"
        f"with open_pair(Choice(policy={str(tiny_path)!r}, aligner='self')): pass\n"
        "heavy = {'httpx2', 'huggingface_hub', 'openai'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_llama_cpp_pythons_own_server_gives_the_same_texts():
    for module in ("uvicorn", "fastapi", "sse_starlette", "starlette_context", "pydantic_settings"):
        pytest.importorskip(module, reason="llama-cpp-python[server] is not installed")
    if (model := BASE.path) is None:  # a tiny random model writes bytes that are no text, which the server drops
        pytest.skip("the extra smollm2 is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"model": model, "model_alias": "tiny", "n_ctx": 1024, "host": "127.0.0.1", "port": port, "n_threads": 1}
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "llama_cpp.server", *flags]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with Endpoint(Server(f"http://127.0.0.1:{port}")) as endpoint, open_engine(model, threads=1) as engine:
            for _ in range(240):
                assert server.poll() is None
                try:
                    endpoint.check()
                    break
                except MalError:
                    time.sleep(0.5)
            here = GgufPolicy(engine, max_tokens=12).answer("Where is my parcel?")
            penalty = frozenset({"repeat_penalty"})  # 1.1 unless named
            there = EndpointPolicy(endpoint, chosen=penalty, max_tokens=12).answer("Where is my parcel?")
            assert here.text == there.text
            edited = GgufAligner(engine, layout="conversation", max_tokens=12, draft=False)
            remote = EndpointAligner(endpoint, max_tokens=12)
            wanted = [(GivenAnswer("It is late.").answer(""), resolve("empathy"))]
            here, there = edited.edit("Hi", wanted)[0], remote.edit("Hi", wanted)[0]
            assert here.text == there.text
    finally:
        server.terminate()
        server.wait()
