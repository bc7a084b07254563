"""A real model answers real questions and edits its answers: what of it reaches the user, at what cost?

    python bench/real_pair.py MODEL.gguf hh-rlhf/Claude-3.csv ultrafeedback/gpt-3.5-turbo.csv --out ROWS.jsonl
        [--rows 100] [--modes greedy sampled] [--aligner self | FILE.gguf] [--rivals 10] [--minutes 60] [--threads 1]
    python bench/real_pair.py --report ROWS.jsonl [MORE.jsonl]        the table, from what was written
    python bench/real_pair.py --texts loop ROWS.jsonl                 what was cut as a loop, to be judged by eye
    python bench/real_pair.py --answers ANSWERS.csv [MORE.csv]        what becomes of answers that are at hand

A CSV has the column query; where that is a dialogue of "Human:" and "Assistant:", it becomes turns. Rows take turns
among files and modes, so that a run that ends early is balanced. Each is appended to ROWS.jsonl when it is done; the
same command goes on where it stopped. A row that takes longer than --row-limit, or takes the process with it, is
named, and counted by the next call. Every --rivals'th greedy row is also answered and edited by two
llama_cpp.Llama objects in a process of their own, back to back, with the same prompts as text and as many threads.

Seconds are those of the clock; "cpu" are those of the processor, which others on the machine disturb little. With
--threads 1 these are about what an idle machine takes.

Loops and run-ons are counted by measures of this script, which know nothing of metaaligner_lite/loops.py:
  said3     a sentence of six words or more, numbers and marks aside, that is said three times or more
  circles   the last 200 characters stood in the text before (texts of 300 characters or more)
  run-on    a line that begins with "Human:", "User:" or "Assistant:", after the first
"before" is all that a model wrote until it ended or was stopped, "after" what the user was given. Songs with a chorus
that returns are counted as said3, and are none.

--answers takes the column generated_text through tidy(), which a given answer goes through where its edit failed.
"""

import argparse
import csv
import faulthandler
import json
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import Bystanders, Result, machine, peak_mb

from metaaligner_lite import Answer, GgufAligner, GgufPolicy, MalError, Message, Policy, Sampling, align, resolve
from metaaligner_lite.generation import GREEDY, Generation
from metaaligner_lite.llama import decode
from metaaligner_lite.llama.machine import hardware_threads
from metaaligner_lite.loops import LoopGuard, tidy
from metaaligner_lite.pair import SELF, Choice, Pair, open_pair
from metaaligner_lite.pieces import text_of
from metaaligner_lite.prompts import chat_prompt, edit_prompt

OBJECTIVES = ("empathy,clarity", "brevity")
ANSWER_LIMIT = 512  # tokens, what the policy may write by default
SAMPLED = Sampling(temperature=0.7)


def main() -> None:
    options = parse()
    if options.contestant:
        contest([options.model, options.model if options.aligner == SELF else Path(options.aligner)], options.threads)
    elif options.report:
        report([row for file in options.report for row in read_rows(file)])
    elif options.answers:
        tidied(options.answers)
    elif options.texts:
        show(options.texts[0], [row for file in options.texts[1:] for row in read_rows(Path(file))])
    else:
        run(options)
        report(read_rows(options.out))


# --- measures of this script's own


def measures(text: str) -> dict[str, int]:
    """How often each fault is in a text: see the top of this file."""
    said: Counter[str] = Counter()
    for sentence in re.split(r"[.!?:;。！？]+(?=\s|$)|\n+", text):
        words = re.findall(r"[^\W\d_]+", sentence.casefold())
        if len(words) >= 6:
            said[" ".join(words)] += 1
    plain = " ".join(text.split())
    return {
        "said3": sum(count >= 3 for count in said.values()),
        "circles": int(len(plain) >= 300 and plain.find(plain[-200:]) < len(plain) - 200),
        "run-on": len(re.findall(r"\n[ \t]*(?:Human|User|Assistant)[ \t]*:", text)),
    }


# --- rows


def turns(query: str) -> tuple[tuple[Message, ...], str]:
    """The turns before a query, and the query; a dialogue of "Human:" and "Assistant:" is taken apart."""
    parts = re.split(r"(?:\A|\n\n)(Human|Assistant):", query)
    if len(parts) < 3 or parts[0].strip():
        return (), query
    roles = {"Human": "user", "Assistant": "assistant"}
    found = [Message(roles[role], text.strip()) for role, text in zip(parts[1::2], parts[2::2], strict=True)]
    while found and (found[-1].role == "assistant" or not found[-1].content):
        found.pop()
    return tuple(message for message in found[:-1] if message.content), found[-1].content if found else ""


def jobs(options: argparse.Namespace) -> Iterator[tuple[str, Message, tuple[Message, ...], str, str]]:
    """Each row to run: its name, query, turns before it, objectives, mode; files and modes take turns."""
    csv.field_size_limit(1 << 24)
    files = {}
    for file in options.files:
        with file.open(newline="", encoding="utf-8") as source:
            files[f"{file.parent.name}/{file.stem}"] = list(csv.DictReader(source))[: options.rows]
    editor = SELF if options.aligner == SELF else Path(options.aligner).stem
    for number in range(options.rows):
        for name, rows in files.items():
            for mode in options.modes:
                if number < len(rows):
                    history, query = turns(rows[number]["query"])
                    label = f"{options.model.stem} {editor} {name} {mode} {number}"
                    yield label, Message("user", query), history, OBJECTIVES[number % len(OBJECTIVES)], mode


def run(options: argparse.Namespace) -> None:
    rows = read_rows(options.out)
    done = {row["name"] for row in rows}
    marker = options.out.with_suffix(".running")
    if marker.exists():  # the last call did not come back from this row
        append(options.out, {"name": (died := marker.read_text()), "died": True})
        done.add(died)
        print(f"the last call died in row {died}", file=sys.stderr)
    ends = time.monotonic() + options.minutes * 60 if options.minutes else float("inf")
    choice = Choice(
        policy=options.model,
        aligner=SELF if options.aligner == SELF else Path(options.aligner),
        layout=options.layout,
        sampling=SAMPLED,
        engine={"threads": options.threads},
    )
    rivals = Rivals(options.model, options.aligner, options.threads) if options.rivals else None
    written = _watch_writing()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # which is no death of a row either
    try:
        with open_pair(choice, say=lambda line: print(line, file=sys.stderr)) as pair:
            recommended = pair.policy.sampling
            for name, query, history, objectives, mode in jobs(options):
                if name in done:
                    continue
                if time.monotonic() > ends:
                    print(f"--minutes are over; {name} is the next row", file=sys.stderr)
                    break
                number = int(name.rpartition(" ")[2])
                seed = {"seed": number}
                pair.policy.sampling = replace(recommended, **seed) if mode == "sampled" else GREEDY
                pair.aligner.sampling = replace(SAMPLED, **seed) if mode == "sampled" else GREEDY
                marker.write_text(name)
                faulthandler.dump_traceback_later(options.row_limit, exit=True)
                try:
                    row = one(pair, query.content, history, objectives, written)
                    if rivals and mode == "greedy" and number % options.rivals == 0:
                        row["rivals"] = rivals.correct(pair, query.content, history, objectives)
                finally:  # an interrupt is no death
                    faulthandler.cancel_dump_traceback_later()
                    marker.unlink()
                append(options.out, {"name": name, "mode": mode, "objectives": objectives, **row, "peak_mb": peak_mb()})
                print(f"{name}: {row.get('finishes') or row.get('error')}, {row['seconds']:.1f} s", file=sys.stderr)
            about = machine(options.threads) | {"model": options.model.name, "row_limit": options.row_limit}
            append(options.out, {"name": "machine", "machine": about})
    finally:
        if rivals:
            rivals.close()


def one(pair: Pair, query: str, history: Sequence[Message], objectives: str, written: list[LoopGuard]) -> Result:
    """Answer, edit and account for one query."""
    written.clear()
    streamed: dict[str, list[str]] = {"answer": [], "edit": []}
    clock = time.perf_counter
    firsts: list[tuple[float, float]] = []  # when the edit began to be heard
    policy = _Timed(pair.policy)

    def hear_edit(text: str) -> None:
        streamed["edit"].append(text)
        firsts.append((clock(), time.process_time()))

    bystanders, began, cpu = Bystanders(), clock(), time.process_time()
    try:
        found = align(
            query,
            objectives,
            policy=policy,
            aligner=pair.aligner,
            history=history,
            on_answer=lambda text: streamed["answer"].append(text),
            on_edit=hear_edit,
        )
    except MalError as error:
        return {"error": f"{type(error).__name__}: {error}", "seconds": clock() - began}
    seconds, cpu = clock() - began, time.process_time() - cpu
    answer, edit = found.answer.generation, found.edit
    assert answer
    limit = 2 * len(pair.aligner.engine.model.encode_text(found.answer.text)) + 256
    texts = {
        "query": query,
        "written": written[0]._text,
        "answer": found.answer.text,
        "edit_written": written[1]._text if len(written) > 1 else "",
        "edit": edit.text if edit else "",
        "given": found.text,
    }
    shown = {name: "".join(parts) for name, parts in streamed.items()}
    return {
        "seconds": seconds,
        "cpu": cpu,
        "foreign": round(bystanders.share(), 3),
        "policy": account(answer, ANSWER_LIMIT),
        "edit": account(edit, limit) if edit else None,
        "first": firsts[0][0] - policy.ended[0] if firsts else None,
        "first_cpu": firsts[0][1] - policy.ended[1] if firsts else None,
        "finishes": f"{answer.finish}, {edit.finish if edit else 'no edit'}",
        "aligned": found.aligned,
        "failure": found.failure,
        "unchanged": found.aligned and found.text == found.answer.text,
        # What was streamed and what comes back must be the same text.
        "streamed_same": shown["answer"] == found.answer.text and (not edit or shown["edit"] == edit.text),
        "texts": texts,
        "measures": {name: measures(text) for name, text in texts.items()},
    }


class _Timed:
    """A policy that remembers when it had finished: by the clock, and by the processor."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.ended = (0.0, 0.0)

    def answer(self, *arguments: Any, **named: Any) -> Answer:
        answer = self._policy.answer(*arguments, **named)
        self.ended = time.perf_counter(), time.process_time()
        return answer


def account(generation: Generation, limit: int) -> Result:
    counts = generation.counts
    return {
        "finish": generation.finish,
        "read": counts.read,
        "reused": counts.reused,
        "written": counts.written,
        "accepted": counts.accepted,
        "read_s": counts.read_seconds,
        "write_s": counts.write_seconds,
        "limit": limit,
        "kept_limit": counts.written <= limit,
    }


def _watch_writing() -> list[LoopGuard]:
    """The guards of all writings from now on: they hold what was written, cut or not."""
    guards: list[LoopGuard] = []

    class Watched(LoopGuard):
        def __init__(self) -> None:
            super().__init__()
            guards.append(self)

    decode.LoopGuard = Watched  # type: ignore[misc]
    return guards


# --- two llama_cpp.Llama, back to back


class Rivals:
    """The same prompts for two llama_cpp.Llama objects, in another process, so that memory can be told apart."""

    def __init__(self, model: Path, aligner: str, threads: int) -> None:
        command = [
            sys.executable,
            __file__,
            str(model),
            "--aligner",
            aligner,
            "--contestant",
            "--threads",
            str(threads),
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def correct(self, pair: Pair, query: str, history: Sequence[Message], objectives: str) -> Result:
        policy, aligner = pair.policy, pair.aligner
        assert isinstance(policy, GgufPolicy)
        asked = text_of(chat_prompt([*history, Message("user", query)], policy.template))
        answer = self._write(0, asked, ANSWER_LIMIT)
        if "error" in answer or not answer["text"].strip():
            return {"answer": answer, "edit": None}
        text = answer["text"].strip()
        prompt = edit_request(aligner, query, text, objectives, history)
        edit = self._write(1, prompt, 2 * len(aligner.engine.model.encode_text(text)) + 256)
        return {"answer": answer, "edit": edit}

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _write(self, which: int, prompt: str, limit: int) -> Result:
        assert self._process.stdin and self._process.stdout
        print(json.dumps({"which": which, "prompt": prompt, "limit": limit}), file=self._process.stdin, flush=True)
        if not (line := self._process.stdout.readline()):
            raise SystemExit("the two Llama objects died; their last words are above")
        found = json.loads(line)
        return found | {"measures": measures(found["text"])} if "text" in found else found


def edit_request(aligner: GgufAligner, query: str, answer: str, objectives: str, history: Sequence[Message]) -> str:
    pieces = edit_prompt(
        aligner.layout, query, answer, resolve(objectives), aligner.template, history=history, known=aligner.known
    )
    return text_of(pieces)


def contest(models: Sequence[Path], threads: int) -> None:
    """The process of the two Llama objects: a prompt in, a greedy text out."""
    import os

    from llama_cpp import Llama

    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes to stderr
    threads = threads or hardware_threads()
    options = {"n_ctx": 4096, "n_threads": threads, "n_threads_batch": threads, "verbose": False}
    pair = [Llama(str(model), **options) for model in models]
    for line in sys.stdin:
        asked = json.loads(line)
        began, cpu = time.perf_counter(), time.process_time()
        first, first_cpu, text, finish = 0.0, 0.0, "", ""
        try:
            for part in pair[asked["which"]].create_completion(
                asked["prompt"], max_tokens=asked["limit"], temperature=0.0, repeat_penalty=1.0, stream=True
            ):
                chosen = part["choices"][0]
                if chosen["text"] and not first:
                    first, first_cpu = time.perf_counter() - began, time.process_time() - cpu
                text += chosen["text"]
                finish = chosen["finish_reason"] or finish
            found: Result = {"text": text, "finish": finish, "first": first, "first_cpu": first_cpu}
        except ValueError as error:  # too long a prompt
            found = {"error": str(error)}
        found |= {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu, "peak_mb": peak_mb()}
        print(json.dumps(found), file=replies, flush=True)


# --- what was written


def append(file: Path, row: Result) -> None:
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row) + "\n")


def read_rows(file: Path) -> list[Result]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def report(rows: Sequence[Result]) -> None:
    """The table: a line per model, aligner, file and mode, then what all rows and the rivals have in common."""
    machines = [row["machine"] for row in rows if "machine" in row]
    rows = [row for row in rows if "machine" not in row]
    groups: dict[str, list[Result]] = {}
    for row in rows:
        groups.setdefault(row["name"].rpartition(" ")[0], []).append(row)
    summary = {name: summarize(group) for name, group in groups.items()}
    head = f"{'died':>5}{'error':>6}{'over':>5}{'aligned':>8}{'same':>5}{'failed':>7}"
    faults = "loops, run-ons: before > after"
    times = f"{'s/row':>7}{'most':>7}{'cpu s':>7}{'reused':>7}"
    print(f"{'model aligner file mode':<54}{'rows':>5}{head}  {faults:<32}{times}")
    for name, s in summary.items():
        cells = (
            f"{s['died']:>5}{s['errors']:>6}{s['over_limit']:>5}{s['aligned']:>8}{s['unchanged']:>5}{s['failed']:>7}"
        )
        faults = f"{s['loops_before']} > {s['loops_after']}, {s['run_ons_before']} > {s['run_ons_after']}"
        times = f"{s['seconds']:>7.1f}{s['most']:>7.1f}{s['cpu']:>7.1f}{s['reused']:>7.0%}"
        print(f"{name:<54}{s['rows']:>5}{cells}  {faults:<32}{times}")
    for name, s in summary.items():
        print(
            f"\n{name}: finishes {s['finishes']}; failures {s['failures']}; others took {s['foreign']:.0%} of the cores"
        )
        if s["faulty"]:
            print(f"  a loop or run-on reached the user in: {', '.join(s['faulty'])}")
        if s["streams_differ"]:
            print(f"  streamed and returned texts differ in: {', '.join(s['streams_differ'])}")
    rivals = rivals_of([row for row in rows if row.get("rivals") and not row.get("error")])
    if rivals:
        print(f"\ntwo llama_cpp.Llama on {rivals['rows']} of these rows (ours on the same rows):")
        for key, (theirs, ours) in rivals["compared"].items():
            print(f"  {key:<46}{theirs:>9.2f}{ours:>9.2f}")
        print(f"  median of ratios ours/theirs: whole {rivals['whole']:.2f}, first aligned token {rivals['first']:.3f}")
    print(json.dumps({"bench": "real_pair", "machine": machines[-1:], "groups": summary, "rivals": rivals}))


def summarize(group: Sequence[Result]) -> Result:
    done = [row for row in group if "texts" in row]
    loops = {
        name: [row for row in done if looped(row["measures"][name])] for name in ("written", "edit_written", "given")
    }
    run_ons = {
        name: [row for row in done if row["measures"][name]["run-on"]] for name in ("written", "edit_written", "given")
    }
    stages = [stage for row in done for stage in (row["policy"], row["edit"]) if stage]
    edits = [row["edit"] for row in done if row["edit"]]
    reused = sum(edit["reused"] for edit in edits)
    return {
        "rows": len(group),
        "died": sum("died" in row for row in group),
        "errors": sum("error" in row for row in group),
        "over_limit": sum(not stage["kept_limit"] for stage in stages),
        "aligned": sum(row["aligned"] for row in done),
        "unchanged": sum(row["unchanged"] for row in done),
        "failed": sum(bool(row["failure"]) for row in done),
        "failures": dict(Counter(kind_of(row["failure"]) for row in done if row["failure"])),
        "finishes": dict(Counter(row["finishes"] for row in done).most_common()),
        "loops_before": len({row["name"] for name in ("written", "edit_written") for row in loops[name]}),
        "loops_after": len(loops["given"]),
        "run_ons_before": len({row["name"] for name in ("written", "edit_written") for row in run_ons[name]}),
        "run_ons_after": len(run_ons["given"]),
        "faulty": sorted({row["name"] for row in (*loops["given"], *run_ons["given"])}),
        "streams_differ": [row["name"] for row in done if not row["streamed_same"]],
        "seconds": statistics.median(row["seconds"] for row in done) if done else 0.0,
        "most": max((row["seconds"] for row in done), default=0.0),
        "cpu": statistics.median(row["cpu"] for row in done) if done else 0.0,
        "policy_s": statistics.median(row["policy"]["read_s"] + row["policy"]["write_s"] for row in done)
        if done
        else 0,
        "edit_s": statistics.median(edit["read_s"] + edit["write_s"] for edit in edits) if edits else 0,
        "reused": reused / max(1, reused + sum(edit["read"] for edit in edits)),
        "read": sum(stage["read"] for stage in stages),
        "written": sum(stage["written"] for stage in stages),
        "peak_mb": max((row["peak_mb"] for row in done), default=0.0),
        "foreign": statistics.median(row["foreign"] for row in done) if done else 0.0,
    }


def looped(found: dict[str, int]) -> bool:
    return bool(found["said3"] or found["circles"])


def kind_of(failure: str) -> str:
    return "too long" if "context" in failure else failure


def rivals_of(rows: Sequence[Result]) -> Result | None:
    """Both sides of the rows that both corrected; first tokens and wholes where both wrote an edit."""
    rows = [row for row in rows if row["edit"] and row["rivals"]["edit"] and "text" in row["rivals"]["edit"]]
    if not rows:
        return None
    both = [row for row in rows if row["first"] and row["rivals"]["edit"]["first"]]
    whole = [row["rivals"]["answer"]["cpu"] + row["rivals"]["edit"]["cpu"] for row in rows]

    def faulty(found: Sequence[dict[str, int]], fault: str) -> float:
        return float(sum(looped(m) if fault == "loop" else bool(m["run-on"]) for m in found))

    def faults(fault: str, theirs_of: str, ours_of: str) -> tuple[float, float]:
        return (
            faulty([row["rivals"][theirs_of]["measures"] for row in rows], fault),
            faulty([row["measures"][ours_of] for row in rows], fault),
        )

    def firsts(key: str) -> tuple[float, float]:
        return (
            statistics.median(row["rivals"]["edit"][key] for row in both),
            statistics.median(row[key] for row in both),
        )

    compared = {
        "answers with a loop": faults("loop", "answer", "answer"),
        "edits with a loop": faults("loop", "edit", "edit"),
        "texts for the user with a loop": faults("loop", "edit", "given"),
        "texts for the user with a run-on": faults("run-on", "edit", "given"),
        "whole, s of cpu (median)": (statistics.median(whole), statistics.median(row["cpu"] for row in rows)),
        "first aligned token, s of cpu (median)": firsts("first_cpu"),
        "first aligned token, s by the clock (median)": firsts("first"),
        "peak memory, MB": (
            max(row["rivals"]["edit"]["peak_mb"] for row in rows),
            max(row["peak_mb"] for row in rows),
        ),
    }
    return {
        "rows": len(rows),
        "same_answer": sum(row["texts"]["answer"] == row["rivals"]["answer"]["text"].strip() for row in rows),
        "compared": compared,
        "whole": statistics.median(row["cpu"] / seconds for row, seconds in zip(rows, whole, strict=True)),
        "first": statistics.median(row["first_cpu"] / row["rivals"]["edit"]["first_cpu"] for row in both),
    }


def show(finish: str, rows: Sequence[Result]) -> None:
    """Print each text that finished so, with what was cut off marked; "fault": what the user was given with one."""
    for row in rows:
        if "texts" not in row:
            continue
        texts, found = row["texts"], row["measures"]["given"]
        if finish == "fault" and (looped(found) or found["run-on"]):
            print(f"=== {row['name']}, given, {found}\n{texts['given']}\n")
        for stage, kept, written in (("policy", "answer", "written"), ("edit", "edit", "edit_written")):
            if row[stage] and row[stage]["finish"] == finish:
                whole = texts[written].strip()
                print(f"=== {row['name']}, {stage}\n{texts[kept]}\n>>> cut: {whole[len(texts[kept]) :]}\n")


def tidied(files: Sequence[Path]) -> None:
    """What tidy() cuts from answers that real models wrote elsewhere, and what it leaves."""
    csv.field_size_limit(1 << 24)
    found: Result = {}
    for file in files:
        with file.open(newline="", encoding="utf-8") as source:
            before = [row["generated_text"] for row in csv.DictReader(source)]
        after = [tidy(text) for text in before]
        told = {"before": [measures(text) for text in before], "after": [measures(text) for text in after]}
        found[file.stem] = {"answers": len(before), "cut": sum(a != b for a, b in zip(before, after, strict=True))}
        for when, each in told.items():
            for fault in ("said3", "circles", "run-on"):
                found[file.stem][f"{fault} {when}"] = sum(bool(one[fault]) for one in each)
        found[file.stem]["rows"] = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
        print(file.stem, {name: value for name, value in found[file.stem].items() if name != "rows"})
    print(json.dumps({"bench": "real_pair --answers", "files": found}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("files", type=Path, nargs="*", help="CSV files with a column query")
    parser.add_argument("--out", type=Path, help="where rows are appended")
    parser.add_argument("--rows", type=int, default=100, help="of each file")
    parser.add_argument("--modes", nargs="+", choices=["greedy", "sampled"], default=["greedy", "sampled"])
    parser.add_argument("--aligner", default=SELF)
    parser.add_argument("--layout", default="")
    parser.add_argument("--rivals", type=int, default=0, help="two Llama objects on every so many'th row; 0: on none")
    parser.add_argument("--threads", type=int, default=0, help="for both alike; 0: as many as the runtime chooses")
    parser.add_argument("--minutes", type=float, default=0, help="begin no row after so many; 0: run all")
    parser.add_argument("--row-limit", type=float, default=600, help="seconds after which a row hangs")
    parser.add_argument("--report", type=Path, nargs="+", metavar="ROWS")
    parser.add_argument("--texts", nargs="+", metavar=("FINISH", "ROWS"))
    parser.add_argument("--answers", type=Path, nargs="+", metavar="CSV")
    parser.add_argument("--contestant", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    to_run = options.model and (options.contestant or (options.files and options.out))
    if not (to_run or options.report or options.texts or options.answers):
        parser.error("name a model, CSV files and --out, or --report, or --texts, or --answers")
    return options


if __name__ == "__main__":
    main()
