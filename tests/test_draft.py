import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import tiny
import trained

from metaaligner_lite import GgufAligner, GgufPolicy, open_engine
from metaaligner_lite.generation import Sampling
from metaaligner_lite.llama.context import Context, common_prefix
from metaaligner_lite.llama.draft import MOST, BatchCosts, Drafter
from metaaligner_lite.llama.model import open_model
from metaaligner_lite.objectives import resolve
from metaaligner_lite.pieces import encode
from metaaligner_lite.prompts import edit_prompt

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


@pytest.mark.parametrize(
    ("written", "drafts"),
    [
        ([2000, *SOURCE[30:32]], False),  # two tokens may have met by chance
        ([2000, *SOURCE[30:33]], True),  # a third one, guessed right, proves the place
        ([*SOURCE[:20], 2000], False),  # left waiting at a divergence
        ([*SOURCE[:20], 2000, *SOURCE[23:25]], False),
        ([*SOURCE[:20], 2000, *SOURCE[23:27]], True),
    ],
)
def test_a_place_is_trusted_by_how_it_was_found(written, drafts):
    assert bool(follow(SOURCE, written)[1].propose(100, CHEAP)) is drafts


@pytest.mark.parametrize("words", [8, 20, 100])
def test_chance_meetings_cost_little(words):
    """New text over the words of the source: two in a row are often met by chance, and tell nothing."""
    spent = []
    for seed in range(5):
        rng = random.Random(seed)
        source, written = ([rng.randrange(words) for _ in range(n)] for n in (100, 300))
        drafter, at, cost = Drafter(source), 1, 0.0
        drafter.observe(written[0])  # the prompt's logits give the first token
        while at < len(written):
            guess = drafter.propose(len(written) - at - 1, CHEAP)
            cost += CHEAP(1 + len(guess))
            new = written[at : at + common_prefix(guess, written[at:]) + 1]
            for token in new:
                drafter.observe(token)
            at += len(new)
        spent.append(cost / (len(written) - 1))
    assert sum(spent) / 5 < 1.02


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


def test_costs_are_of_a_shape_or_measured():
    usual, measured = BatchCosts(), BatchCosts(((1, 0.010), (2, 0.014), (8, 0.012), (16, 0.020)))
    assert usual(1) < usual(5) < usual(16) < usual(20) < usual(32)
    assert [measured(size) for size in (1, 2, 5, 8, 16)] == [0.010, 0.014, 0.014, 0.014, 0.020]  # never falling
    assert measured(12) == pytest.approx(0.017)


def test_flash_attention_on_a_cpu_makes_batches_dearer_and_drafts_shorter():
    usual, flash = BatchCosts(), BatchCosts(flash=True)
    assert [flash(size) for size in (1, 16, 32)] == [1.0, 6.5, 12.6]
    assert all(flash(size) > usual(size) for size in range(2, 33))
    drafts = [len(follow(SOURCE, SOURCE[:5])[1].propose(100, costs)) for costs in (usual, flash)]
    assert 0 < drafts[1] < drafts[0]
    assert BatchCosts(((1, 0.01), (32, 0.02)), flash=True)(32) == 0.02  # what was measured goes first


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
    # In 32 bits: rounded to 16, keys and values of a batch and of single tokens part on some processors.
    with Context(model, 512, threads=1, kv="f32") as context:
        context.costs = Free()
        plain = tiny.write(context, prompt, 80, sampling)
        source = [token if rng.random() < 0.9 else rng.randrange(3, 259) for token in plain.tokens]
        drafted = tiny.write(context, prompt, 80, sampling, drafter=Drafter(source))
        after = tiny.write(context, [*prompt, *plain.tokens[:40]], 40, sampling)
        fresh = Context(model, 512, threads=1, kv="f32")
        assert after.tokens == tiny.write(fresh, [*prompt, *plain.tokens[:40]], 40, sampling).tokens
        fresh.close()
    assert drafted.tokens == plain.tokens
    assert (drafted.text, drafted.finish) == (plain.text, plain.finish)
    assert drafted.counts.accepted >= 5
    assert drafted.counts.drafted >= drafted.counts.accepted


class Parrot(Drafter):
    """Always drafts what comes next in one text, right or wrong."""

    def __init__(self, text):
        self._text, self._written = text, 0

    def propose(self, limit, costs, others=0):
        return list(self._text[self._written :][:limit])

    def observe(self, token):
        self._written += 1


def test_sampling_with_drafts_keeps_the_distribution(model):
    """Chi-square over the 32 texts of five tokens, each one of two, against the chances computed from the logits."""
    warm, prompt = Sampling(temperature=1.0, top_k=2, top_p=1.0, min_p=0.0), list(range(10, 30))
    chances, runs = {}, 2000
    with Context(model, 512, threads=1) as context:

        def spell(tokens, chance):
            if len(tokens) == 5:
                chances[tokens] = chance
                return
            context.read([*prompt, *tokens])
            logits = context.logits(-1)
            best = np.argsort(logits)[-2:]
            weights = np.exp(logits[best] - logits[best].max())
            for token, weight in zip(best, weights / weights.sum(), strict=True):
                spell((*tokens, int(token)), chance * weight)

        spell((), 1.0)
        guess, found, drafted, accepted = max(chances, key=chances.get), Counter(), 0, 0
        for seed in range(runs):
            written = tiny.write(context, prompt, 5, replace(warm, seed=seed), drafter=Parrot(guess))
            found[written.tokens] += 1
            drafted, accepted = drafted + written.counts.drafted, accepted + written.counts.accepted
    assert 0.1 < accepted / drafted < 0.9
    assert set(found) <= set(chances)
    statistic = sum((found[text] - runs * chance) ** 2 / (runs * chance) for text, chance in chances.items())
    assert statistic < 61.1  # 31 degrees of freedom, 0.1 %


def test_a_run_repeats_itself_batch_by_batch(model):
    """Answer lengths follow from the texts alone, never from the clock: so a command gives the same text again."""
    prompt, counts = list(range(10, 30)), []
    with Context(model, 512, threads=1) as context:
        source = tiny.write(context, prompt, 60).tokens
    for _ in range(3):
        with Context(model, 512, threads=1) as context:
            counts.append(tiny.write(context, prompt, 60, drafter=Drafter([*source[:30], 7, *source[30:]])).counts)
    assert counts[0].drafted > 0
    assert len({(one.drafted, one.accepted, one.written) for one in counts}) == 1


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


@pytest.mark.slow
def test_drafts_never_change_a_trained_pairs_texts():
    """200 prompts that a trained pair of models has not seen.

    Batched kernels may round differently from those of one token. Where two tokens are that close a text may part:
    then the gap of their logits, read anew, must be within rounding, and such texts must be few (13 of these rows
    where this was written; bench/README.md tells of others).
    """
    gaps, accepted = [], 0
    with open_engine(trained.POLICY, threads=1) as policy_engine, open_engine(trained.ALIGNER, threads=1) as engine:
        policy, plain, drafting = GgufPolicy(policy_engine), GgufAligner(engine, draft=False), GgufAligner(engine)
        for query, names in trained.prompts():
            draft, wanted = policy.answer(query), resolve(names)
            (expected,), (drafted,) = (aligner.edit(query, [(draft, wanted)]) for aligner in (plain, drafting))
            accepted += drafted.counts.accepted
            if drafted.tokens != expected.tokens:
                same = common_prefix(drafted.tokens, expected.tokens)
                prompt = encode(edit_prompt(plain.layout, query, draft.text, wanted, plain.template), engine.model)
                context = engine._context
                context.roll_back(0)
                context.read([*prompt, *expected.tokens[:same]])
                best = np.sort(context.logits(-1))[-2:]
                gaps.append(float(best[1] - best[0]))
    assert accepted > 2000
    assert len(gaps) <= 20
    assert all(gap < 0.1 for gap in gaps), gaps
