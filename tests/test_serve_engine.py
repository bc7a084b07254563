"""mal serve over small trained models: shared batches, prefixes that stay, stops, predictions, the command."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import trained

pytest.importorskip("httpx2")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from served import body, events, serving, text_of
from test_serve import HTTP, get, hang_up, post, wait_for

from metaaligner_lite.align import align
from metaaligner_lite.generation import Settings
from metaaligner_lite.llama.context import Context
from metaaligner_lite.llama.decode import TextStream
from metaaligner_lite.pair import Choice, open_pair

SHARED = Choice(trained.POLICY, adapter=trained.ADAPTER, engine={"threads": 1})
APART = Choice(trained.POLICY, trained.ALIGNER, engine={"threads": 1})
KEEP = 50_000_000


@pytest.fixture(scope="module", params=["shared", "apart"])
def pair(request):
    with open_pair(SHARED if request.param == "shared" else APART) as opened:
        yield opened


@pytest.fixture
def served(pair):
    with serving(pair, shelf_bytes=KEEP, in_flight=3) as (url, workers):
        yield url, workers


def answers(pair, cases, **options):
    return [align(query, wanted, policy=pair.policy, aligner=pair.aligner, **options).text for query, wanted in cases]


def test_texts_that_share_batches_are_those_of_one_at_a_time(pair):
    cases = trained.prompts()[:6]
    alone = answers(pair, cases)
    with serving(pair, shelf_bytes=KEEP, in_flight=3) as (url, _), ThreadPoolExecutor(6) as pool:

        def ask(case):
            query, wanted = case
            asked = body(query, metaaligner={"objectives": list(wanted)}, stream=query > "M")
            got = post(url, asked)
            assert got.status_code == 200
            if asked["stream"]:
                return text_of(events(got.iter_lines()))
            return got.json()["choices"][0]["message"]["content"]

        together = list(pool.map(ask, cases))
    # Batches of other sizes round otherwise: a near-tie may fall the other way. Nobody gets what is another's.
    other = [(own, text) for own, text in zip(alone, together, strict=True) if own != text]
    assert len(other) <= 2
    assert all(text not in alone for _, text in other)


def test_adapters_never_mix_in_a_batch(monkeypatch):
    kinds = []
    extend = Context.extend

    def watched(self, parts):
        kinds.append((self._adapter_is_on, {self.sequences[i].adapted_from < 10**9 for i, _ in parts}, len(parts)))
        return extend(self, parts)

    monkeypatch.setattr(Context, "extend", watched)
    with open_pair(SHARED) as pair, serving(pair, in_flight=3) as (url, _), ThreadPoolExecutor(9) as pool:
        cases = trained.prompts()[20:26]
        models = ["aligned", "policy", "aligned/brevity"] * 2
        found = list(pool.map(lambda it: post(url, body(it[0][0]) | {"model": it[1]}), zip(cases, models, strict=True)))
    assert all(got.status_code == 200 for got in found)
    assert {on for on, _, _ in kinds} == {False, True}
    assert all(adapted == {on} for on, adapted, _ in kinds)
    assert max(size for _, _, size in kinds) == 3


def test_two_conversations_in_turn_read_only_what_is_new(served):
    url, _ = served
    talks = [
        [{"role": "system", "content": f"You answer people who write about {about}. " + "Be of use to them. " * 8}]
        for about in ("parcels", "gardens")
    ]
    for turn in range(3):
        for talk in talks:
            talk.append({"role": "user", "content": f"This is my question number {turn}, what do you say?"})
            found = post(url, {"messages": talk, "max_tokens": 12}).json()
            policy = found["metaaligner"]["stages"]["policy"]
            if turn:
                assert policy["reused"] > policy["read"], found["metaaligner"]
            talk.append({"role": "assistant", "content": found["choices"][0]["message"]["content"]})


def test_what_is_kept_of_conversations_is_bounded(pair):
    with serving(pair, shelf_bytes=KEEP, in_flight=1) as (url, workers):
        for number in range(8):
            post(url, {"messages": [{"role": "user", "content": f"{number} " + "why so? " * 20}], "max_tokens": 3})
            for shelf in workers.turns._shelves.values():
                shelf.limit = 3 * max((len(kept.state) for kept in shelf._kept), default=KEEP)
        for shelf in workers.turns._shelves.values():
            assert len(shelf._kept) == 3
            assert shelf.size == sum(len(kept.state) for kept in shelf._kept) <= shelf.limit


def test_a_prompt_beyond_the_context(served, pair):
    url, _ = served
    for path, asked in (
        ("/v1/chat/completions", body("word " * 3000)),
        ("/v1/completions", {"prompt": "word " * 3000, "model": "policy"}),
    ):
        got = post(url, asked, path)
        error = got.json()["error"]
        assert (got.status_code, error["code"]) == (400, "context_length_exceeded")
        assert f"holds {pair.policy.engine.limit:,}" in error["message"]


def test_stop_and_max_tokens(served):
    url, _ = served
    query = trained.prompts()[0][0]
    whole = post(url, body(query) | {"model": "policy"}).json()["choices"][0]["message"]["content"]
    middle = whole[len(whole) // 2 :][:5]
    got = post(url, body(query, stop=[middle]) | {"model": "policy"}).json()["choices"][0]
    assert got["message"]["content"] == whole[: whole.index(middle)].rstrip()
    assert got["finish_reason"] == "stop"
    streamed = text_of(events(post(url, body(query, stop=middle, stream=True) | {"model": "policy"}).iter_lines()))
    assert streamed == got["message"]["content"]
    short = post(url, body(query, max_tokens=3) | {"model": "policy"}).json()
    assert short["choices"][0]["finish_reason"] == "length"
    assert short["usage"]["completion_tokens"] == 3


def test_a_prediction_is_copied_from(served):
    url, _ = served
    query = trained.prompts()[1][0]
    plain = post(url, body(query) | {"model": "policy"}).json()
    text = plain["choices"][0]["message"]["content"]
    guessed = post(url, body(query, prediction={"type": "content", "content": text}) | {"model": "policy"}).json()
    assert guessed["choices"][0]["message"]["content"][:100] == text[:100]  # a near-tie later on may fall otherwise
    details = [it["usage"]["completion_tokens_details"]["accepted_prediction_tokens"] for it in (plain, guessed)]
    assert details[0] == 0
    assert details[1] > plain["usage"]["completion_tokens"] / 2


def test_a_seed_makes_sampling_repeatable(served):
    url, _ = served
    asked = body(trained.prompts()[2][0], temperature=1.5, max_tokens=20) | {"model": "policy"}
    texts = [post(url, asked | {"seed": seed}).json()["choices"][0]["message"]["content"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_plain_text(served):
    url, _ = served
    found = post(url, {"prompt": "The parcel", "max_tokens": 8}, "/v1/completions").json()
    assert found["choices"][0]["text"] == found["metaaligner"]["policy_text"] or found["metaaligner"]["aligned"]
    assert found["metaaligner"]["stages"]["policy"]["written"] == 8


def test_a_gate_beside_other_requests(served):
    url, _ = served
    with ThreadPoolExecutor(4) as pool:
        asked = [
            body(query, metaaligner={"gate": bool(i % 2), "objectives": list(wanted), "rounds": 1 + i % 3})
            for i, (query, wanted) in enumerate(trained.prompts()[40:44])
        ]
        found = [got.json() for got in pool.map(lambda it: post(url, it), asked)]
    assert all(
        (it["metaaligner"]["preference"] is not None) <= ask["metaaligner"]["gate"]
        for it, ask in zip(found, asked, strict=True)
    )
    assert any(it["metaaligner"]["preference"] is not None for it in found)


def test_clients_that_leave_leave_no_work(served):
    url, workers = served
    with ThreadPoolExecutor(20) as pool:
        for number in range(40):
            asked = body(f"Tell me about number {number}. " * 5, stream=bool(number % 2), max_tokens=200)
            pool.submit(hang_up, url, asked, 0.01 * number)
    wait_for(lambda: workers.running == workers.waiting == 0 and not workers.turns.busy)
    query, wanted = trained.prompts()[3]
    assert post(url, body(query, metaaligner={"objectives": list(wanted)})).status_code == 200


def test_an_engine_that_fails_once_goes_on(served, monkeypatch):
    from metaaligner_lite.errors import ModelError

    url, _ = served
    extend = Context.extend

    def failing(self, parts):
        monkeypatch.setattr(Context, "extend", extend)
        raise ModelError("llama.cpp failed with status 1")

    monkeypatch.setattr(Context, "extend", failing)
    got = post(url, body("One."))
    assert (got.status_code, "status 1" in got.json()["error"]["message"]) == (500, True)
    assert post(url, body("Two.")).status_code == 200


@pytest.mark.parametrize(
    ("chunks", "stops", "text", "ended"),
    [
        (["one two", " three"], ["two"], "one", "stop"),
        (["one t", "w", "o three"], ["two"], "one", "stop"),
        (["one t", "en"], ["two"], "one ten", ""),
        (["one tw"], ["two"], "one tw", ""),
        (["a\n", "\nb"], ["\n\n"], "a", "stop"),
        (["a\nb"], ["\n\n"], "a\nb", ""),
        (["a b c"], ["c", "b"], "a", "stop"),
        (["```\nx", "y```"], ["y"], "```\nx", "stop"),
        (["one\nUser: two"], ["two"], "one", "run-on"),
        (["one two\nUser:"], ["two"], "one", "stop"),
        (["STOP"], ["STOP"], "", "stop"),
    ],
)
def test_stops_in_a_stream(chunks, stops, text, ended):
    seen = []
    stream = TextStream(seen.append, ("User:",), stops)
    for chunk in chunks:
        if not stream.feed(chunk):
            break
    assert (stream.close(), "".join(seen), stream.ended) == (text, text, ended)


def test_settings_change_nobody_else_s(pair):
    asked = pair.policy.asked(Settings(max_tokens=3, stops=("x",)))
    assert (asked.max_tokens, pair.policy.max_tokens, pair.policy.stops) == (3, None, ())
    assert asked.engine is pair.policy.engine


# The command.


def command(*options, model=trained.POLICY):
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    flags = ["--policy", str(model), "--adapter", str(trained.ADAPTER), "--threads", "1", "--port", "0", *options]
    return subprocess.Popen(
        [sys.executable, "-m", "metaaligner_lite", "serve", *flags], stderr=subprocess.PIPE, text=True, env=env
    )


def started(process):
    for line in process.stderr:
        if "speaks OpenAI's protocol" in line:
            return line.split("/v1")[0]
    raise AssertionError("it did not start")


@pytest.mark.parametrize(("grace", "ends"), [("20", "finish"), ("0", "told")])
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
def test_sigterm(grace, ends):
    process = command("--grace", grace)
    url = started(process)
    threading.Thread(target=process.stderr.read, daemon=True).start()
    try:
        # Sampled hot, a text of this model goes on until its limit.
        asked = body("Where is it?", stream=True, max_tokens=400, temperature=2.0, top_k=0, top_p=1.0, min_p=0.0)
        with HTTP.stream("POST", f"{url}/v1/chat/completions", json=asked | {"model": "policy"}) as got:
            lines = got.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            found = events(list(lines))
        assert found[-1] == "[DONE]"
        if ends == "finish":
            assert found[-2]["choices"][0]["finish_reason"] in ("length", "stop")
        else:
            assert found[-2]["error"]["code"] == "shutting_down" or found[-2]["choices"][0]["finish_reason"]
        assert process.wait(30) == 0
    finally:
        process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be removed there")
def test_a_model_file_that_vanishes(tmp_path):
    model = shutil.copy(trained.POLICY, tmp_path / "policy.gguf")
    process = command(model=model)
    try:
        url = started(process)
        os.unlink(model)
        assert post(url, body("Where is it?", max_tokens=5)).status_code == 200
        assert get(f"{url}/health").json()["status"] == "ready"
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "others can reach 0.0.0.0: give --api-key-file"),
        (["--api-key", "two words"], "the key must be one word"),
        (["--api-key", "a", "--api-key-file", "b"], "two keys are given"),
        (["--api-key-file", "none"], "cannot read the file of the key none"),
        (["--show", "diff"], "--show cannot be 'diff'"),
        (["-o", "empathy", "-o", "clarity"], "one set of objectives by default"),
        (["-o", "empaty"], "did you mean 'empathy'"),
        (["--sets", "none.toml"], "cannot read the file of sets none.toml"),
        (["--host", "192.0.2.1", "--api-key", "k"], "cannot listen on 192.0.2.1"),
    ],
)
def test_wrong_usage(options, message):
    process = command(*options)
    said = process.communicate(timeout=60)[1]
    assert process.returncode in (1, 2)
    assert message in said


def test_a_port_that_is_taken():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = command("--port", str(taken.getsockname()[1]))
        assert "name another with `port`" in process.communicate(timeout=60)[1].replace("--port", "`port`")


def test_the_command_line_loads_nothing_of_the_server():
    code = (
        "import sys, metaaligner_lite.cli\n"
        "print([name for name in ('starlette', 'uvicorn', 'pydantic', 'prometheus_client') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
