"""How good are drafts on replayed edits? No model needed: what is guessed and accepted follows from the texts.

    python bench/draft.py [--costs 1:41,8:141,16:189,32:342] [--pairs FILE.jsonl] [--rows]

For each share of copied text: tokens written per decode, the part of drafted tokens that was accepted, and the time
of the edit relative to plain decoding, computed from a curve of batch costs (--costs, size:milliseconds).
Contestants: our Drafter; llama-cpp-python's prompt lookup (the earliest match of the last two tokens, or one, in the
whole prompt) with its own default of 10 tokens and the 2 its README advises for CPUs; and an oracle that knows the
edit and drafts exactly what will be accepted, the limit for any drafter that copies from the same texts.
"""

import argparse
import json
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from edits import Case, all_cases, copied_share

from metaaligner_lite.llama.draft import BatchCosts, Drafter

Cost = Callable[[int], float]
LIMIT = 31
REQUEST = " Edit your answer to improve it considering these aspects: Reply with the edited answer only."


@dataclass(frozen=True)
class Outcome:
    written: int
    decodes: int
    drafted: int
    accepted: int
    cost: float  # relative to plain decoding


class Replay:
    """An edit being written with drafts: `written` grows by what each decode verifies."""

    def __init__(self, edit: Sequence[int], cost: Cost) -> None:
        self.edit, self._cost = edit, cost
        self.written = 1  # the prompt's last logits give the first token
        self._decodes = self._drafted = self._accepted = 0
        self._spent = 0.0

    def verify(self, draft: Sequence[int]) -> Sequence[int]:
        """One decode of the last token and a draft; returns the tokens it wrote."""
        right = 0
        ahead = self.edit[self.written :]
        while right < len(draft) and right < len(ahead) and draft[right] == ahead[right]:
            right += 1
        new = ahead[: right + 1]
        self.written += len(new)
        self._decodes += 1
        self._drafted += len(draft)
        self._accepted += right
        self._spent += self._cost(1 + len(draft))
        return new

    def outcome(self) -> Outcome:
        plain = self._cost(1) * max(1, self.written - 1)
        return Outcome(self.written, self._decodes, self._drafted, self._accepted, self._spent / plain)


def ours(case: "Tokens", cost: Cost) -> Outcome:
    drafter, replay = Drafter(case.answer, case.query), Replay(case.edit, cost)
    drafter.observe(case.edit[0])
    while (left := len(case.edit) - replay.written) > 0:
        for token in replay.verify(drafter.propose(left, cost)):
            drafter.observe(token)
    return replay.outcome()


def lookup(tokens: int) -> Callable[["Tokens", Cost], Outcome]:
    def run(case: "Tokens", cost: Cost) -> Outcome:
        from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

        find, replay = LlamaPromptLookupDecoding(max_ngram_size=2, num_pred_tokens=tokens), Replay(case.edit, cost)
        prompt = [*case.query, *case.answer, *case.request]
        while replay.written < len(case.edit):
            replay.verify(find(np.array([*prompt, *case.edit[: replay.written]], dtype=np.intc)).tolist())
        return replay.outcome()

    return run


def oracle(case: "Tokens", cost: Cost) -> Outcome:
    replay = Replay(case.edit, cost)
    grams = {tuple(case.answer[i : i + 2]) for i in range(len(case.answer) - 1)}
    while (left := len(case.edit) - replay.written) > 0:
        ahead = case.edit[replay.written - 1 :]
        run = 0
        while run < min(left, LIMIT) and tuple(ahead[run : run + 2]) in grams:
            run += 1
        size = max(range(run + 1), key=lambda n: (n + 1) / cost(n + 1))
        replay.verify(ahead[1 : 1 + size])
    return replay.outcome()


def plain(case: "Tokens", cost: Cost) -> Outcome:
    replay = Replay(case.edit, cost)
    while replay.written < len(case.edit):
        replay.verify(())
    return replay.outcome()


CONTESTANTS = {
    "plain": plain,
    "lookup, 2 tokens": lookup(2),
    "lookup, 10 tokens": lookup(10),
    "ours": ours,
    "oracle": oracle,
}


@dataclass(frozen=True)
class Tokens:
    """A case as token ids: a token per word or sign, which is about what real vocabularies do with such texts."""

    query: list[int]
    answer: list[int]
    request: list[int]
    edit: list[int]


def tokens(case: Case) -> Tokens:
    ids: dict[str, int] = {}

    def encode(text: str) -> list[int]:
        return [ids.setdefault(part, len(ids)) for part in re.findall(r" ?[A-Za-z]+|[^A-Za-z]", text)]

    return Tokens(encode(case.query), encode(case.answer), encode(REQUEST), encode(case.edits[0]))


def recorded(path: Path | None) -> Iterator[Case]:
    """Edits from a file, such as `equal.py --record` writes."""
    for line in path.read_text(encoding="utf-8").splitlines() if path else ():
        row = json.loads(line)
        share = copied_share(row["weak"].split(), row["strong"].split())
        yield Case("file", row["query"], row["weak"], (), (row["strong"],), share)


def curve(text: str) -> Cost:
    """The cost of a batch by its size, from "size:cost,..."; without one, the shape the runtime begins with."""
    if not text:
        return BatchCosts()
    known = sorted((int(size), float(cost)) for size, cost in (pair.split(":") for pair in text.split(",")))
    sizes, costs = zip(*known, strict=True)
    return lambda size: float(np.interp(size, sizes, costs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--costs", default="", help="batch costs, size:milliseconds,... (pair.py prints them)")
    parser.add_argument("--rows", action="store_true", help="one line per edit")
    parser.add_argument(
        "--pairs", type=Path, help="JSONL with query, weak, strong: real edits of yours, as one more kind"
    )
    options = parser.parse_args()
    cost = curve(options.costs)
    results: dict[str, dict[str, list[Outcome]]] = {}
    for case in (*all_cases(), *recorded(options.pairs)):
        for name, run in CONTESTANTS.items():
            outcome = run(tokens(case), cost)
            results.setdefault(case.name, {}).setdefault(name, []).append(outcome)
            if options.rows:
                print(f"{case.name:<6}{case.copied:>6.0%}  {name:<20}{outcome}")
    print(f"{'copied':<10}{'drafts':<20}{'tokens/decode':>14}{'drafted':>9}{'accepted':>10}{'time':>7}")
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for share, contestants in results.items():
        for name, outcomes in contestants.items():
            row = {
                "tokens_per_decode": sum(o.written - 1 for o in outcomes) / sum(o.decodes for o in outcomes),
                "drafted_per_token": sum(o.drafted for o in outcomes) / sum(o.written for o in outcomes),
                "accepted": sum(o.accepted for o in outcomes) / max(1, sum(o.drafted for o in outcomes)),
                "time": statistics.mean(o.cost for o in outcomes),
            }
            summary.setdefault(share, {})[name] = {key: round(value, 3) for key, value in row.items()}
            print(
                f"{share:<10}{name:<20}{row['tokens_per_decode']:>14.2f}{row['drafted_per_token']:>9.2f}"
                f"{row['accepted']:>10.0%}{row['time']:>7.2f}"
            )
    print(json.dumps({"bench": "draft", "costs": options.costs or "built in", "results": summary}))


if __name__ == "__main__":
    main()
