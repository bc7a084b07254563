"""Rows of a batch that a server is asked at once."""

import json
import threading
import time

import pytest
from test_endpoint import END, delta, events, serve
from trained import ALIGNER

from metaaligner_lite import EndpointAligner, EndpointPolicy, GgufAligner, Server, open_engine
from metaaligner_lite.batch import Job, run, survey
from metaaligner_lite.endpoint import Endpoint
from metaaligner_lite.objectives import resolve
from metaaligner_lite.pair import Pair
from metaaligner_lite.policies import GivenAnswer
from metaaligner_lite.rows import Reading
from metaaligner_lite.testing import FakeAligner

assert serve  # a fixture
ROWS = [{"query": f"question {n}"} for n in range(24)]


@pytest.fixture
def counting(serve):
    """A server that says the first turn in capitals, after a while, but for question 7; and how many it had at once."""

    def start(pause):
        most, now, lock = [0], [0], threading.Lock()

        def do_post(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.asked.append((self.path, body, {}))
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            time.sleep(pause)
            with lock:
                now[0] -= 1
            said = body["messages"][0]["content"]
            if said == "question 7":
                self.send(400, {}, ['{"error": {"message": "not this one"}}'])
            else:
                self.send(*events(delta(said.upper()), END))

        url, asked = serve(None, do_POST=do_post)
        return url, asked, most

    return start


def done(tmp_path, pair, name, progress=lambda _: None, **options):
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    job = Job(source, tmp_path / name, Reading(objectives=tuple(resolve("brevity"))), counts=False, **options)
    return run(job, survey(job), pair, progress)


def test_the_same_rows_as_one_after_the_other_and_no_more_at_once_than_asked_for(counting, tmp_path):
    url, asked, most = counting(0.05)
    outs, seconds = {}, {}
    with Endpoint(Server(url, "tiny")) as endpoint:
        pair = Pair(EndpointPolicy(endpoint), EndpointAligner(endpoint))
        for concurrency in (1, 6):
            began = time.monotonic()
            tally = done(tmp_path, pair, f"out{concurrency}.jsonl", concurrency=concurrency)
            seconds[concurrency] = time.monotonic() - began
            assert (tally.rows, tally.failed) == (24, 1) and "line 8: " in tally.first["EndpointError"]
            assert most[0] == concurrency
            outs[concurrency] = (tmp_path / f"out{concurrency}.jsonl").read_bytes()
    assert outs[1] == outs[6]
    assert json.loads(outs[6].splitlines()[3])["aligned_answer"] == "QUESTION 3"
    assert seconds[6] < seconds[1]
    assert len([body for _, body, _ in asked if body]) == 2 * (2 * 24 - 1)


def test_what_stops_the_run_hangs_up_and_the_next_run_goes_on(counting, tmp_path):
    url, asked, _ = counting(0.05)

    def progress(tally):
        if tally.done == 5:
            raise KeyboardInterrupt

    with Endpoint(Server(url, "tiny")) as endpoint:
        pair = Pair(EndpointPolicy(endpoint), EndpointAligner(endpoint))
        with pytest.raises(KeyboardInterrupt):
            done(tmp_path, pair, "out.jsonl", concurrency=4, progress=progress)
        assert len(asked) < 40
        tally = done(tmp_path, pair, "out.jsonl", concurrency=2)
    assert (tally.kept, tally.rows, tally.failed) == (5, 24, 1)


def test_an_aligner_here_edits_while_the_server_answers_others_and_does_not_read_ahead(counting, tmp_path, monkeypatch):
    url, _, _ = counting(0.1)
    with Endpoint(Server(url, "tiny")) as endpoint, open_engine(ALIGNER, threads=1) as engine:
        monkeypatch.setattr(engine, "read_ahead", lambda prompt: 1 / 0)
        pair = Pair(EndpointPolicy(endpoint), GgufAligner(engine, max_tokens=4))
        tally = done(tmp_path, pair, "out.jsonl", concurrency=4)
    assert (tally.rows, tally.failed) == (24, 1)
    given = Pair(GivenAnswer("fine"), FakeAligner(lambda text, _: text.upper()))
    assert done(tmp_path, given, "given.jsonl", concurrency=4).failed == 0
