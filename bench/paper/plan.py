"""Which steps there are, what each needs and what decides it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from real_policies import fingerprint

from metaaligner_lite.evaluation import measures

from . import edits, questions, settings, train
from .settings import MERGED, QUANTIZED, SINGLES, VARIANTS, Settings, added, full
from .steps import Step

#: The questions in the order of the page: what they are called there, and the steps that answer them.
QUESTIONS = {
    "questions/table-2": "Gains over several policies (Table 2)",
    "questions/table-3": "Without warm-up, without equal steps (Table 3)",
    "questions/figure-3": "Objectives added one at a time (Figure 3)",
    "questions/figure-4": "One objective against all others (Figures 4 and 6)",
    "questions/strength": "Gain against the policy's strength, with the gate and without",
    "questions/kinds": "Quantization, and activated against merged (not in the paper)",
}


def steps(chosen: Settings) -> list[Step]:
    """All steps, each behind what it needs."""
    first = chosen.seeds[0]
    main, table = f"train/full-{first}", "edits/table-2"
    found = [
        _answers(chosen),
        _pace(chosen, "activated"),
        _training(chosen, "activated", "full", first),
        _edits(chosen, table, [full()], edits.Files(main), chosen.every_policy, gate=True),
        _question(chosen, "questions/table-2", questions.table_2, [table]),
        _question(chosen, "questions/strength", questions.strength, [table]),
        _edits(chosen, "edits/figure-3", added(), edits.Files(main), chosen.probe, also=table),
        _question(chosen, "questions/figure-3", questions.figure_3, ["edits/figure-3", main]),
        _edits(chosen, "edits/figure-4", [*SINGLES, full()], edits.Files(main), chosen.probe, also=table),
        _question(chosen, "questions/figure-4", questions.figure_4, ["edits/figure-4"]),
    ]
    columns = []
    for seed in chosen.seeds:
        for variant in VARIANTS:
            step = questions.edits_of(variant, seed, chosen)
            columns.append(step)
            if step != table:
                found.append(_training(chosen, "activated", variant, seed))
                aligner = edits.Files(f"train/{variant}-{seed}")
                found.append(_edits(chosen, step, [full()], aligner, chosen.probe))
    found.append(_question(chosen, "questions/table-3", questions.table_3, columns))
    found += [
        Step(
            "bases",
            partial(train.bases, chosen),
            settings={"base": chosen.base_hash, "types": QUANTIZED},
            about=f"the base's numbers in {', '.join(QUANTIZED)}",
        ),
        _pace(chosen, "merged"),
        _training(chosen, "merged", "full", first, name="train/merged"),
        _training(chosen, "activated", "full", first, name="train/short", paced="pace/merged"),
        _edits(chosen, "edits/short", [full()], edits.Files("train/short"), chosen.probe),
        *(_edits(chosen, f"edits/base-{k}", [full()], edits.Files(main, k), chosen.probe) for k in QUANTIZED),
        *(
            _edits(chosen, f"edits/merged-{k}", [full()], edits.Files("train/merged", k, merged=True), chosen.probe)
            for k in MERGED
        ),
    ]
    others = [f"edits/base-{kind}" for kind in QUANTIZED] + [f"edits/merged-{kind}" for kind in MERGED]
    found.append(_question(chosen, "questions/kinds", questions.kinds, [table, "edits/short", *others]))
    return found


def _answers(chosen: Settings) -> Step:
    decides = {
        "data": chosen.data_hash, "policies": chosen.every_policy, "n": chosen.n, "sample": chosen.sample,
        "rows": chosen.rows_hash, "base": chosen.base_hash,
    }  # fmt: skip
    what = f"{chosen.n} answers of each of {len(chosen.every_policy)} policies"
    return Step("answers", partial(edits.answers, chosen), settings=decides, about=what, keeps=True)


def _pace(chosen: Settings, kind: str) -> Step:
    decides = train.decides(chosen, kind) | {"minutes": min(1.0, chosen.minutes)}
    what = f"seconds of an optimizer step of an {kind} adapter" if kind == "activated" else f"the same, {kind}"
    return Step(f"pace/{kind}", partial(train.pace, chosen, kind), settings=decides, about=what)


def _training(chosen: Settings, kind: str, variant: str, seed: int, name: str = "", paced: str = "") -> Step:
    paced = paced or f"pace/{kind}"
    what = f"{variant.replace('-', ' ')}, {kind}, seed {seed}, about {chosen.minutes:g} minutes at most"
    do = partial(train.training, chosen, kind, variant, seed, paced)
    return Step(name or f"train/{variant}-{seed}", do, (paced,), train.decides(chosen, kind, variant, seed), what)


def _edits(
    chosen: Settings,
    name: str,
    requests: Sequence[str],
    files: edits.Files,
    policies: Sequence[str],
    gate: bool = False,
    also: str = "",
) -> Step:
    needs = (*files.needs, *([also] if also else []))
    decides = {"requests": requests, "policies": policies, "gate": gate, "kind": files.kind}
    do = partial(edits.write, chosen, requests, policies, files, gate, also)
    what = f"{len(requests)} requests of answers of {len(policies)} policies, by {files.trained} {files.kind}".rstrip()
    return Step(name, do, needs, decides, what, keeps=True)


def _question(chosen: Settings, name: str, answer: Callable[..., dict[str, Any]], needs: Sequence[str]) -> Step:
    code = fingerprint(Path(questions.__file__), Path(settings.__file__), Path(measures.__file__))
    decides = {"code": code, "policies": chosen.policies, "probe": chosen.probe, "seeds": chosen.seeds}
    return Step(name, partial(answer, chosen), ("answers", *needs), decides, QUESTIONS[name])
