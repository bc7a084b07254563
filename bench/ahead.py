"""What does reading ahead bring, and where does it lose? A policy on another machine, and one on the same processor.

    python bench/ahead.py --cache DIR [--shape 1.1b] [--kind 70s] [--rates 10 30 100] [--repeat 3]
    python bench/ahead.py --quick                            (trained pair, one repetition: does the script work?)

The remote policy is simulated: it writes a given answer, a token at a time, at so many per second after --wait
seconds, and takes nothing of this processor. The local one is a model of the same size, in this process, whose choices
are replayed, as all edits are (contestants.py). Each is measured with `elsewhere` off and on; the two take turns
within each repetition, and ratios are taken there before their median is.

"first" lasts from the policy's last token, when it was written and not when it was heard, to the first aligned one;
"correction" to the last aligned one; "whole" from the question on. Prints a table and, as its last line, one JSON
document.
"""

import argparse
import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from contestants import Ours, Tokenizer
from edits import KINDS, OWN, QUERIES, Case, case, record
from machine import Result, machine, undisturbed
from shapes import SHAPES, TRAINED, pair

from metaaligner_lite import GgufPolicy
from metaaligner_lite.policies import Answer

LOCAL = "local"
MEASURES = ("first", "correction", "whole")


class Remote:
    """A policy on another machine: its answer comes in parts, at so many per second after a wait."""

    def __init__(self, parts: list[str], rate: float, wait: float, elsewhere: bool) -> None:
        self._parts, self._rate, self._wait, self.elsewhere = parts, rate, wait, elsewhere
        self.ended = 0.0

    def answer(self, query: str, on_text: Callable[[str], None] | None = None) -> Answer:
        for part in self._arriving():
            if on_text:
                on_text(part)
        return Answer("".join(self._parts))

    def _arriving(self) -> Iterator[str]:
        began = time.perf_counter() + self._wait
        for i, part in enumerate(self._parts, 1):
            self.ended = began + i / self._rate
            time.sleep(max(0.0, self.ended - time.perf_counter()))
            yield part


class Local(GgufPolicy):
    """A model in this process; `elsewhere` says, rightly or wrongly, that it is not."""

    def __init__(self, policy: GgufPolicy, elsewhere: bool) -> None:
        super().__init__(policy.engine)
        self.elsewhere, self.ended = elsewhere, 0.0

    def answer(self, query: str, on_text: Callable[[str], None] | None = None) -> Answer:
        draft = super().answer(query, on_text)
        self.ended = time.perf_counter()
        return draft


def main() -> None:
    options = parse()
    models = pair(options.shape, options.cache)
    paths = {"policy": str(models.policy), "aligner": str(models.aligner), "threads": options.threads}
    recorded = record(options.rows, options.repeat + 1, options.threads) if options.kind == OWN else []
    tokenizer, ours = Tokenizer(paths), Ours(paths)
    results: dict[str, dict[bool, list[Result]]] = defaultdict(lambda: {False: [], True: []})
    for turn in range(options.repeat + 1):
        replayed = asdict(case(options.kind, turn, recorded=recorded))
        tokens = replayed | tokenizer.run(replayed)
        for rate in (*options.rates, None) if turn else (None,):  # the first turn warms both models up
            for ahead in (False, True) if turn % 2 else (True, False):
                result = undisturbed(partial(measure, ours, tokens, rate, ahead, options.wait), options.patience)
                if turn:
                    results[_name(rate)][ahead].append(result)
    report(options, results)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, help="folder for the random models (1.1b: 1.3 GB)")
    parser.add_argument("--shape", choices=(*SHAPES, TRAINED), default="1.1b")
    parser.add_argument("--kind", choices=KINDS, default="70s")
    parser.add_argument("--rows", type=Path, default=QUERIES, help="JSONL of queries and objectives, for own")
    parser.add_argument("--rates", nargs="+", type=float, default=[10, 30, 100], help="remote tokens per second")
    parser.add_argument("--wait", type=float, default=0.5, help="seconds to the remote policy's first token")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--patience", type=int, default=3, help="how often to repeat a disturbed run")
    parser.add_argument("--quick", action="store_true", help="trained pair and its edits, one repetition, one rate")
    options = parser.parse_args()
    if options.quick:
        options.shape, options.kind, options.rates, options.repeat, options.patience = TRAINED, OWN, [100], 1, 0
    if not options.cache and options.shape != TRAINED:
        parser.error("--cache DIR is needed for random models")
    return options


def measure(ours: Ours, tokens: Case, rate: float | None, ahead: bool, wait: float) -> Result:
    """One answer and its correction: at `rate` from elsewhere, or by the local model (None)."""
    ours._forget()
    if rate is None:
        policy: Any = Local(ours.policy, ahead)
    else:
        model = ours.policy_engine.model
        policy = Remote([model.text([token]) for token in tokens["answer_tokens"][:-1]], rate, wait, ahead)
    result = ours.correct(tokens | {"policy": rate is None}, policy)
    if not result["same"]:
        raise SystemExit(f"{_name(rate)}: other tokens came out than were recorded")
    return result | {"whole": result["policy"] + result["correction"]}


def _name(rate: float | None) -> str:
    return LOCAL if rate is None else f"{rate:g} per second"


def report(options: argparse.Namespace, results: dict[str, dict[bool, list[Result]]]) -> None:
    summary: dict[str, Any] = {}
    print(f"{'policy':<16}{'reading ahead':<15}" + "".join(f"{measure + ' s':>14}{'ratio':>7}" for measure in MEASURES))
    for name, ways in results.items():
        for ahead, runs in ways.items():
            row = _row(runs, ways[False])
            summary.setdefault(name, {})["on" if ahead else "off"] = row
            cells = "".join(f"{row[measure]:>14.3f}{row[measure + '_ratio']:>7.2f}" for measure in MEASURES)
            print(f"{name:<16}{'on' if ahead else 'off':<15}{cells}")
    settings = {key: getattr(options, key) for key in ("shape", "kind", "wait", "repeat")}
    print(json.dumps({"bench": "ahead", "machine": machine(options.threads)} | settings | {"results": summary}))


def _row(runs: list[Result], without: list[Result]) -> dict[str, Any]:
    row: dict[str, Any] = {"foreign": [run["foreign"] for run in runs], "read": [run["read"] for run in runs]}
    for measure in MEASURES:
        row[measure] = statistics.median(run[measure] for run in runs)
        row[f"{measure}_ratio"] = statistics.median(a[measure] / b[measure] for a, b in zip(runs, without, strict=True))
    return row


if __name__ == "__main__":
    main()
