"""How fast `mal data build` reads JSONL, and how much memory it takes: generated files of four forms, on one core.

    taskset -c 1 python bench/data.py --megabytes 100               # each form, MB/s of processor time
    taskset -c 1 python bench/data.py --megabytes 2000 dialogues    # memory over a file of 2 GB

Each build runs in a process of its own. Beside it stands what json.loads alone takes for the same lines there: on a
shared machine the share of the two tells more than MB/s.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

RNG = random.Random(0)
WORDS = ["".join(RNG.choices("abcdefghijklmnopqrstuvwxyz", k=RNG.randint(2, 9))) for _ in range(5000)]

BUILD = """
import json, resource, sys, time
from pathlib import Path
from mal_train.build import build
from mal_train.formats import Mapped
from mal_train.rows import Names
from metaaligner_lite.objectives import resolve
source = Path(sys.argv[1])
began = time.process_time()
held = [Path(sys.argv[2])] if len(sys.argv) > 2 else []
built = build([source], source.with_suffix(".rows"), Mapped(Names(None), objectives=tuple(resolve("helpfulness"))),
              force=True, held_out=held)
spent = time.process_time() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
parsed = size = 0
with source.open(encoding="utf-8") as file:
    for line, _ in zip(file, range(20_000)):
        began = time.process_time()
        json.loads(line)
        parsed += time.process_time() - began
        size += len(line)
print(json.dumps([built.account.read, built.account.used, spent, peak, size / parsed / 1e6]))
"""


def text(words: int) -> str:
    return " ".join(RNG.choices(WORDS, k=words)).capitalize() + "."


def dialogues(_: int) -> dict:
    before = f"\n\nHuman: {text(30)}\n\nAssistant: {text(60)}\n\nHuman: {text(20)}\n\nAssistant: "
    return {"chosen": before + text(60), "rejected": before + text(60)}


def chats(_: int) -> dict:
    prompt = text(60)
    turn = {"role": "user", "content": prompt}
    answers = [[turn, {"role": "assistant", "content": text(words)}] for words in (200, 180)]
    return {"prompt": prompt, "chosen": answers[0], "rejected": answers[1], "score_chosen": 8.0, "score_rejected": 6.5}


def ultrafeedback(_: int) -> dict:
    aspects = ("helpfulness", "honesty", "truthfulness", "instruction_following")

    def completion() -> dict:
        rated = {a: {"Rating": str(RNG.randint(1, 5)), "Rationale": text(20)} for a in aspects}
        return {"model": "m", "response": text(150), "annotations": rated}

    return {"source": "s", "instruction": text(60), "completions": [completion() for _ in range(4)]}


def labels(number: int) -> dict:
    return {
        "prompt": f"{number // 2} {WORDS[number // 2 % 5000]} " * 20,
        "completion": text(120),
        "label": number % 2 == 0,
    }


FORMS = {form.__name__: form for form in (dialogues, chats, ultrafeedback, labels)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("forms", nargs="*", default=list(FORMS), help=", ".join(FORMS))
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--held-out", action="store_true", help="beside 1,000 queries that are held out")
    parser.add_argument("--folder", help="where the files are written (default: a temporary one)")
    options = parser.parse_args()
    print("| form | size | records used | MB/s | of json.loads alone | peak memory |\n|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        held = Path(folder) / "held.jsonl"
        held.write_text("".join(json.dumps({"query": text(40)}) + "\n" for _ in range(1000)))
        for name in options.forms:
            path = Path(folder) / f"{name}.jsonl"
            pool = [json.dumps(FORMS[name](number)) + "\n" for number in range(4000)]
            with path.open("w", encoding="utf-8") as file:
                written = number = 0
                while written < options.megabytes * 10**6:
                    # A new prompt each time: answers of one query are put together.
                    lines = pool if name != "labels" else [line.replace('": "', f'": "{number} ', 1) for line in pool]
                    written += sum(map(file.write, lines))
                    number += 1
            command = [sys.executable, "-c", BUILD, str(path), *([str(held)] if options.held_out else [])]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            read, used, spent, peak, parsed = json.loads(done.stdout)
            speed = path.stat().st_size / 1e6 / spent
            size = f"{path.stat().st_size / 1e6:,.0f} MB"
            share = f"{speed / parsed:.0%} of {parsed:.0f}"
            print(f"| {name} | {size} | {used:,} of {read:,} | {speed:.1f} | {share} | {peak:.0f} MB |", flush=True)
            path.unlink()


if __name__ == "__main__":
    main()
