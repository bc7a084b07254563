"""mal serve over a pair without a model: the protocol, errors, streams, many clients, who is let in, the end."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("httpx2")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

import httpx2
from served import Echo, Upper, body, events, fake, serving, text_of

from metaaligner_lite.errors import EndpointError, FileProblem, UsageError
from metaaligner_lite.objectives import builtin_catalogue, resolve
from metaaligner_lite.serve.app import Limits, Mailbox
from metaaligner_lite.serve.safety import Door, host_name, loopback
from metaaligner_lite.serve.sets import Chosen, read_sets

CHAT = "/v1/chat/completions"
SHOWN = {"show": "both"}


@pytest.fixture(scope="module")
def address():
    with serving(
        fake(),
        metrics=True,
        limits=Limits(body=200_000, sending=1.0),
        sets={"gentle": Chosen(tuple(resolve("politeness")))},
    ) as (url, _):
        yield url


HTTP = httpx2.Client(timeout=60, verify=False, trust_env=False, limits=httpx2.Limits(max_connections=None))


def post(url, payload, path=CHAT, **options):
    return HTTP.post(url + path, json=payload, **options)


def get(url, **options):
    return HTTP.get(url, **options)


def wait_for(true, seconds=5.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


def test_an_answer_whole(address):
    found = post(address, body()).json()
    (choice,) = found["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == "ECHO WHERE IS MY PARCEL?"
    assert choice["finish_reason"] == "stop"
    assert found["usage"] == {
        "prompt_tokens": 16,
        "completion_tokens": 10,
        "total_tokens": 26,
        "prompt_tokens_details": {"cached_tokens": 10},
        "completion_tokens_details": {
            "reasoning_tokens": 5,
            "accepted_prediction_tokens": 2,
            "rejected_prediction_tokens": 2,
        },
    }
    stage = {"read": 3, "reused": 5, "written": 5, "copied": 1, "seconds": 0.0}
    assert found["metaaligner"] == {
        "objectives": ["empathy"],
        "policy_text": "echo Where is my parcel?",
        "aligned": True,
        "failure": "",
        "preference": None,
        "stages": {"policy": stage, "edit": stage},
        "notes": [],
    }


@pytest.mark.parametrize("both", [False, True])
def test_a_stream(address, both):
    asked = body(
        stream=True, stream_options={"include_usage": True}, metaaligner={"show": "both" if both else "aligned"}
    )
    found = events(post(address, asked).iter_lines())
    assert found[-1] == "[DONE]"
    *chunks, last, used, _ = found
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert (
        text_of(found) == "ECHO WHERE IS MY PARCEL? ".rstrip() or text_of(found).strip() == "ECHO WHERE IS MY PARCEL?"
    )
    assert text_of(found, "reasoning_content").strip() == ("echo Where is my parcel?" if both else "")
    kinds = ["reasoning" if "reasoning_content" in one["choices"][0]["delta"] else "text" for one in chunks[1:]]
    assert kinds == sorted(kinds)  # the policy's answer comes first
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["metaaligner"]["policy_text"] == "echo Where is my parcel?"
    assert all(one["usage"] is None for one in [*chunks, last])
    assert used["choices"] == []
    assert used["usage"]["total_tokens"] == 26
    assert len({one["id"] for one in found[:-1]}) == 1


def test_no_character_of_a_text_ends_a_line_of_the_stream(address):
    text = "a\u2028b\x85c\x0bd\u00e9\U0001f600"
    found = events(post(address, body(text, stream=True) | {"model": "policy"}).iter_lines())
    assert text_of(found).split() == ["echo", *text.split()]


def test_the_text_streams_as_it_is_written():
    with (
        serving(fake(aligner=Upper(seconds=0.1))) as (url, _),
        HTTP.stream("POST", url + CHAT, json=body("a b c d e f g h", stream=True), timeout=30) as got,
    ):
        came = [time.monotonic() for line in got.iter_lines() if '"content":"' in line]
    assert came[-1] - came[1] > 0.5


@pytest.mark.parametrize(
    ("model", "objectives", "text"),
    [
        ("aligned", ["empathy"], "ECHO HI"),
        (None, ["empathy"], "ECHO HI"),
        ("aligned/empathy+clarity", ["empathy", "clarity"], "ECHO HI"),
        ("gentle", ["politeness"], "ECHO HI"),
        ("policy", [], "echo hi"),
    ],
)
def test_models(address, model, objectives, text):
    found = post(address, {**body("hi"), "model": model}).json()
    assert found["metaaligner"]["objectives"] == objectives
    assert found["choices"][0]["message"]["content"] == text
    assert found["metaaligner"]["aligned"] == bool(objectives)


@pytest.mark.parametrize(
    ("asked", "objectives"),
    [
        ("brevity", ["brevity"]),
        ("brevity, calm: The response should be calm.", ["brevity", "calm"]),
        (["clarity", {"name": "calm", "description": "The response should be calm."}], ["clarity", "calm"]),
    ],
)
def test_objectives_of_a_request(address, asked, objectives):
    found = post(address, body(metaaligner={"objectives": asked})).json()
    assert found["metaaligner"]["objectives"] == objectives


REFUSED = [
    ({"model": "gpt-4o"}, 404, "model", "model_not_found", "there are: aligned, policy, gentle"),
    ({"model": "aligned/nonsense"}, 404, "model", "model_not_found", "there is no model"),
    ({"messages": []}, 400, "messages", None, "at least 1"),
    ({"messages": None}, 400, "messages", None, "messages: "),
    ({"messages": "hi"}, 400, "messages", None, "messages: Input should be a valid"),
    ({"messages": [{"role": "user"}]}, 400, "messages", None, "turn 1"),
    ({"messages": [{"role": "wizard", "content": "hi"}]}, 400, "messages.0.role", None, "'system'"),
    ({"messages": [{"role": "user", "content": 3}]}, 400, "messages.0.content", None, "messages.0.content: "),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
     400, "messages", None, "holds a part of the type 'image_url'; only text can be read"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, 400, "messages", None,
     "the last message with text must be the user's"),
    ({"messages": [{"role": "user", "content": " "}]}, 400, "messages", None, "the last message"),
    ({"messages": [{"role": "user", "content": "x"}] * 2001}, 400, "messages", None, "there are 2,001 messages"),
    ({"temperature": "hot"}, 400, "temperature", None, "temperature: "),
    ({"temperature": -1}, 400, "temperature", None, "greater than or equal to 0"),
    ({"max_tokens": 0}, 400, "max_tokens", None, "max_tokens: "),
    ({"stream": "yes"}, 400, "stream", None, "stream: "),
    ({"n": 2}, 400, "n", "unsupported_parameter", "n: one answer"),
    ({"response_format": {"type": "json_object"}}, 400, "response_format", "unsupported_parameter",
     "response_format: only free text"),
    ({"logprobs": True}, 400, "logprobs", "unsupported_parameter", "logprobs: "),
    ({"tool_choice": "required"}, 400, "tool_choice", "unsupported_parameter", "tool_choice: "),
    ({"metaaligner": {"objective": "x"}}, 400, "metaaligner.objective", None,
     "unknown key 'objective' in metaaligner; expected objectives, gate, show, rounds, edit_temperature, answer"),
    ({"metaaligner": {"objectives": [{"name": "x", "text": "y"}]}}, 400, None, None, ""),
    ({"metaaligner": {"objectives": "empaty"}}, 400, "metaaligner.objectives", None, "did you mean 'empathy'"),
    ({"metaaligner": {"objectives": ""}}, 400, "metaaligner.objectives", None, "no objective given"),
    ({"metaaligner": {"rounds": 99}}, 400, "metaaligner.rounds", None, "less than or equal to 8"),
    ({"metaaligner": {"show": "diff"}}, 400, "metaaligner.show", None, "'aligned' or 'both'"),
    ({"model": "policy", "metaaligner": {"objectives": "empathy"}}, 400, "metaaligner.objectives", None,
     "is not edited"),
    ({"model": "policy", "metaaligner": {"answer": "x"}}, 400, "metaaligner.answer", None, "is not edited; leave it"),
    ({"metaaligner": {"answer": " "}}, 400, "metaaligner.answer", None, "the answer to be edited: it is empty"),
    ({"messages": [{"role": "user", "content": "x" * 20_000}]}, 400, "messages", "context_length_exceeded",
     "20,000 tokens, but the context holds 10,000"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "status", "param", "code", "message"), REFUSED)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals(address, change, status, param, code, message, stream):
    got = post(address, {**body("hi"), "stream": stream} | change)
    error = got.json()["error"]
    assert (got.status_code, error["code"]) == (status, code)
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"
    if param:
        assert error["param"] == param


@pytest.mark.parametrize(
    ("path", "content", "status", "message"),
    [
        (CHAT, b"{", 400, "the body is not JSON"),
        (CHAT, b"", 400, "the body is not JSON"),
        (CHAT, b"[]", 400, "the body: "),
        (CHAT, b"\xff\xfe", 400, "the body is not JSON"),
        (CHAT, b"[" * 100_000, 400, "the body is not JSON"),
        (CHAT, b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400, "not JSON"),
        (CHAT, b'{"temperature": NaN, "messages": [{"role": "user", "content": "a"}]}', 400, "temperature"),
        (CHAT, b'{"x": "' + b"x" * 10_000_000 + b'"}', 413, "larger than 200,000 bytes"),
        ("/v1/embeddings", b"{}", 404, "there is nothing at /v1/embeddings"),
        ("/v1/models", b"{}", 405, "POST is not possible here"),
    ],
)
def test_bad_bodies(address, path, content, status, message):
    got = HTTP.post(address + path, content=content, headers={"content-type": "application/json"}, timeout=30)
    assert got.status_code == status
    assert message in got.json()["error"]["message"]


def test_what_a_web_form_can_send_is_refused(address):
    got = HTTP.post(address + CHAT, content=json.dumps(body()), headers={"content-type": "text/plain"})
    assert (got.status_code, "application/json" in got.json()["error"]["message"]) == (415, True)


def test_what_clients_send_beside_is_accepted(address):
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": "one", "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]},
        {"role": "tool", "tool_call_id": "1", "content": "42"},
        {"role": "user", "content": [{"type": "text", "text": "<|im_end|>"}, {"type": "text", "text": "two"}]},
    ]
    more = {
        "user": "u1",
        "tools": [],
        "tool_choice": "auto",
        "metadata": {"a": 1},
        "n": 1,
        "stop": None,
        "store": False,
        "response_format": {"type": "text"},
        "frequency_penalty": 0,
        "reasoning_effort": "low",
        "unheard_of": [1],
        "max_completion_tokens": 9,
        "seed": -5,
        "stream": None,
        "metaaligner": {},
    }
    got = post(address, {"messages": messages, **more})
    assert got.status_code == 200
    text = got.json()["metaaligner"]["policy_text"]
    assert text.endswith("<|im_end|> two")


def test_settings_are_each_request_s_own():
    policy = Echo()
    with serving(fake(policy)) as (url, _):
        post(url, body(temperature=0.7, top_p=0.5, seed=2**32 + 7, stop=["END", "X"], max_tokens=3,
                       prediction={"type": "content", "content": [{"type": "text", "text": "likely"}]}))  # fmt: skip
        post(url, body(stop="Z", max_completion_tokens=4, max_tokens=9))
        post(url, body())
    first, second, third = policy.asked_for[1::2]  # each is asked to check, then to answer
    assert (first.sampling.temperature, first.sampling.top_p, first.sampling.seed) == (0.7, 0.5, 7)
    assert (first.stops, first.max_tokens, first.copies) == (("END", "X"), 3, ("likely",))
    assert (second.stops, second.max_tokens, second.sampling.temperature) == (("Z",), 4, 0.0)
    assert (third.stops, third.max_tokens, third.copies, third.sampling) == ((), None, (), second.sampling)


def test_the_temperature_of_a_request_is_the_policys():
    policy, aligner = Echo(), Upper()
    with serving(fake(policy, aligner)) as (url, _):
        post(url, body(temperature=0.7, seed=3, top_p=0.5))
        post(url, body(temperature=0.7, metaaligner={"edit_temperature": 0.4}))
    answers, edits = policy.asked_for[1::2], aligner.asked_for
    assert [one.sampling.temperature for one in answers] == [0.7, 0.7]
    assert [one.sampling.temperature for one in edits] == [0.0, 0.4]
    assert (edits[0].sampling.seed, edits[0].sampling.top_p) == (3, 0.5)


def test_plain_text_is_gone_on_with(address):
    with serving(fake()) as (url, workers):
        workers._policy = lambda order: workers.policy.asked(order.settings)  # a continuation needs an engine
        found = post(url, {"model": "policy", "prompt": "Once upon"}, "/v1/completions").json()
        assert found["object"] == "text_completion"
        assert found["choices"][0]["text"] == "echo Once upon"
        chunks = events(post(url, {"prompt": ["Once upon"], "stream": True}, "/v1/completions").iter_lines())
        assert "".join(one["choices"][0]["text"] for one in chunks[:-1]).strip() == "ECHO ONCE UPON"
        assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    for change in ({"prompt": ""}, {"prompt": [1, 2]}, {"prompt": ["a", "b"]}, {"echo": True}, {"suffix": "x"}, {}):
        assert post(address, change, "/v1/completions").status_code == 400


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fail", [EndpointError("the server broke off"), None])
def test_a_failed_correction_gives_the_policy_s_answer_and_says_so(stream, fail):
    aligner = Upper(fail=fail, ending="" if fail else "loop")
    with serving(fake(aligner=aligner)) as (url, _):
        got = post(url, body("one two", stream=stream))
        assert got.status_code == 200
        if not stream:
            found = got.json()
            assert found["choices"][0]["message"]["content"] == "echo one two"
            told = found["metaaligner"]
        else:
            chunks = events(got.iter_lines())
            told = chunks[-2]["metaaligner"]
            # What was streamed before the edit failed cannot be taken back; the answer follows it.
            assert text_of(chunks).split("\n\n") == (["echo one two"] if fail else ["ECHO ONE TWO ", "echo one two"])
    assert not told["aligned"]
    assert told["failure"] == ("the server broke off" if fail else "the aligner went round in circles")


def test_what_a_gate_takes_back_is_not_streamed():
    with serving(fake()) as (url, _):
        found = events(post(url, body("hi", stream=True, metaaligner={"gate": True})).iter_lines())
        assert text_of(found) == "echo hi"
        assert found[-2]["metaaligner"]["preference"] == 0.0


def test_a_given_answer_is_edited_and_no_policy_asked():
    policy = Echo()
    with serving(fake(policy)) as (url, _):
        found = post(url, body("hi", metaaligner={"answer": "as it is"})).json()
        assert found["choices"][0]["message"]["content"] == "AS IT IS"
        assert found["metaaligner"]["policy_text"] == "as it is"
        streamed = events(post(url, body("hi", stream=True, metaaligner={"answer": "so", "show": "both"})).iter_lines())
        assert text_of(streamed).strip() == "SO"
    assert policy.words == [0] and not policy.asked_for


def test_an_error_of_a_policy_elsewhere_and_one_of_ours():
    policy = Echo()
    policy.answer = lambda *_, **__: (_ for _ in ()).throw(EndpointError("refused"))
    with serving(fake(policy)) as (url, _):
        for stream in (False, True):
            got = post(url, body(stream=stream))
            assert (got.status_code, got.json()["error"]["type"]) == (502, "server_error")
    lines = []
    policy.answer = lambda *_, **__: 1 // 0
    with serving(fake(policy), log=lines.append) as (url, _):
        got = post(url, body())
        assert (got.status_code, got.json()["error"]["message"]) == (500, "the server failed: ZeroDivisionError")
        assert post(url, body()).status_code == 500  # the server lives
    assert any("ZeroDivisionError(" in line for line in lines)


def test_a_stage_that_says_nothing_is_heard():
    with serving(fake(Echo(seconds=0.2)), limits=Limits(keep_alive=0.1)) as (url, _):
        found = events(post(url, body("a b c", stream=True)).iter_lines())
        assert ": keep-alive" in found
        assert text_of(found).strip() == "ECHO A B C"


def test_lists(address):
    models = get(f"{address}/v1/models").json()
    assert [one["id"] for one in models["data"]] == ["aligned", "policy", "gentle"]
    assert {"id", "object", "created", "owned_by"} <= set(models["data"][0])
    assert get(f"{address}/v1/models/aligned/clarity").json()["metaaligner"]["objectives"] == ["clarity"]
    assert get(f"{address}/v1/models/gpt-4").status_code == 404
    objectives = get(f"{address}/v1/objectives").json()["data"]
    assert {one["name"]: one["known"] for one in objectives}["empathy"]
    assert not {one["name"]: one["known"] for one in objectives}["clarity"]
    assert len(objectives) == len(builtin_catalogue())
    assert get(f"{address}/health").json() == {"status": "ready", "running": 0, "waiting": 0}
    page = get(address)
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_metrics(address):
    post(address, body())
    found = get(f"{address}/metrics").text
    assert re.search(r'mal_requests_total\{outcome="aligned"\} [1-9]', found)
    assert re.search(r'mal_tokens_total\{kind="copied",stage="edit"\} [1-9]', found)
    with serving(fake()) as (url, _):
        assert get(f"{url}/metrics").status_code == 404


def test_a_full_queue_says_when_to_come_again():
    hold = threading.Event()
    with serving(fake(Echo(hold=hold)), in_flight=1, capacity=1) as (url, workers), ThreadPoolExecutor(4) as pool:
        first = pool.submit(post, url, body("a"))
        wait_for(lambda: workers.running == 1)
        second = pool.submit(post, url, body("b"))
        wait_for(lambda: workers.waiting == 1)
        assert get(f"{url}/health").json() == {"status": "busy", "running": 1, "waiting": 1}
        third = post(url, body("c"))
        hold.set()
        assert third.status_code == 429
        assert int(third.headers["retry-after"]) >= 1
        assert third.json()["error"]["type"] == "rate_limit_error"
        assert [one.result().status_code for one in (first, second)] == [200, 200]


def test_who_asks_for_much_waits_behind_himself():
    hold, order = threading.Event(), []
    policy = Echo(hold=hold)
    with serving(fake(policy), in_flight=1) as (url, workers), ThreadPoolExecutor(8) as pool:
        workers.on_end.append(lambda job, result: order.append(job.order.client))
        for number, user in enumerate(["greedy"] * 4 + ["modest"]):
            pool.submit(post, url, body("a b", user=user))
            wait_for(lambda number=number: workers.running + workers.waiting == number + 1)
        hold.set()
        wait_for(lambda: len(order) == 5)
        assert order.index("modest") <= 2


def test_one_that_leaves_the_queue_frees_its_place():
    hold = threading.Event()
    with serving(fake(Echo(hold=hold)), in_flight=1, capacity=1) as (url, workers), ThreadPoolExecutor(4) as pool:
        pool.submit(post, url, body("a"))
        wait_for(lambda: workers.running == 1)
        hang_up(url, body("b"), 0.3)
        wait_for(lambda: workers.waiting == 0)
        third = pool.submit(post, url, body("c"))
        wait_for(lambda: workers.waiting == 1)
        hold.set()
        assert third.result().status_code == 200


def test_many_clients_get_what_is_theirs():
    """200 requests of 32 clients; each answer carries the mark of its request, streamed or not."""
    with serving(fake(Echo(seconds=0.0005), Upper(seconds=0.0005)), capacity=200) as (url, workers):

        def ask(number):
            mark, stream = f"mark{number}", bool(number % 2)
            got = post(url, body(f"{mark} and {mark}", stream=stream, user=str(number % 32)))
            found = text_of(events(got.iter_lines())) if stream else got.json()["choices"][0]["message"]["content"]
            return found.strip() == f"ECHO MARK{number} AND MARK{number}"

        with ThreadPoolExecutor(32) as pool:
            assert all(pool.map(ask, range(200)))
        wait_for(lambda: workers.running == workers.waiting == 0)


def hang_up(url, payload, seconds):
    """Ask, then close the connection after a while."""
    host, port = url.removeprefix("http://").split(":")
    raw = json.dumps(payload).encode()
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            + f"Content-Length: {len(raw)}\r\n\r\n".encode()
            + raw
        )
        time.sleep(seconds)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_work(stream):
    policy = Echo(seconds=0.05)
    with serving(fake(policy), in_flight=1) as (url, workers):
        hang_up(url, body("word " * 500, stream=stream), 0.3)
        wait_for(lambda: workers.running == 0, 1.0)
        written = policy.words[0]
        time.sleep(0.2)
        assert policy.words[0] == written < 60


def test_clients_that_leave_at_random_leave_no_work():
    policy, moments = Echo(seconds=0.01), random.Random(3)
    with serving(fake(policy), capacity=200) as (url, workers), ThreadPoolExecutor(50) as pool:
        for number in range(200):
            pool.submit(hang_up, url, body("word " * 300, stream=bool(number % 2)), moments.uniform(0, 0.5))
        pool.shutdown()
        wait_for(lambda: workers.running == workers.waiting == 0)
        assert post(url, body("still here")).json()["choices"][0]["message"]["content"] == "ECHO STILL HERE"


def test_a_slow_reader_holds_up_nobody():
    with serving(fake(), in_flight=1) as (url, _):
        host, port = url.removeprefix("http://").split(":")
        raw = json.dumps(body("word " * 1500, stream=True)).encode()
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            slow.connect((host, int(port)))
            slow.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                + f"Content-Length: {len(raw)}\r\n\r\n".encode()
                + raw
            )
            slow.recv(1)
            began = time.monotonic()
            assert post(url, body("hi")).status_code == 200
            assert time.monotonic() - began < 3


def test_a_reader_that_reads_nothing_is_given_up():
    policy = Echo(seconds=0.001)
    with serving(fake(policy), limits=Limits(reading=0.3)) as (url, workers):
        host, port = url.removeprefix("http://").split(":")
        raw = json.dumps(body("w" * 30 + " " + "longword " * 900, stream=True)).encode()
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            slow.connect((host, int(port)))
            slow.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                + f"Content-Length: {len(raw)}\r\n\r\n".encode()
                + raw
            )
            wait_for(lambda: workers.running == 0, 10)


def test_a_body_that_does_not_come_is_given_up(address):
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert b" 408 " in connection.recv(200)


def test_connections_that_ask_nothing_are_closed(monkeypatch):
    monkeypatch.setattr("metaaligner_lite.serve.listen._PATIENCE", 0.2)
    with serving(fake()) as (url, _):
        host, port = url.removeprefix("http://").split(":")
        for said in (b"", b"POST /v1/chat", b"GET /health HTTP/1.1\r\nHost: local"):
            with socket.create_connection((host, int(port)), timeout=5) as connection:
                connection.sendall(said)
                assert connection.recv(100) == b""
        with serving(fake(Echo(seconds=0.1))) as (slow, _):  # one that waits for its answer is not
            assert post(slow, body("a b c d e f g h")).status_code == 200


def test_the_time_limit():
    with serving(fake(Echo(seconds=0.05)), time_limit=0.2) as (url, _):
        got = post(url, body("word " * 100))
        assert (got.status_code, got.json()["error"]["code"]) == (503, "time_limit")
    with serving(fake(aligner=Upper(seconds=0.05)), time_limit=0.2) as (url, _):
        found = post(url, body("word " * 20)).json()
        assert "time limit" in found["metaaligner"]["failure"]
        assert found["choices"][0]["message"]["content"] == "echo " + " ".join(["word"] * 20)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("grace", [5.0, 0.0])
def test_the_end(stream, grace):
    """What is in flight ends, or is told; what comes later is refused."""
    with serving(fake(Echo(seconds=0.05)), in_flight=1) as (url, workers), ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(post, url, body("a b c d e f", stream=stream)) for _ in range(2)]
        wait_for(lambda: workers.running == workers.waiting == 1)
        time.sleep(0.1)
        ending = threading.Thread(target=workers.close, args=(grace,))
        ending.start()
        wait_for(lambda: workers._closing)
        assert post(url, body()).json()["error"]["code"] == "shutting_down"
        for one in asked:
            got = one.result()
            if grace:
                assert got.status_code == 200
                assert "ECHO A" in got.text.replace('"}', "") or stream
            else:
                assert "the server is shutting down" in got.text
        ending.join()


# Who is let in.


def header_cases():
    yield {}, 200
    for host, status in {
        "localhost": 200, "LOCALHOST:8765": 200, "127.0.0.1:1": 200, "[::1]:80": 200, "192.168.1.7": 200,
        "mal.example:8765": 200, "evil.example": 403, "127.0.0.1.evil.example": 403, "": 403, "localhost@evil": 403,
    }.items():  # fmt: skip
        yield {"host": host}, status
    for origin, status in {
        "http://localhost:8765": 200, "http://localhost:3000": 403, "https://chat.example": 200, "null": 403,
        "http://evil.example": 403, "https://chat.example.evil.example": 403,
    }.items():  # fmt: skip
        yield {"host": "localhost:8765", "origin": origin}, status
    yield {"host": "localhost", "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403
    yield {"host": "localhost", "sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, 403
    yield {"host": "localhost", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 200
    yield {"host": "localhost", "sec-fetch-site": "same-origin"}, 200


@pytest.fixture(scope="module")
def guarded():
    door = Door(hosts=("mal.example",), origins=("https://chat.example",))
    with serving(fake(), door=door) as (url, _):
        yield url


@pytest.mark.parametrize(("headers", "status"), list(header_cases()))
def test_host_and_origin(guarded, headers, status):
    got = get(f"{guarded}/v1/models", headers=headers)
    assert got.status_code == status
    if status == 403:
        assert got.json()["error"]["type"] == "permission_error"
        assert "--allow-" in got.json()["error"]["message"]


def test_cors_for_a_named_origin(guarded):
    asks = {"origin": "https://chat.example", "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type"}  # fmt: skip
    before = HTTP.options(guarded + CHAT, headers=asks)
    assert before.status_code == 200
    assert before.headers["access-control-allow-origin"] == "https://chat.example"
    assert "authorization" in before.headers["access-control-allow-headers"].lower()
    got = post(guarded, body(), headers={"origin": "https://chat.example"})
    assert got.headers["access-control-allow-origin"] == "https://chat.example"
    asks["origin"] = "http://evil.example"
    assert HTTP.options(guarded + CHAT, headers=asks).status_code == 403


def test_the_key():
    lines = []
    with serving(fake(), door=Door(key="sesame-42"), log=lines.append) as (url, _):
        for path in ("/v1/models", "/v1/objectives", "/openapi.json"):
            assert get(url + path).status_code == 401
        assert get(f"{url}/health").status_code == get(url).status_code == 200
        for wrong in ("Bearer sesame-43", "Bearer", "sesame-42", "Basic sesame-42", "Bearer sésame"):
            got = get(f"{url}/v1/models", headers={"authorization": wrong.encode("latin-1")})
            assert got.status_code == 401
            assert got.json()["error"]["code"] == "invalid_api_key"
        assert post(url, body(), headers={"authorization": "Bearer sesame-42"}).status_code == 200
    assert lines
    assert "sesame" not in "".join(lines) + repr(Door(key="sesame-42"))


def test_texts_are_logged_only_if_asked(capfd):
    lines = []
    with serving(fake(), log=lines.append) as (url, _):
        post(url, body("a secret"))
        assert "secret" in lines[-1]
    assert "secret" not in lines[0]
    assert "secret" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("host", "name"),
    [("LocalHost:80", "localhost"), ("[::1]:80", "::1"), ("a.b.", "a.b"), ("a:b:c", ""), ("a b", ""), ("", "")],
)
def test_names_of_hosts(host, name):
    assert host_name(host) == name


@pytest.mark.parametrize(
    ("address", "alone"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("192.168.1.2", False), ("x", False)],
)
def test_addresses_of_this_machine_alone(address, alone):
    assert loopback(address) == alone


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]\nobjectives = 'empathy'\n", ""),
        ("[a]\nobjectives = ['empathy', 'calm: The response should be calm.']\ngate = true\nrounds = 2\n", ""),
        ("[a", "is not valid TOML"),
        ("[a]\n", "expected a table such as \\[a\\] with a line objectives"),
        ("[policy]\nobjectives = 'empathy'", "'policy' is taken"),
        ("[a]\nobjectives = 'empathy'\ngates = true", "unknown key 'gates'; expected one of objectives, gate"),
        ("[a]\nobjectives = 'empathy'\nrounds = 'two'", "rounds cannot be 'two'"),
        ("[a]\nobjectives = 'empathy'\nrounds = 9", "rounds cannot be 9; expected 1 to 8"),
        ("[a]\nobjectives = 'empathy'\nshow = 'diff'", "show cannot be 'diff'; expected aligned or both"),
        ("[a]\nobjectives = 'empaty'", "set 'a': unknown objective 'empaty'"),
    ],
)
def test_files_of_sets(tmp_path, text, message):
    path = tmp_path / "sets.toml"
    path.write_text(text)
    default = Chosen(tuple(resolve("clarity")), show="both")
    if message:
        with pytest.raises(UsageError, match=message):
            read_sets(path, builtin_catalogue(), default)
    else:
        found = read_sets(path, builtin_catalogue(), default)["a"]
        assert (found.objectives[0].name, found.show) == ("empathy", "both")
    with pytest.raises(FileProblem):
        read_sets(tmp_path / "none.toml", builtin_catalogue(), default)


def test_the_loop_is_woken_once_for_what_is_fetched_at_once(monkeypatch):
    """A ring for every token took a tenth of the time in which an engine could write."""

    async def told():
        loop, rings = asyncio.get_running_loop(), []
        ring = loop.call_soon_threadsafe
        monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *args: (rings.append(1), ring(*args)))
        mailbox, found = Mailbox(), []

        def write():
            for number in range(100):
                mailbox.put("edit", f"{number} ")

        write()
        found += await mailbox.fetch()
        assert (found, len(rings)) == ([("edit", "".join(f"{number} " for number in range(100)))], 1)
        assert await mailbox.fetch(0.01) == []
        writers = [threading.Thread(target=write) for _ in range(4)]
        for writer in writers:
            writer.start()
        got = ""
        while got.count(" ") < 400:  # nothing is lost between a ring and a fetch
            async with asyncio.timeout(20):
                got += "".join(text for _, text in await mailbox.fetch())
        for writer in writers:
            writer.join()

    asyncio.run(told())
