"""Does the pair align? Objectives satisfied before and after, facts kept, on messages it was not trained on.

    python -m mal_train.demo.generate --out DATA && python bench/quality.py DATA/heldout.jsonl

Each aligner edits weak answers of four origins: the policy's own, those of the generator in the policy's style (other
wordings than it saw), those of a second policy of another style, and some written by hand (handwritten.jsonl). Beside
the aligners stand baselines without an aligner. Deterministic oracles (train/mal_train/demo/oracles.py) decide; they
know the phrases of the demonstration domain and say nothing of any other. Prints Markdown tables with 95 % intervals
(Wilson's, widened where outcomes on one message go together), how far the others are from the first aligner on the
same messages, and, as its last line, one JSON document of (right, all).
"""

import argparse
import json
import math
import random
from collections import defaultdict
from pathlib import Path

from mal_train.demo.asking import is_apart
from mal_train.demo.oracles import before_run_on, facts, keeps, loops, remarks, satisfies
from mal_train.demo.phrases import REQUESTS
from mal_train.demo.slots import PRODUCTS
from mal_train.demo.writing import EXTRA_OBJECTIVES
from metaaligner_lite import DEMO_ALIGNER, DEMO_POLICY, GgufAligner, GgufPolicy, GivenAnswer, align, open_engine
from metaaligner_lite.prompts import Message

HAND = Path(__file__).with_name("handwritten.jsonl")
BASELINES = ("unaligned", "cut at the first run-on", "policy asked to edit", "policy asked in everyday words")
ORIGINS = ("the policy's own", "its style, reworded", "another style", "written by hand")
#: Objectives that no training row names, once as the catalogue words them, once saying what to write in the frames
#: ("say that", "end with", "begin with") in which training says it of other sentences.
SAID = {
    "reassurance": "The response should say that there is no need to worry.",
    "formality": "The response should end with: With kind regards.",
    "helpfulness": "The response should say that I can help with the next step.",
    "structure": "The response should begin with a number before each step.",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path, help="heldout.jsonl")
    parser.add_argument("--most", type=int, default=300)
    parser.add_argument("--policy", type=Path, default=DEMO_POLICY)
    parser.add_argument("--aligner", type=Path, action="append", help="again for each aligner to compare")
    parser.add_argument("--adapter", type=Path, action="append", default=[], help="activated, over the policy")
    parser.add_argument("--baselines", action="store_true", help="truncating, and the policy asked, too")
    parser.add_argument("--unseen", type=int, default=0, help="objectives never trained, on so many rows")
    parser.add_argument("--show", type=int, default=0, help="print so many corrections")
    options = parser.parse_args()
    cases = read_cases(options.rows, options.most, options.policy)
    unaligned, cut, asked, everyday = BASELINES
    tables = {unaligned: tally(cases, lambda _, query, weak, wanted: weak)}
    if options.baselines:
        tables[cut] = tally(cases, lambda _, query, weak, wanted: before_run_on(weak))
        tables[asked] = edited(cases, options.policy, None, options)
        tables[everyday] = revised(cases, options.policy)
    for path in options.aligner or [DEMO_ALIGNER]:
        tables[path.stem] = edited(cases, path, None, options)
    for path in options.adapter:
        tables[path.stem] = edited(cases, options.policy, path, options)
    print("\n".join(markdown(tables)))
    first = next(name for name in tables if name not in BASELINES)
    print("\n".join(differences(tables, first)))
    print(json.dumps({name: {what: counts(found) for what, found in table.items()} for name, table in tables.items()}))


def read_cases(path, most, policy):
    """(origin, query, weak answer, objectives, withheld scenario?, known scenario) of all origins.

    The policy answers here.
    """
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][:most]
    hand = [json.loads(line) for line in HAND.read_text(encoding="utf-8").splitlines()]
    with open_engine(policy) as engine:
        talker = GgufPolicy(engine)
        own = [talker.answer(row["query"]).text for row in rows]
    origins = (own, [row["weak"] for row in rows], [row["other"] for row in rows])
    cases = []
    for origin, answers in zip(ORIGINS, origins, strict=False):
        for row, weak in zip(rows, answers, strict=True):
            fresh = row["kind"] == "scenario"
            cases.append((origin, row["query"], weak, row["objectives"], fresh, None if fresh else row["scenario"]))
    cases += [(ORIGINS[3], row["query"], row["weak"], row["objectives"], False, None) for row in hand]
    return cases


def edited(cases, path, adapter, options):
    """The tally of one aligner, with its unseen objectives if asked."""
    with open_engine(path, adapter=adapter) as engine:
        aligner = GgufAligner(engine, layout="conversation")
        shown = iter(range(options.show))

        def edit(origin, query, weak, wanted):
            text = align(query, wanted, policy=GivenAnswer(weak), aligner=aligner).text
            if origin != ORIGINS[1] and next(shown, None) is not None:
                print(f"\n[{path.stem}, {origin}] {query}\n  {', '.join(wanted)}\n  - {weak}\n  + {text}")
            return text

        table = tally(cases, edit)
        for _, query, weak, *_ in [case for case in cases if case[0] == ORIGINS[1]][: options.unseen]:
            for name in EXTRA_OBJECTIVES:
                before = satisfies(name, query, weak)
                for kind, asked in (("as in the catalogue", name), ("saying what to write", f"{name}: {SAID[name]}")):
                    after = align(query, asked, policy=GivenAnswer(weak), aligner=aligner).text
                    table[f"unseen {name}, {kind}, before"].append((query, before))
                    table[f"unseen {name}, {kind}"].append((query, satisfies(name, query, after)))
    return table


def revised(cases, path):
    """The tally of the policy itself, asked to revise as its training conversations ask ("Please be brief.")."""
    rng = random.Random(0)
    with open_engine(path) as engine:
        talker = GgufPolicy(engine)

        def edit(origin, query, weak, wanted):
            request = " ".join(rng.choice(REQUESTS[name]) for name in wanted)
            return talker.answer(request, history=[Message("user", query), Message("assistant", weak)]).text

        return tally(cases, edit)


def tally(cases, edit):
    """What is measured, as (message, right?), after `edit(origin, query, weak, objectives)`."""
    table = defaultdict(list)
    for origin, query, weak, wanted, fresh, scenario in cases:
        after = edit(origin, query, weak, wanted)
        for name in wanted:
            good = query, satisfies(name, query, after)
            table[f"satisfied: {origin}"].append(good)
            table["satisfied: all"].append(good)
            table[f"objective: {name}"].append(good)
            if is_apart(frozenset(wanted)):  # asked for together in no training request
                table["unseen combinations"].append(good)
            if fresh:
                table["withheld scenarios"].append(good)
        for fact in sorted(facts(weak)):
            table[f"facts kept: {origin}"].append((query, keeps(after, fact)))
            table["facts kept: all"].append((query, keeps(after, fact)))
        for names in remarks(after):
            if scenario and names not in remarks(weak):  # an edit's own remark, of a scenario that training knows
                table["remarks that fit the message"].append((query, scenario in names))
        table["no loop"].append((query, loops(weak) or not loops(after)))
        table["no name or number invented"].append((query, facts(after) - PRODUCTS <= facts(query) | facts(weak)))
    return table


def counts(found):
    return sum(right for _, right in found), len(found)


def markdown(tables):
    """One row per measure, one column per way of editing: the share, its interval, n."""
    yield "| | " + " | ".join(tables) + " |"
    yield "|---" * (len(tables) + 1) + "|"
    measures = sorted({what for table in tables.values() for what in table}, key=_order)
    for what in measures:
        cells = [cell(table[what]) if what in table else "" for table in tables.values()]
        yield f"| {what} | " + " | ".join(cells) + " |"


def _order(what):
    kinds = ("satisfied: all", "satisfied", "objective", "unseen comb", "withheld", "facts kept: all", "facts", "not")
    return next((i for i, kind in enumerate(kinds) if what.startswith(kind)), len(kinds)), what


def differences(tables, first):
    """How many points each of the others is above the first on the same messages, with 95 % intervals."""
    for name, table in tables.items():
        if name in BASELINES or name == first:
            continue
        for what in ("satisfied: all", "facts kept: all"):
            pairs = [(query, a - b) for (query, a), (_, b) in zip(table[what], tables[first][what], strict=True)]
            mean = sum(value for _, value in pairs) / len(pairs)
            half = 1.96 * math.sqrt(variance(pairs))
            low, high = 100 * (mean - half), 100 * (mean + half)
            yield f"{name} against {first}, {what}: {100 * mean:+.1f} points [{low:+.1f}, {high:+.1f}]"


def variance(found):
    """Of the mean of (message, value), where values of one message may go together (linearised ratio)."""
    mean, messages = sum(value for _, value in found) / len(found), defaultdict(float)
    for query, value in found:
        messages[query] += value - mean
    many = len(messages)
    return sum(value * value for value in messages.values()) / len(found) ** 2 * many / max(many - 1, 1)


def cell(found):
    right, n = counts(found)
    share = right / n
    plain = share * (1 - share) / n
    low, high = wilson(right, n, max(variance(found) / plain, 1.0) if plain else 1.0)
    return f"{100 * share:.1f} % [{100 * low:.0f}, {100 * high:.0f}] n={n}"


def wilson(right: int, n: int, effect: float) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson's score interval), n divided by the design effect."""
    z, p, n = 1.96, right / n, n / effect
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max((middle - half) / (1 + z * z / n), 0.0), min((middle + half) / (1 + z * z / n), 1.0)


if __name__ == "__main__":
    main()
