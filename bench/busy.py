"""What do busy neighbours cost? The same tokens written idle, beside one busy process and beside two.

    python bench/busy.py MODEL.gguf [--tokens 64] [--repeat 5] [--threads 2] [--busy 0 1 2]

Two contestants read a prompt and write so many tokens greedily, each in its own process, with the same threads: "bare"
is llama_cpp.Llama as it comes, OpenMP waiting as it does by default; "ours" is this runtime, which bounds how long
OpenMP's threads spin (llama/machine.py). A third, "correction", answers and edits with the model and the aligner that
ships, so many tokens each at most, through align(). What the environment says of OpenMP is taken out for all. They
take turns, the first changes, and ratios are taken within a turn before their median is. Loading is not measured.

A busy process counts in a loop, with the same priority. Prints a table and, as its last line, one JSON document;
"foreign" is what others than these processes took of all processors meanwhile: with much of it "idle" is not idle.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

from machine import Bystanders, Result, machine

from metaaligner_lite import GgufAligner, GgufPolicy, align
from metaaligner_lite.llama.machine import hardware_threads
from metaaligner_lite.pair import Choice, open_pair

PROMPT = "My parcel is a week late and nobody answers my emails. Write a friendly letter to the shop about it.\n\n"
OPENMP = ("GOMP_", "OMP_", "KMP_")
WANTED = 5.0  # times the idle run, beside two busy processes


class Bare:
    """llama-cpp-python's own class; only the threads are named, since its default is half of the cores."""

    def __init__(self, path: str, threads: int) -> None:
        from llama_cpp import Llama

        self._model = Llama(path, n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False)
        self._prompt = self._model.tokenize(PROMPT.encode(), add_bos=False)

    def write(self, count: int) -> list[int]:
        self._model.reset()
        tokens = self._model.generate(self._prompt, temp=0.0, repeat_penalty=1.0)
        return [next(tokens) for _ in range(count)]


class Ours:
    """The runtime's context, as its loop of single tokens uses it."""

    def __init__(self, path: str, threads: int) -> None:
        from metaaligner_lite.llama.context import Context
        from metaaligner_lite.llama.model import open_model

        self._model = open_model(path, gpu_layers=0)
        self._context = Context(self._model, 1024, threads=threads, batch_threads=threads)
        self._prompt = self._model.encode_text(PROMPT)

    def write(self, count: int) -> list[int]:
        self._context.roll_back(0)
        self._context.read(self._prompt)
        written = [self._context.likeliest(-1)]
        while len(written) < count:
            self._context.extend([(0, written[-1:])])
            written.append(self._context.likeliest(-1))
        return written


class Correction:
    """A whole correction, as `mal align` runs it; "brevity" is what the aligner that ships was trained for."""

    def __init__(self, path: str, threads: int) -> None:
        self._opened = open_pair(Choice(policy=Path(path), engine={"threads": threads}))
        pair = self._opened.__enter__()
        self._policy, self._aligner = cast(GgufPolicy, pair.policy), cast(GgufAligner, pair.aligner)

    def write(self, count: int) -> list[int]:
        self._policy.max_tokens = self._aligner.max_tokens = count
        if context := self._policy.engine._context:
            context.roll_back(0)
        found = align(PROMPT.strip(), "brevity", policy=self._policy, aligner=self._aligner)
        return [token for part in (found.answer.generation, found.edit) if part for token in part.tokens]


KINDS: dict[str, type[Bare | Ours | Correction]] = {"bare": Bare, "ours": Ours, "correction": Correction}


class Child:
    """A contestant in a process whose environment says nothing of OpenMP."""

    def __init__(self, kind: str, options: argparse.Namespace) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(OPENMP)}
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(options.model), "--threads", str(options.threads), "--contestant", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean,
        )
        self._answer()

    def write(self, count: int) -> dict[str, Any]:
        assert self._process.stdin
        print(count, file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a contestant died; its last words are above")
        return json.loads(line)


def main() -> None:
    options = parse()
    if options.contestant:
        contest(options)
        return
    runs: dict[int, list[dict[str, Any]]] = {busy: [] for busy in options.busy}
    with ExitStack() as stack:
        children = {}
        for kind in KINDS:
            children[kind] = Child(kind, options)
            stack.callback(children[kind].close)
            children[kind].write(options.tokens)  # what was mapped is in memory from here on
        for turn in range(options.repeat):
            for busy in options.busy:
                with neighbours(busy):
                    bystanders = Bystanders()
                    results = {kind: children[kind].write(options.tokens) for kind in order(turn)}
                    share = round(bystanders.share(), 3)
                runs[busy].append({kind: results[kind]["seconds"] for kind in KINDS} | {"foreign": share})
                same = results["bare"]["tokens"] == results["ours"]["tokens"]
                runs[busy][-1]["same"] = same
                print(f"{turn + 1}/{options.repeat}, {busy} busy: {runs[busy][-1]}", file=sys.stderr)
    report(options, runs)


def order(turn: int) -> Sequence[str]:
    return list(KINDS) if turn % 2 == 0 else list(reversed(KINDS))


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many processes that keep a core busy each."""
    busy = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"  # ends with this process, however
    processes = [subprocess.Popen([sys.executable, "-c", busy]) for _ in range(count)]
    time.sleep(0.5 if count else 0)
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def contest(options: argparse.Namespace) -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes to stderr
    contestant = KINDS[options.contestant](str(options.model), options.threads)
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        tokens = contestant.write(int(line))
        print(
            json.dumps({"seconds": round(time.perf_counter() - began, 4), "tokens": tokens}), file=replies, flush=True
        )


def report(options: argparse.Namespace, runs: dict[int, list[dict[str, Any]]]) -> None:
    rows: list[Result] = []
    for busy, pairs in runs.items():
        row: Result = {"busy": busy, "same": all(pair["same"] for pair in pairs)}
        for kind in KINDS:
            seconds = [pair[kind] for pair in pairs]
            row[kind] = {"median": statistics.median(seconds), "least": min(seconds), "most": max(seconds)}
        row["ratio"] = statistics.median(pair["bare"] / pair["ours"] for pair in pairs)
        row["foreign"] = statistics.median(pair["foreign"] for pair in pairs)
        rows.append(row)
    idle = next((row for row in rows if row["busy"] == 0), None)
    print(f"{'busy':<6}" + "".join(f"{kind + ' s':>14}{'least':>8}{'most':>8}{'x idle':>8}" for kind in KINDS), end="")
    print(f"{'bare/ours':>11}{'foreign':>9}{'same text':>11}")
    for row in rows:
        cells = ""
        for kind in KINDS:
            found = row[kind]
            found["times_idle"] = found["median"] / idle[kind]["median"] if idle else None
            times = f"{found['times_idle']:8.2f}" if idle else f"{'':8}"
            cells += f"{found['median']:>14.2f}{found['least']:>8.2f}{found['most']:>8.2f}{times}"
        print(f"{row['busy']:<6}{cells}{row['ratio']:>11.2f}{row['foreign']:>9.0%}{'yes' if row['same'] else 'NO':>11}")
    if idle and rows[-1]["busy"] == 2:
        found = rows[-1]["correction"]["times_idle"]
        print(
            f"beside two busy processes a correction takes {found:.2f} times its idle time (wanted: {WANTED:g} or less)"
        )
    settings = {"model": options.model.name, "tokens": options.tokens, "repeat": options.repeat}
    print(json.dumps({"bench": "busy", "machine": machine(options.threads)} | settings | {"results": rows}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=hardware_threads(), help="for both alike")
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="how many busy processes beside them")
    parser.add_argument("--contestant", choices=KINDS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
