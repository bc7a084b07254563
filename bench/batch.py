"""How many rows a second: one at a time, in flight together, two llama_cpp.Llama in a loop, and llama-server.

    python bench/batch.py MODEL.gguf ANSWERS.csv [--adapter FILE.gguf] [--rows 300] [--in-flight 1,2,4,8] [--no-draft]
        [--llama-server PATH] [--same-file]

Rows with an answer are edited toward --objectives by `mal batch`'s own loop, journal included; "two Llamas" is the
second of two llama_cpp.Llama objects, which has the adapter, reads each prompt and writes the edit, one after the
other; "llama-server" is llama.cpp's own with four slots, the adapter and four clients, built from the sources that
llama-cpp-python's source distribution holds. The server knows activated adapters and writes what the runtime writes; a
`Llama` adapts what stands before the request, too, and so writes other texts. Nobody has bars (llama/sure.py), so that
all write the likeliest text. The runtime may read a copy of the weights as F16 (llama/unpacked.py); with --same-file
the others are given that copy, else the model as it is.

The rows come in blocks of --block; each contestant does each block, in an order that changes from block to
block, so that what else the machine does hits all alike. Ratios are taken within a block before their median is. "cpu"
are seconds of the processor. `same` counts the rows whose text is that of one at a time; the others differ by near-
ties, which larger batches round the other way, unless --in-flight leaves out 1.

Prints a table and, as its last line, one JSON document.
"""

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

from machine import Bystanders, Result, machine

from metaaligner_lite import GgufAligner, GivenAnswer, open_engine, resolve
from metaaligner_lite.aligners import Edit
from metaaligner_lite.batch import Job, align_rows
from metaaligner_lite.generation import OnText
from metaaligner_lite.journal import Journal
from metaaligner_lite.llama.engine import Request
from metaaligner_lite.llama.machine import hardware_threads
from metaaligner_lite.llama.unpacked import unpacked
from metaaligner_lite.objectives import Objective
from metaaligner_lite.pair import Pair
from metaaligner_lite.pieces import Prompt, encode, text_of
from metaaligner_lite.prompts import CONVERSATION, edit_prompt
from metaaligner_lite.records import Record
from metaaligner_lite.rows import Reading, Row, read_rows
from metaaligner_lite.templates import PLAIN_DIALOGUE

ALONE, LLAMAS = "1 in flight", "two Llamas"
SERVER, SLOTS = "llama-server", 4


def main() -> None:
    options = parse()
    reading = Reading(objectives=tuple(resolve(options.objectives)))
    rows = [row for row in read_rows(options.answers, reading) if fits(row, options)]
    rows = rows[:: max(1, len(rows) // options.rows)][: options.rows]
    blocks: list[dict[str, Result]] = []
    texts: dict[str, dict[bytes, str]] = {}
    with open_engine(options.model, adapter=options.adapter, threads=options.threads) as engine:
        layout = "" if options.adapter else CONVERSATION
        aligner = Likeliest(engine, layout=layout, template=PLAIN_DIALOGUE, draft=options.draft)
        options.rivals = unpacked(engine.model.header) if options.same_file and engine.model.unpacked else options.model
        contest = {f"{n} in flight": ours(aligner, reading, n) for n in options.in_flight}
        if options.llamas:
            contest[LLAMAS] = theirs(aligner, options)
        if options.llama_server:
            options.server = Server(options)
            contest[SERVER] = options.server.contestant(aligner)
        work = iter(rows)
        while block := list(islice(work, options.block)):
            turn = len(blocks) % len(contest)
            found: dict[str, Result] = {}
            for name in [*list(contest)[turn:], *list(contest)[:turn]]:
                clocks = time.perf_counter(), processor(options)
                written, texts_here = contest[name](block)
                texts.setdefault(name, {}).update(texts_here)
                found[name] = {
                    "seconds": time.perf_counter() - clocks[0],
                    "cpu": processor(options) - clocks[1],
                    "written": written,
                    "rows": len(block),
                }
                print(f"block {len(blocks) + 1}, {name}: {found[name]}", file=sys.stderr)
            blocks.append(found)
    if options.server:
        options.server.stop()
    report(options, blocks, texts)


def processor(options: argparse.Namespace) -> float:
    """Seconds of the processor, the server's among them."""
    return time.process_time() + (options.server.processor() if options.server else 0.0)


class Likeliest(GgufAligner):
    """An aligner without bars, and without a rule for code."""

    def _bar(self, objectives: Sequence[Objective]) -> None:
        return None

    def _request(self, edit: Edit, prompt: Prompt, on_text: OnText | None) -> Request:
        return replace(super()._request(edit, prompt, on_text), keeps_code=False)


Contestant = Callable[[list[Row]], tuple[int, dict[bytes, str]]]


def ours(aligner: GgufAligner, reading: Reading, in_flight: int) -> Contestant:
    def run(block: list[Row]) -> tuple[int, dict[bytes, str]]:
        texts: dict[bytes, str] = {}
        written = 0
        with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "journal", {}) as journal:

            def done(row: Row, result: Record) -> None:
                nonlocal written
                journal.append(row.key, result)
                texts[row.key] = result.get("text", "")
                written += result.get("written", 0)

            job = Job(Path("in.csv"), Path("out.csv"), reading, in_flight=in_flight)
            align_rows(iter(block), Pair(GivenAnswer(""), aligner), job, shared=False, on_done=done)
        return written, texts

    return run


def theirs(aligner: GgufAligner, options: argparse.Namespace) -> Contestant:
    from llama_cpp import Llama

    threads = options.threads or hardware_threads()
    path = str(options.rivals)
    _, second = (
        Llama(path, n_ctx=4096, n_threads=threads, n_threads_batch=threads, lora_path=lora, verbose=False)
        for lora in (None, str(options.adapter) if options.adapter else None)
    )

    def run(block: list[Row]) -> tuple[int, dict[bytes, str]]:
        texts: dict[bytes, str] = {}
        written = 0
        for row in block:
            prompt = prompt_of(aligner, row)
            limit = most_of(aligner, row)
            found = second.create_completion(text_of(prompt), max_tokens=limit, temperature=0.0, repeat_penalty=1.0)
            texts[row.key] = found["choices"][0]["text"].strip()
            written += found["usage"]["completion_tokens"]
        return written, texts

    return run


class Server:
    """llama-server on the same model and adapter, asked for an edit by its token ids."""

    def __init__(self, options: argparse.Namespace) -> None:
        import psutil

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{free.getsockname()[1]}"
        threads = str(options.threads or hardware_threads())
        command = [
            options.llama_server,
            "-m",
            options.rivals,
            "-np",
            SLOTS,
            "-c",
            4096 * SLOTS,
            "-t",
            threads,
            "-tb",
            threads,
        ]
        command += ["--port", self.address.rpartition(":")[2], "--host", "127.0.0.1"]
        command += ["--lora", options.adapter] if options.adapter else []
        quiet = subprocess.DEVNULL
        self.process = psutil.Popen([*map(str, command)], stdout=quiet, stderr=quiet)
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"{self.address}/health", timeout=1):
                    return
            except OSError:
                time.sleep(0.25)
        raise SystemExit(f"{options.llama_server} does not answer")

    def processor(self) -> float:
        return float(sum(self.process.cpu_times()[:2]))

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    def contestant(self, aligner: GgufAligner) -> Contestant:
        def edit(row: Row) -> tuple[bytes, str, int]:
            prompt = encode(prompt_of(aligner, row), aligner.engine.model)
            body = {"prompt": prompt, "n_predict": most_of(aligner, row), "temperature": 0.0, "cache_prompt": True}
            request = urllib.request.Request(
                f"{self.address}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request) as answer:
                found = json.load(answer)
            return row.key, found["content"].strip(), found["tokens_predicted"]

        def run(block: list[Row]) -> tuple[int, dict[bytes, str]]:
            with ThreadPoolExecutor(SLOTS) as clients:
                found = list(clients.map(edit, block))
            return sum(written for *_, written in found), {key: text for key, text, _ in found}

        return run


def prompt_of(aligner: GgufAligner, row: Row) -> Prompt:
    """What asks for a row's edit."""
    case = row.case
    assert case
    assert case.answer
    return edit_prompt(aligner.layout, case.query, case.answer, case.objectives, aligner.template, known=aligner.known)


def most_of(aligner: GgufAligner, row: Row) -> int:
    """How many tokens the others may write."""
    assert row.case
    return 2 * len(aligner.engine.model.encode_text(row.case.answer or "")) + 256


def fits(row: Row, options: argparse.Namespace) -> bool:
    """Rows that have an answer of a common length, so that no contestant refuses one."""
    return bool(row.case and row.case.answer) and 25 <= len(row.case.answer.split()) <= options.words


def report(options: argparse.Namespace, blocks: list[dict[str, Result]], texts: dict[str, dict[bytes, str]]) -> None:
    rows: list[Result] = []
    base = ALONE if ALONE in blocks[0] else next(iter(blocks[0]))
    print(f"{'contestant':<14}{'rows/s':>8}{'tok/cpu s':>11}{'x rows/s':>10}{'x per cpu s':>13}{'same':>7}")
    for name in blocks[0]:
        total = {key: sum(block[name][key] for block in blocks) for key in ("seconds", "cpu", "written", "rows")}
        row: Result = {
            "contestant": name,
            "rows_per_s": round(total["rows"] / total["seconds"], 3),
            "tokens_per_cpu_s": round(total["written"] / total["cpu"], 2),
            "same": sum(text == texts[base][key] for key, text in texts[name].items()),
        }
        for key, told in (("seconds", "rows_ratio"), ("cpu", "cpu_ratio")):
            row[told] = round(statistics.median(block[base][key] / block[name][key] for block in blocks), 3)
        rows.append(row)
        print(
            f"{name:<14}{row['rows_per_s']:>8.3f}{row['tokens_per_cpu_s']:>11.1f}{row['rows_ratio']:>10.2f}"
            f"{row['cpu_ratio']:>13.2f}{row['same']:>7}"
        )
    count = sum(block[base]["rows"] for block in blocks)
    print(f"{count} rows in {len(blocks)} blocks; ratios to {base}; others took {options.foreign.share():.0%}")
    about = {"model": options.model.name, "adapter": options.adapter and options.adapter.name, "draft": options.draft}
    about |= {"same_file": options.same_file}
    print(json.dumps({"bench": "batch", "machine": machine(options.threads), **about, "n": count, "rows": rows}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--objectives", default="brevity")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--block", type=int, default=24)
    parser.add_argument("--words", type=int, default=220, help="of the longest answer")
    parser.add_argument("--in-flight", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2, 4, 8])
    parser.add_argument("--draft", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--llamas", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--llama-server", type=Path, help="llama.cpp's server as one more contestant")
    parser.add_argument("--same-file", action="store_true", help="the others read the copy as F16, too")
    parser.add_argument("--threads", type=int, default=0, help="for all alike; 0: as many as the runtime chooses")
    options = parser.parse_args()
    options.foreign, options.server = Bystanders(), None
    return options


if __name__ == "__main__":
    main()
