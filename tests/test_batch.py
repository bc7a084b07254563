import csv
import json
import os
import random
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from metaaligner_lite.align import align
from metaaligner_lite.aligners import GgufAligner
from metaaligner_lite.batch import Job, run, settings, survey
from metaaligner_lite.errors import DataError, EndpointError, FileProblem, ModelError, UsageError
from metaaligner_lite.gate import Gate
from metaaligner_lite.generation import Counts, Generation
from metaaligner_lite.journal import Journal
from metaaligner_lite.many import Case, align_many
from metaaligner_lite.objectives import resolve
from metaaligner_lite.pair import Pair
from metaaligner_lite.policies import GgufPolicy, GivenAnswer
from metaaligner_lite.prompts import CONVERSATION
from metaaligner_lite.records import read_records
from metaaligner_lite.rows import Columns, Reading, read_rows
from metaaligner_lite.testing import FakeAligner

EMPATHY = tuple(resolve("empathy"))


class Upper:
    """An aligner without a model: it edits into capitals."""

    layout = CONVERSATION

    def __init__(self, fail=lambda query: None):
        self.asked, self.fail = [], fail

    def edit(self, query, answers, on_text=None, history=(), *, stop=None):
        self.asked.append(query)
        if error := self.fail(query):
            raise error
        return [Generation(a.text.upper(), (1, 2), "end", Counts(3, 1, 2, 0, 0, 0.0, 0.0)) for a, _ in answers]


class Echo:
    def answer(self, query, on_text=None, history=(), *, stop=None):
        return GivenAnswer(f"echo {query} {len(history)}").answer(query)


def fake(**options):
    return Pair(Echo(), Upper(**options))


def reading(**columns):
    return Reading(Columns(**columns), EMPATHY)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def done(source, out, pair=None, **options):
    job = Job(source, out, options.pop("reading", reading()), **options)
    return run(job, survey(job), pair or fake())


def records(path):
    return [record for _, record in read_records(path)]


ROWS = [
    {"query": "one", "answer": "first", "n": 1},
    {"query": "two", "n": 2},
    {"query": "one", "answer": "first", "n": 3},
]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".csv.gz"])
@pytest.mark.parametrize("source", [".jsonl", ".csv", ".parquet"])
def test_every_kind_into_every_other(tmp_path, source, suffix):
    rows = [{**row, "answer": row.get("answer", "second")} for row in ROWS]
    path = tmp_path / f"in{source}"
    if source == ".jsonl":
        write(path, rows)
    elif source == ".csv":
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    else:
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)
    out = tmp_path / f"out{suffix}"
    tally = done(path, out)
    assert (tally.rows, tally.failed, dict(tally.outcomes)) == (3, 0, {"aligned": 3})
    found = records(out)
    assert [row["aligned_answer"] for row in found] == ["FIRST", "SECOND", "FIRST"]
    assert [int(row["n"]) for row in found] == [1, 2, 3]
    assert {row["outcome"] for row in found} == {"aligned"}
    assert not out.with_name(f"{out.name}.part").exists()
    if suffix == ".parquet":
        assert isinstance(found[0]["n"], str if source == ".csv" else int)


def test_rows_without_an_answer_are_answered_first_and_the_same_row_twice_counts_twice(tmp_path):
    pair = fake()
    done(write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl", pair)
    first, second, third = records(tmp_path / "out.jsonl")
    assert (second["weak_answer"], second["aligned_answer"]) == ("echo two 0", "ECHO TWO 0")
    assert first["aligned_answer"] == third["aligned_answer"] == "FIRST"
    assert sorted(pair.aligner.asked) == ["one", "one", "two"]
    assert (first["tokens_read"], first["tokens_written"]) == (3, 2)


@pytest.mark.parametrize(
    ("row", "case"),
    [
        ({"query": "q", "goldens": "g", "generated_text": "a"}, ("q", "a", 0)),
        ({"prompt": "q"}, ("q", None, 0)),
        ({"query": "q", "answer": None}, ("q", None, 0)),
        ({"query": "q", "answer": ""}, ("q", "", 0)),
        ({"query": "q", "history": [["u", "a"]]}, ("q", None, 2)),
        ({"query": "q", "history": '[{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]'},
         ("q", None, 2)),
        ({"query": "q", "history": ""}, ("q", None, 0)),
        ({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]}, ("q", None, 1)),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, ("q", "a", 0)),
        ({"custom_id": "x", "body": {"messages": [{"role": "user", "content": "q"}]}}, ("q", None, 0)),
    ],
)  # fmt: skip
def test_forms_of_rows(tmp_path, row, case):
    (found,) = read_rows(write(tmp_path / "in.jsonl", [row]), reading())
    assert found.error is None
    assert (found.case.query, found.case.answer, len(found.case.history)) == case


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ({"query": " "}, DataError, "the query is empty"),
        ({"query": 3}, DataError, "'query' holds int where a text"),
        ({"other": "x"}, DataError, "no column with a query.*it has 'other'"),
        ({"query": "q", "history": "no"}, DataError, "'history' is no JSON"),
        ({"query": "q", "history": [{"role": "user", "content": "u"}]}, DataError, "ends with the user's turn"),
        ({"query": "q", "objectives": "empthy"}, UsageError, "did you mean 'empathy'"),
        ({"query": "q", "objectives": 5}, DataError, "int where objectives"),
        ({"messages": []}, DataError, "no turn of the user's"),
        ({"custom_id": "x", "url": "/v1/embeddings", "body": {}}, DataError, "only /v1/chat/completions"),
        ({"query": "half \ud800"}, DataError, "not UTF-8 text"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_used(tmp_path, row, kind, message):
    (found,) = read_rows(write(tmp_path / "in.jsonl", [row]), reading())
    assert isinstance(found.error, kind)
    with pytest.raises(kind, match=message):
        raise found.error


def test_objectives_of_a_row_stand_before_those_of_the_run(tmp_path):
    rows = [
        {"query": "q"},
        {"query": "q", "objectives": "brevity,clarity"},
        {"query": "q", "objectives": ["calm: Calm."]},
    ]
    found = list(read_rows(write(tmp_path / "in.jsonl", rows), reading()))
    assert [[o.name for o in row.case.objectives] for row in found] == [["empathy"], ["brevity", "clarity"], ["calm"]]
    (bare,) = read_rows(write(tmp_path / "in.jsonl", rows[:1]), Reading())
    assert isinstance(bare.error, UsageError)


def test_hostile_cells_are_told_by_row_and_the_rest_goes_on(tmp_path):
    source = tmp_path / "in.jsonl"
    lines = [
        json.dumps({"query": "a\u2028b\x85c", "answer": "nul \0 here"}, ensure_ascii=False).encode(),
        b'{"query": "bad \xff byte", "answer": "x"}',
        b'{"query": "torn',
        b"[1, 2]",
        json.dumps({"query": "big", "answer": "x" * 5_000_000}).encode(),
        json.dumps({"query": "last", "answer": "ok", "extra": "\ud800"}).encode(),
        json.dumps({"query": "fine", "answer": "ok"}).encode(),
    ]
    source.write_bytes(b"\n".join(lines))
    tally = done(source, tmp_path / "out.jsonl")
    found = records(tmp_path / "out.jsonl")
    assert [row["outcome"] for row in found] == [
        "aligned", "failed", "failed", "failed", "aligned", "failed", "aligned"
    ]  # fmt: skip
    assert found[0]["query"] == "a\u2028b\x85c"
    assert found[0]["aligned_answer"] == "NUL \0 HERE"
    assert len((tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()) == 7
    assert found[1]["error"] == "line 2: not UTF-8 text"
    assert found[2]["error"].startswith("line 3: not valid JSON")
    assert (tally.failed, dict(tally.errors)) == (4, {"DataError": 4})
    assert len(found[4]["aligned_answer"]) == 5_000_000
    done(source, tmp_path / "out.csv")
    assert len(records(tmp_path / "out.csv")) == 7


def test_duplicate_ids_and_missing_ones(tmp_path):
    rows = [{"query": "a", "i": 1}, {"query": "b", "i": 1}, {"query": "c"}]
    done(write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", reading=reading(id="i"))
    found = records(tmp_path / "out.jsonl")
    assert [row["error"] for row in found] == [
        None, "line 2: the id '1' occurs before, in line 1", "line 3: no id in the column 'i'"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "out", "kind", "message"),
    [
        ("a.csv", "a.csv", UsageError, "read and written"),
        ("a.csv", "b.json", UsageError, "unknown kind of file"),
        ("a.csv", "none/b.csv", FileProblem, "no folder"),
        ("a.csv", "there.csv", FileProblem, "there already"),
        ("bare.csv", "b.csv", UsageError, "no column with a query.*'x'"),
        ("empty.csv", "b.csv", DataError, "no rows"),
    ],
)
def test_what_cannot_begin(tmp_path, source, out, kind, message):
    (tmp_path / "a.csv").write_text("query\nx\n")
    (tmp_path / "bare.csv").write_text("x\ny\n")
    (tmp_path / "empty.csv").write_text("query\n")
    (tmp_path / "there.csv").write_text("")
    with pytest.raises(kind, match=message):
        survey(Job(tmp_path / source, tmp_path / out, reading()))
    with pytest.raises(UsageError, match="no column 'nope' for the answer"):
        survey(Job(tmp_path / "a.csv", tmp_path / "b.csv", reading(answer="nope")))


def test_the_same_file_under_another_name_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("query\nx\n")
    (tmp_path / "b.csv").hardlink_to(tmp_path / "a.csv")
    with pytest.raises(UsageError, match="read and written"):
        survey(Job(tmp_path / "a.csv", tmp_path / "b.csv", reading()))


def test_openai_lines_in_and_out(tmp_path):
    def line(name, **body):
        return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}

    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    rows = [line("a", model="m", messages=turns, temperature=1), line("b", messages=[]), line("a", messages=turns)]
    job = Job(write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", reading())
    found = survey(job)
    assert list(found.notes) == ["not read in `body` of a request: temperature"]
    run(job, found, fake())
    first, second, third = records(job.out)
    body = first["response"]["body"]
    assert (first["custom_id"], first["response"]["status_code"], first["error"]) == ("a", 200, None)
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "ECHO Q 1"}
    assert (body["model"], body["weak_answer"], body["usage"]["completion_tokens"]) == ("m", "echo q 1", 2)
    assert (second["response"], second["error"]["code"]) == (None, "DataError")
    assert "occurs before" in third["error"]["message"]


def test_openai_lines_that_cannot_be_read_or_edited(tmp_path):
    """One is an error in the same form; the answer of a failed edit is there beside the error."""

    def line(name, text):
        return json.dumps({"custom_id": name, "body": {"messages": [{"role": "user", "content": text}]}})

    (tmp_path / "in.jsonl").write_text(f"{line('a', 'q')}\nno JSON\n{line('b', 'fail')}\n", encoding="utf-8")
    job = Job(tmp_path / "in.jsonl", tmp_path / "out.jsonl", reading())
    aligner = FakeAligner(lambda text, _: EndpointError("gone") if "fail" in text else text.upper())
    run(job, survey(job), Pair(Echo(), aligner))
    first, second, third = records(job.out)
    assert first["response"]["body"]["choices"][0]["message"]["content"] == "ECHO Q 0"
    assert (second["response"], second["error"]["code"]) == (None, "DataError")
    assert third["response"]["body"]["choices"][0]["message"]["content"] == "echo fail 0"
    assert third["error"]["code"] == "EndpointError"


def test_columns_that_the_output_takes_over_are_told(tmp_path):
    rows = [{"query": "q", "answer": "a", "outcome": "won", "error": "none", "seconds_left": 1}]
    job = Job(write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", reading())
    assert list(survey(job).notes) == ["the output's own columns take the place of the source's: outcome, error"]


def test_the_columns_of_the_papers_code(tmp_path):
    (tmp_path / "in.csv").write_text("query,goldens,generated_text\nq,g,a\nr,h,\n")
    tally = done(tmp_path / "in.csv", tmp_path / "out.csv", reference=True)
    assert (tmp_path / "out.csv").read_text() == ("query,goldens,origin_responses,aligned_responses\nq,g,a,A\nr,h,,\n")
    assert dict(tally.errors) == {"EmptyAnswer": 1}


def failing(*queries):
    return lambda query: ModelError(f"no {query}") if query in queries else None


def test_failed_rows_are_told_kept_and_done_again(tmp_path):
    source, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    tally = done(source, out, fake(fail=failing("two")))
    assert (tally.failed, tally.first) == (1, {"ModelError": "line 2: no two"})
    row = records(out)[1]
    assert (row["outcome"], row["error_type"], row["error"]) == ("failed", "ModelError", "line 2: no two")
    again = fake()
    tally = done(source, out, again, retry=False)
    assert (tally.kept, tally.failed, again.aligner.asked) == (3, 1, [])
    tally = done(source, out, again)
    assert (tally.kept, tally.failed, again.aligner.asked) == (2, 0, ["two"])
    assert records(out)[1]["aligned_answer"] == "ECHO TWO 0"
    assert not (tmp_path / "out.jsonl.part").exists()


def test_an_edit_that_fails_keeps_the_answer_and_the_type_of_its_error(tmp_path):
    pair = fake(fail=lambda query: EndpointError("gone") if query == "two" else None)
    done(write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl", pair)
    row = records(tmp_path / "out.jsonl")[1]
    assert (row["error_type"], row["error"], row["aligned_answer"]) == ("EndpointError", "line 2: gone", "echo two 0")


class Stop(Exception):
    pass


def stopped(source, out, after, **options):
    job = Job(source, out, options.pop("reading", reading()), counts=False, **options)
    found = survey(job)

    def progress(tally):
        if tally.done == after:
            raise Stop

    with pytest.raises(Stop):
        run(job, found, fake(), progress)


def test_a_stopped_run_goes_on_also_when_rows_were_reordered(tmp_path):
    rows = [{"query": f"q{i % 7}", "answer": f"a{i % 3}"} for i in range(20)]
    source, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    stopped(source, out, 9)
    assert not out.exists()
    random.Random(1).shuffle(rows)
    write(source, rows)
    pair = fake()
    tally = done(source, out, pair, counts=False)
    assert tally.kept == 9
    assert len(pair.aligner.asked) == 11
    assert [row["aligned_answer"] for row in records(out)] == [row["answer"].upper() for row in rows]


def test_a_torn_line_is_cut_and_its_row_done_again(tmp_path):
    source, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    stopped(source, out, 2)
    part = tmp_path / "out.jsonl.part"
    whole = part.read_bytes()
    *_, last = whole.splitlines(keepends=True)
    for cut in (1, len(last) // 2, len(last) - 1, len(last) + 1):
        part.write_bytes(whole[: len(whole) - cut])
        stopped(source, out, 3)
        assert part.read_bytes().startswith(whole[: len(whole) - len(last)])
        assert all(json.loads(line) for line in part.read_bytes().splitlines())
    lines = whole.splitlines(keepends=True)
    part.write_bytes(lines[0] + b"damaged\n" + lines[2])
    with pytest.raises(FileProblem, match="damaged in line 2"):
        done(source, out)


def test_other_settings_are_refused_by_name_or_start_over(tmp_path):
    source, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    stopped(source, out, 2)
    other = Reading(objectives=tuple(resolve("brevity")))
    with pytest.raises(UsageError, match="other settings .objectives: .*empathy.*now .*brevity.*; rounds: 1, now 2.;"):
        done(source, out, reading=other, rounds=2)
    pair = fake()
    assert done(source, out, pair, reading=other, start_over=True).kept == 0
    assert len(pair.aligner.asked) == 3
    assert (tmp_path / "out.jsonl.part.1").exists()


def test_two_runs_at_once_are_refused(tmp_path):
    pytest.importorskip("fcntl")
    with Journal(tmp_path / "x.part", {}), pytest.raises(FileProblem, match="in use"):
        Journal(tmp_path / "x.part", {})


def test_a_full_disk_keeps_what_is_done(tmp_path, monkeypatch):
    source, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    sync, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) == 5:  # the head's, its folder's, two rows'
            raise OSError(28, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileProblem, match=r"out.jsonl.part: No space left on device; what is done is kept"):
        done(source, out)
    pair = fake()
    assert done(source, out, pair).kept == 2
    assert len(pair.aligner.asked) == 1


def test_a_source_that_changes_meanwhile_is_told(tmp_path):
    source, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    job = Job(source, out, reading())
    found = survey(job)
    with pytest.raises(FileProblem, match="changed at line 1 meanwhile"):
        run(job, found, fake(), lambda tally: write(source, [{"query": "new"}]) and None if tally.done == 3 else None)


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # what takes time, no memory

    def peak(rows):
        source = write(tmp_path / "in.jsonl", ({"query": f"q{i}", "answer": "a", "n": "x" * 9000} for i in range(rows)))
        tracemalloc.start()
        done(source, tmp_path / "out.jsonl", start_over=True)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    small, large = peak(200), peak(2000)
    assert large - small < 1800 * 500  # keys and places; the records would be 1800 * 9000


CASES = [
    Case("Where is my parcel?", EMPATHY, answer="In transit."),
    Case("Where is my parcel?", EMPATHY),
    Case("Hello?", tuple(resolve("clarity")), answer="Hi there, what can I do for you today?"),
    Case("Hello?", EMPATHY, answer=""),
    Case("long", EMPATHY, answer="word " * 300),
    Case("a", EMPATHY, answer="b"),
    Case("Why?", EMPATHY),
]


@pytest.mark.parametrize("in_flight", [1, 3, 8])
@pytest.mark.parametrize(("rounds", "gate"), [(1, None), (2, None), (2, Gate(0.05))])
def test_texts_in_flight_are_those_of_one_at_a_time(engine, in_flight, rounds, gate):
    aligner, policy = GgufAligner(engine, layout=CONVERSATION, max_tokens=24), GgufPolicy(engine, max_tokens=12)
    options = {"aligner": aligner, "rounds": rounds, "gate": gate}
    came = {}
    align_many(CASES, policy=policy, in_flight=in_flight, on_done=came.__setitem__, **options)
    assert sorted(came) == list(range(len(CASES)))
    for i, case in enumerate(CASES):
        asked = policy if case.answer is None else GivenAnswer(case.answer)
        alone = align(case.query, case.objectives, policy=asked, **options)
        assert (came[i].text, came[i].failure, came[i].answer.text) == (alone.text, alone.failure, alone.answer.text)
        assert came[i].preference == pytest.approx(alone.preference, abs=5e-4)  # read in other batches
        assert [edit.finish for edit in came[i].edits] == [edit.finish for edit in alone.edits]


def test_an_edit_finds_what_the_policy_has_just_written_in_the_cache(engine):
    came = {}
    cases = [Case(f"Question {i} of them?", EMPATHY) for i in range(4)]
    policy, aligner = GgufPolicy(engine, max_tokens=12), GgufAligner(engine, layout=CONVERSATION, max_tokens=8)
    align_many(cases, policy=policy, aligner=aligner, in_flight=4, on_done=came.__setitem__)
    for correction in came.values():
        assert correction.edit.counts.reused > correction.answer.generation.counts.written
        assert correction.edit.counts.reused > len("user\nQuestion 0 of them?assistant\n")


def test_settings_tell_what_the_texts_follow_from(engine, tmp_path):
    pair = Pair(GgufPolicy(engine, max_tokens=6), GgufAligner(engine, layout=CONVERSATION, max_tokens=12))
    source = write(tmp_path / "in.jsonl", ROWS)
    job = Job(source, tmp_path / "out.jsonl", reading())
    told = settings(job, survey(job), pair)
    assert told["policy"] == told["aligner"]
    assert told["aligner"].startswith("tiny.gguf ")
    assert "Empathy: " in told["edit prompt"]
    other = Pair(pair.policy, GgufAligner(engine, layout=CONVERSATION, max_tokens=13))
    changed = settings(job, survey(job), other)
    assert {name for name in told if told[name] != changed[name]} == {"max tokens"}


def test_one_row_that_spoils_a_batch_fails_alone(engine, tmp_path, monkeypatch):
    pair = Pair(GivenAnswer(""), GgufAligner(engine, layout=CONVERSATION, max_tokens=4))
    write_all = engine.write

    def spoiled(requests, **options):
        if any("poison" in piece.text for request in requests for piece in request.prompt):
            raise ModelError("llama.cpp failed")
        return write_all(requests, **options)

    monkeypatch.setattr(engine, "write", spoiled)
    rows = [{"query": query, "answer": "text"} for query in ("five", "poison", "three")]
    done(write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", pair)
    assert [row["error_type"] for row in records(tmp_path / "out.jsonl")] == [None, "ModelError", None]


KILLED = [
    {"query": f"Question {i % 5}?", "answer": f"An answer, number {i}."} if i % 4 else {"query": f"And {i}?"}
    for i in range(24)
]
COMMAND = [sys.executable, str(Path(__file__).with_name("killed_batch.py"))]


def kill_and_resume(tmp_path, tiny_path, kills, seed):
    source = write(tmp_path / "in.jsonl", KILLED)
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert subprocess.run([*COMMAND, tiny_path, source, whole, "0", "0"], timeout=600).returncode == 0
    moments = random.Random(seed)
    for turn in range(kills):
        ended = subprocess.run(
            [*COMMAND, tiny_path, source, out, str(moments.randrange(1, 12)), str(turn % 5)], timeout=600
        )
        if ended.returncode == 0:  # everything was done before the kill: begin anew
            assert out.read_bytes() == whole.read_bytes()
            out.unlink()
        else:
            assert ended.returncode == -signal.SIGKILL
    if not out.exists() or out.with_name("out.jsonl.part").exists():
        assert subprocess.run([*COMMAND, tiny_path, source, out, "0", "0"], timeout=600).returncode == 0
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "whole.jsonl"]


def test_killed_and_resumed(tmp_path, tiny_path):
    kill_and_resume(tmp_path, tiny_path, 6, seed=1)


@pytest.mark.slow
def test_killed_and_resumed_many_times(tmp_path, tiny_path):
    kill_and_resume(tmp_path, tiny_path, 50, seed=2)
