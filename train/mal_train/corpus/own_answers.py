"""A small model's own answers to the corpus's queries: long ones, lists, as weak policies write them.

    python -m mal_train.corpus.own_answers --data DIR --model smollm2.gguf --out own.jsonl

Half are greedy, half sampled, several side by side. It goes on where it was stopped. `--torch` writes thousands at
once with torch, which on a GPU takes minutes.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from metaaligner_lite import open_engine
from metaaligner_lite.errors import FileProblem, MalError
from metaaligner_lite.generation import GREEDY, Sampling
from metaaligner_lite.pieces import encode
from metaaligner_lite.prompts import Message, chat_prompt
from metaaligner_lite.templates import PLAIN_DIALOGUE

from .readers import SOURCES
from .situations import messages
from .sources import Turns, check, dump, excluded, read
from .texts import count

_BATCH = 12
_MOST = 300  # tokens


@dataclass(frozen=True, slots=True)
class Asked:
    """A query to be answered; `id` also seeds the sampling."""

    id: str
    query: str
    history: Turns = ()


def queries(data: Path, seed: int) -> list[Asked]:
    """HH-RLHF's helpful queries, single ones before those with turns, and our own messages with a feeling between."""
    check(data, SOURCES[:1])
    bases, _ = read(SOURCES[0], data, excluded(data))
    asked = {base.query: Asked(base.id, base.query, base.history) for base in bases if 4 <= count(base.query) <= 60}
    single = [ask for ask in asked.values() if not ask.history]
    several = [ask for ask in asked.values() if ask.history]
    felt = [Asked(f"felt/{number}", text) for number, text in enumerate(messages())]
    rng = random.Random(seed)
    for group in (single, several, felt):
        rng.shuffle(group)
    mixed = [ask for group in zip(single, several, felt, single[len(felt) :], strict=False) for ask in group]
    return mixed + single[2 * len(felt) :] + several[len(felt) :]


def answers(model: Path, asked: list[Asked], minutes: float, threads: int) -> Iterator[dict[str, object]]:
    """One answer each, in batches, until the time is over."""
    end = time.monotonic() + 60 * minutes
    with open_engine(model, ctx_size=0, threads=threads) as engine:
        template = engine.model.template or PLAIN_DIALOGUE
        for start in range(0, len(asked), _BATCH):
            if time.monotonic() > end:
                return
            batch = asked[start : start + _BATCH]
            greedy = start // _BATCH % 2 == 0
            sampling = GREEDY if greedy else Sampling(temperature=0.7, seed=start)
            prompts = [
                chat_prompt([*(Message(r, c) for r, c in a.history), Message("user", a.query)], template) for a in batch
            ]
            for ask, made in zip(batch, engine.run(prompts, max_tokens=_MOST, sampling=sampling), strict=True):
                history = [{"role": role, "content": content} for role, content in ask.history]
                ended = made.counts.written < _MOST
                answer = {"id": ask.id, "query": ask.query, "text": made.text, "ended": ended, "greedy": greedy}
                yield {**answer, "history": history}


def answers_at_once(model: Path, asked: list[Asked]) -> Iterator[dict[str, object]]:
    """The same by torch, a quarter of them greedy."""
    from mal_train import gguf_base
    from mal_train.encode import load_tokens
    from mal_train.sampling import Prompt, Sampler

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        base = gguf_base.unpack(model, Path(folder) / "base")
        tokens, sampler = load_tokens(base), Sampler(base)
        template = tokens.template or PLAIN_DIALOGUE
        prompts = []
        for ask in asked:
            turns = [*(Message(r, c) for r, c in ask.history), Message("user", ask.query)]
            ids = tuple(encode(chat_prompt(turns, template), tokens))
            prompts.append(Prompt(ids[:-1], ids[-1:], _MOST))
        for part, temperature in ((slice(0, None, 4), 0.0), (slice(1, None, 2), 0.7), (slice(2, None, 4), 1.0)):
            written = sampler.write(prompts[part], tuple(tokens.specials.values()), temperature=temperature)
            for ask, (one,) in zip(asked[part], written, strict=True):
                yield {
                    "id": ask.id,
                    "query": ask.query,
                    "text": tokens.tokenizer.decode(list(one.ids)).strip(),
                    "ended": one.ended,
                    "greedy": not temperature,
                    "history": [{"role": role, "content": content} for role, content in ask.history],
                }


def _there(out: Path) -> set[str]:
    """The ids of the answers of an earlier run. A last line that it left half written is cut off."""
    if not out.exists():
        return set()
    written = out.read_bytes()
    if not written.endswith(b"\n"):
        written = written[: written.rfind(b"\n") + 1]
        out.write_bytes(written)
    try:
        return {str(json.loads(line)["id"]) for line in written.splitlines()}
    except (ValueError, KeyError, TypeError) as error:
        raise FileProblem(f"{out} holds no answers of this command ({error!r}); name another --out") from error


def main() -> None:
    """Write the answers, one JSON object a line."""
    parser = argparse.ArgumentParser(
        prog="python -m mal_train.corpus.own_answers",
        description="A small model's own answers to the corpus's queries.",
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=900)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--torch", action="store_true", help="all at once, with torch")
    options = parser.parse_args()
    try:
        there = _there(options.out)
        asked = [ask for ask in queries(options.data, options.seed)[: options.count] if ask.id not in there]
        if options.torch:
            written = answers_at_once(options.model, asked)
        else:
            written = answers(options.model, asked, options.minutes, options.threads)
        with options.out.open("a", encoding="utf-8") as file:
            for record in written:
                file.write(dump(record) + "\n")
                file.flush()
    except MalError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
