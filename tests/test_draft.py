import random

import pytest
import tiny

from metaaligner_lite.llama.context import Context
from metaaligner_lite.llama.decode import Sampling
from metaaligner_lite.llama.draft import MOST, BatchCosts, Drafter
from metaaligner_lite.llama.model import open_model

CHEAP = BatchCosts()


class Free(BatchCosts):
    """Any batch costs as much as one token: drafts are as long as they can be."""

    def __call__(self, size):
        return 1.0


def follow(source, written, *more):
    """The share of written tokens that the drafter's next guess had right, and the drafter."""
    drafter, right = Drafter(source, *more), 0
    for token in written:
        right += drafter.propose(1, lambda n: 1.0)[:1] == [token]
        drafter.observe(token)
    return right / len(written), drafter


SOURCE = random.Random(1).sample(range(1000), 60)


@pytest.mark.parametrize(
    ("written", "at_least"),
    [
        (SOURCE, 1.0),  # copied
        ([2000, 2001, 2002, *SOURCE], 0.9),  # something put before
        ([*SOURCE[:20], 2000, 2001, *SOURCE[20:]], 0.9),  # inserted
        ([*SOURCE[:20], *SOURCE[35:]], 0.9),  # deleted
        ([*SOURCE[:20], 2000, *SOURCE[25:]], 0.85),  # replaced
        ([*SOURCE[30:], *SOURCE[:30]], 0.9),  # reordered
        (list(range(3000, 3040)), 0.0),  # nothing copied
    ],
)
def test_the_pointer_follows_an_edit(written, at_least):
    assert follow(SOURCE, written)[0] >= at_least


def test_other_texts_are_copied_from_too():
    query = list(range(5000, 5010))
    assert follow(SOURCE, [*SOURCE[:10], *query, *SOURCE[10:]], query)[0] >= 0.8


def test_drafts_grow_with_trust_and_stop_without():
    _, trusting = follow(SOURCE, SOURCE[:25])
    assert len(trusting.propose(100, CHEAP)) >= 7
    _, burnt = follow(SOURCE, list(range(3000, 3080)))
    assert burnt.propose(100, CHEAP) == []


def test_drafts_keep_within_limits_and_sources():
    _, drafter = follow(SOURCE, SOURCE[:25])
    assert len(drafter.propose(3, CHEAP)) <= 3
    assert len(drafter.propose(100, lambda n: 1.0)) == MOST
    _, ending = follow(SOURCE, SOURCE[:-2])
    assert ending.propose(100, lambda n: 1.0) == SOURCE[-2:]
    assert Drafter().propose(5, CHEAP) == []
    assert Drafter([]).propose(5, CHEAP) == []


def test_dear_batches_are_not_drafted():
    _, drafter = follow(SOURCE, SOURCE[:25])
    assert drafter.propose(100, lambda n: float(n) ** 2) == []


def test_costs_are_learned():
    costs = BatchCosts()
    assert costs(1) < costs(5) < costs(16) < costs(20) < costs(32)
    for _ in range(30):
        costs.record(1, 0.010)
        costs.record(8, 0.011)
    assert costs(1) == pytest.approx(0.010)
    assert costs(8) == pytest.approx(0.011, rel=0.05)
    assert 0.010 <= costs(4) <= 0.02
    costs.record(512, 9.0)  # reading a prompt tells nothing about short batches
    assert costs(32) < 1


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tiny.write_model(tmp_path_factory.mktemp("draft") / "m.gguf", seed=3)
    with open_model(path, repack=False) as opened:
        yield opened


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("seed", range(6))
def test_drafts_never_change_the_text(model, seed, temperature):
    """The source is a damaged copy of what the model will write, so that drafts are both taken and rejected."""
    rng = random.Random(seed)
    sampling = Sampling(temperature=temperature, seed=seed)
    prompt = [rng.randrange(3, 259) for _ in range(20)]
    with Context(model, 512, threads=1) as context:
        context.costs = Free()
        plain = tiny.write(context, prompt, 80, sampling)
        source = [token if rng.random() < 0.9 else rng.randrange(3, 259) for token in plain.tokens]
        drafted = tiny.write(context, prompt, 80, sampling, drafter=Drafter(source))
        after = tiny.write(context, [*prompt, *plain.tokens[:40]], 40, sampling)
        fresh = Context(model, 512, threads=1)
        assert after.tokens == tiny.write(fresh, [*prompt, *plain.tokens[:40]], 40, sampling).tokens
        fresh.close()
    assert drafted.tokens == plain.tokens
    assert (drafted.text, drafted.finish) == (plain.text, plain.finish)
    assert drafted.counts.accepted >= 5
    assert drafted.counts.drafted >= drafted.counts.accepted


def test_a_model_that_cannot_forget_reads_again(model, monkeypatch):
    prompt = list(range(10, 30))
    with Context(model, 512, threads=1) as context:
        context.costs = Free()
        plain = tiny.write(context, prompt, 40)
        source = [*plain.tokens[:15], 7, 7, 7, *plain.tokens[15:]]
        forget = context._lib.llama_memory_seq_rm
        monkeypatch.setattr(
            context._lib,
            "llama_memory_seq_rm",
            lambda memory, sequence, start, end: start <= 0 and forget(memory, sequence, start, end),
        )
        assert tiny.write(context, prompt, 40, drafter=Drafter(source)).tokens == plain.tokens


def test_length_limit_and_small_batches_hold(model):
    prompt = list(range(10, 20))
    with Context(model, 32, threads=1) as context:
        context.costs = Free()
        plain = tiny.write(context, prompt, 20)
        drafted = tiny.write(context, prompt, 20, drafter=Drafter(plain.tokens))
    assert drafted.tokens == plain.tokens
    assert len(drafted.tokens) == 20
