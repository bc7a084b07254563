"""What does a correction cost, and what does it cost elsewhere? The table of targets, rivals in the same run.

    python bench/pair.py --cache DIR [--shape 1.1b] [--repeat 5] [--kinds 70s 0 ...] [--only shared sets ...]
    python bench/pair.py --shape trained [--threads 1] [--rows heldout.jsonl]
    python bench/pair.py --cache DIR --quick                 (small shapes, one repetition: does the script work?)

Models have a real size and random weights (shapes.py), or are the small trained pair of tests/models. Edits are
replayed (edits.py, contestants.py): the sampler's choice is given, so acceptance is that of real edits and cost that of
a real model. The kind "own" is what the trained pair writes, recorded anew in each run; it is all that
`--shape trained` replays, unless --kinds says more.

Every contestant is a process of its own; they take turns within each repetition, so that the machine's moods hit all
alike, and ratios are taken within a repetition before their median is. A correction is what happens between the
policy's last token and the aligner's last; nothing of the conversation is in any cache before its policy has read it. A
first, unnamed round warms all of them up; its times are kept apart, as "cold". A run during which other programs took
more than 5 % of the processors is repeated, up to --patience times; what is left of such disturbance is in the JSON
("foreign").
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edits import KINDS, OWN, QUERIES, Case, case, record
from machine import Result, machine, undisturbed
from shapes import SHAPES, TRAINED, Pair, pair

MAIN = "70s"  # the kind of edit whose policy turn is written out, too (trained pair: its own)
Cases = Callable[..., Case]
RIVAL = "two Llamas"
SERVERS = "two servers, n-gram"
FOUR = "four sets at once"
# What can be left out; two Llamas, the rival of all ratios, are always there.
GROUPS = ("shared", "merged", "plain", "default", "lookup", "servers", "transformers", "sets")
# llama-server's best at 70 %, of n-grams of 2 to 5 and drafts of 3, 8 and 15 tokens (LOG.md).
NGRAM = "--spec-type ngram-simple --spec-ngram-simple-size-n 3 --spec-ngram-simple-size-m 15"


class Child:
    """A contestant in its process."""

    def __init__(self, kind: str, options: dict[str, Any]) -> None:
        script = Path(__file__).with_name("contestants.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), kind, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def run(self, case: dict[str, Any]) -> Result:
        assert self._process.stdin
        print(json.dumps(case), file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> Result:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a contestant died; its last words are above")
        return json.loads(line)


def main() -> None:
    options = parse()
    models = pair(options.shape, options.cache)
    own = OWN in options.kinds or options.main == OWN
    recorded = record(options.rows, options.repeat + 1, options.threads) if own else []
    cases = partial(case, recorded=recorded)
    load = os.getloadavg()
    tokenizer = Child("Tokenizer", _opened(options, models))
    # name: (process, what it is told, on which kinds of edit)
    children, runs = _contestants(options, models)
    results: dict[str, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    cold: dict[str, float] = {}
    began, done = time.monotonic(), 0
    for turn in range(options.repeat + 1):
        spent = (time.monotonic() - began) / 60
        if done and spent * (done + 1) / done > options.minutes:  # another repetition would not fit
            break
        done = turn
        for kind in options.kinds if turn else options.kinds[:1]:
            tokens = _tokenized(tokenizer, cases(kind, turn))
            order = [name for name, (_, _, kinds) in runs.items() if kind in kinds]
            for name in order[turn % len(order) :] + order[: turn % len(order)]:
                child, mode, _ = runs[name]
                write = turn > 0 and kind == options.main and options.policy
                result = _run(children[child], tokens, mode, policy=write, patience=options.patience if turn else 0)
                _progress(turn, kind, name, result)
                if not turn:
                    cold[name] = result["correction"]
                    continue
                results[kind][name].append(result)
                if write and mode == "draft" and child == "shared":
                    _floor(children[child], tokens, result)
        if "sets" in options.only:
            tokens = _tokenized(tokenizer, cases(options.main, turn, sets=4))
            _sets(children, tokens, turn, results["sets"], options.patience)
    for child in (tokenizer, *children.values()):
        child.close()
    options.repeat = done
    report(options, results, cold, load)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, help="folder for the random models (1.1b: 1.3 GB)")
    parser.add_argument("--shape", choices=(*SHAPES, TRAINED), default="1.1b")
    parser.add_argument("--rows", type=Path, default=QUERIES, help="JSONL of queries and objectives, for own")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="for all contestants alike")
    parser.add_argument("--kinds", nargs="+", choices=KINDS)
    parser.add_argument(
        "--only", nargs="*", choices=GROUPS, default=list(GROUPS), help="these, against two Llamas, instead of all"
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no repetition that would end later")
    parser.add_argument("--patience", type=int, default=3, help="how often to repeat a disturbed run")
    parser.add_argument("--quick", action="store_true", help="small models, one repetition")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: processor seconds of the contestant, the only ones worth having on a busy machine; with --threads 1",
    )
    parser.add_argument("--read-policy", dest="policy", action="store_false", help="never write the policy's answer")
    parser.add_argument("--llama-server", default=shutil.which("llama-server"), help="a llama-server binary")
    parser.add_argument("--speculation", default=NGRAM, help="llama-server's options for n-gram speculation")
    parser.add_argument("--server-options", default="--flash-attn off", help="more options of both llama-servers")
    options = parser.parse_args()
    if options.clock == "cpu" and options.threads != 1:
        parser.error("--clock cpu adds up the seconds of all threads; say --threads 1")
    if options.quick:
        options.repeat, options.patience = 1, 0
        options.shape = TRAINED if options.shape == TRAINED else "small"
    if not options.cache and options.shape != TRAINED:
        parser.error("--cache DIR is needed for random models")
    options.main = OWN if options.shape == TRAINED else MAIN
    options.kinds = options.kinds or ([OWN] if options.shape == TRAINED else list(KINDS))
    if "servers" in options.only and (not options.llama_server or options.clock == "cpu"):
        options.only.remove("servers")
        print("llama-server: skipped, no binary (--llama-server PATH) or --clock cpu", file=sys.stderr)
    if "transformers" in options.only and not find_spec("transformers"):
        options.only.remove("transformers")
        print("transformers: skipped, not installed", file=sys.stderr)
    return options


def _opened(options: argparse.Namespace, models: Pair) -> dict[str, Any]:
    """What every contestant is told."""
    paths = {"policy": str(models.policy), "aligner": str(models.aligner)}
    return paths | {"threads": options.threads, "clock": options.clock}


def _contestants(
    options: argparse.Namespace, models: Pair
) -> tuple[dict[str, Child], dict[str, tuple[str, str, tuple[str, ...]]]]:
    only, few, both = options.only, (options.main, "70w", "real", OWN), _opened(options, models)
    shared = both | {"adapter": str(models.adapter)}
    children = {"llamas": Child("TwoLlamas", both)}
    runs: dict[str, tuple[str, str, tuple[str, ...]]] = {RIVAL: ("llamas", "", KINDS)}
    for name, label, opened in (("shared", "shared base", shared), ("merged", "merged pair", both)):
        if name in only:
            children[name] = Child("Ours", opened)
            runs[label] = (name, "draft", KINDS)
            if "plain" in only:
                runs[f"{label}, no drafts"] = (name, "plain", KINDS)
    if "sets" in only:
        children["sets"] = Child("Ours", shared)
    if "default" in only:
        children["default"] = Child("TwoLlamas", both | {"threads": 0})
        runs["two Llamas, default threads"] = ("default", "", (options.main,))
    for tokens in (2, 10) if "lookup" in only else ():
        children[f"lookup{tokens}"] = Child("TwoLlamas", both | {"lookup": tokens})
        runs[f"two Llamas, lookup {tokens}"] = (f"lookup{tokens}", "", few)
    if "transformers" in only:
        children["transformers"] = Child("Transformers", both | {"shape": asdict(models.shape)})
        runs["transformers"] = ("transformers", "", (options.main,))
    if "servers" in only:
        server = both | {"server": options.llama_server, "options": options.server_options.split()}
        for name, speculation in ((SERVERS, options.speculation.split()), ("two servers", [])):
            children[name] = Child("TwoServers", server | {"speculation": speculation})
            runs[name] = (name, "", few)
        runs["two servers, no grammar"] = ("two servers", "free", (options.main,))
    return children, runs


def _tokenized(tokenizer: Child, replayed: Case) -> dict[str, Any]:
    return asdict(replayed) | tokenizer.run(asdict(replayed))


def _run(child: Child, tokens: dict[str, Any], mode: str, *, policy: bool, patience: int) -> Result:
    result = undisturbed(lambda: child.run(tokens | {"mode": mode, "policy": policy}), patience)
    if not result["same"] and mode != "free":
        raise SystemExit(f"{mode}: other tokens came out than were recorded")
    answer, edit = len(tokens["answer_tokens"]) - 1, len(tokens["edit_tokens"][0]) - 1
    return result | {
        "policy_written": policy,
        "copied": tokens["copied"],
        "query_tokens": len(tokens["policy_prompt"]),
        "answer_tokens": answer,
        "request_tokens": len(tokens["aligner_prompts"][0]) - tokens["request_at"],
        "edit_tokens": edit,
    }


def _progress(turn: int, kind: str, name: str, result: Result) -> None:
    line = f"  {turn} {kind:<5}{name:<28}{result['correction']:8.2f} s, others {result['foreign']:4.0%}"
    print(line, file=sys.stderr, flush=True)


def _floor(child: Child, tokens: dict[str, Any], result: Result) -> None:
    """Replay the batches of a run of the shared base without our loop; the floor goes into its result."""
    batches = result["batches"]
    begun = next(i for i, (_, written, _) in enumerate(batches) if written) + 1
    floor = child.run(tokens | {"mode": "floor", "verify": [(size, written) for size, written, _ in batches[begun:]]})
    result["floor"] = {part: floor[part] for part in ("policy", "request", "edit")}


def _sets(
    children: dict[str, Child], tokens: dict[str, Any], turn: int, results: dict[str, list[Result]], patience: int
) -> None:
    one = "shared" if "shared" in children else "merged"
    wanted = {FOUR: ("sets", "draft"), "four runs": (one, "each"), "four runs, two Llamas": ("llamas", "")}
    for name, (child, mode) in wanted.items():
        if child in children and (turn or name == FOUR):  # the others are warm from their other runs
            result = _run(children[child], tokens, mode, policy=False, patience=patience if turn else 0)
            _progress(turn, "sets", name, result)
            if turn:
                results[name].append(result)


def report(
    options: argparse.Namespace,
    results: dict[str, dict[str, list[Result]]],
    cold: dict[str, float],
    load: tuple[float, float, float],
) -> None:
    summary: dict[str, Any] = {}
    print(f"{'edit':<6}{'contestant':<30}{'copied':>7}{'first s':>9}{'corr. s':>9}{'ratio':>7}", end="")
    print(f"{'pair s':>8}{'ratio':>7}{'t/decode':>10}{'accepted':>10}{'loop':>7}{'peak MB':>9}{'cold s':>8}")
    for kind, contestants in results.items():
        rivals = contestants.get(RIVAL) or contestants.get("four runs, two Llamas")
        for name, runs in contestants.items():
            row = _row(runs, rivals)
            if kind == options.kinds[0]:
                row["cold"] = cold[name]
            summary.setdefault(kind, {})[name] = row
            cells = [f"{kind:<6}{name:<30}"]
            formats = {"copied": "7.0%", "first": "9.3f", "correction": "9.3f", "correction_ratio": "7.2f"}
            formats |= {"pair": "8.3f", "pair_ratio": "7.2f", "tokens_per_decode": "10.2f", "accepted": "10.0%"}
            formats |= {"loop": "7.1%", "rss_mb": "9.0f", "cold": "8.2f"}
            for key, form in formats.items():
                value = row.get(key)
                cells.append(f"{value:{form}}" if value is not None else f"{'':{form.split('.')[0]}}")
            print("".join(cells))
    targets = _targets(summary, results, options)
    print()
    for target in targets:
        print(f"{target['what']:<72}{target['wanted']:>8}{target['got']:>8.3f}  {'yes' if target['reached'] else 'NO'}")
    document = {
        "bench": "pair",
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "machine": machine(options.threads) | {"load_before": load},
        "shape": options.shape,
        "repeat": options.repeat,
        "clock": options.clock,
        "targets": targets,
        "batch_costs": _batch_costs(results),
        "results": summary,
    }
    print(json.dumps(document))


def _row(runs: list[Result], rivals: list[Result] | None) -> dict[str, Any]:
    sample = runs[0]
    row: dict[str, Any] = {"correction": _median(runs, "correction"), "rss_mb": runs[-1]["rss_mb"]}
    row["foreign"] = [run["foreign"] for run in runs]
    for key in ("copied", "query_tokens", "answer_tokens", "edit_tokens", "request_tokens"):
        row[key] = _median(runs, key)
    if "first" in sample:
        row["first"] = _median(runs, "first")
    written = sample["policy_written"] and "policy" in sample
    if written:
        row["policy"] = _median(runs, "policy")
        row["pair"] = statistics.median(run["policy"] + run["correction"] for run in runs)
    if "batches" in sample:
        row["loop"] = statistics.median(1 - run["decode"] / run["correction"] for run in runs)
        row["tokens_per_decode"] = statistics.median(_tokens_per_decode(run) for run in runs)
        if "policy_decode" in sample and written:
            row["policy_loop"] = statistics.median(1 - run["policy_decode"] / run["policy"] for run in runs)
    if drafted := sum(run.get("drafted", 0) for run in runs):
        row["accepted"] = sum(run["accepted"] for run in runs) / drafted
    if "floor" in sample:
        row["floor"] = {part: statistics.median(run["floor"][part] for run in runs) for part in sample["floor"]}
        row["pair_to_floor"] = statistics.median(
            (run["policy"] + run["correction"]) / (run["floor"]["policy"] + run["floor"]["edit"]) for run in runs
        )
        row["pair_to_floor_and_request"] = statistics.median(
            (run["policy"] + run["correction"]) / sum(run["floor"].values()) for run in runs
        )
    if rivals:
        pairs = list(zip(runs, rivals, strict=True))
        row["correction_ratio"] = statistics.median(mine["correction"] / its["correction"] for mine, its in pairs)
        if "first" in sample and "first" in rivals[0]:
            row["first_ratio"] = statistics.median(mine["first"] / its["first"] for mine, its in pairs)
        if written:
            row["pair_ratio"] = statistics.median(
                (mine["policy"] + mine["correction"]) / (its["policy"] + its["correction"]) for mine, its in pairs
            )
    return row


def _tokens_per_decode(run: Result) -> float:
    """Of the edit's own decodes; its first token comes from the last decode of the request."""
    writing = [written for _, written, _ in run["batches"] if written]
    return (sum(writing) - 1) / max(1, len(writing) - 1)


def _median(runs: list[Result], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def _targets(
    summary: dict[str, Any], results: dict[str, dict[str, list[Result]]], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """The targets of the issue, as far as this run measured them."""
    targets: list[dict[str, Any]] = []

    def check(what: str, wanted: float, got: float | None) -> None:
        if got is not None:
            targets.append({"what": what, "wanted": round(wanted, 3), "got": round(got, 3), "reached": got <= wanted})

    def ratio(kind: str, name: str, key: str) -> float | None:
        value = summary.get(kind, {}).get(name, {}).get(key)
        return None if value is None else float(value)

    def within(kind: str, name: str, other: str) -> float | None:
        return _against(results, kind, name, other)

    main, shared, merged = options.main, "shared base", "merged pair"
    check("first aligned token, shared base, to two Llamas", 1 / 10, ratio(main, shared, "first_ratio"))
    for kind in dict.fromkeys((main, "70w", "real", OWN)):
        check(f"correction, {kind}, shared base, to two Llamas", 1 / 3, ratio(kind, shared, "correction_ratio"))
        check(f"correction, {kind}, merged pair, to two Llamas", 1 / 2, ratio(kind, merged, "correction_ratio"))
    for name in (shared, merged):
        check(f"correction, 0 % copied, {name}, to two Llamas", 1.02, ratio("0", name, "correction_ratio"))
        check(f"correction, 0 % copied, {name}, to no drafts", 1.02, within("0", name, f"{name}, no drafts"))
    check("four sets at once, to four runs of ours", 1 / 2, within("sets", FOUR, "four runs"))
    check("four sets at once, to four runs of two Llamas", 1 / 2, ratio("sets", FOUR, "correction_ratio"))
    ours, theirs = ratio(main, shared, "rss_mb"), ratio(main, RIVAL, "rss_mb")
    check("peak memory, shared base, to two Llamas", 0.55, ours / theirs if ours and theirs else None)
    for name in (shared, merged):
        check(f"correction, {main}, {name}, to two llama-servers", 2 / 3, within(main, name, SERVERS))
    check("whole pair, shared base, to the floor of bare llama_decode", 1.10, ratio(main, shared, "pair_to_floor"))
    outside = 0.25 if options.shape == TRAINED else 0.03
    for name in (shared, merged):
        check(f"time outside llama_decode, correction, {name}", outside, ratio(main, name, "loop"))
        check(f"time outside llama_decode, policy, {name}", outside, ratio(main, name, "policy_loop"))
    return targets


def _against(results: dict[str, dict[str, list[Result]]], kind: str, name: str, other: str) -> float | None:
    mine, its = results.get(kind, {}).get(name), results.get(kind, {}).get(other)
    if not mine or not its:
        return None
    return statistics.median(a["correction"] / b["correction"] for a, b in zip(mine, its, strict=True))


def _batch_costs(results: dict[str, dict[str, list[Result]]]) -> dict[int, float]:
    """Milliseconds of an llama_decode by the number of its tokens, over all of our runs of one text."""
    seconds: dict[int, list[float]] = defaultdict(list)
    for kind, contestants in results.items():
        for name in ("shared base", "merged pair") if kind != "sets" else ():
            for run in contestants.get(name, []):
                for size, written, taken in run["batches"]:
                    if written:
                        seconds[size].append(taken)
    return {size: round(1000 * statistics.median(taken), 3) for size, taken in sorted(seconds.items())}


if __name__ == "__main__":
    main()
