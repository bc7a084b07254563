"""The aligner's own best edits as targets: sample several, keep what the rules find good, train on that.

    python -m mal_train.best_of --base model.gguf --adapter FOLDER --asks asks.jsonl --minilm DIR --out best.jsonl

Rejection sampling as in RAFT (Dong et al. 2023, arXiv 2304.06767). `asks` is a file as `mal batch` reads it, with
answers and objectives (`python -m mal_train.corpus.asks` makes one of real answers); every ask for which an edit
passes becomes a row of two answers. What was taken, and why the rest was not, is printed objective by objective. A GPU
takes minutes for thousands of asks, a CPU hours.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from metaaligner_lite import manifest
from metaaligner_lite.errors import DataError, FileProblem, MalError, UsageError
from metaaligner_lite.evaluation import intact
from metaaligner_lite.evaluation.meaning import Meaning
from metaaligner_lite.files import write_whole
from metaaligner_lite.gguf_file import base_fingerprint, read_header
from metaaligner_lite.objectives import Objective
from metaaligner_lite.prompts import Message
from metaaligner_lite.records import Account
from metaaligner_lite.rows import Reading, read_rows

from . import gguf_base, lora
from .corpus import judge
from .corpus.edit import Edit
from .corpus.sources import Base, dump
from .encode import Encoder, Tokens, encode_edit, load_tokens
from .recipe import Data
from .reformulate import Edit as Asked
from .sampling import Prompt, Sampler, Written

_FLOOR, _BRIEF = 0.88, 0.80  # the least meaning, and of a shorter text: above what the evaluation asks for
_LONGER = 1.45  # times the words of the answer


@dataclass(frozen=True, slots=True)
class Ask:
    """An answer to be edited toward objectives."""

    id: str
    query: str
    answer: str
    objectives: tuple[Objective, ...]
    history: tuple[Message, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What is asked for, in short."""
        return tuple(objective.name for objective in self.objectives)

    @property
    def base(self) -> Base:
        """The answer as the corpus's rules take it."""
        return Base("", self.query, self.answer, "", tuple((turn.role, turn.content) for turn in self.history))

    def row(self, edit: str) -> dict[str, Any]:
        """The row that trains an edit of it."""
        row: dict[str, Any] = {"id": f"{self.id}/best", "query": self.query}
        if self.history:
            row["history"] = [{"role": turn.role, "content": turn.content} for turn in self.history]
        rated = ((self.answer, 0), (edit, 1))
        return row | {"answers": [{"text": t, "ratings": dict.fromkeys(self.names, rate)} for t, rate in rated]}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules say of one sampled text: why it is refused, or nothing.

    `losses` are objectives that nobody asked for; `held` is the share of the answer's names and numbers.
    """

    reason: str
    losses: int = 0
    held: float = 1.0


def verdict(ask: Ask, text: str) -> Verdict:
    """The rules of the corpus (corpus/judge.py) asked of a sampled edit; the meaning is asked elsewhere."""
    if not text.strip():
        return Verdict("no end")
    if intact.stays(ask.answer, text):
        return Verdict("the answer again")
    edit = Edit("", ask.base, ask.answer, text, ask.names)
    if reason := judge.flaw(edit):
        return Verdict(reason)
    if len(text.split()) > _LONGER * len(ask.answer.split()):
        return Verdict("much longer")
    lost = len(judge.losses(edit))
    if lost > ("brevity" in ask.names):  # what is shorter may have lost its list
        return Verdict("another objective would be lost")
    known, held, _ = intact.kept(ask.answer, text)
    return Verdict("", lost, held / known if known else 1.0)


def score(judged: Verdict, meaning: float, likelihood: float) -> float:
    """Which of several good edits is taken: what means the same, keeps names and numbers, and comes easily."""
    return meaning + 0.3 * judged.held - 0.15 * judged.losses + 0.3 * likelihood


def read_asks(path: Path, account: Account, most: int = 0) -> Iterator[Ask]:
    """The asks of a file, at most so many (0: all). Raises DataError for a row without an answer or objectives."""
    for row in islice(read_rows(path, Reading()), most or None):
        if row.error:
            account.refuse(str(row.error), row.place)
            continue
        case = row.case
        if not (case and case.answer and case.objectives):
            raise DataError(f"{path}, {row.place}: expected an answer and the objectives to edit it toward")
        ask = Ask(row.key.hex()[:12], case.query, case.answer, case.objectives, case.history)
        if unruled := sorted({*ask.names}.difference(judge.ruled(ask.names, judge.said(ask.base)))):
            account.refuse(f"no rule can tell, for this query, whether there is {', '.join(unruled)}", row.place)
            continue
        yield ask


def prompt_of(ask: Ask, encoder: Encoder) -> Prompt | None:
    """What is read for an ask, and how much may be written; None if that is too long."""
    edit = Asked(ask.query, ask.answer, ask.answer, ask.objectives, stay=True, history=ask.history)
    encoded = encode_edit(edit, encoder.tokens, encoder.layout, encoder.named(edit))
    ids, start, request = encoded.ids.tolist(), encoded.start, encoded.request
    limit = 3 * (len(ids) - start) // 2 + 48
    fits = start + limit <= encoder.data.max_length
    return Prompt(tuple(ids[:request]), tuple(ids[request:start]), limit) if fits else None


def best(
    asks: Sequence[Ask], sampled: Sequence[Sequence[Written]], tokens: Tokens, meaning: Meaning, told: Counter[str]
) -> Iterator[tuple[Ask, str]]:
    """The asks for which an edit passed, and the best one; `told` counts what became of each ask."""
    texts = [[text_of(one, tokens) for one in several] for several in sampled]
    jobs = [(ask, text) for ask, several in zip(asks, texts, strict=True) for text in several]
    with ProcessPoolExecutor() as pool:
        verdicts = list(pool.map(verdict, *zip(*jobs, strict=True), chunksize=64))
    passed = [job for job, one in zip(jobs, verdicts, strict=True) if not one.reason]
    meaning.embed({ask.answer for ask, _ in passed} | {text for _, text in passed})
    left = iter(verdicts)
    for ask, several, written in zip(asks, texts, sampled, strict=True):
        reasons, found = Counter[str](), dict[str, float]()
        floor = _BRIEF if "brevity" in ask.names else _FLOOR
        for text, one in zip(several, written, strict=True):
            said = next(left)
            means = 0.0 if said.reason else meaning(ask.answer, text)
            if said.reason or means < floor:
                reasons[said.reason or "another meaning"] += 1
            else:
                found[text] = score(said, means, one.likelihood)
        for name in ask.names:
            told[f"{name}: {'taken' if found else reasons.most_common(1)[0][0]}"] += 1
        if found:
            yield ask, max(found, key=lambda text: found[text])


def text_of(written: Written, tokens: Tokens) -> str:
    """The text of sampled ids; nothing for one that did not end."""
    return str(tokens.tokenizer.decode(list(written.ids), skip_special_tokens=False)).strip() if written.ended else ""


def main() -> None:
    """Read asks, sample, judge, write rows, and say what became of the asks."""
    parser = argparse.ArgumentParser(
        prog="python -m mal_train.best_of", description="Rows of an aligner's own best edits, by rejection sampling."
    )
    parser.add_argument("--base", type=Path, required=True, help="the adapter's base, a GGUF file or a folder")
    parser.add_argument("--adapter", type=Path, required=True, help="a folder that mal train-lora left")
    parser.add_argument("--asks", type=Path, required=True, help="answers and objectives, as mal batch reads them")
    parser.add_argument("--minilm", type=Path, help="all-MiniLM-L6-v2; without it the package's")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=8, help="edits of each ask (default %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--most", type=int, default=0, help="so many asks of the file, from its beginning; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        for line in write(options):
            print(line, flush=True)
    except MalError as error:
        sys.exit(f"error: {error}")


def write(options: argparse.Namespace) -> Iterator[str]:
    """All of it; yields the account in lines."""
    began = time.monotonic()
    if options.samples < 1 or options.temperature < 0 or options.most < 0:
        raise UsageError("expected --samples of 1 or more, and neither --temperature nor --most below 0")
    made = manifest.read(options.adapter)
    if made is None:
        raise FileProblem(f"{options.adapter} has no {manifest.FILE_NAME}; expected a folder that mal train-lora left")
    if made.kind != "activated":
        raise UsageError(f"{options.adapter} is of the kind {made.kind!r}; edits are sampled with activated adapters")
    try:
        settings = Data(**made.recipe["data"])
    except (KeyError, TypeError) as error:
        raise FileProblem(f"the manifest of {options.adapter} does not say how it was trained (recipe.data)") from error
    lora.check_start(
        options.adapter, base_fingerprint(read_header(options.base)) if gguf_base.is_gguf(options.base) else ""
    )
    account = Account("asks")
    asks = list(read_asks(options.asks, account, options.most))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, lora.quiet():
        base = (
            gguf_base.unpack(options.base, Path(folder) / "base") if gguf_base.is_gguf(options.base) else options.base
        )
        meaning = Meaning(options.minilm, Path(folder) / "meaning.npz")
        meaning.embed({ask.answer for ask in asks})  # without MiniLM it ends here, not after the sampling
        tokens = load_tokens(base)
        encoder = Encoder(tokens, made.layout, settings, known=made.objectives)
        sampler = Sampler(base, options.adapter)
        prompts = [(ask, prompt) for ask in asks if (prompt := prompt_of(ask, encoder))]
        if not prompts:
            raise DataError(f"{options.asks}: no ask is left to sample. {'; '.join(account.reasons())}")
        sampled = sampler.write(
            [prompt for _, prompt in prompts],
            tuple(tokens.specials.values()),
            copies=options.samples,
            temperature=options.temperature,
            seed=options.seed,
        )
        spent = time.monotonic() - began
        told: Counter[str] = Counter()
        found = best([ask for ask, _ in prompts], sampled, tokens, meaning, told)
        lines = [dump(ask.row(text)) + "\n" for ask, text in found]
    yield from account.reasons()
    write_whole(options.out, "".join(lines))
    yield from (f"{number:6,} {what}" for what, number in sorted(told.items()))
    yield (
        f"{len(lines):,} rows of {len(asks):,} asks in {options.out}, {len(asks) - len(prompts):,} too long; "
        f"{spent:.0f} s sampling, {time.monotonic() - began - spent:.0f} s judging"
    )


if __name__ == "__main__":
    main()
