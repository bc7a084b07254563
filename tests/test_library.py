"""The library as its documentation shows it, and `aalign`."""

import asyncio
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_endpoint import END, HELLO, WORLD, events, serve
from trained import ALIGNER, POLICY

import metaaligner_lite
from metaaligner_lite import (
    EndpointAligner,
    EndpointError,
    EndpointPolicy,
    Server,
    UsageError,
    aalign,
    align,
)
from metaaligner_lite.endpoint import Endpoint
from metaaligner_lite.testing import FakeAligner, FakePolicy

assert serve  # a fixture
README = Path(__file__).parent.parent / "README.md"


def examples():
    """The Python that the documentation shows."""
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    own = "\n".join(line[4:] for line in metaaligner_lite.__doc__.splitlines() if line.startswith("    "))
    return [*blocks, own]


def runnable(url):
    return [
        example.replace('"policy.gguf"', repr(str(POLICY)))
        .replace('"aligner.gguf"', repr(str(ALIGNER)))
        .replace("http://localhost:11434/v1", url)
        for example in examples()
    ]


@pytest.mark.parametrize("number", range(len(examples())))
def test_the_examples_of_the_documentation_run(serve, capsys, number):
    url, asked = serve(events(HELLO, WORLD, END), models=("llama3.2",))
    source = runnable(url)[number]
    exec(compile(source, f"example {number}", "exec"), {"__name__": "example"})
    out = capsys.readouterr().out
    assert out.strip() or "assert correction.text" in source
    if url in source:
        assert len([path for path, body, _ in asked if body]) == 2


@pytest.mark.slow
def test_the_examples_are_typed(tmp_path):
    for number, source in enumerate(examples()):
        (tmp_path / f"example{number}.py").write_text(source, encoding="utf-8")
    root = README.parent
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", root / "pyproject.toml", tmp_path]
    came = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert came.returncode == 0, came.stdout


def sorry(text, objectives):
    return f"I'm sorry. {text}"


def test_aalign_gives_what_align_gives_and_tells_in_the_loop():
    policy, aligner = FakePolicy("one two"), FakeAligner(sorry)
    heard = []

    async def main():
        loop = asyncio.get_running_loop()
        listen = lambda text: heard.append((text, asyncio.get_running_loop() is loop))  # noqa: E731
        came = await aalign("Q", "empathy", policy=policy, aligner=aligner, on_answer=listen, on_edit=listen)
        assert len(heard) == 6  # all of them before the result
        return came

    assert asyncio.run(main()) == align("Q", "empathy", policy=policy, aligner=aligner)
    assert [text for text, _ in heard] == ["one", " two", "I'm", " sorry.", " one", " two"]
    assert all(inside for _, inside in heard)
    with pytest.raises(UsageError):
        asyncio.run(aalign("Q", "nonsens", policy=policy, aligner=aligner))


def test_servers_are_asked_side_by_side(serve):
    url, _ = serve((200, {"Content-Type": "text/event-stream"}, [0.5, *events(HELLO, END)[2]]))

    async def main():
        with Endpoint(Server(url, "tiny")) as endpoint:
            policy, aligner = EndpointPolicy(endpoint), EndpointAligner(endpoint)
            asked = (aalign(str(n), "empathy", policy=policy, aligner=aligner) for n in range(20))
            return await asyncio.gather(*asked)

    began = time.monotonic()
    assert {one.text for one in asyncio.run(main())} == {"Hello"}
    assert time.monotonic() - began < 10  # one after the other: 20 s


def test_cancelled_it_hangs_up_and_is_over(serve):
    url, asked = serve((200, {"Content-Type": "text/event-stream"}, [*events(HELLO, done=False)[2], 30.0]))

    async def main():
        with Endpoint(Server(url, "tiny")) as endpoint:
            call = aalign("Q", "empathy", policy=EndpointPolicy(endpoint), aligner=FakeAligner(sorry))
            async with asyncio.timeout(1.0):
                await call

    began = time.monotonic()
    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert time.monotonic() - began < 5
    failing = FakePolicy({"Q": EndpointError("gone")})
    with pytest.raises(EndpointError, match="gone"):
        asyncio.run(aalign("Q", "empathy", policy=failing, aligner=FakeAligner(sorry)))
    assert asked
