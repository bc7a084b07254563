"""The embedded pair, as it ships."""

import random

import pytest

from mal_train.demo.generate import make_heldout
from mal_train.demo.oracles import facts, satisfies
from metaaligner_lite import DEMO_ALIGNER, DEMO_POLICY, Aligner, GgufPolicy, GivenAnswer, align, open_engine
from metaaligner_lite.describe import describe

#: A floor under the shipped pair, whose weak side this is: it keeps 45 % here, where the words are made harder than
#: those of its model card. The pipeline has learned to copy since (bench/LOG.md); its pair has to raise this to 0.9.
FACTS_KEPT = 0.35
PARCEL = "My parcel is a week late and nobody answers my emails."


@pytest.fixture(scope="module")
def pair():
    with open_engine(DEMO_POLICY) as policy, open_engine(DEMO_ALIGNER) as aligner:
        yield GgufPolicy(policy), Aligner(aligner)


def test_size_and_manifest():
    assert DEMO_POLICY.stat().st_size + DEMO_ALIGNER.stat().st_size <= 12_000_000
    facts_of = {path.stem: describe(path, 1024) for path in (DEMO_POLICY, DEMO_ALIGNER)}
    assert all(f["quantization"] == "Q4_K_M" for f in facts_of.values())
    manifest = facts_of["aligner"]["manifest"]
    assert (manifest["role"], manifest["layout"]) == ("aligner", "conversation")
    assert {"empathy", "clarity", "brevity", "politeness", "specificity"} <= set(manifest["objectives"])
    assert manifest["data"] and manifest["recipe"] and manifest["conversion"]


def test_the_readme_example_is_plainly_better(pair):
    policy, aligner = pair
    correction = align(PARCEL, "empathy,clarity", policy=policy, aligner=aligner)
    assert correction.edit.finish == correction.draft.generation.finish == "end"
    for objective in ("empathy", "clarity"):
        assert not satisfies(objective, PARCEL, correction.draft.text)
        assert satisfies(objective, PARCEL, correction.text)


def test_the_facts_of_a_held_out_answer_survive(pair):
    _, aligner = pair
    rng, kept, satisfied = random.Random(99), [], []
    while len(kept) < 60:
        row = make_heldout(rng)
        if found := facts(row["weak"]):
            text = align(row["query"], row["objectives"], policy=GivenAnswer(row["weak"]), aligner=aligner).text
            kept += [fact in text for fact in found]
            satisfied += [satisfies(name, row["query"], text) for name in row["objectives"]]
    assert sum(kept) / len(kept) >= FACTS_KEPT
    assert sum(satisfied) / len(satisfied) >= 0.85


def test_another_objective_another_edit(pair):
    policy, aligner = pair
    edits = {o: align(PARCEL, o, policy=policy, aligner=aligner).text for o in ("empathy", "brevity", "politeness")}
    assert len(set(edits.values())) == 3


def test_drafting_never_changes_the_embedded_aligners_text(pair):
    policy, aligner = pair
    plain = Aligner(aligner.engine, draft=False)
    queries = [PARCEL, "My order A-48213 arrived broken.", "I cannot sleep before my exam on Friday."]
    accepted = 0
    for query in queries:
        for objectives in ("empathy", "clarity,politeness", "brevity"):
            answer = policy.answer(query).text
            expected = align(query, objectives, policy=GivenAnswer(answer), aligner=plain)
            drafted = align(query, objectives, policy=GivenAnswer(answer), aligner=aligner)
            assert drafted.text == expected.text
            accepted += drafted.edit.counts.accepted
    assert accepted > 100
