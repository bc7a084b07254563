"""The KV cache: whatever is forked, rolled back, taken over or lent, the logits are those of reading anew."""

import ctypes
import random
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tiny

from metaaligner_lite.errors import ModelError, UsageError
from metaaligner_lite.llama.context import Context
from metaaligner_lite.llama.draft import BatchCosts, Drafter
from metaaligner_lite.llama.engine import Engine
from metaaligner_lite.llama.library import release_freed_memory
from metaaligner_lite.llama.model import open_model


@pytest.fixture(scope="module", params=["llama", "gemma2", "mamba"])
def model(request, tmp_path_factory):
    """A plain model, one whose sliding window is much shorter than the texts, and one with a state of fixed size."""
    path = tmp_path_factory.mktemp("context") / "m.gguf"
    tiny.write_model(path, architecture=request.param, window=8 if request.param == "gemma2" else 0)
    with open_model(path, repack=False) as opened:
        yield opened


class Free(BatchCosts):
    """Any batch costs as much as one token: drafts are as long as they can be."""

    def __call__(self, size):
        return 1.0


def text(seed, length):
    rng = random.Random(seed)
    return [rng.randrange(3, 259) for _ in range(length)]


def logits_of(context, tokens, sequence=0):
    context.read(tokens, sequence=sequence)
    return context.logits(-1)


def fresh(model, tokens):
    with Context(model, 512, threads=1) as context:
        return logits_of(context, tokens)


def test_two_threads_read_and_write_what_one_does(model):
    tokens = text(0, 120)
    with Context(model, 512, threads=1) as one, Context(model, 512, threads=2) as two:
        np.testing.assert_allclose(logits_of(two, tokens), logits_of(one, tokens), atol=1e-4)
        assert tiny.write(two, tokens, 40).tokens == tiny.write(one, tokens, 40).tokens


def test_rolling_back_equals_reading_anew(model):
    long = text(1, 120)
    with Context(model, 512, threads=1) as context:
        for length in (120, 60, 90, 30, 119):
            tokens = [*long[:length], 77]
            np.testing.assert_allclose(logits_of(context, tokens), fresh(model, tokens), atol=1e-4)


def test_forks_equal_reading_anew(model):
    shared, tails = text(2, 80), [text(i, 20) for i in range(3, 7)]
    with Context(model, 1024, threads=1, sequences=4) as context:
        for turn in range(2):
            for sequence, tail in enumerate(tails):
                tokens = [*shared, *tail, turn + 5]
                np.testing.assert_allclose(logits_of(context, tokens, sequence), fresh(model, tokens), atol=1e-4)


def test_room_that_a_window_gave_up_is_not_taken_for_text(model):
    """Sliding-window caches overwrite what the window has left; a roll-back into that must read again."""
    shared = text(8, 60)
    with Context(model, 256, threads=1, sequences=2) as context:
        context.read(shared)
        context.read([*shared, 9], sequence=1)
        for token in text(9, 30):
            context.extend([(0, [token]), (1, [token, token])])
        context.roll_back(0, 1)
        for token in text(10, 60):
            context.extend([(0, [token])])
        held = list(context.sequences[0].tokens)
        reused = []
        for length in (80, 64, 40):
            tokens = [*held[:length], 88]
            reused.append(context.read(tokens))
            np.testing.assert_allclose(context.logits(-1), fresh(model, tokens), atol=1e-4)
        # Only a plain cache can go back as far as that at once; the others read again from the start.
        assert (reused[0] > 0) == (model.header.text("general.architecture") == "llama")


def test_a_taken_over_cache_equals_reading_anew(model):
    long = text(11, 100)
    with Context(model, 256, threads=1) as small, Context(model, 512, threads=1, sequences=2) as large:
        small.read(long)
        large.take_over(small.held(512))
        assert large.read([*long, 5]) == len(long)
        np.testing.assert_allclose(large.logits(-1), fresh(model, [*long, 5]), atol=1e-4)
        for length in (50, 20):
            tokens = [*long[:length], 99]
            np.testing.assert_allclose(logits_of(large, tokens), fresh(model, tokens), atol=1e-4)


def test_what_there_is_no_room_for_is_not_held(model):
    shared = text(14, 60)
    with Context(model, 256, threads=1, sequences=3) as small:
        for sequence in range(3):
            small.read([*shared, sequence + 3], sequence=sequence)
        assert [bool(state) for _, state in small.held(130)] == [True, True, False]
        assert [bool(state) for _, state in small.held(60)] == [False, False, False]


@pytest.fixture
def growing(tmp_path):
    with Engine(open_model(tiny.write_model(tmp_path / "m.gguf", n_ctx=4096), repack=False), threads=1) as engine:
        yield engine


def test_a_growing_context_makes_way_before_the_larger_one_is_made(growing, monkeypatch):
    """Two caches never exist at once; what the smaller one held is not read again."""
    long, alive = text(15, 100), []

    class Counted(Context):
        def __init__(self, *args, **options):
            assert not alive
            super().__init__(*args, **options)
            alive.append(self)

        def close(self):
            super().close()
            if self in alive:
                alive.remove(self)

    monkeypatch.setattr("metaaligner_lite.llama.engine.Context", Counted)
    logits = logits_of(growing._context_for(200, 1), long)
    for size, sequences in ((1500, 1), (100, 3), (2500, 2)):
        context = growing._context_for(size, sequences)
        assert (context.n_ctx >= size, len(context.sequences) >= sequences) == (True, True)
        assert context.read(long) == len(long) - 1
        np.testing.assert_allclose(context.logits(-1), logits, atol=1e-4)
    assert alive == [context]
    assert context.n_ctx == 3072
    assert len(context.sequences) == 3


def test_a_context_that_cannot_grow_costs_what_it_held_and_no_more(growing, monkeypatch):
    long = text(16, 100)
    logits = logits_of(growing._context_for(200, 1), long)
    with monkeypatch.context() as patch:
        patch.setattr(growing.model._lib, "llama_init_from_model", lambda *_: None)
        with pytest.raises(ModelError, match="cannot make a context of 2,048 tokens"):
            growing._context_for(2000, 1)
    context = growing._context_for(200, 1)
    assert context.n_ctx == 1024
    assert context.read(long) == 0
    np.testing.assert_allclose(context.logits(-1), logits, atol=1e-4)


def test_drafts_change_nothing_whatever_the_cache_can_forget(model):
    prompt = text(12, 60)
    with Context(model, 256, threads=1) as context:
        plain = tiny.write(context, prompt, 60)
        source = [token if i % 9 else 7 for i, token in enumerate(plain.tokens)]
        context.costs = Free()
        drafted = tiny.write(context, prompt, 60, drafter=Drafter(source))
        assert drafted.tokens == plain.tokens
        assert (drafted.counts.accepted > 0) is context.can_draft


def test_what_is_closed_gives_its_memory_back(tiny_path, monkeypatch):
    calls = []
    for place in ("context", "model"):
        monkeypatch.setattr(f"metaaligner_lite.llama.{place}.release_freed_memory", lambda: calls.append(True))
    with open_model(tiny_path) as model:
        with Context(model, 64):
            assert not calls
        assert len(calls) == 1
    assert len(calls) == 2


@pytest.mark.parametrize(("platform", "calls"), [("linux", 1), ("darwin", 0), ("win32", 0)])
def test_memory_is_given_back_where_the_allocator_can(monkeypatch, platform, calls):
    found = []
    with monkeypatch.context() as patched:
        patched.setattr(sys, "platform", platform)
        patched.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(malloc_trim=lambda room: found.append(room.value)))
        release_freed_memory()
        patched.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())  # musl
        release_freed_memory()
    assert found == [0] * calls


@pytest.mark.parametrize("kv", ["bf16", "q8_0", "q4_0"])
def test_types_of_the_cache(tmp_path, kv):
    """Smaller types cost precision; drafts and roll-backs work on them as on any."""
    prompt = text(13, 80)
    with open_model(tiny.write_model(tmp_path / "m.gguf", width=128), repack=False) as model:
        exact = fresh(model, prompt)
        with Context(model, 512, threads=1, kv=kv) as context:
            found = logits_of(context, prompt)
            assert np.corrcoef(found, exact)[0, 1] > (0.98 if kv != "q4_0" else 0.8)
            context.read([*prompt[:50], 9, 9])
            np.testing.assert_allclose(logits_of(context, prompt), found, atol=0.05 * found.std())


def test_an_unknown_type_of_cache_is_named(tiny_path):
    with (
        open_model(tiny_path, repack=False) as model,
        pytest.raises(UsageError, match="'q9'; expected one of f16, q8_0"),
    ):
        Context(model, 512, kv="q9")
