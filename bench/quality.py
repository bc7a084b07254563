"""Does the pair align? Objectives satisfied before and after, facts kept, on scenarios it was not trained on.

    python -m mal_train.demo.generate --out DATA && python bench/quality.py DATA/heldout.jsonl

For each held-out row the aligner edits (1) the row's weak answer and (2) the policy's own answer. Deterministic
oracles (train/mal_train/demo/oracles.py) decide whether an objective is satisfied; they know the phrases of the
demonstration domain and say nothing of any other. Prints a table and, as its last line, one JSON document.
"""

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path

from mal_train.demo.oracles import facts, satisfies
from metaaligner_lite import DEMO_ALIGNER, DEMO_POLICY, Aligner, GgufPolicy, GivenAnswer, align, open_engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path, help="heldout.jsonl")
    parser.add_argument("--most", type=int, default=300)
    parser.add_argument("--policy", type=Path, default=DEMO_POLICY)
    parser.add_argument("--aligner", type=Path, default=DEMO_ALIGNER)
    parser.add_argument("--show", type=int, default=0, help="print so many corrections")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.rows.read_text(encoding="utf-8").splitlines()][: options.most]

    tallies = {"given weak answers": Tally(), "the policy's own answers": Tally(), "withheld scenarios alone": Tally()}
    with open_engine(options.policy) as asked, open_engine(options.aligner) as editor:
        policy, aligner = GgufPolicy(asked), Aligner(editor)
        for i, row in enumerate(rows):
            given = align(row["query"], row["objectives"], policy=GivenAnswer(row["weak"]), aligner=aligner)
            own = align(row["query"], row["objectives"], policy=policy, aligner=aligner)
            tallies["given weak answers"].add(given, row["strong"])
            tallies["the policy's own answers"].add(own)
            if row["kind"] == "scenario":
                tallies["withheld scenarios alone"].add(given, row["strong"])
            if i < options.show:
                print(f"\n{row['query']}\n  {row['objectives']}\n  - {own.draft.text}\n  + {own.text}")
    for name, tally in tallies.items():
        tally.show(name)
    print(json.dumps({name: tally.summary() for name, tally in tallies.items()}))


class Tally:
    """Counts over corrections: (right, all) by what was asked."""

    def __init__(self) -> None:
        self.counts = defaultdict(lambda: [0, 0])

    def add(self, correction, reference=None) -> None:
        query, before, after = correction.query, correction.draft.text, correction.text
        for objective in correction.objectives:
            self._count(f"{objective.name} unaligned", satisfies(objective.name, query, before))
            self._count(f"{objective.name} aligned", satisfies(objective.name, query, after))
            self._count("all unaligned", satisfies(objective.name, query, before))
            self._count("all aligned", satisfies(objective.name, query, after))
        self._count("ended by itself", correction.edit is not None and correction.edit.finish == "end")
        for fact in facts(before):
            self._count("facts kept", fact in after)
        known = facts(query) | facts(before)
        self._count("no invented fact", facts(after) <= known)
        if reference is not None:
            self._count("equal to the reference", after == reference)

    def _count(self, what: str, right: bool) -> None:
        self.counts[what][0] += right
        self.counts[what][1] += 1

    def show(self, name: str) -> None:
        print(f"\n{name}")
        for what, (right, n) in self.counts.items():
            low, high = wilson(right, n)
            print(f"  {what:28} {right / n:6.1%}  [{low:.1%}, {high:.1%}]  n = {n}")

    def summary(self) -> dict[str, list[int]]:
        return dict(self.counts)


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson's score interval)."""
    z, p = 1.96, right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


if __name__ == "__main__":
    main()
