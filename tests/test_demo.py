"""The embedded pair, as it ships."""

import pytest

from mal_train.demo.oracles import satisfies
from metaaligner_lite import DEMO_ALIGNER, DEMO_POLICY, Aligner, GgufPolicy, GivenAnswer, align, open_engine
from metaaligner_lite.describe import describe

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
