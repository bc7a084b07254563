"""The gate: likelihoods as the model gives them, and what is kept by them."""

import math

import numpy as np
import pytest

from metaaligner_lite import GgufAligner, GivenAnswer, align, open_engine
from metaaligner_lite.best import best_of
from metaaligner_lite.errors import FileProblem
from metaaligner_lite.gate import Gate
from metaaligner_lite.llama.context import Context
from metaaligner_lite.llama.model import open_model
from metaaligner_lite.llama.score import mean_log_likelihood
from metaaligner_lite.manifest import Manifest
from metaaligner_lite.objectives import resolve
from metaaligner_lite.output import notes, record


def test_the_likelihood_is_the_softmax_token_by_token(tiny_path):
    prompt, text = list(range(10, 40)), [40 + n % 50 for n in range(150)]  # more than a batch of logits
    with open_model(tiny_path, repack=False) as model, Context(model, 512, threads=1, kv="f32") as context:
        found = mean_log_likelihood(context, prompt, text, 10**9)
        assert context.sequences[0].tokens == prompt
        total = 0.0
        for n, token in enumerate(text):
            context.read([*prompt, *text[:n]])
            logits = context.logits(-1).astype(np.float64)
            total += logits[token] - logits.max() - math.log(np.exp(logits - logits.max()).sum())
        assert found == pytest.approx(total / len(text), rel=1e-4)


class Chooses(GgufAligner):
    """An aligner that holds its edit so much likelier than the answer."""

    gain = 0.0

    def likelihoods(self, query, answer, objectives, texts, history=()):
        real = super().likelihoods(query, answer, objectives, texts, history)
        assert all(value < 0 for value in real)
        return [self.gain - 1.0, -1.0]


@pytest.mark.parametrize(("gain", "taken"), [(0.5, True), (-0.5, False), (0.0, False)])
def test_the_answer_stays_where_the_edit_is_not_preferred(tiny_path, gain, taken):
    with open_engine(tiny_path, threads=1) as engine:
        aligner = Chooses(engine, layout="conversation", max_tokens=8)
        aligner.gain = gain
        correction = align("Hi?", "empathy", policy=GivenAnswer("Yes."), aligner=aligner, gate=Gate())
        without = align("Hi?", "empathy", policy=GivenAnswer("Yes."), aligner=aligner)
    assert correction.aligned is taken
    assert correction.text == (without.text if taken else "Yes.")
    assert correction.preference == pytest.approx(gain)
    assert without.preference is None
    assert record(correction)["preference"] == pytest.approx(gain)
    assert bool([note for note in notes(correction) if "the answer stays" in note]) is not taken


@pytest.mark.parametrize(("gain", "taken"), [(0.5, True), (-0.2, True), (-0.3, False)])
def test_an_aligner_may_name_margins_of_its_own(tiny_path, gain, taken):
    with open_engine(tiny_path, threads=1) as engine:
        aligner = Chooses(engine, layout="conversation", max_tokens=8)
        aligner.gain, aligner.manifest = gain, Manifest(base="x", gates={"brevity": -0.25})
        found = [
            align("Hi?", name, policy=GivenAnswer("Yes."), aligner=aligner, gate=Gate()).aligned
            for name in ("brevity", "brevity,empathy", "clarity")
        ]
        assert [best_of(aligner, 2).margin(resolve(name)) for name in ("brevity", "clarity")] == [-0.25, 0.0]
    assert found == [taken, taken, gain > 0]


@pytest.mark.parametrize("margin", ["true", '"-1"', "1e9", "NaN", "[0]"])
def test_a_manifest_names_margins_in_numbers(margin):
    with pytest.raises(FileProblem, match="test: manifest key 'gates' gives 'brevity' .*nats per token"):
        Manifest.from_json(f'{{"gates": {{"brevity": {margin}}}}}', "test")
    manifest = Manifest.from_json('{"gates": {"brevity": -0.25, "clarity": 0.1}}', "test")
    assert [manifest.margin(names) for names in (["brevity", "clarity"], ["clarity"], ["empathy"])] == [-0.25, 0.1, 0]


def test_a_margin_asks_for_more():
    assert Gate(0.2).takes(-0.1, -0.4)
    assert not Gate(0.2).takes(-0.3, -0.4)
