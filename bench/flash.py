"""Is flash attention worth it on this machine? One decode of 1 to 32 tokens and a read of 512, with it and without.

    python bench/flash.py --cache DIR [--shapes small 1.1b wide trained] [--repeat 9] [--threads 2]
    python bench/flash.py --cache DIR --quick                (shape small, one thread, twice: does the script work?)

Decodes run after the 512 tokens that were read; both ways take turns over one model, so that the machine's moods hit
both alike, and the ratio of each turn is taken before the median is. Without `mal tune` the runtime leaves flash
attention off on a processor; where the last column is above 1, that is right. `foreign` in the JSON is the part of the
processors that other programs took meanwhile.

Prints a table and, as its last line, one JSON document.
"""

import argparse
import json
import os
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from machine import machine, undisturbed
from shapes import SHAPES, TRAINED, pair

from metaaligner_lite.llama.context import Context
from metaaligner_lite.llama.model import open_model

READ = 512
SIZES = (1, 8, 16, 32)
WAYS = (False, True)


def main() -> None:
    options = parse()
    shapes: dict[str, Any] = {}
    print(f"{'shape':<12}{'tokens':>8}{'off ms':>10}{'on ms':>10}{'on/off':>8}")
    for name in options.shapes:
        models = pair(name, options.cache)
        result = undisturbed(lambda path=models.policy: measure(path, options), options.patience)
        shapes[name] = asdict(models.shape) | result
        for row in result["rows"]:
            print(f"{name:<12}{row['tokens']:>8}{row['off_ms']:>10.2f}{row['on_ms']:>10.2f}{row['ratio']:>8.2f}")
    settings = {"bench": "flash", "machine": machine(options.threads), "repeat": options.repeat}
    print(json.dumps(settings | {"shapes": shapes}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder for the random models (1.1b: 1.3 GB)")
    parser.add_argument("--shapes", nargs="+", choices=(*SHAPES, TRAINED), default=["small", "1.1b", "wide", TRAINED])
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--patience", type=int, default=3, help="how often to repeat a disturbed shape")
    parser.add_argument("--quick", action="store_true", help="shape small, one thread, two repetitions")
    options = parser.parse_args()
    if options.quick:
        options.shapes, options.repeat, options.threads, options.patience = ["small"], 2, 1, 0
    return options


def measure(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Medians of a read and of each batch size, off and on, the first turn (which warms up) left out."""
    seconds: dict[int, dict[bool, list[float]]] = {size: {False: [], True: []} for size in (*SIZES, READ)}
    with (
        open_model(path, gpu_layers=0) as model,
        Context(model, 2 * READ, threads=options.threads, flash=False) as off,
        Context(model, 2 * READ, threads=options.threads, flash=True) as on,
    ):
        for turn in range(options.repeat + 1):
            for size in (READ, *SIZES):  # the read comes first: it fills the cache
                for flash in WAYS if turn % 2 else WAYS[::-1]:
                    taken = _decode(on if flash else off, size)
                    seconds[size][flash] += [taken] * (turn > 0)
    return {"rows": [_row(size, ways[False], ways[True]) for size, ways in seconds.items()]}


def _decode(context: Context, size: int) -> float:
    """Seconds of a read of READ tokens, or of a decode of fewer behind them, with logits after each as drafts need."""
    tokens = [token % context.model.n_vocab for token in range(size)]
    context.roll_back(0 if size == READ else READ)
    began = time.perf_counter()
    if size == READ:
        context.read(tokens)
    else:
        context.extend([(0, tokens)])
    return time.perf_counter() - began


def _row(size: int, off: list[float], on: list[float]) -> dict[str, float]:
    return {
        "tokens": size,
        "off_ms": round(1000 * statistics.median(off), 3),
        "on_ms": round(1000 * statistics.median(on), 3),
        "ratio": round(statistics.median(b / a for a, b in zip(off, on, strict=True)), 3),
    }


if __name__ == "__main__":
    main()
