"""How long until the first aligned token, and what is read until then?

    python bench/first_token.py MODEL.gguf [--adapter FILE.gguf] [--tokens 400] [--repeat 9] [--threads 1]

The policy has just written its answer, and query and answer are about --tokens tokens. Three contestants take turns,
each time over another conversation: "sentences" (layout conversation) and "names" (conversation/brief, to an aligner
that knows the objectives by heart) on the policy's own engine and cache, and "two Llamas": the second of two
llama_cpp.Llama objects, which reads query, answer and request anew. Each writes one token. Without --adapter the
model edits by itself and is only said to know the catalogue: what is timed is the reading of the request, not what
comes of it. With one, its own layout alone is measured. Ratios are taken within a turn before their median is. "cpu"
are seconds of the processor, which others on the machine disturb little; with --threads 1 they are about what an idle
machine takes.

Prints a table and, as its last line, one JSON document.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import edits
from machine import Bystanders, Result, machine

from metaaligner_lite import Answer, GgufAligner, Message, load_catalogue, open_engine, resolve
from metaaligner_lite.generation import Counts, Generation
from metaaligner_lite.llama.engine import Engine
from metaaligner_lite.llama.machine import hardware_threads
from metaaligner_lite.pieces import encode, text_of
from metaaligner_lite.prompts import BRIEF, CONVERSATION, chat_prompt, edit_prompt
from metaaligner_lite.templates import PLAIN_DIALOGUE

OBJECTIVES = ("brevity", "empathy,clarity")
SENTENCES, NAMES, LLAMAS = "sentences", "names", "two Llamas"
WANTED = 0.1


class Conversation:
    """A query and an answer of about so many tokens, which an engine has just written."""

    def __init__(self, engine: Engine, tokens: int, turn: int) -> None:
        model = engine.model
        self.template = model.template or PLAIN_DIALOGUE
        rows = edits.texts()[0]
        self.query = f"({turn + 1}) {rows[turn % len(rows)]['query']}"  # no two begin alike, so no cache helps
        words = " ".join(row["answer"] for row in (*rows[turn % len(rows) :], *rows)).split()
        query = len(model.encode_text(self.query))
        length = len(words)
        while length > 1 and query + len(model.encode_text(" ".join(words[:length]))) > tokens:
            length -= 1
        text = " ".join(words[:length])
        self.answer_tokens = model.encode_text(text)
        self.tokens = query + len(self.answer_tokens)
        self.answer = Answer(
            text, Generation(text, tuple(self.answer_tokens), "end", Counts(0, 0, 0, 0, 0, 0, 0)), engine
        )

    def written(self, engine: Engine) -> None:
        """Leave in the cache what the policy's turn leaves: its prompt and all but the last token of its answer."""
        prompt = encode(chat_prompt([Message("user", self.query)], self.template), engine.model)
        context = engine._context_for(len(prompt) + len(self.answer_tokens) + 512, 1)
        context.read([*prompt, *self.answer_tokens[:-1]])


def main() -> None:
    options = parse()
    from llama_cpp import Llama

    threads = options.threads or hardware_threads()
    runs: dict[str, list[dict[str, Result]]] = {objectives: [] for objectives in OBJECTIVES}
    rivals = [
        Llama(str(options.model), n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False) for _ in "12"
    ]
    with open_engine(options.model, adapter=options.adapter, threads=options.threads) as engine:
        aligners = by_name(engine)
        for turn in range(-1, options.repeat):  # the first is thrown away: what is mapped is in memory from there on
            talk = Conversation(engine, options.tokens, max(turn, 0))
            for objectives in OBJECTIVES if turn >= 0 else OBJECTIVES[:1]:
                contest = {
                    **{name: ours(editor, talk, objectives) for name, editor in aligners.items()},
                    LLAMAS: theirs(rivals[1], talk, objectives),
                }
                order = list(contest) if turn % 2 else list(reversed(contest))
                found = {name: contest[name]() for name in order}
                if turn >= 0:
                    runs[objectives].append({**found, "tokens": talk.tokens})
                    print(f"{turn + 1}/{options.repeat} {objectives}: {found}", file=sys.stderr)
    report(options, runs)


def by_name(engine: Engine) -> dict[str, GgufAligner]:
    """The aligners to compare: an adapter's own layout, else both."""
    if engine.adapter:
        trained = GgufAligner(engine)
        return {NAMES if trained.layout == BRIEF else SENTENCES: trained}
    sentences = GgufAligner(engine, layout=CONVERSATION, template=PLAIN_DIALOGUE)
    names = GgufAligner(engine, layout=BRIEF, template=PLAIN_DIALOGUE)
    names.known = {objective.name: objective.description for objective in load_catalogue().values()}
    return {SENTENCES: sentences, NAMES: names}


def ours(editor: GgufAligner, talk: Conversation, objectives: str) -> Callable[[], Result]:
    def run() -> Result:
        talk.written(editor.engine)
        editor.max_tokens = 1
        clocks = time.perf_counter(), time.process_time()
        (edit,) = editor.edit(talk.query, [(talk.answer, resolve(objectives))])
        return timed(clocks) | {"read": edit.counts.read, "reused": edit.counts.reused}

    return run


def theirs(second: object, talk: Conversation, objectives: str) -> Callable[[], Result]:
    def run() -> Result:
        prompt = edit_prompt(CONVERSATION, talk.query, talk.answer.text, resolve(objectives), talk.template)
        second.reset()
        clocks = time.perf_counter(), time.process_time()
        text = text_of(prompt)
        found = second.create_completion(text, max_tokens=1, temperature=0.0, repeat_penalty=1.0)
        return timed(clocks) | {"read": found["usage"]["prompt_tokens"], "reused": 0}

    return run


def timed(clocks: tuple[float, float]) -> Result:
    began, cpu = clocks
    return {"seconds": round(time.perf_counter() - began, 4), "cpu": round(time.process_time() - cpu, 4)}


def report(options: argparse.Namespace, runs: dict[str, list[Result]]) -> None:
    rows: list[Result] = []
    print(f"{'objectives':<38}{'contestant':<12}{'read':>6}{'reused':>8}{'s':>8}{'cpu s':>8}{'ratio':>8}{'cpu':>8}")
    for objectives, turns in runs.items():
        for name in [name for name in (SENTENCES, NAMES, LLAMAS) if name in turns[0]]:
            row: Result = {"objectives": objectives, "contestant": name}
            for key in ("read", "reused", "seconds", "cpu"):
                row[key] = statistics.median(turn[name][key] for turn in turns)
            for key in ("seconds", "cpu"):
                ratios = sorted(turn[name][key] / turn[LLAMAS][key] for turn in turns)
                row[f"{key}_ratio"] = [round(ratios[i], 3) for i in (0, len(ratios) // 2, -1)]
            rows.append(row)
            print(
                f"{objectives:<38}{name:<12}{row['read']:>6.0f}{row['reused']:>8.0f}{row['seconds']:>8.3f}"
                f"{row['cpu']:>8.3f}{row['seconds_ratio'][1]:>8.3f}{row['cpu_ratio'][1]:>8.3f}"
            )
    conversation = statistics.median(turn["tokens"] for turns in runs.values() for turn in turns)
    print(f"conversation of {conversation:.0f} tokens, n {options.repeat}; others took {options.foreign.share():.0%}")
    print(f"wanted: at most {WANTED:g} of two Llamas")
    about = {"model": options.model.name, "adapter": options.adapter and options.adapter.name}
    print(json.dumps({"bench": "first_token", "machine": machine(options.threads), **about, "rows": rows}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--tokens", type=int, default=400, help="of query and answer together")
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0, help="for all alike; 0: as many as the runtime chooses")
    options = parser.parse_args()
    options.foreign = Bystanders()
    return options


if __name__ == "__main__":
    main()
