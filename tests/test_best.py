"""Several edits of one answer, and the one that the aligner holds likeliest."""

import json
import os
import subprocess
import sys

import pytest
import trained

from metaaligner_lite import BestOf, EndpointAligner, GgufAligner, GivenAnswer, Sampling, UsageError, align, open_engine
from metaaligner_lite.aligners import Edit
from metaaligner_lite.batch import Job, run, survey
from metaaligner_lite.best import best_of
from metaaligner_lite.gate import OPEN, Gate
from metaaligner_lite.generation import sampled
from metaaligner_lite.objectives import resolve
from metaaligner_lite.pair import Pair
from metaaligner_lite.policies import Answer
from metaaligner_lite.rows import Reading

QUERY, NAMES = trained.prompts()[0]
ANSWER = "Check the tracking page first. Then call the carrier, and ask the shop for a refund."
WANTED = resolve(NAMES)


@pytest.fixture(scope="module")
def engine():
    with open_engine(trained.ALIGNER, threads=1) as opened:
        yield opened


@pytest.fixture
def aligner(engine):
    return GgufAligner(engine, max_tokens=30, sampling=Sampling(1.5, seed=7, top_k=0, top_p=1.0, min_p=0.0))


def test_another_text_has_the_next_seed_and_is_never_greedy():
    assert sampled(Sampling(seed=3), 2) == Sampling(0.7, seed=5)
    assert sampled(Sampling(1.2, seed=2**32 - 1), 1) == Sampling(1.2, seed=0)


def test_the_best_is_the_likeliest_of_those_that_were_written_and_the_same_each_time(aligner):
    answer = Answer(ANSWER)
    written = aligner.edit_all([Edit(QUERY, answer, WANTED, (), sampled(aligner.sampling, i)) for i in range(4)])
    texts = [edit.text for edit in written]
    assert len(set(texts)) == 4
    alone = aligner.likelihoods(QUERY, answer, WANTED, texts)
    expected = max(zip(alone, texts, strict=True))[1]
    (best,) = BestOf(aligner, 4).edit(QUERY, [(answer, WANTED)])
    (again,) = BestOf(aligner, 4).edit(QUERY, [(answer, WANTED)])
    assert best.text == again.text == expected
    assert best.counts.written == sum(edit.counts.written for edit in written)


def test_each_of_several_answers_has_its_own_best(aligner):
    other = resolve("brevity" if NAMES != ["brevity"] else "empathy")
    pairs = [(Answer(ANSWER), WANTED), (Answer(ANSWER), other)]
    both = BestOf(aligner, 3).edit(QUERY, pairs)
    assert [edit.text for edit in both] == [BestOf(aligner, 3).edit(QUERY, [pair])[0].text for pair in pairs]


def test_the_preference_is_told_and_the_gate_judges_the_best(aligner):
    def came(gate):
        return align(QUERY, WANTED, policy=GivenAnswer(ANSWER), aligner=BestOf(aligner, 3), gate=gate)

    taken, kept = came(OPEN), came(Gate(100.0))
    edit, answer = aligner.likelihoods(QUERY, Answer(ANSWER), WANTED, [taken.text, ANSWER])
    assert taken.aligned and taken.preference == pytest.approx(edit - answer, abs=1e-3)
    assert (kept.text, kept.aligned, kept.preference) == (ANSWER, False, pytest.approx(taken.preference))


def test_a_stop_stops_all_and_rounds_go_on_from_the_best(aligner):
    stopped = align(QUERY, WANTED, policy=GivenAnswer(ANSWER), aligner=BestOf(aligner, 3), stop=lambda: True)
    assert (stopped.text, stopped.failure) == (ANSWER, "the aligner was stopped")
    twice = align(QUERY, WANTED, policy=GivenAnswer(ANSWER), aligner=BestOf(aligner, 2), rounds=2)
    (first,) = BestOf(aligner, 2).edit(QUERY, [(Answer(ANSWER), WANTED)])
    assert twice.edits[0].text == first.text


def test_one_is_the_aligner_itself_and_a_server_has_no_best(aligner):
    assert best_of(aligner, 1) is aligner
    server = EndpointAligner.__new__(EndpointAligner)
    server.endpoint = type("E", (), {"server": type("S", (), {"name": "http://x"})})
    with pytest.raises(UsageError, match="http://x tells no likelihoods.*leave `best_of` out"):
        best_of(server, 2)
    with pytest.raises(UsageError):
        BestOf(aligner, 0)


def test_batch_rows_have_the_best_and_the_preference(aligner, tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"query": QUERY, "answer": ANSWER}) + "\n")
    job = Job(source, tmp_path / "out.jsonl", Reading(objectives=tuple(WANTED)), best_of=3)
    assert run(job, survey(job), Pair(GivenAnswer(""), aligner)).failed == 0
    (row,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    (best,) = BestOf(aligner, 3).edit(QUERY, [(Answer(ANSWER), WANTED)])
    assert row["aligned_answer"] == best.text and isinstance(row["preference"], float)


def mal(*args):
    command = [sys.executable, "-m", "metaaligner_lite", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=dict(os.environ), input="")


def test_the_command_line(tmp_path):
    pair = ("--aligner", trained.ALIGNER, "-t", "1", "--max-tokens", "20", "-o", NAMES[0], "--best-of", "2")
    came = mal("align", QUERY, "--answer", ANSWER, *pair, "--json")
    assert came.returncode == 0 and isinstance(json.loads(came.stdout)["preference"], float), came.stderr
    (tmp_path / "in.jsonl").write_text("{}\n")
    both = mal("batch", tmp_path / "in.jsonl", tmp_path / "out.jsonl", *pair, "--in-flight", "2")
    assert both.returncode == 2 and "leave out --in-flight" in both.stderr
