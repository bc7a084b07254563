"""An interrupt, a stop or a second thread never leaves a cache that holds other than it says."""

import random
import signal
import threading
import time

import pytest
import tiny

from metaaligner_lite import GgufAligner, GgufPolicy, GivenAnswer, align, open_engine
from metaaligner_lite.generation import Sampling
from metaaligner_lite.llama.context import Context, Stopped
from metaaligner_lite.llama.draft import Drafter
from metaaligner_lite.llama.model import open_model
from metaaligner_lite.llama.store import SUFFIX
from metaaligner_lite.prompts import Message, chat_prompt, invocation
from metaaligner_lite.templates import ChatTemplate


@pytest.fixture(scope="module")
def model(tiny_path):
    with open_model(tiny_path, repack=False) as opened:
        yield opened


def interrupted(work, seconds):
    """Run `work` and interrupt it after so many seconds, wherever it is; whether it was."""

    armed = [True]

    def strike(*_):
        if armed:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, strike)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            work()
        finally:
            armed.clear()
        return False
    except KeyboardInterrupt:
        return True
    finally:
        armed.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
@pytest.mark.parametrize("rounds", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_after_an_interrupt_the_same_text_is_written(model, rounds):
    rng = random.Random(0)
    prompts = [[rng.randrange(3, 259) for _ in range(rng.randrange(20, 150))] for _ in range(8)]
    with Context(model, 512, threads=1, kv="f32") as fresh:
        expected = []
        for prompt in prompts:
            fresh.roll_back(0)
            expected.append(tiny.write(fresh, prompt, 40))
    drafters = [list(written.tokens) for written in expected]
    for drafter in drafters:
        drafter[len(drafter) // 2 :: 5] = [7] * len(drafter[len(drafter) // 2 :: 5])
    struck = 0
    with Context(model, 512, threads=1, kv="f32", sequences=2) as context:
        begun = time.perf_counter()
        tiny.write(context, prompts[0], 40)
        usual = time.perf_counter() - begun
        for n in range(rounds):
            which = rng.randrange(len(prompts))
            struck += interrupted(
                lambda which=which: tiny.write(context, prompts[which], 40, drafter=Drafter(drafters[which])),
                rng.uniform(1e-5, 1.2 * usual),
            )
            again = which if n % 2 else rng.randrange(len(prompts))
            assert tiny.write(context, prompts[again], 40).tokens == expected[again].tokens, n
    assert struck > rounds / 3


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
def test_nothing_is_kept_on_disk_after_an_interrupt(tiny_path, tmp_path):
    """What --cache would save after an exception is not worth the trust of the next run."""
    with pytest.raises(KeyboardInterrupt), open_engine(tiny_path, threads=1, cache=tmp_path) as engine:
        GgufPolicy(engine, max_tokens=8).answer("a long question about nothing at all")
        raise KeyboardInterrupt
    assert not list(tmp_path.glob("*" + SUFFIX))
    with open_engine(tiny_path, threads=1, cache=tmp_path) as engine:
        GgufPolicy(engine, max_tokens=8).answer("a long question about nothing at all")
    assert list(tmp_path.glob("*" + SUFFIX))


def test_threads_take_turns(tiny_path):
    """Two threads in one engine once ended the process."""
    with open_engine(tiny_path, threads=1) as engine:
        policy = GgufPolicy(engine, max_tokens=24)
        questions = [f"What about the number {n}?" for n in range(8)]
        expected = [policy.answer(question).text for question in questions]
        found = {}

        def ask(i):
            for n in range(i, len(questions), 4):
                found[n] = policy.answer(questions[n]).text

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [found[n] for n in range(len(questions))] == expected


class After:
    """A stop that says so when it is asked for the nth time."""

    def __init__(self, times):
        self.times = times

    def __call__(self):
        self.times -= 1
        return self.times < 0


@pytest.mark.parametrize("times", [0, 1, 3, 9])
def test_a_stop_gives_what_was_written_and_the_cache_stays_true(tiny_path, monkeypatch, times):
    monkeypatch.setattr("metaaligner_lite.llama.context._ASK_EVERY", 60.0)  # a slow machine would ask while it reads
    prompt = chat_prompt([Message("user", "Tell me more. " * 10)], ChatTemplate(tiny.CHATML))
    with open_engine(tiny_path, threads=1) as engine:
        (whole,) = engine.run([prompt], max_tokens=20, sampling=Sampling(temperature=0.9, seed=1))
    with open_engine(tiny_path, threads=1) as engine:
        heard = []
        sampling = Sampling(temperature=0.9, seed=1)
        (part,) = engine.run([prompt], max_tokens=20, sampling=sampling, on_text=heard.append, stop=After(times))
        assert part.finish == "stopped"
        assert whole.tokens[: len(part.tokens)] == part.tokens
        assert len(part.tokens) == max(0, times)
        assert "".join(heard) == part.text
        (again,) = engine.run([prompt], max_tokens=20, sampling=sampling)
        assert again.tokens == whole.tokens


def test_a_stopped_policy_or_aligner_leaves_the_answer(tiny_path):
    with open_engine(tiny_path, threads=1) as engine:
        aligner = GgufAligner(engine, layout="conversation", max_tokens=8)
        stopped = align("Hi?", "empathy", policy=GgufPolicy(engine, max_tokens=8), aligner=aligner, stop=After(0))
        assert (stopped.failure, stopped.aligned, stopped.edits) == ("the policy was stopped", False, ())
        given = align("Hi?", "empathy", policy=GivenAnswer("Yes."), aligner=aligner, stop=After(0))
        assert (given.failure, given.text) == ("the aligner was stopped", "Yes.")


def test_an_interrupted_adapter_switch_is_done_again(tiny_path, tmp_path):
    with open_model(tiny_path, repack=False) as base:
        words = invocation("conversation", ChatTemplate(tiny.CHATML), base)
    adapter = tiny.write_adapter(tmp_path / "a.gguf", words)
    with open_engine(tiny_path, adapter=adapter, threads=1) as engine:
        aligner = GgufAligner(engine, layout="conversation", max_tokens=8)
        expected = align("Hello?", "empathy", policy=GivenAnswer("Yes."), aligner=aligner).text
        context = engine._context
        real = context._lib.llama_set_adapters_lora

        def strike(*args):
            real(*args)
            raise KeyboardInterrupt

        context._lib.llama_set_adapters_lora = strike
        try:
            with pytest.raises(KeyboardInterrupt):
                GgufPolicy(engine, max_tokens=4).answer("Hello?")
        finally:
            context._lib.llama_set_adapters_lora = real
        assert align("Hello?", "empathy", policy=GivenAnswer("Yes."), aligner=aligner).text == expected


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_a_stop_ends_a_batch_that_is_being_read(model, monkeypatch, error):
    """A batch takes seconds with a large model: it is asked while it goes on, and what was there before stays."""
    monkeypatch.setattr("metaaligner_lite.llama.context._ASK_EVERY", 0.0)
    rng = random.Random(2)
    prompt = [rng.randrange(3, 259) for _ in range(400)]
    with Context(model, 512, threads=1, kv="f32") as context:
        expected = tiny.write(context, prompt, 12).text
        context.roll_back(100)
        asked = []

        def stop():
            asked.append(len(asked))
            if len(asked) == 3 and error:
                raise error
            return len(asked) == 3  # the first is before the batch

        with pytest.raises(error or Stopped):
            context.read(prompt, stop=stop)
        assert len(asked) == 3
        assert context.sequences[0].tokens == prompt[:100]
        assert tiny.write(context, prompt, 12).text == expected
