"""`mal eval` as a user runs it: rows in, a report out; bad input; runs that go on; reports compared; people's votes."""

# ruff: noqa: F811  the fixtures `mal` and `classifier` are borrowed

from __future__ import annotations

import csv
import gzip
import io
import json
from dataclasses import replace

import pytest
import tiny
from test_cli import mal  # noqa: F401
from test_data import classifier  # noqa: F401
from test_eval_judges import Scripted, shorter

from metaaligner_lite.errors import DataError, FileProblem, UsageError
from metaaligner_lite.evaluation import variants as made
from metaaligner_lite.evaluation.baselines import with_edits, with_gate
from metaaligner_lite.evaluation.compare import compare
from metaaligner_lite.evaluation.meta import judge_votes, read_votes, warnings_of
from metaaligner_lite.evaluation.report import (
    ALIGNED,
    ALL,
    ANSWER,
    EQUAL,
    GATED,
    GOLDEN,
    PROMPT_ONLY,
    TIDIED,
    UNALIGNED,
    UNGATED,
    read_report,
    read_rows_of,
    read_verdicts,
)
from metaaligner_lite.evaluation.report import Judge as Told
from metaaligner_lite.evaluation.run import Evaluation, _told_apart, check_out, evaluate, save
from metaaligner_lite.evaluation.sources import Columns, Table, _number, read_items, read_texts
from metaaligner_lite.evaluation.terminal import _table
from metaaligner_lite.evaluation.variants import Wish, make_variants
from metaaligner_lite.evaluation.verdicts import Kept
from metaaligner_lite.objectives import resolve
from metaaligner_lite.pair import Choice
from metaaligner_lite.policies import Answer

BREVITY = tuple(resolve("brevity"))
LONG = "First check the tracking page of the carrier. Then write to the shop. Then wait for some days. Then ask again."
SHORT = "First check the tracking page of the carrier."
MIDDLE = "First check the tracking page of the carrier. Then write to the shop."


def rows(path, count=12, policy=None, **columns):
    """Rows as `mal batch` writes them; their edits are shorter than the golden answers, the answers longer."""
    records = [
        {
            "query": f"Where is parcel {i}?",
            "goldens": f"{MIDDLE} Number {i}.",
            "weak_answer": f"{LONG} Number {i}.",
            "aligned_answer": f"{SHORT} {i}." if i % 4 else f"{LONG} Number {i}.",
            "outcome": "aligned" if i % 4 else "unchanged",
            "tokens_written": 10,
            "seconds": 0.5,
        }
        | ({"policy": policy} if policy else {})
        | columns
        for i in range(count)
    ]
    write(path, records)
    return path


def write(path, records):
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(records[0]))
            table.writeheader()
            table.writerows(records)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def read(path, requested=BREVITY, **columns):
    return read_items([path], Table(Columns(**columns), requested))


def judged(found, judge, path, **more):
    """A report of rows by a scripted judge, with the free baselines."""
    with Kept(path.with_suffix(".kept.jsonl")) as kept:
        wish = Wish(Choice(answer=""), written=False)
        texts = make_variants(found, wish, Table(Columns(), BREVITY), kept, lambda _: None)
        work = Evaluation(
            texts.items,
            found.sources,
            BREVITY,
            variants=texts.variants,
            left_out=texts.left_out,
            notes=found.notes,
            **more,
        )
        report, verdicts = evaluate(work, [lambda: judge], kept)
    return save(path, report, verdicts, texts.items)


def cell(report, variant=ALIGNED, reference=GOLDEN, policy=None, objective="brevity"):
    policy = policy or (ALL if len(report.policies) > 1 else report.policies[0])
    (one,) = [
        c
        for c in report.cells
        if (c.variant, c.reference, c.policy, c.objective, c.request) == (variant, reference, policy, objective, ALL)
    ]
    return one


@pytest.fixture
def run(mal):
    """`mal ARGS`, which is to end with a code; gives stdout and stderr."""

    def run(*args, code=0):
        ended, out, err = mal(*args)
        assert ended == code, err
        return out, err

    return run


# --- the whole, with known answers ---


def test_a_report_with_known_answers(tmp_path):
    report = judged(read(rows(tmp_path / "claude.csv")), Scripted(shorter), tmp_path / "r.json")
    against = cell(report)
    assert (against.counts.win, against.counts.tie, against.counts.lose) == (9, 0, 3)
    assert against.wins.value == against.wins_and_ties.value == 0.75
    assert against.wins.low < 0.75 < against.wins.high
    assert (cell(report, UNALIGNED).counts.lose, cell(report, TIDIED).counts.lose) == (12, 12)
    answer = cell(report, ALIGNED, ANSWER)
    assert (answer.counts.win, answer.counts.tie, answer.counts.identical, answer.net.value) == (9, 3, 3, 0.75)
    assert answer.net.p == 2 / 2**9  # nine queries that differ, all one way
    gains = {gain.variant: gain for gain in report.gains}
    assert gains[ALIGNED].wins.value == 0.75
    assert gains[ALIGNED].wins.p_holm == 2 / 2**9
    assert gains[TIDIED].wins.value == 0
    quality = {one.variant: one for one in report.quality}
    assert (quality[ALIGNED].unchanged, quality[ALIGNED].tokens, quality[ALIGNED].seconds) == (0.25, 10, 0.5)
    assert quality[UNALIGNED].tokens is None
    assert report.coverage.share == 1
    assert {one.name for one in report.left_out} == {PROMPT_ONLY, EQUAL, GATED, "quantized against F16"}
    assert read_report(tmp_path / "r.json") == report
    assert len(list(read_verdicts(tmp_path / "r.json"))) == 12 * 5
    assert next(iter(read_rows_of(tmp_path / "r.json"))).texts.keys() == {ALIGNED, UNALIGNED, TIDIED}


def test_the_papers_two_tie_rules(tmp_path):
    """A judge that calls everything a tie: no wins by the paper's algorithm, nothing but wins by its code."""
    report = judged(read(rows(tmp_path / "claude.csv")), Scripted(lambda q: "tie"), tmp_path / "r.json")
    assert (cell(report).wins.value, cell(report).wins_and_ties.value, cell(report).halves.value) == (0, 1, 0.5)
    assert report.gains[0].wins.value == 0
    assert report.gains[0].wins.low < 0 < report.gains[0].wins.high


def test_a_biased_judge_is_told_of(tmp_path):
    report = judged(read(rows(tmp_path / "claude.csv")), Scripted(lambda q: "first"), tmp_path / "r.json")
    assert report.judges[0].position.share_first == 1
    assert report.notes[0].startswith("scripted goes by position: in 100 % of")
    assert cell(report).counts.disagreed == 12


def test_meaning_that_was_lost_is_told_of(tmp_path):
    found = read(rows(tmp_path / "claude.csv"))
    report = judged(found, Scripted(shorter), tmp_path / "r.json", meaning=lambda a, b: 1.0 if a == b else 0.5)
    quality = {one.variant: one for one in report.quality}
    assert (quality[ALIGNED].meaning, quality[ALIGNED].meaning_lost, quality[UNALIGNED].meaning) == (0.5, 0.75, 1)
    assert "75 % of the edits no longer mean what the answer meant" in report.notes[0]
    without = judged(found, Scripted(shorter), tmp_path / "s.json")
    assert {one.meaning for one in without.quality} == {None}


def test_policies_requests_and_the_tax(tmp_path):
    """Two files are two policies; rows that ask for their own objectives make the matrix."""
    rows(tmp_path / "weak.csv", 8)
    rows(tmp_path / "strong.jsonl", 6, objectives="politeness")
    found = read_items([tmp_path / "weak.csv", tmp_path / "strong.jsonl"], Table(Columns(), BREVITY))
    report = judged(found, Scripted(shorter), tmp_path / "r.json")
    assert (report.policies, report.requests) == (("weak", "strong"), ("brevity", "politeness"))
    assert cell(report, policy="weak").counts.n == 8
    assert cell(report).counts.n == 14
    assert (cell(report).asked, cell(report, policy="weak").asked) == (False, True)
    assert {(t.request, t.objective, t.asked) for t in report.tax} == {
        ("brevity", "brevity", True),
        ("politeness", "brevity", False),
    }
    assert {c.request for c in report.cells if c.policy == ALL} == {ALL, "brevity", "politeness"}


def test_a_policy_is_named_by_a_column_and_the_limit_is_for_each(tmp_path):
    rows(tmp_path / "a.jsonl", 9, policy="one")
    rows(tmp_path / "b.jsonl", 9, policy="two")
    paths, table = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"], Table(Columns(), BREVITY)
    found = read_items(paths, table, limit=4, seed=1)
    queries = {policy: [i.query for i in found.items if i.policy == policy] for policy in ("one", "two")}
    assert len(queries["one"]) == 4
    assert queries["one"] == queries["two"]  # the same queries of each
    assert [i.query for i in read_items(paths, table, limit=4, seed=1).items] == [i.query for i in found.items]
    assert {i.query for i in read_items(paths, table, limit=4, seed=2).items} != {i.query for i in found.items}


# --- bad input ---


def test_rows_that_cannot_be_judged_are_counted(tmp_path):
    path = tmp_path / "rows.jsonl"
    good = {"query": "q", "answer": "a", "edit": "e", "golden": "g", "id": "1"}
    bad = [
        good | {"id": "1", "query": "another"},  # an id twice
        good | {"id": "2", "edit": None},
        good | {"id": "3", "edit": 5},
        good | {"id": "4", "answer": None},
        good | {"id": "5", "query": " "},
        good | {"id": "6", "objectives": "no such thing"},
        good | {"id": "7", "golden": ["g"]},
    ]
    write(path, [good, *bad, good | {"id": "8", "golden": "", "query": "p"}, good | {"id": "9", "golden": None}])
    with path.open("a") as file:
        file.write("{torn\n")
    found = read(path)
    assert len(found.items) == 3
    (source,) = found.sources
    assert (source.rows, source.used, sum(source.refused.values())) == (11, 3, 8)
    assert "an id that an earlier row has" in source.refused
    assert [item.golden for item in found.items] == ["g", None, None]
    assert any("2 of 3 rows have no golden answer" in note for note in found.notes)
    assert any("8 of 11 rows are not judged (first: line 2: an id" in note for note in found.notes)


def test_an_edit_that_failed_is_the_answer_that_its_reader_got(tmp_path):
    path = tmp_path / "rows.csv"
    write(path, [{"query": "q", "weak_answer": "a", "aligned_answer": "", "outcome": "failed", "goldens": "g"}])
    (item,) = read(path).items
    assert item.texts[ALIGNED] == "a"
    write(path, [{"query": "q", "weak_answer": "a", "aligned_answer": "", "outcome": "aligned", "goldens": "g"}])
    assert read(path).items[0].texts[ALIGNED] == ""


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"query": "q", "text": "e"}, "no column with an answer"),
        ({"query": "q", "answer": "a"}, "no column with an edit; name it with `edit_column`. It has 'query', 'answer'"),
        ({"custom_id": "1", "response": {}}, "OpenAI batch lines"),
        ({"journal": 1, "settings": {}}, "unfinished run"),
        ({"form": 1, "cells": [], "judges": []}, "is a report of `mal eval`"),
    ],
)
def test_files_of_something_else(tmp_path, record, told):
    write(tmp_path / "x.jsonl", [record])
    with pytest.raises(UsageError, match=told):
        read(tmp_path / "x.jsonl")


def test_files_without_a_usable_row(tmp_path):
    (tmp_path / "x.csv").write_text("query,answer,edit\n")
    with pytest.raises(DataError, match="has no rows"):
        read(tmp_path / "x.csv")
    write(tmp_path / "x.jsonl", [{"query": "", "answer": "a", "edit": "e"}])
    with pytest.raises(DataError, match="no row of .* can be judged .line 1: the query is empty"):
        read(tmp_path / "x.jsonl")
    with pytest.raises(UsageError, match="objective"):
        read(rows(tmp_path / "y.csv"), requested=())
    with pytest.raises(UsageError, match="no column 'gold' for the golden"):
        read(rows(tmp_path / "y.csv"), golden="gold")


def test_an_objective_that_no_judge_takes(tmp_path, run):
    """It is said, and counts as not judged."""
    asked = ("-o", "brevity,humor", "--no-baselines", "--measure", "brevity,humor")
    command = ("eval", rows(tmp_path / "x.csv", 8), *asked)
    out, err = run(*command, "--out", tmp_path / "r.json", code=1)
    assert "not judged: humor; no judge that was given takes it (a model judges any: --judge)" in out
    assert "only 50.0 % of the pairs have a verdict, fewer than --min-judged 0.9" in err
    coverage = read_report(tmp_path / "r.json").coverage
    assert (coverage.judged, coverage.wanted) == (40, 80)
    run(*command, "--out", tmp_path / "r.json", "--min-judged", 0.5)


def test_a_report_replaces_its_own_kind_alone(tmp_path):
    out, mine = tmp_path / "r.json", rows(tmp_path / "x.csv")
    check_out(out, [mine], force=False)
    judged(read(mine), Scripted(shorter), out)
    check_out(out, [mine], force=False)
    with pytest.raises(FileProblem, match="is a report on other rows .*x.csv"):
        check_out(out, [tmp_path / "other.csv"], force=False)
    check_out(out, [tmp_path / "other.csv"], force=True)
    out.write_text("{}")
    with pytest.raises(FileProblem, match="there already, and no report"):
        check_out(out, [mine], force=False)
    with pytest.raises(UsageError, match="ends in .json"):
        check_out(tmp_path / "r.txt", [mine], force=False)
    with pytest.raises(UsageError, match="read and written"):
        check_out(tmp_path / "a.json", [tmp_path / "a.json"], force=False)


# --- baselines ---


def test_other_edits_of_the_same_answers(tmp_path):
    found = read(rows(tmp_path / "q4.csv", 8))
    rows(tmp_path / "f16.csv", 6)
    rows(tmp_path / "elsewhere.csv", 6, weak_answer="Another answer.")
    said = []

    def make(**more):
        with Kept(tmp_path / "kept.jsonl") as kept:
            wish = Wish(Choice(answer=""), more, written=False)
            return make_variants(found, wish, Table(Columns(), BREVITY), kept, said.append)

    texts = make(f16=str(tmp_path / "f16.csv"))
    (variant,) = [one for one in texts.variants if one.name == "f16"]
    assert variant.rows == 6
    assert said == ["f16.csv has edits of 6 of the 8 rows; f16 is judged on those"]
    assert not [one for one in texts.left_out if "F16" in one.name]
    with pytest.raises(UsageError, match="it is of another run"):
        make(f16=str(tmp_path / "elsewhere.csv"))
    with pytest.raises(UsageError, match="another variant is called that"):
        make(tidied=str(tmp_path / "f16.csv"))


def test_baselines_that_models_write(tmp_path, aligner):
    """Equal mode asks for something else; the gate takes edit or answer; what was written is kept."""
    items = read(rows(tmp_path / "x.csv", 3)).items
    with Kept(tmp_path / "kept.jsonl") as kept:
        edited, failed = with_edits(items, "again", aligner, kept)
        assert failed == sum(text == item.answer for item in edited for text in [item.texts["again"]])
        equal = type(aligner)(aligner.engine, layout="conversation", max_tokens=24, equal=True)
        other, _ = with_edits(items, EQUAL, equal, kept)
        assert [i.texts[EQUAL] for i in other] != [i.texts["again"] for i in edited]
        gated = with_gate(items, GATED, aligner, kept)
        for item in gated:
            texts = [item.texts[ALIGNED], item.answer]
            one, answer = aligner.likelihoods(item.query, Answer(item.answer), BREVITY, texts)
            assert item.texts[GATED] == item.texts[ALIGNED if one > answer else UNALIGNED]
    with Kept(tmp_path / "kept.jsonl") as kept:
        aligner.edit_all = aligner.likelihoods = lambda *_, **__: pytest.fail("written again")
        assert with_edits(items, "again", aligner, kept)[0] == edited
        assert with_gate(items, GATED, aligner, kept) == gated


def test_which_baselines_models_write_by_themselves(tmp_path, tiny_path, monkeypatch):
    """With an aligner named, all; without any model, none, and each with what would bring it."""
    monkeypatch.setattr(made.models.BASE.__class__, "path", None)
    found = read(rows(tmp_path / "x.csv", 2))
    table = Table(Columns(), BREVITY)
    with Kept(tmp_path / "kept.jsonl") as kept:
        choice = Choice(aligner=str(tiny_path), layout="conversation", max_tokens=8, answer="")
        wish = Wish(choice, {"other": str(tiny_path)}, prompt_only=str(tiny_path))
        texts = make_variants(found, wish, table, kept, lambda _: None)
        assert [v.name for v in texts.variants] == [ALIGNED, UNALIGNED, TIDIED, GATED, EQUAL, PROMPT_ONLY, "other"]
        assert all(len(item.texts) == 7 for item in texts.items)
        found.gated = True
        texts = make_variants(found, wish, table, kept, lambda _: None)
        assert UNGATED in [v.name for v in texts.variants]
        texts = make_variants(found, Wish(Choice(answer="")), table, kept, lambda _: None)
        assert [one.name for one in texts.left_out] == [EQUAL, UNGATED, PROMPT_ONLY, "quantized against F16"]
        assert all("--" in one.how for one in texts.left_out)


def test_a_judge_that_is_no_stranger_is_named(tmp_path, tiny_path):
    other = tiny.write_model(tmp_path / "other.gguf", seed=9, norm=0.9)
    wish = Wish(Choice(aligner=str(tiny_path), answer=""), prompt_only=str(other))
    (told,) = made.suspicions(tiny_path, wish, [])
    assert told.startswith("the judge tiny.gguf is the aligner under test, or its base (tiny.gguf)")
    (told,) = made.suspicions(other, wish, [])
    assert "prompt-only baseline" in told
    assert made.suspicions("gpt-4", wish, ["GPT-4", "claude"]) == [
        "the judge gpt-4 is the policy GPT-4 itself; it may favour its own words"
    ]
    assert not made.suspicions(tiny.write_model(tmp_path / "third.gguf", seed=3, norm=0.8), wish, [])


# --- two reports ---


def test_two_aligners_compared(tmp_path, run):
    path = rows(tmp_path / "x.csv", 24)
    judged(read(path), Scripted(shorter), tmp_path / "a.json")
    rows(tmp_path / "x.csv", 20, aligned_answer=LONG + " And so on.")
    judged(read(path), Scripted(shorter), tmp_path / "b.json")
    found = compare(tmp_path / "a.json", tmp_path / "b.json")
    assert found.rows == (4, 20, 0)
    assert "4 rows are in one of the reports alone" in found.notes[0]
    golden = next(one for one in found.contrasts if one.reference == GOLDEN)
    assert (golden.first.value, golden.second.value, golden.difference.value) == (0.75, 0, 0.75)
    assert golden.differ
    assert golden.difference.p_holm >= golden.difference.p
    same = compare(tmp_path / "a.json", tmp_path / "a.json")
    assert not any(one.differ for one in same.contrasts)
    out, _ = run("eval", "--compare", tmp_path / "a.json", tmp_path / "b.json")
    assert "A is better" in out
    assert "paired permutation test" in out
    out, _ = run("eval", "--compare", tmp_path / "a.json", tmp_path / "b.json", "--json")
    assert len(json.loads(out)["contrasts"]) == 2


def test_reports_that_cannot_be_compared(tmp_path):
    path = rows(tmp_path / "x.csv")
    judged(read(path), Scripted(shorter), tmp_path / "a.json")
    judged(read(path), Scripted(shorter, "another"), tmp_path / "b.json")
    with pytest.raises(UsageError, match="no verdict of the same judge"):
        compare(tmp_path / "a.json", tmp_path / "b.json")
    rows(tmp_path / "x.csv", query="Something else?")
    judged(read(path), Scripted(shorter), tmp_path / "c.json")
    with pytest.raises(UsageError, match="no row in common"):
        compare(tmp_path / "a.json", tmp_path / "c.json")
    with pytest.raises(DataError, match="no report"):
        compare(tmp_path / "a.json", path)


# --- people's votes ---


@pytest.fixture
def votes(tmp_path):
    """Small sets in the form of the public ones; in each, people prefer the shorter text."""
    for name in ("pandalm", "llmbar", "hhh"):
        (tmp_path / name).mkdir()
    pandalm = [
        {
            "instruction": f"Say {i}.",
            "input": "",
            "response1": "x" * (10 if i % 2 else 30),
            "response2": "x" * 20,
            "annotator1": 1 if i % 2 else 2,
            "annotator2": 1 if i % 2 else 2,
            "annotator3": 0,
        }
        for i in range(30)
    ] + [{"instruction": "Tie.", "response1": "a", "response2": "b", "annotator1": 0, "annotator2": 1, "annotator3": 2}]
    with gzip.open(tmp_path / "pandalm" / "testset.json.gz", "wt") as file:
        json.dump(pandalm, file)
    write(
        tmp_path / "llmbar" / "llmbar.jsonl",
        [
            {"subset": "ab"[i % 2], "input": f"q{i}", "output_1": "x" * (i % 3 + 1), "output_2": "xx", "label": "1"}
            for i in range(12)
            if i % 3 == 0
        ],
    )
    asked = "###The instruction to evaluate:\n{}\n\n###Response to evaluate:\n{}\n\n###Score Rubrics:\n[...]"
    hhh = [
        {
            "source": source,
            "chosen_instruction": asked.format(f"q{i}", "good"),
            "rejected_instruction": asked.format(f"q{i}", f"much longer {i}"),
        }
        for i, source in enumerate(["harmless", "helpful", "honest", "other"] * 5)
    ]
    (tmp_path / "hhh" / "hhh.json").write_text(json.dumps(hhh))
    return [tmp_path / "pandalm", tmp_path / "llmbar" / "llmbar.jsonl", tmp_path / "hhh"]


def of(metas, name, part=ALL):
    return next(meta for meta in metas if (meta.set, meta.part) == (name, part))


def test_a_judge_that_agrees_with_people(votes, tmp_path):
    with Kept(tmp_path / "kept.jsonl") as kept:
        found = read_votes(votes)
        _, metas = judge_votes(Scripted(shorter), found, kept)
    assert {(m.set, m.part) for m in metas if m.set == "hhh"} == {
        ("hhh", part) for part in (ALL, "harmless", "helpful", "honest", "other")
    }
    assert {vote.objective.name for vote in found if vote.set == "hhh"} == {
        "harmlessness", "helpfulness", "honesty", "quality",
    }  # fmt: skip
    assert {vote.voted for vote in found if vote.set == "hhh"} == {"first", "second"}
    pandalm = of(metas, "pandalm")
    assert (pandalm.n, pandalm.accuracy.n, pandalm.accuracy.value, pandalm.at_chance) == (31, 30, 1, False)
    assert pandalm.kappa == 1
    assert pandalm.counts.win == 30
    assert of(metas, "llmbar").accuracy.value == 1
    assert not of(metas, "hhh").at_chance


@pytest.mark.parametrize(
    ("says", "right"),
    [(lambda q: "first", 0.5), (lambda q: "tie", 0.5), (lambda q: "second", 0.5)],
)
def test_a_judge_at_chance_is_called_one(votes, tmp_path, says, right):
    judge = Scripted(says)
    with Kept(tmp_path / "kept.jsonl") as kept:
        told, metas = judge_votes(judge, read_votes(votes), kept)
    assert of(metas, "pandalm").accuracy.value == right
    assert all(meta.at_chance for meta in metas)
    assert any("is at chance on pandalm: 50 % right of 30 pairs" in warning for warning in warnings_of(told, metas))


def test_a_judge_that_always_prefers_the_worse_is_below_chance(votes, tmp_path):
    with Kept(tmp_path / "kept.jsonl") as kept:
        _, metas = judge_votes(
            Scripted(lambda q: {"first": "second", "second": "first"}.get(shorter(q), "tie")), read_votes(votes), kept
        )
    assert of(metas, "pandalm").accuracy.value == 0
    assert of(metas, "pandalm").kappa < 0


def test_votes_without_a_verdict_stay_out(votes, tmp_path):
    with Kept(tmp_path / "kept.jsonl") as kept:
        _, metas = judge_votes(Scripted(lambda q: "unparsed"), read_votes(votes, limit=5), kept)
    pandalm = of(metas, "pandalm")
    assert (pandalm.n, pandalm.accuracy, pandalm.kappa, pandalm.at_chance) == (5, None, None, None)
    assert pandalm.counts.unparsed >= 4


def test_a_text_that_was_written_as_a_bare_value(tmp_path):
    one = {"input": "Is 3 > 2?", "output_1": True, "output_2": 4, "label": 1}
    write(tmp_path / "llmbar.jsonl", [one])
    assert [(vote.first, vote.second) for vote in read_votes([tmp_path / "llmbar.jsonl"])] == [("True", "4")]
    write(tmp_path / "llmbar.jsonl", [one | {"output_2": None}])
    with pytest.raises(UsageError, match="holds no votes .*output_2.*NoneType"):
        read_votes([tmp_path / "llmbar.jsonl"])


def test_what_are_no_votes(tmp_path):
    rows(tmp_path / "x.jsonl")
    with pytest.raises(UsageError, match="holds no votes of people"):
        read_votes([tmp_path / "x.jsonl"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no file of votes"):
        read_votes([tmp_path / "empty"])
    with pytest.raises(FileProblem):
        read_votes([tmp_path / "nothing.json"])


# --- the command ---


def test_the_command_by_rules(tmp_path, run):
    path = rows(tmp_path / "x.csv")
    out, _ = run("eval", path, "-o", "brevity", "--no-baselines")
    report = read_report(tmp_path / "x.eval.json")
    assert (cell(report).counts.win, cell(report, ALIGNED, ANSWER).counts.win) == (9, 9)
    assert "Judge: rules" in out
    assert "left out: equal mode" in out
    assert "(100.0 %)" in out
    assert {t.objective for t in report.tax} > {"brevity", "politeness", "clarity"}
    assert "empathy" not in {t.objective for t in report.tax}  # a rule for messages with a feeling
    printed, _ = run("eval", path, "-o", "brevity", "--no-baselines", "--json")
    assert json.loads(printed)["cells"] == json.loads((tmp_path / "x.eval.json").read_text())["cells"]


def test_the_command_writes_a_page_and_a_log(tmp_path, run):
    path, page, log = rows(tmp_path / "x.csv"), tmp_path / "x.html", tmp_path / "x.log.json"
    for _ in range(2):  # the second run replaces them
        run("eval", path, "-o", "brevity", "--no-baselines", "--html", page, "--inspect", log)
        assert "Where is parcel 11?" in page.read_text()
        samples = json.loads(log.read_text())["samples"]
        scores = [sample["scores"]["rules: brevity, aligned against answer"]["value"] for sample in samples]
        assert scores == [0.5 if i % 4 == 0 else 1.0 for i in range(12)]
    page.write_text("mine")
    _, err = run("eval", path, "-o", "brevity", "--no-baselines", "--html", page, code=1)
    assert "no report; name another file with --html, or --force" in " ".join(err.split())


def test_the_scorers_of_mal_data(tmp_path, run):
    path = rows(tmp_path / "x.csv")
    run("eval", path, "-o", "brevity", "--no-baselines", "-j", "scorers", "--out", tmp_path / "r.json")
    report = read_report(tmp_path / "r.json")
    answer = cell(report, ALIGNED, ANSWER)
    assert (answer.counts.win, answer.counts.tie) == (9, 3)  # 8 words against 21, ten a step
    assert "readability" in {t.objective for t in report.tax}


def test_a_reward_model_from_the_command_line(tmp_path, run, classifier):
    """It judges its own objective; the other one is said to have no judge."""
    path = rows(tmp_path / "x.csv", 4)
    reward = ("--reward", f"calm: The response should be calm.={classifier}#1@answer")
    asked = ("-o", "calm: The response should be calm.; brevity", "--no-baselines", "--min-judged", 0)
    out, _ = run("eval", path, *asked, *reward, "--out", tmp_path / "r.json")
    (judge,) = read_report(tmp_path / "r.json").judges
    assert (judge.kind, judge.objectives, judge.failed, judge.position) == ("reward", ("calm",), 0, None)
    assert judge.wanted == 3 * 2 + 4  # three edits that are not the answer, against both; four answers against golden
    assert "not judged: brevity" in out


def test_the_command_with_a_model_goes_on_where_it_was(tmp_path, run, tiny_path):
    path, to = rows(tmp_path / "x.csv", 3), tmp_path / "r.json"
    command = ("eval", path, "-o", "brevity", "--no-baselines", "-j", tiny_path, "--judge-prompt", "code", "--out", to)
    run(*command, "--threads", 1, "--ctx-size", 2048)
    first = read_report(to).judges[0]
    assert (first.asked, first.kept, first.kind, first.prompt) == (first.wanted, 0, "gguf", "code")
    more = ("--rerun-share", 0.2, "--meta", votes_file(tmp_path), "--limit", 2)
    out, _ = run(*command, "--threads", 1, "--ctx-size", 2048, *more)
    second = read_report(to).judges[0]
    assert (second.asked, second.kept >= 4) == (0, True)
    assert second.rerun.asked == second.rerun.agreed > 0
    assert second.meta[0].n == 2
    assert "against people's votes" in out


def test_the_aligners_own_likelihood_from_the_command_line(tmp_path, run, tiny_path):
    path = rows(tmp_path / "x.csv", 2)
    aligner = ("-j", "likelihood", "--aligner", tiny_path, "--layout", "conversation", "--ctx-size", 2048)
    out, _ = run("eval", path, "-o", "brevity", "--no-baselines", *aligner, "--out", tmp_path / "r.json")
    (judge,) = read_report(tmp_path / "r.json").judges
    assert (judge.kind, judge.failed, judge.position) == ("likelihood", 0, None)
    assert "likelihood of tiny is the model under test" in out


def votes_file(tmp_path):
    (tmp_path / "llmbar").mkdir(exist_ok=True)
    path = tmp_path / "llmbar" / "x.jsonl"
    write(path, [{"input": f"q{i}", "output_1": "a b", "output_2": "c", "label": 2} for i in range(4)])
    return path


def test_the_command_calibrates_judges_alone(tmp_path, run, tiny_path):
    meta = ("--meta", votes_file(tmp_path), "--judge-prompt", "code", "--ctx-size", 2048)
    out, _ = run("eval", *meta, "-j", tiny_path, "--out", tmp_path / "m.json")
    report = read_report(tmp_path / "m.json")
    assert (report.rows, report.judges[0].meta[0].n, report.coverage.wanted) == (0, 4, 4)
    assert "tiny.gguf against people's votes" in out
    assert "llmbar" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "nothing to judge"),
        (("x.csv", "--judge-prompt", "own"), "--judge-prompt paper | code"),
        (("x.csv", "--judge-model", "gpt"), "belong to a server"),
        (("x.csv", "--with", "f16"), "expected NAME=FILE"),
        (("x.csv", "--compare", "a.json", "b.json"), "takes two reports and nothing else"),
        (("x.csv", "-j", "nothing.gguf"), "nothing.gguf"),
        (("x.csv", "-o", "nonsense"), "unknown objective 'nonsense'"),
        (("x.csv", "--html", "x.txt"), "ends in .html"),
        (("x.csv", "--inspect", "x.eval.json"), "named twice"),
        (("x.csv", "--inspect", "x.eval"), "ends in .json"),
        (("--html", "x.html", "--compare", "a.json", "b.json"), "takes two reports and nothing else"),
        (("--meta", "votes.json"), "of which rules and likelihood say nothing"),
    ],
)
def test_wrong_usage(tmp_path, monkeypatch, mal, arguments, told):
    monkeypatch.chdir(tmp_path)
    rows(tmp_path / "x.csv")
    objectives = () if "-o" in arguments or "--compare" in arguments else ("-o", "brevity")
    code, _, err = mal("eval", *arguments, *objectives, "--no-baselines")
    assert code in (1, 2)
    assert told in " ".join(err.split())
    assert "Traceback" not in err


def test_judges_of_one_name_are_told_apart():
    first = Told("judge.gguf", "gguf", "judge.gguf 0123456789abcdef", "paper", "", "tokens", None)
    other = replace(first, fingerprint="judge.gguf fedcba9876543210")
    assert _told_apart(first, []) is not None
    assert _told_apart(other, [first]).name == "judge.gguf (fedcba98)"
    with pytest.raises(UsageError, match=r"the judge judge\.gguf was given twice"):
        _told_apart(first, [first])


def test_further_edits_are_those_of_the_same_request(tmp_path):
    rows = [
        {"query": "q", "answer": "a", "edit": f"{name} edit", "objectives": name, "seconds": "nan"}
        for name in ("brevity", "politeness")
    ]
    rows.append({"query": "r", "answer": "b", "edit": "another", "objectives": "brevity"})
    path = tmp_path / "more.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = read_texts(path, Table(Columns(), ()))
    assert [found.get(("q", "a", name)) for name in ("brevity", "politeness")] == ["brevity edit", "politeness edit"]
    assert (found.get(("q", "a")), found[("r", "b")]) == (None, "another")
    assert (_number("nan"), _number("1.5")) == (None, 1.5)


def test_what_others_wrote_is_printable_in_tables():
    from rich.console import Console

    table = _table("policy", "n")
    table.add_row("a\x1b[2Jb", "1")
    shown = Console(width=80, record=True, file=io.StringIO())
    shown.print(table)
    assert "\x1b" not in shown.export_text()
