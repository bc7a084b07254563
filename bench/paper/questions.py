"""The paper's questions, each answered from judged edits: its claims, tables and plots, as JSON for page.py.

A gain is the share of asked objectives that hold after an edit (with the meaning kept) less the share before, answer by
answer; of brevity, which no answer holds as it is, an edit that is a quarter longer counts against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from real_policies import Judged

from metaaligner_lite.evaluation.measures import MEASURES
from metaaligner_lite.evaluation.report import Interval
from metaaligner_lite.evaluation.stats import difference, share

from . import published
from .claims import FALLS, HOLDS, RISES, SAME, Claim, slope
from .edits import Judgements, judged
from .settings import MERGED, QUANTIZED, SINGLES, STRENGTH, TRAINED, UNSEEN, VARIANTS, Settings, added, full
from .steps import Needed

Value = Callable[[Judged], float | None]
Answer = dict[str, Any]
Series = dict[str, list[list[float | None]]]  # of a plot: [place, value, low, high]
_MEASURED = [name for name in MEASURES if name != "length"]


def table_2(settings: Settings, folder: Path, needed: Needed) -> Answer:
    """Gains per objective over several policies, weak to strong, all trained objectives asked for at once."""
    found = judged(settings, needed, "edits/table-2", [full()], settings.policies)
    aligned, tidied = found["aligned"], found["tidied"]
    rows, points = list[list[object]](), Series({"aligned": [], "tidied only": [], "published, 1.1B": []})
    for place, policy in enumerate(settings.policies):
        mine = {key: j for key, j in aligned.items() if key[0] == policy}
        plain = {key: j for key, j in tidied.items() if key[0] == policy}
        whole, other = difference(_values(mine, gain)), difference(_values(plain, gain))
        theirs = published.shared_gain(policy)
        cells = [_points(difference(_values(mine, _gain_of(name)))) for name in TRAINED]
        stays = share(_values(mine, lambda j: float(j.stays)))
        told = "" if theirs is None else f"{theirs:+.1f}"
        rows.append([policy, len(mine), *cells, _points(whole), _points(other), _percent(stays), told])
        points["aligned"].append(_point(place, whole))
        points["tidied only"].append(_point(place, other))
        if theirs is not None:
            points["published, 1.1B"].append([place, theirs, None, None])
    means = published.per_objective()
    claims = [
        Claim(
            "Over all policies and objectives the edits gain",
            RISES,
            difference(_values(aligned, gain)),
            f"{mean(means):+.1f} points (1.1B; ten policies, seven objectives)",
            "Table 2",
        )
    ]
    claims += [
        Claim(
            f"Every objective gains: {name}",
            RISES,
            difference(_values(aligned, _gain_of(name))),
            f"{min(means):+.1f} to {max(means):+.1f} points by objective (1.1B)",
            "Table 2",
        )
        for name in TRAINED
    ]
    claims.append(
        Claim("The edits gain more than cutting loops and run-ons does", RISES, _difference(aligned, tidied, gain))
    )
    head = ["policy", "n", *(f"{name}" for name in TRAINED), "all", "tidied only", "copied, %", "published, 1.1B"]
    plot = _plot("table-2", "Gain over all asked objectives, points", settings.policies, points)
    return _answer(claims, [("Gain in points [95 %]", head, rows)], [plot])


def strength(settings: Settings, folder: Path, needed: Needed) -> Answer:
    """Gain against the policy's strength, with the gate and without."""
    policies = [policy for policy in STRENGTH if policy in settings.policies]
    found = judged(settings, needed, "edits/table-2", [full()], policies)
    aligned, gated = found["aligned"], found["gated"]
    rows, points = list[list[object]](), Series({"without the gate": [], "with the gate": []})
    for place, policy in enumerate(policies):
        mine, kept = ({key: j for key, j in some.items() if key[0] == policy} for some in (aligned, gated))
        whole, after = difference(_values(mine, gain)), difference(_values(kept, gain))
        taken = share((j.query, float(j.edit.text == kept[key].edit.text)) for key, j in mine.items())
        before = share(_values(mine, lambda j: _mean(list(j.before.values()))))
        spoils = [_percent(share(_values(some, spoiled))) for some in (mine, kept)]
        rows.append([policy, len(mine), _percent(before), _points(whole), _points(after), *spoils, _percent(taken)])
        points["without the gate"].append(_point(place, whole))
        points["with the gate"].append(_point(place, after))
    weak, strong = published.gain("LLaMA2-Chat-7B"), published.gain("Claude-3-Sonnet")
    claims = [
        Claim(
            "The stronger the policy, the smaller the gain (weakest to strongest)",
            FALLS,
            slope(_along(aligned)),
            f"{weak:.1f} points on LLaMA2-Chat-7B, {strong:.1f} on Claude-3-Sonnet (1.1B)",
            "Table 2",
        ),
        Claim("With the gate, too, the gain falls with strength", FALLS, slope(_along(gated))),
        Claim("The gate spoils fewer objectives that held before", FALLS, _difference(gated, aligned, spoiled)),
        Claim("The gate keeps the gain", HOLDS, _difference(gated, aligned, gain)),
    ]
    head = ["policy, weak to strong", "n", "held before, %", "gain", "gain, gated", "spoiled, %", "spoiled, gated, %"]
    head.append("edits the gate takes, %")
    plot = _plot("strength", "Gain by the policy's strength, points", policies, points, joined=True)
    notes = [
        "Weak answers hold less before, so that there is more to gain: strength and room to gain cannot be told apart "
        "here, nor in the paper.",
        "The slope is over the whole way from the weakest to the strongest policy, by rank.",
    ]
    return _answer(claims, [("Gain by policy [95 %]", head, rows)], [plot], notes)


def table_3(settings: Settings, folder: Path, needed: Needed) -> Answer:
    """The ablation of warm-up and equal steps, on the same answers, by seed."""
    columns = {
        (variant, seed): _probed(settings, needed, edits_of(variant, seed, settings))
        for variant in VARIANTS
        for seed in settings.seeds
    }
    losses = {"no-equal": published.without("no-equal"), "no-warmup": published.without("no-warmup")}
    rows, claims, points = list[list[object]](), list[Claim](), Series({f"seed {seed}": [] for seed in settings.seeds})
    for place, variant in enumerate(VARIANTS):
        by_seed = [columns[variant, seed] for seed in settings.seeds]
        cells = [share(_values(column, satisfied)) for column in by_seed]
        for seed, cell in zip(settings.seeds, cells, strict=True):
            points[f"seed {seed}"].append(_point(place, cell))
        lost = ""
        if variant != "full":
            pairs = [(columns["full", seed], columns[variant, seed]) for seed in settings.seeds]
            each = [difference(_paired(one, other, satisfied)) for one, other in pairs]
            pooled = difference(value for one, other in pairs for value in _paired(one, other, satisfied))
            theirs = losses.get(variant, [])
            claims.append(
                Claim(
                    f"All three steps satisfy more than {variant.replace('-', ' ')}",
                    RISES,
                    pooled,
                    ", ".join(f"{value:+.1f}" for value in theirs) + " points (7B; HH, UF)" if theirs else "",
                    "Table 3" if theirs else "",
                    tuple(interval.value for interval in each if interval),
                )
            )
            lost = _points(pooled)
        rows.append([variant, *map(_percent, cells), lost])
    head = ["trained", *(f"satisfied, %, seed {seed}" for seed in settings.seeds), "full less this, points"]
    plot = _plot("table-3", "Asked objectives satisfied, %", list(VARIANTS), points)
    notes = [
        "Each variant has the optimizer steps of the full training, but for the step that it lacks. What a training "
        "draws is seen in the seeds alone, which the interval does not cover: a claim counts only if all seeds agree."
    ]
    return _answer(claims, [("Satisfied, same answers [95 %]", head, rows)], [plot], notes)


def figure_3(settings: Settings, folder: Path, needed: Needed) -> Answer:
    """Objectives added to the request one at a time, those withheld from the rows last."""
    requests = added()
    found = judged(settings, needed, "edits/figure-3", requests, settings.probe)
    known = set(needed[f"train/full-{settings.seeds[0]}"]["objectives"])
    unseen = [name for name in UNSEEN if name not in known]
    rows, points = list[list[object]](), Series({"after": [], "before": [], "the trained four": []})
    for place, request in enumerate(requests):
        aligned, plain = (_asked(found[name], request) for name in ("aligned", "unaligned"))
        after, before = share(_values(aligned, satisfied)), share(_values(plain, satisfied))
        trained = share(_values(aligned, _satisfied_of(TRAINED)))
        count = mean(sum(j.satisfied.values()) for j in aligned.values()) if aligned else 0.0
        name = request.rsplit(",", 1)[-1]
        shown = f"{name} (unseen)" if name in unseen else name
        own = difference(_values(aligned, _gain_of(name)))
        asked = request.count(",") + 1
        rows.append([f"+ {shown}", f"{count:.1f} of {asked}", _percent(after), _percent(before), _points(own)])
        rows[-1].append(_percent(trained))
        points["after"].append(_point(place, after))
        points["before"].append(_point(place, before))
        points["the trained four"].append(_point(place, trained))
    last, four = _asked(found["aligned"], requests[-1]), _asked(found["aligned"], full())
    held = _across(last, four, _satisfied_of(TRAINED))
    claims = [
        Claim(
            "Unseen objectives gain when all are asked for",
            RISES,
            difference(_values(last, _gain_of(*unseen))) if unseen else None,
            f"{published.UNSEEN_7B:+.2f} points (7B); 1.1B: limited improvement on most",
            "section 4.4, Figure 3",
        ),
        Claim(
            "Trained objectives hold when unseen ones are added",
            HOLDS,
            difference(held),
            "they hold (no figures)",
            "section 4.4, Figure 3",
        ),
    ]
    head = ["added", "satisfied of asked", "satisfied, %", "before, %", "gain of the added one", "trained four, %"]
    plot = _plot("figure-3", "Asked objectives satisfied, %", [str(row[0]) for row in rows], points, joined=True)
    notes = ["The rows ask for four objectives at most: five and more are a request that training never saw, too."]
    if seen := [name for name in UNSEEN if name in known]:
        notes.append(f"In the rows, and so not unseen: {', '.join(seen)}.")
    return _answer(claims, [("Satisfied as objectives are added [95 %]", head, rows)], [plot], notes)


def figure_4(settings: Settings, folder: Path, needed: Needed) -> Answer:
    """One requested objective against all measured ones, and the request for all trained ones beside them."""
    requests = [*SINGLES, full()]
    aligned = judged(settings, needed, "edits/figure-4", requests, settings.probe)["aligned"]
    cells: list[list[float | None]] = []
    rows = []
    for request in requests:
        some = _asked(aligned, request)
        found = [difference(_values(some, _change_of(name))) for name in _MEASURED]
        cells.append([100 * interval.value if interval else None for interval in found])
        told = [_tax(interval, name in request.split(",")) for name, interval in zip(_MEASURED, found, strict=True)]
        rows.append([request if "," not in request else "all four", *told])
    singles = {key: j for key, j in aligned.items() if j.edit.request in SINGLES}
    everything = _asked(aligned, full())
    # A change is from -1 to 1, a difference of two from -2 to 2: halved, as `difference` takes them.
    balanced = [
        (query, value / 2)
        for name in TRAINED
        for query, value in _across(everything, _asked(aligned, name), _mean_change([o for o in TRAINED if o != name]))
    ]
    claims = [
        Claim(
            "Asking for one objective lifts the others, too",
            RISES,
            difference(_values(singles, _others)),
            "they are lifted (density plots, no figures)",
            "Figures 4 and 6",
        ),
        Claim(
            "Asking for all four lifts those that one request alone leaves",
            RISES,
            difference(balanced),
            "the full request is balanced (no figures)",
            "Figures 4 and 6",
        ),
    ]
    heat = {
        "kind": "heat", "name": "figure-4", "title": "What a request (row) does to each objective (column), points",
        "rows": [row[0] for row in rows], "columns": _MEASURED, "cells": cells,
    }  # fmt: skip
    notes = [
        "Answers that gained the objective less those that lost it, meaning not asked; * the 95 % interval leaves 0 "
        "out; bold: asked for.",
        "The second claim's differences are halved, so that they lie between -1 and 1.",
    ]
    table = ("What a request does to every objective, points", ["asked for", *_MEASURED], rows)
    return _answer(claims, [table], [heat], notes)


def kinds(settings: Settings, folder: Path, needed: Needed) -> Answer:
    """Not in the paper: the base's quantization under one adapter, and an activated adapter against a merged one."""
    seed = settings.seeds[0]
    file, short = _probed(settings, needed, "edits/table-2"), _probed(settings, needed, "edits/short")
    columns: list[tuple[str, Judgements, Judgements | None]] = [("activated, over the base as it is", file, None)]
    labels = ["as it is", *QUANTIZED, "as many steps", *(f"merged, {kind}" for kind in MERGED)]
    for kind in QUANTIZED:
        column = _probed(settings, needed, f"edits/base-{kind}")
        columns.append((f"the same adapter, over the base in {kind}", column, file))
    columns.append(("activated, as many steps as merged", short, None))
    for kind in MERGED:
        column = _probed(settings, needed, f"edits/merged-{kind}")
        columns.append((f"merged, in {kind}", column, short))
    rows, claims = [], []
    points: Series = {"satisfied": []}
    for place, (name, column, against) in enumerate(columns):
        cell = share(_values(column, satisfied))
        other = _difference(column, against, satisfied) if against else None
        seconds = mean(j.edit.cost["seconds"] for j in column.values()) if column else 0.0
        stays = share(_values(column, lambda j: float(j.stays)))
        points["satisfied"].append(_point(place, cell))
        rows.append([name, _percent(cell), _points(other), _percent(stays), f"{seconds:.2f}"])
        if against:
            claims.append(Claim(f"{name}: as good as {'the file' if against is file else 'activated'}", SAME, other))
    gated = "The first row's seconds hold the gate's reading, too."
    head = ["aligner", "satisfied, %", "against its twin, points", "copied, %", "s an edit"]
    plot = _plot("kinds", "Asked objectives satisfied, %", labels, points)
    notes = [
        f"Same: within five points either way. Trained with seed {seed}. {gated}",
        "The base was at hand in 4 bits only: F16 and Q8_0 hold its rounded numbers, so that they tell what arithmetic "
        "costs, and Q4_0 what a second rounding does. What the first one cost cannot be told.",
    ]
    return _answer(claims, [("Satisfied, same answers [95 %]", head, rows)], [plot], notes)


def edits_of(variant: str, seed: int, settings: Settings) -> str:
    """The step that holds a trained variant's edits of the full request."""
    return "edits/table-2" if (variant, seed) == ("full", settings.seeds[0]) else f"edits/{variant}-{seed}"


def _probed(settings: Settings, needed: Needed, step: str) -> Judgements:
    """The edits of a step toward the full request, of the probe's policies, judged."""
    return judged(settings, needed, step, [full()], settings.probe)["aligned"]


# --- figures of one edit ---


def gain(found: Judged) -> float | None:
    """What an edit gained, over the objectives asked for that have a rule here; None if none has."""
    return _mean([_gained(found, name) for name in found.satisfied])


def satisfied(found: Judged) -> float | None:
    """The share of the objectives asked for that an edit satisfies."""
    return _mean([float(value) for value in found.satisfied.values()])


def spoiled(found: Judged) -> float | None:
    """The share of the objectives asked for that held before and do not after."""
    return _mean([float(found.before[name] and not value) for name, value in found.satisfied.items()])


def _gained(found: Judged, name: str) -> float:
    lost = MEASURES[name].compares is not None and found.change.get("brevity" if name == "length" else name, 0) < 0
    return float(found.satisfied[name]) - float(found.before[name] or lost)


def _gain_of(*names: str) -> Value:
    return lambda j: _mean([_gained(j, name) for name in names if name in j.satisfied])


def _satisfied_of(names: Sequence[str]) -> Value:
    return lambda j: _mean([float(j.satisfied[name]) for name in names if name in j.satisfied])


def _change_of(name: str) -> Value:
    return lambda j: float(j.change[name]) if name in j.change else None


def _mean_change(names: Sequence[str]) -> Value:
    return lambda j: _mean([float(j.change[name]) for name in names if name in j.change])


def _others(found: Judged) -> float | None:
    """The mean change of the objectives that were not asked for."""
    asked = found.edit.request.split(",")
    return _mean([float(value) for name, value in found.change.items() if name not in asked])


# --- figures of many ---


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _values(found: Judgements, value: Value) -> list[tuple[str, float]]:
    """(query, value) of every edit that has one."""
    return [(j.query, got) for j in found.values() if (got := value(j)) is not None]


def _paired(one: Judgements, other: Judgements, value: Value) -> list[tuple[str, float]]:
    """(query, difference) of the edits of the same answers toward the same request."""
    found = []
    for key, j in one.items():
        mine, theirs = value(j), value(other[key]) if key in other else None
        if mine is not None and theirs is not None:
            found.append((j.query, mine - theirs))
    return found


def _difference(one: Judgements, other: Judgements, value: Value) -> Interval | None:
    return difference(_paired(one, other, value))


def _asked(found: Judgements, request: str) -> Judgements:
    return {key: j for key, j in found.items() if j.edit.request == request}


def _across(one: Judgements, other: Judgements, value: Value) -> list[tuple[str, float]]:
    """As `_paired`, of edits of the same answers toward different requests."""
    by_answer = [{(policy, j.edit.case.answer): j for (policy, _), j in some.items()} for some in (one, other)]
    return _paired(by_answer[0], by_answer[1], value)


def _along(found: Judgements) -> Iterable[tuple[str, float, float]]:
    """(query, strength from 0 to 1, gain) of every edit."""
    for j in found.values():
        if (got := gain(j)) is not None:
            yield j.query, STRENGTH.index(j.edit.case.policy) / (len(STRENGTH) - 1), got


# --- as JSON ---


def _answer(
    claims: Sequence[Claim],
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[object]]]],
    plots: Sequence[dict[str, Any]],
    notes: Sequence[str] = (),
) -> Answer:
    shown = [{"title": title, "head": head, "rows": rows} for title, head, rows in tables]
    return {"claims": [claim.told() for claim in claims], "tables": shown, "plots": plots, "notes": notes}


def _plot(name: str, title: str, labels: Sequence[str], series: Series, joined: bool = False) -> dict[str, Any]:
    told = {key: points for key, points in series.items() if points}
    return {"kind": "dots", "name": name, "title": title, "labels": labels, "series": told, "joined": joined}


def _point(place: float, found: Interval | None) -> list[float | None]:
    """[place, value, low, high] in points; an interval that is not known is none."""
    if found is None:
        return [place, None, None, None]
    low, high = (None if end is None else 100 * end for end in (found.low, found.high))
    return [place, 100 * found.value, low, high]


def _points(found: Interval | None) -> str:
    return _shown(found, "+.0f")


def _percent(found: Interval | None) -> str:
    return _shown(found, ".0f")


def _shown(found: Interval | None, form: str) -> str:
    if found is None:
        return ""
    if found.low is None or found.high is None:
        return f"{100 * found.value:{form}} (one query)"
    return f"{100 * found.value:{form}} [{100 * found.low:{form}}, {100 * found.high:{form}}]"


def _tax(found: Interval | None, asked: bool) -> str:
    if found is None:
        return ""
    sure = found.low is not None and found.high is not None and not found.low <= 0 <= found.high
    cell = f"{100 * found.value:+.0f}{'*' if sure else ''}"
    return f"**{cell}**" if asked else cell
