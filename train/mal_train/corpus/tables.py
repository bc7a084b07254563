"""The finished corpus in tables: what is asked for, what satisfies before and after, what is lost beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from statistics import median, quantiles

from .compose import TRAINED
from .edit import Edit
from .judge import RULED, changes, holds, ruled, said
from .texts import count, normal, sentences


def share(its: Sequence[Edit], wanted: Callable[[Edit], bool]) -> float:
    """The part of some edits of which something is true."""
    return sum(map(wanted, its)) / max(1, len(its))


def by_objective(edits: Sequence[Edit]) -> Iterator[str]:
    """How many edits name each objective, how many of them stay, stand alone or are ties, and how long they are."""
    yield f"{'objective':<22}{'edits':>7}{'stay':>6}{'alone':>7}{'ties':>6}{'weak':>6}{'target':>8}  (median words)"
    for name in TRAINED:
        its = [edit for edit in edits if name in edit.objectives]
        if its:
            changed = [edit for edit in its if not edit.stays] or its
            stay, alone = share(its, lambda e: e.stays), share(its, lambda e: len(e.objectives) == 1)
            weak, target = median(count(e.weak) for e in changed), median(count(e.target) for e in changed)
            row = f"{name:<22}{len(its):>7,}{stay:>6.0%}{alone:>7.0%}{sum(e.tie for e in its):>6}"
            yield f"{row}{weak:>6.0f}{target:>8.0f}"


def by_shape(edits: Sequence[Edit]) -> Iterator[str]:
    """Set sizes, stays, sources, lengths, the commonest beginnings of targets."""
    sizes = Counter(len(edit.objectives) for edit in edits)
    yield "objectives in a request: " + ", ".join(f"{n}: {sizes[n] / len(edits):.0%}" for n in sorted(sizes))
    pairs = Counter(" + ".join(edit.objectives) for edit in edits if len(edit.objectives) > 1)
    yield "commonest sets: " + ", ".join(f"{name} {n}" for name, n in pairs.most_common(6))
    yield f"stays: {share(edits, lambda e: e.stays):.0%} of all, " + ", ".join(
        f"{share([e for e in edits if len(e.objectives) == n], lambda e: e.stays):.0%} of sets of {n}"
        for n in sorted(sizes)
    )
    lengths = [count(edit.weak) for edit in edits]
    yield "words of an answer (10, 25, 50, 75, 90 %): " + ", ".join(
        f"{quantiles(lengths, n=20)[i]:.0f}" for i in (1, 4, 9, 14, 17)
    )
    cut = [count(e.target) / count(e.weak) for e in edits if "brevity" in e.objectives and not e.stays]
    if len(cut) > 1:
        yield "brevity, target of weak (10, 50, 90 %): " + ", ".join(
            f"{quantiles(cut, n=20)[i]:.2f}" for i in (1, 9, 17)
        )
    for name in ("politeness", "empathy"):
        changed = [e for e in edits if name in e.objectives and not e.stays and not e.tie]
        firsts = Counter(normal(sentences(e.target.split("\n")[0])[0]) for e in changed)
        if firsts:
            text, most = firsts.most_common(1)[0]
            yield f"{name}: commonest beginning of a target, {most / len(changed):.1%}: {text[:50]}"


def by_rule(edits: Sequence[Edit]) -> Iterator[str]:
    """For each objective asked: satisfied before and after, and what its edits do to others, in points."""
    changed = [edit for edit in edits if not edit.stays and not edit.tie]
    yield f"{'asked, % and points':<22}{'before':>7}{'after':>6}" + "".join(f"{name[:6]:>8}" for name in RULED)
    for name in TRAINED:
        its = [edit for edit in changed if name in edit.objectives]
        told = [edit for edit in its if ruled((name,), said(edit.base))]
        if not its:
            continue
        before = sum(name != "brevity" and holds(name, said(edit.base), edit.weak) for edit in told)
        after = sum(changes(edit)[name] > 0 or holds(name, said(edit.base), edit.target) for edit in told)
        shares = [f"{number / len(told):.0%}" if told else "-" for number in (before, after)]
        sums: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        for edit in its:
            for other, change in changes(edit).items():
                if other not in edit.objectives:
                    sums[other] += change
                    counts[other] += 1
        cells = (f"{100 * sums[other] / counts[other]:+.1f}" if counts[other] else "-" for other in RULED)
        yield f"{name:<22}{shares[0]:>7}{shares[1]:>6}" + "".join(f"{cell:>8}" for cell in cells)
