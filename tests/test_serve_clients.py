"""mal serve behind the clients that people have: openai's own package, llm, curl, recorded requests of others."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import trained

pytest.importorskip("httpx2")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
pytest.importorskip("openai")

import openai
from served import Echo, Upper, events, fake, serving, text_of
from test_serve import get, post

from metaaligner_lite.models import BASE
from metaaligner_lite.pair import Choice, open_pair
from metaaligner_lite.serve.app import Limits
from metaaligner_lite.serve.safety import Door

RECORDED = json.loads(Path(__file__).with_name("client_requests.json").read_text(encoding="utf-8"))
ASKED = {"model": "aligned", "messages": [{"role": "user", "content": "Where is my parcel?"}]}
KEY = "sesame"


@pytest.fixture(
    scope="module",
    params=["fake", "small", pytest.param("smollm2", marks=pytest.mark.slow)],
)
def address(request):
    """A server over a pair without a model, over small trained ones, and over SmolLM2 with the aligner that ships."""
    door, limits = Door(key=KEY), Limits(keep_alive=0.5)
    if request.param == "fake":
        with serving(fake(Echo(seconds=0.01), Upper()), door=door, limits=limits) as (url, workers):
            workers._policy = lambda order: workers.policy.asked(order.settings)  # a continuation needs an engine
            yield url
        return
    if request.param == "smollm2" and not BASE.path:
        pytest.skip("SmolLM2 is not installed")
    small = Choice(trained.POLICY, adapter=trained.ADAPTER)
    with (
        open_pair(small if request.param == "small" else Choice()) as pair,
        serving(pair, door=door, limits=limits, shelf_bytes=50_000_000) as (url, _),
    ):
        yield url


@pytest.fixture
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as opened:
        yield opened


def test_openai(client):
    found = client.chat.completions.create(**ASKED, max_tokens=24)
    assert found.choices[0].message.content
    assert found.choices[0].finish_reason in ("stop", "length")
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    assert found.usage.completion_tokens_details.accepted_prediction_tokens is not None
    assert found.model_extra["metaaligner"]["objectives"] == ["empathy"]
    assert {model.id for model in client.models.list()} == {"aligned", "policy"}
    assert client.models.retrieve("policy").id == "policy"


def test_openai_with_a_body_of_its_own(client):
    own = {"metaaligner": {"objectives": ["clarity", {"name": "calm", "description": "The response should be calm."}]}}
    prediction = {"type": "content", "content": "Where is it?"}
    found = client.chat.completions.create(**ASKED, extra_body=own, prediction=prediction, max_completion_tokens=24)
    assert found.model_extra["metaaligner"]["objectives"] == ["clarity", "calm"]


def test_openai_streams(client):
    own = {"metaaligner": {"show": "both"}}
    whole, thoughts, last = "", "", None
    stream = client.chat.completions.create(
        **ASKED, stream=True, stream_options={"include_usage": True}, extra_body=own, max_tokens=24
    )
    for chunk in stream:
        if chunk.choices:
            delta = chunk.choices[0].delta
            whole += delta.content or ""
            thoughts += (delta.model_extra or {}).get("reasoning_content") or ""
            last = chunk if chunk.choices[0].finish_reason else last
        else:
            assert chunk.usage.completion_tokens
    assert whole
    assert thoughts.strip() == last.model_extra["metaaligner"]["policy_text"].strip()


def test_openai_gathers_a_stream(client):
    with client.chat.completions.stream(**ASKED, max_tokens=400) as stream:
        found = stream.get_final_completion()
    assert found.choices[0].message.content


def test_openai_async_many_at_once(address):
    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as client:
            asked = [client.chat.completions.create(**ASKED, max_tokens=12) for _ in range(3)]
            stream = await client.chat.completions.create(**ASKED, max_tokens=12, stream=True)
            async for _ in stream:
                break
            await stream.close()  # a client that has seen enough
            return await asyncio.gather(*asked)

    assert all(found.choices[0].message.content for found in asyncio.run(ask()))


def test_openai_completions(client):
    found = client.completions.create(model="policy", prompt="Once upon a time", max_tokens=6)
    assert found.choices[0].text
    assert found.usage.completion_tokens


def test_openai_s_errors(client, address):
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-4o'"):
        client.chat.completions.create(model="gpt-4o", messages=ASKED["messages"])
    with pytest.raises(openai.BadRequestError, match="unknown key 'objectiv'"):
        client.chat.completions.create(**ASKED, extra_body={"metaaligner": {"objectiv": "x"}})
    with pytest.raises(openai.BadRequestError) as told:
        client.chat.completions.create(model="aligned", messages=[{"role": "user", "content": "word " * 20_000}])
    assert told.value.code == "context_length_exceeded"
    other = openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0)
    with other, pytest.raises(openai.AuthenticationError):
        other.models.list()


def patient(url, **options):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, **options)


def test_openai_survives_silence():
    """Comments keep the connection alive while a stage says nothing; openai's parser passes over them."""
    slow = fake(Echo(seconds=0.3), Upper())
    with serving(slow, limits=Limits(keep_alive=0.1)) as (url, _), patient(url, timeout=1.0) as client:
        stream = client.chat.completions.create(**ASKED, stream=True)
        said = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert said.strip() == "ECHO WHERE IS MY PARCEL?"


def test_openai_sees_an_error_in_a_stream():
    slow = fake(Echo(seconds=0.2))
    with serving(slow, limits=Limits(keep_alive=0.1), time_limit=0.5) as (url, _), patient(url) as client:
        stream = client.chat.completions.create(**ASKED, stream=True)
        with pytest.raises(openai.APIError, match="time limit"):
            list(stream)


@pytest.mark.slow
@pytest.mark.parametrize("stream", [True, False])
def test_llm(address, stream):
    """`llm openai endpoint` prompts a server that nobody configured."""
    pytest.importorskip("llm")
    command = [sys.executable, "-m", "llm", "openai", "endpoint", f"{address}/v1", "--key", KEY]
    listed = subprocess.run([*command, "--models"], capture_output=True, text=True, timeout=120)
    assert "aligned" in listed.stdout, listed.stderr
    flags = [] if stream else ["--no-stream"]
    said = subprocess.run(
        [*command, "-m", "aligned", *flags, "-o", "max_tokens", "24", "Where is my parcel?"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip()


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_curl(address):
    command = ["curl", "-sN", f"{address}/v1/chat/completions", "-H", f"Authorization: Bearer {KEY}"]
    command += ["-H", "Content-Type: application/json", "-d", json.dumps({**ASKED, "stream": True, "max_tokens": 12})]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = events(said.stdout.splitlines())
    assert found[-1] == "[DONE]"
    assert text_of(found)


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda it: it["name"])
def test_recorded_requests(address, recorded):
    """Requests as other clients made them, byte for byte but for the address; tests/client_requests.json says which."""
    headers = {**recorded["headers"], "authorization": f"Bearer {KEY}"}
    if recorded["method"] == "GET":
        assert get(address + recorded["path"], headers=headers).status_code == 200
        return
    got = post(address, recorded["body"], recorded["path"], headers=headers)
    assert got.status_code == 200, got.text
    if recorded["body"].get("stream"):
        found = events(got.iter_lines())
        assert found[-1] == "[DONE]"
        assert text_of(found)
    else:
        assert got.json()["choices"][0]["message"]["content"]


@pytest.mark.slow
def test_schemathesis(tmp_path):
    """What the description allows is taken or refused as it says, and what comes back is as it says.

    Left out is the check that everything of the right form is accepted: a form cannot tell that a conversation ends
    with the user's turn, or that a text is not empty.
    """
    pytest.importorskip("schemathesis")
    with serving(fake(), metrics=True) as (url, workers):
        workers._policy = lambda order: workers.policy.asked(order.settings)  # a continuation needs an engine
        command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run"]
        options = ["--max-examples", "30", "--phases", "examples,coverage,fuzzing", "--no-color"]
        options += ["--exclude-checks", "positive_data_acceptance", "--seed", "1"]
        found = subprocess.run(
            [*command, f"{url}/openapi.json", *options], capture_output=True, text=True, timeout=580, cwd=tmp_path
        )  # where it runs it leaves a folder
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-1000:]
    assert "8 selected / 8 total" in found.stdout  # of nine: it leaves out where the description itself stands
