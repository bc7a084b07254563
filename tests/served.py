"""A server on loopback for tests, in a thread, over a pair; and a pair without a model, whose answers carry marks."""

from __future__ import annotations

import copy
import json
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

from metaaligner_lite.errors import PromptTooLong
from metaaligner_lite.generation import Counts, Generation, Sampling
from metaaligner_lite.objectives import builtin_catalogue, resolve
from metaaligner_lite.pair import Pair
from metaaligner_lite.policies import Answer
from metaaligner_lite.prompts import CONVERSATION
from metaaligner_lite.serve.app import Limits, Service, application
from metaaligner_lite.serve.listen import Server, listen
from metaaligner_lite.serve.metrics import Metrics
from metaaligner_lite.serve.protocol import Defaults
from metaaligner_lite.serve.safety import Door
from metaaligner_lite.serve.sets import Chosen, Sets
from metaaligner_lite.serve.worker import Workers


def told(words, on_text, stop, seconds, hold=None):
    """Say words one by one, once nothing holds it up any more; as a generation."""
    said, finish = [], "end"
    while hold and not hold.is_set() and not (stop and stop()):
        time.sleep(0.005)
    for word in words:
        if stop and stop():
            finish = "stopped"
            break
        if seconds:
            time.sleep(seconds)
        said.append(word)
        if on_text:
            on_text(word + " ")
    text = " ".join(said)
    return Generation(text, tuple(range(len(said))), finish, Counts(3, 5, len(said), 2, 1, 0.0, 0.0))


class Echo:
    """A policy that says what it was asked, word by word."""

    def __init__(self, seconds=0.0, most=10_000, hold=None):
        self.seconds, self.most, self.hold = seconds, most, hold
        self.settings, self.history = None, ()
        self.asked_for, self.words = [], [0]

    def asked(self, settings):
        other = copy.copy(self)
        other.settings = settings
        self.asked_for.append(settings)
        return other

    def check(self, query, history=()):
        if len(query) > self.most:
            raise PromptTooLong(f"the prompt is {len(query):,} tokens, but the context holds {self.most:,}")

    def answer(self, query, on_text=None, history=(), *, stop=None):
        words = ["echo", *query.split()]

        def count(text):
            self.words[0] += 1
            if on_text:
                on_text(text)

        generation = told(words, count, stop, self.seconds, self.hold)
        return Answer(generation.text, generation)


class Upper:
    """An aligner that edits into capitals."""

    layout, known = CONVERSATION, {"empathy": builtin_catalogue()["empathy"].description}

    def __init__(self, seconds=0.0, fail=None, ending=""):
        self.seconds, self.fail, self.ending = seconds, fail, ending
        self.asked_for = []

    def asked(self, settings):
        self.asked_for.append(settings)
        return self

    def edit(self, query, answers, on_text=None, history=(), *, stop=None):
        if self.fail:
            raise self.fail
        (answer, _), *_ = answers
        made = told(answer.text.upper().split(), on_text, stop, self.seconds)
        return [replace(made, finish=self.ending or made.finish)]

    def likelihoods(self, query, answer, objectives, texts, history=()):
        return [-float(len(text)) for text in texts]

    def told(self, turns):
        return ()


def fake(policy=None, aligner=None):
    return Pair(policy or Echo(), aligner or Upper())


@contextmanager
def serving(pair, *, door=None, limits=None, sets=None, metrics=False, default=None, grace=5.0, log=None, **options):
    """Serve a pair; gives the address and the workers."""
    catalogue = builtin_catalogue()
    workers = Workers(pair, **options)
    defaults = Defaults(
        Sets(default or Chosen(tuple(resolve("empathy"))), sets or {}), catalogue, Sampling(), most_messages=2000
    )
    service = Service(
        workers,
        defaults,
        door or Door(),
        limits or Limits(),
        pair.aligner.known,
        ("policy.gguf", "aligner.gguf"),
        Metrics(workers) if metrics else None,
        log,
        bool(log),
    )
    listener = listen("127.0.0.1", 0)
    up = threading.Event()
    server = Server(application(service), listener, workers, grace=grace, ready=up.set)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    assert up.wait(20)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", workers
    finally:
        server.handle_exit(15, None)
        workers.hurry()
        thread.join(30)
        assert not thread.is_alive()
        listener.close()


def body(text="Where is my parcel?", **more):
    return {"model": "aligned", "messages": [{"role": "user", "content": text}], **more}


def events(lines):
    """The JSON of a stream's events, "[DONE]" and comments as they are."""
    found = []
    for line in lines:
        line = line.decode() if isinstance(line, bytes) else line
        if line.startswith(":"):
            found.append(line)
        elif line.startswith("data: "):
            data = line.removeprefix("data: ")
            found.append(data if data == "[DONE]" else json.loads(data))
    return found


def text_of(found, key="content"):
    chunks = [one for one in found if isinstance(one, dict) and one.get("choices")]
    return "".join(one["choices"][0]["delta"].get(key) or "" for one in chunks)
