"""A small report as `mal eval` writes it, made by hand: what tests of tables and pages read."""

from metaaligner_lite.evaluation.report import (
    ALIGNED,
    ALL,
    ANSWER,
    FORM,
    GOLDEN,
    TIDIED,
    UNALIGNED,
    Asked,
    Cell,
    Counts,
    Coverage,
    Gain,
    Interval,
    Judge,
    LeftOut,
    Meta,
    Position,
    Quality,
    Report,
    Rerun,
    RowRecord,
    Source,
    Tax,
    Variant,
    Verdict,
)

POLICIES, OBJECTIVES = ("Claude-3", "Vicuna-13B"), ("brevity", "politeness")


def interval(value: float, half: float = 0.1, n: int = 4, p: float | None = None) -> Interval:
    return Interval(value, value - half, value + half, n, n, p, None if p is None else min(1.0, 2 * p))


def cells() -> list[Cell]:
    found = []
    for i, policy in enumerate((*POLICIES, ALL)):
        for j, objective in enumerate(OBJECTIVES):
            for k, (variant, reference) in enumerate(
                [(ALIGNED, GOLDEN), (UNALIGNED, GOLDEN), (TIDIED, GOLDEN), (ALIGNED, ANSWER), (TIDIED, ANSWER)]
            ):
                win = (i + j + k) % 3
                counts = Counts(win, 1, 3 - win, identical=1)
                net = interval((2 * win - 3) / 4, 0.3, 4, 0.02 + 0.2 * k)
                rates = [interval(share / 4) for share in (win, win + 1, win + 0.5)]
                found.append(
                    Cell(policy, ALL, "rules", objective, j == 0, variant, reference, counts, *rates, net, rates[2])
                )
    return found


def report() -> Report:
    judge = Judge(
        "rules",
        "rules",
        "rules 1",
        "",
        "",
        "both texts are read by a rule",
        OBJECTIVES,
        wanted=40,
        asked=40,
        seconds=0.1,
    )
    model = Judge(
        "tiny.gguf",
        "gguf",
        "tiny.gguf 0123456789abcdef",
        "paper",
        "You are a skilled evaluator ...",
        "the likeliest of its answer tokens 1, 2 and 0",
        None,
        wanted=80,
        asked=60,
        kept=20,
        seconds=12.5,
        on_answers=0.93,
        position=Position(36, 20, 12, 2, 2),
        rerun=Rerun(8, 8),
        meta=(
            Meta(
                "llmbar", ALL, 60, Counts(20, 24, 16), interval(0.53, 0.09, 60), 0.05, Position(60, 30, 26, 2, 2), True
            ),
        ),
        warnings=("tiny.gguf is at chance on llmbar: what it says of these texts says little",),
    )
    return Report(
        form=FORM,
        version="0",
        made="2026-11-27T05:00:00+00:00",
        settings={"limit": 4, "seed": 0, "min_judged": 0.0},
        sources=(Source("results.jsonl", "00ff", 9, 8, {"no text was written": 1}),),
        rows=8,
        policies=POLICIES,
        requests=("brevity", "brevity,politeness"),
        objectives={name: f"The response should have {name}." for name in OBJECTIVES},
        variants=(
            Variant(ALIGNED, "the edit", "results.jsonl", 8),
            Variant(UNALIGNED, "the policy's answer", "results.jsonl", 8),
            Variant(TIDIED, "the answer without loops and invented turns", "", 8),
        ),
        left_out=(LeftOut("prompt only", "no model is installed", 'pip install "metaaligner-lite[smollm2]"'),),
        judges=(judge, model),
        cells=tuple(cells()),
        gains=tuple(
            Gain(policy, "rules", objective, True, ALIGNED, interval(0.25, 0.3, 4, 0.04), interval(0.5, 0.3, 4))
            for policy in (*POLICIES, ALL)
            for objective in OBJECTIVES
        ),
        tax=tuple(
            Tax(
                request,
                objective,
                objective in request,
                "rules",
                interval(0.25 if objective in request else -0.25, 0.2),
            )
            for request in ("brevity", "brevity,politeness")
            for objective in OBJECTIVES
        ),
        quality=tuple(
            Quality(policy, variant, 4, float(variant == UNALIGNED), 0.9, 0.8, 0.0, 0.0, 0.0, tokens, 0.4)
            for policy in (*POLICIES, ALL)
            for variant, tokens in ((ALIGNED, 40.0), (UNALIGNED, None), (TIDIED, None))
        ),
        coverage=Coverage(80, 78),
        notes=("the judge tiny.gguf is at chance on llmbar",),
        files={"verdicts": "example.verdicts.jsonl", "rows": "example.rows.jsonl"},
    )


def rows() -> list[RowRecord]:
    return [
        RowRecord(
            f"{i:04x}",
            "results.jsonl",
            f"line {i + 1}",
            POLICIES[i % 2],
            f"Question {i % 4}?",
            ("brevity", "brevity,politeness")[i % 2],
            {UNALIGNED: f"A long answer, number {i}.", TIDIED: f"A long answer, number {i}.", ALIGNED: f"Answer {i}."},
            f"Golden {i}.",
            "aligned",
        )
        for i in range(8)
    ]


def verdicts() -> list[Verdict]:
    return [
        Verdict(
            row.key,
            row.policy,
            f"q{i % 4}",
            row.request,
            "tiny.gguf",
            objective,
            ALIGNED,
            reference,
            ("win", "tie", "lose", "unparsed")[(i + j) % 4],
            orders=(Asked(1, "first", "1: 0.8, 2: 0.1, 0: 0.1", seconds=0.2), Asked(2, "second", seconds=0.2)),
        )
        for i, row in enumerate(rows())
        for j, objective in enumerate(OBJECTIVES)
        for reference in (GOLDEN, ANSWER)
    ]
