"""The page: every question with the paper's direction beside ours, what it cost, and what differs from the paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metaaligner_lite.evaluation.stats import holm
from metaaligner_lite.files import write_whole

from . import published, svg
from .claims import FALLS, RISES
from .plan import QUESTIONS
from .settings import Settings
from .steps import Steps

DIFFERS = (
    "**Scale.** SmolLM2-135M-Instruct (135 million weights) with a LoRA adapter, trained for about {minutes:g} "
    "minutes on a processor; the paper trains all weights of 1.1, 7 and 13 billion, 1.1B for {hours} A100 hours "
    "on 614,178 examples, twice. Figures of 7B stand beside ours where the paper has none of 1.1B.",
    "**Corpus.** Answers made worse and mended by rules (`python -m mal_train.corpus`), not answers rated by "
    "reward models, GPT-4 or experts. Its ties, which the warm-up and the equal step learn from, are few and of "
    "two kinds (list marks, courtesy).",
    "**Judge.** Rules (metaaligner_lite/evaluation/measures.py) with MiniLM's cosine for the meaning, not GPT-4 "
    "against a golden answer. A rule is coarse, the same before and after, and knows nothing of helpfulness or "
    "truth. The corpus chose its edits by the same rules: they tell whether the training took, more than whether "
    "a reader would agree.",
    "**Objectives.** Those that have a rule; the paper's (harmlessness, helpfulness, honesty ...) have none. "
    "Directions can be compared, sizes cannot.",
    "**Policies.** Answers of 25 to 220 words. Some are the paper's own published samples, sampled without a chat "
    "template, in which invented turns were found: hence the column of answers that were only tidied.",
    "**Intervals.** 95 %, clustered by query, paired answer by answer; the paper prints none. A verdict is read "
    "from the interval alone; the p-values after Holm, over all claims of this page, are for readers who count "
    "comparisons.",
)


def write(settings: Settings, steps: Steps, folder: Path) -> Path:
    """Write page.md and its plots into the folder, from what is done; what is not is named. Returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    answers = {name: done.result for name in QUESTIONS if (done := steps.done(name))}
    for answer in answers.values():
        for plot in answer["plots"]:
            write_whole(folder / f"{plot['name']}.svg", _picture(plot))
    page = folder / "page.md"
    write_whole(page, "\n".join(_lines(settings, steps, answers)) + "\n")
    return page


def _lines(settings: Settings, steps: Steps, answers: Mapping[str, Any]) -> Iterator[str]:
    yield from ["# MetaAligner in miniature", ""]
    yield "The questions of the paper (arXiv 2403.17141v3), asked at small scale on a processor. Points are hundredths."
    yield from ["", "## What replicates, and what does not", ""]
    yield from _claims([claim for answer in answers.values() for claim in answer["claims"]])
    if missing := [QUESTIONS[name] for name in QUESTIONS if name not in answers]:
        yield from ["", f"Not asked yet: {'; '.join(missing)}."]
    for name, answer in answers.items():
        yield from ["", f"## {QUESTIONS[name]}", ""]
        for table in answer["tables"]:
            yield from [f"{table['title']}:", "", *_table(table["head"], table["rows"]), ""]
        yield from (f"![{plot['title']}]({plot['name']}.svg)" for plot in answer["plots"])
        yield ""
        yield from (f"- {note}" for note in answer["notes"])
    yield from ["", "## What it cost", "", *_costs(steps)]
    yield from ["", "## What differs from the paper", ""]
    yield from (f"- {line.format(minutes=settings.minutes, hours=published.HOURS)}" for line in DIFFERS)


def _claims(claims: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One row for each claim: the paper's figure with its source, ours, the verdict."""
    # The p is of no difference at all, which what holds or is the same does not deny.
    told = [c for c in claims if c["way"] in (RISES, FALLS) and c["interval"] and c["interval"]["p"] is not None]
    adjusted = dict(zip(map(id, told), holm([claim["interval"]["p"] for claim in told]), strict=True))
    rows = []
    for claim in claims:
        where = f" ({claim['source']})" if claim["source"] else ""
        paper = f"{claim['published']}{where}" if claim["published"] else "not asked"
        p = adjusted.get(id(claim))
        rows.append([claim["says"], paper, _ours(claim), "" if p is None else f"{p:.3f}", f"**{claim['verdict']}**"])
    return _table(["claim", "the paper", "here, points [95 %]", "p after Holm", "verdict"], rows)


def _ours(claim: Mapping[str, Any]) -> str:
    found = claim["interval"]
    if found is None:
        return "nothing to compare"
    shown = f"{100 * found['value']:+.1f}"
    if found["low"] is not None:
        shown += f" [{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]"
    shown += f", n {found['n']}, {found['queries']} queries"
    if claim["parts"]:
        shown += "; by seed " + ", ".join(f"{100 * part:+.1f}" for part in claim["parts"])
    return shown


def _costs(steps: Steps) -> Iterator[str]:
    """The trainings beside the paper's, per example; then every step."""
    rows: list[list[object]] = [
        [
            "the paper's 1.1B, both data sets",
            f"{published.EXAMPLES:,}",
            "",
            f"{published.HOURS * 3600:,.0f} of an A100",
            f"{published.seconds_per_example():.2f}",
            "",
            "",
        ]
    ]
    examples = seconds = 0.0
    for step in steps:
        done = steps.done(step.name)
        if not step.name.startswith("train/") or done is None:
            continue
        made = done.result
        examples, seconds = examples + made["examples"], seconds + made["seconds"]
        each = f"{made['seconds'] / made['examples']:.2f}" if made["examples"] else ""
        stages = ", ".join(f"{count} {stage}" for stage, count in made["steps"].items() if count)
        rows.append([step.name, f"{made['examples']:,}", f"{made['tokens']:,}", f"{made['seconds']:,.0f}", each])
        rows[-1] += [f"{made['tokens_per_second']:.0f}", stages]
    if examples:
        rows.append(["all of ours", f"{examples:,.0f}", "", f"{seconds:,.0f}", f"{seconds / examples:.2f}", "", ""])
    head = ["training", "examples read", "tokens", "seconds", "s an example", "tokens/s", "optimizer steps"]
    yield from _table(head, rows)
    yield ""
    yield "The paper's seconds are of one A100 of four, its examples those of its tables, two epochs of each; ours are "
    yield "of this machine's processor, all threads at once. An example of ours is an edit read once."
    yield ""
    rows = []
    for step in steps:
        if done := steps.done(step.name):
            rows.append([step.name, f"{done.seconds:,.0f}", f"{done.processor:,.0f}", done.parts, "", "", ""])
            if step.name.startswith("edits/"):
                made = done.result
                rows[-1][4:] = [f"{made['edits']:,}", f"{made['failed']:,}", f"{made['seconds'] / made['edits']:.2f}"]
    yield from _table(["step", "seconds", "of the processor", "parts", "edits", "of them failed", "s an edit"], rows)
    yield from [
        "",
        "A failed edit (it went round in circles, or came out empty) leaves the answer, and is judged as that.",
    ]


def _picture(plot: Mapping[str, Any]) -> str:
    if plot["kind"] == "heat":
        return svg.heat(plot["title"], plot["rows"], plot["columns"], plot["cells"])
    return svg.dots(plot["title"], plot["labels"], plot["series"], plot["joined"])


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield "| " + " | ".join(map(str, row)) + " |"
