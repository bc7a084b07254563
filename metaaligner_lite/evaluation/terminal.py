"""A report as a terminal shows it: what to know first, then who won against whom, then what the texts are like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..output import printable
from .compare import Comparison
from .report import ALIGNED, ALL, ANSWER, GOLDEN, Cell, Gain, Interval, Judge, Report

if TYPE_CHECKING:
    from rich.table import Table


def tables(report: Report) -> Iterator[Any]:
    """What is printed, one after the other: lines and rich tables."""
    if report.notes:
        yield "Read first:"
        yield from (f"  - {note}" for note in report.notes)
        yield ""
    if report.rows:
        yield _what(report)
    for judge in report.judges:
        if report.rows:
            yield from _judged(report, judge)
        if judge.meta:
            yield from _metas(judge)
    if report.rows:
        yield from _quality(report)
        for one in report.left_out:
            yield f"left out: {one.name} ({one.why}); to have it: {one.how}"
    share = 100 * report.coverage.share
    yield f"{report.coverage.judged:,} of {report.coverage.wanted:,} pairs have a verdict ({share:.1f} %)"


def _what(report: Report) -> str:
    policies = ", ".join(report.policies[:6]) + (" and more" if len(report.policies) > 6 else "")
    asked = "; ".join(report.requests[:4]) + (" and more" if len(report.requests) > 4 else "")
    return (
        f"{report.rows:,} rows of {policies}; asked for: {asked}\n"
        "win/tie/lose is how a text did against the reference. [a, b] are 95 % intervals, clustered by query.\n"
        "gain: a text's wins against the golden answers minus the unaligned answer's wins against them, in points;\n"
        "  with ties: the same with ties counted as wins, as the paper's code does.\n"
        "net: wins minus losses, in points. equal length: the rate, a tie as half a win, if both texts were as long.\n"
        "p: of no difference, after Holm over what one judge says of one kind of text."
    )


def _judged(report: Report, judge: Judge) -> Iterator[Any]:
    cells = [cell for cell in report.cells if cell.judge == judge.name and cell.request == ALL]
    whole = ALL if len(report.policies) > 1 else next(iter(report.policies), ALL)
    mine = [cell for cell in cells if cell.policy == whole]
    requested = {name for request in report.requests for name in request.split(",")}
    every = list(dict.fromkeys(cell.objective for cell in mine))
    asked = [name for name in every if name in requested] or every
    yield ""
    yield f"Judge: {_who(judge)}"
    if not mine:
        yield "  nothing that it takes was asked for"
        return
    shown = [cell for cell in mine if cell.objective in asked]
    if any(cell.reference == GOLDEN for cell in shown):
        yield _golden(report, judge, shown, whole)
    yield _answers(report, shown)
    if len(report.policies) > 1:
        yield _by_policy(report, judge, asked)
    rest = [cell for cell in mine if cell.objective not in asked and cell.variant == ALIGNED]
    others = [cell for cell in rest if cell.reference == ANSWER and cell.net]
    if others:
        told = sorted(((cell.objective, _points(cell.net)) for cell in others), key=lambda one: one[0])
        yield "What the edits did to what was not asked for, net against the answers:"
        yield from (", ".join(f"{name} {net}" for name, net in told[i : i + 4]) for i in range(0, len(told), 4))


def _who(judge: Judge) -> str:
    parts = [f"{judge.name} ({judge.kind}), {judge.reads}"]
    if judge.prompt:
        parts.append(f"prompt: {judge.prompt}")
    parts.append(f"{judge.asked:,} asked, {judge.kept:,} kept, {judge.seconds:,.1f} s")
    if judge.unparsed or judge.failed:
        parts.append(f"{judge.unparsed:,} unparsed, {judge.failed:,} failed")
    place = judge.position
    if place and place.pairs:
        same, first, second = (f"{100 * n / place.pairs:.0f} %" for n in (place.agreed, place.first, place.second))
        parts.append(f"position: both orders agree in {same}, first twice {first}, second twice {second}")
    if judge.on_answers is not None:
        parts.append(f"{100 * judge.on_answers:.0f} % of its probability on 1, 2 and 0")
    if judge.rerun:
        parts.append(f"asked again: {judge.rerun.agreed} of {judge.rerun.asked} the same")
    return "; ".join(parts)


def _golden(report: Report, judge: Judge, cells: Sequence[Cell], policy: str) -> Table:
    """Every text against the golden answers, and its gain over the unaligned ones."""
    table = _table("objective", "text", "against golden: win/tie/lose", "n", "gain [95 %]", "with ties", "p")
    gains = {(g.objective, g.variant): g for g in report.gains if (g.judge, g.policy) == (judge.name, policy)}
    for objective, cell in _ordered(report, cells, GOLDEN):
        gain = gains.get((cell.objective, cell.variant))
        table.add_row(objective, cell.variant, *_against(cell), *_gained(gain))
    return table


def _answers(report: Report, cells: Sequence[Cell]) -> Table:
    """Every text against the policy's answers."""
    table = _table("objective", "text", "against the answer: win/tie/lose", "n", "net [95 %]", "p", "equal length")
    for objective, cell in _ordered(report, cells, ANSWER):
        length = _share(cell.length_controlled)
        table.add_row(objective, cell.variant, *_against(cell), _points(cell.net), _p(cell.net), length)
    return table


def _ordered(report: Report, cells: Sequence[Cell], reference: str) -> Iterator[tuple[str, Cell]]:
    """Cells by objective, then variant; an objective is named once."""
    order = {variant.name: i for i, variant in enumerate(report.variants)}
    last = ""
    for objective in dict.fromkeys(cell.objective for cell in cells):
        mine = [cell for cell in cells if (cell.objective, cell.reference) == (objective, reference)]
        for cell in sorted(mine, key=lambda cell: order.get(cell.variant, 99)):
            yield objective if objective != last else "", cell
            last = objective


def _by_policy(report: Report, judge: Judge, objectives: Sequence[str]) -> Table:
    """The gain of the edits (or, without golden answers, their net), by policy."""
    table = _table("gain of the edits [95 %]", *objectives)
    gains = {(g.policy, g.objective): g for g in report.gains if g.judge == judge.name and g.variant == ALIGNED}
    nets = {
        (c.policy, c.objective): c.net
        for c in report.cells
        if (c.judge, c.variant, c.reference, c.request) == (judge.name, ALIGNED, ANSWER, ALL)
    }
    for policy in report.policies:
        cells = []
        for objective in objectives:
            gain, net = gains.get((policy, objective)), nets.get((policy, objective))
            cells.append(_points(gain.wins) if gain else f"net {_points(net)}" if net else "")
        table.add_row(policy, *cells)
    return table


def _metas(judge: Judge) -> Iterator[Any]:
    yield ""
    yield f"{judge.name} against people's votes (0.5 is chance; a tie of the judge's is half right):"
    table = _table(
        "set", "part", "pairs", "right [95 %]", "kappa", "both orders agree", "first twice", "second twice", "",
    )  # fmt: skip
    for meta in judge.meta:
        place, right = meta.position, meta.accuracy
        told = [f"{100 * count / place.pairs:.0f} %" if place.pairs else "" for count in (place.agreed, place.first)]
        told.append(f"{100 * place.second / place.pairs:.0f} %" if place.pairs else "")
        lost = [f"{meta.counts.unparsed} unparsed"] * bool(meta.counts.unparsed)
        lost += [f"{meta.counts.failed} failed"] * bool(meta.counts.failed)
        verdict = "at chance" if meta.at_chance else "" if meta.at_chance is None else "better than chance"
        table.add_row(
            meta.set,
            "all" if meta.part == ALL else meta.part,
            f"{meta.n:,}",
            _share(right),
            "" if meta.kappa is None else f"{meta.kappa:.2f}",
            *told,
            ", ".join([verdict, *lost]),
        )
    yield table


def _quality(report: Report) -> Iterator[Any]:
    whole = ALL if len(report.policies) > 1 else next(iter(report.policies), ALL)
    yield ""
    yield "What the texts are like:"
    names = ("unchanged", "copied", "length", "empty", "loops", "run-ons", "failed", "+ tokens", "+ seconds")
    asked = any(one.meaning is not None for one in report.quality)
    table = _table("text", "n", *names, *(("meaning", "lost") if asked else ()))
    for one in report.quality:
        if one.policy == whole:
            table.add_row(
                one.variant,
                f"{one.n:,}",
                *(f"{100 * value:.0f} %" for value in (one.unchanged, one.copied)),
                "" if one.length_ratio is None else f"x{one.length_ratio:.2f}",
                *(f"{100 * value:.0f} %" for value in (one.empty, one.loops, one.run_ons)),
                str(one.failed),
                "" if one.tokens is None else f"{one.tokens:.0f}",
                "" if one.seconds is None else f"{one.seconds:.2f}",
                *((f"{one.meaning:.2f}", f"{100 * (one.meaning_lost or 0):.0f} %") if one.meaning is not None else ()),
            )
    yield table
    for variant in report.variants:
        yield f"{variant.name}: {variant.what}" + (f" ({variant.made_by})" if variant.made_by else "")


def comparison_tables(found: Comparison) -> Iterator[Any]:
    """Two aligners side by side."""
    yield f"A: {found.first}\nB: {found.second}"
    only = f" ({found.rows[0]:,} of A alone, {found.rows[2]:,} of B alone)" if found.rows[0] or found.rows[2] else ""
    yield f"{found.rows[1]:,} rows in common{only}; rates count a tie as half a win, in %, with their 95 % intervals"
    yield from (f"note: {note}" for note in found.notes)
    table = _table(
        "judge", "objective", "against", "A", "B", "A minus B, points", "p", "p (Holm)", "n", "do they differ?"
    )
    for one in found.contrasts:
        net = one.difference
        better = "A is better" if net.value > 0 else "B is better"
        table.add_row(
            one.judge,
            one.objective,
            one.reference,
            _share(one.first),
            _share(one.second),
            _points(net),
            "" if net.p is None else f"{net.p:.3f}",
            _p(net),
            str(net.n),
            better if one.differ else "not shown",
        )
    yield table
    yield f"test: {found.test}"


def _table(*names: str) -> Table:
    from rich import box
    from rich.table import Table

    class Shown(Table):
        """A table of texts that others wrote: names of policies, of columns."""

        def add_row(self, *cells: Any, **options: Any) -> None:
            super().add_row(*(printable(cell) if isinstance(cell, str) else cell for cell in cells), **options)

    table = Shown(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for i, name in enumerate(names):
        table.add_column(name, justify="left" if i < 2 else "right", no_wrap=i < 2)
    return table


def _against(cell: Cell | None) -> tuple[str, str]:
    if cell is None:
        return "", ""
    counts = cell.counts
    lost = "".join(f", {n} {name}" for n, name in ((counts.unparsed, "unparsed"), (counts.failed, "failed")) if n)
    return f"{counts.win}/{counts.tie}/{counts.lose}{lost}", str(counts.n)


def _gained(gain: Gain | None) -> tuple[str, str, str]:
    if gain is None:
        return "", "", ""
    return _points(gain.wins), f"{100 * gain.wins_and_ties.value:+.1f}", _p(gain.wins)


def _points(found: Interval | None) -> str:
    if found is None:
        return ""
    told = f"{100 * found.value:+.1f}"
    return (
        told if found.low is None or found.high is None else f"{told} [{100 * found.low:+.0f}, {100 * found.high:+.0f}]"
    )


def _share(found: Interval | None) -> str:
    if found is None:
        return ""
    told = f"{100 * found.value:.0f}"
    return (
        told if found.low is None or found.high is None else f"{told} [{100 * found.low:.0f}, {100 * found.high:.0f}]"
    )


def _p(found: Interval | None) -> str:
    if found is None or found.p_holm is None:
        return ""
    return "<0.001" if found.p_holm < 0.001 else f"{found.p_holm:.3f}"
