"""A trained pair in two files, and policy and adapter on one model: what random weights cannot show."""

import pytest
from trained import ADAPTER, ALIGNER, POLICY

from metaaligner_lite import GgufAligner, GgufPolicy, GivenAnswer, align, open_engine
from metaaligner_lite.describe import describe

PARCEL = "My parcel is a week late and nobody answers my emails."


@pytest.fixture(scope="module")
def pair():
    with open_engine(POLICY) as policy, open_engine(ALIGNER) as aligner:
        yield GgufPolicy(policy), GgufAligner(aligner)


def test_what_our_own_commands_made_says_what_it_is():
    facts = {path.stem: describe(path, 1024) for path in (POLICY, ALIGNER, ADAPTER)}
    assert [facts[name]["quantization"] for name in ("policy", "aligner")] == ["Q4_K_M", "Q6_K"]
    for name, kind in (("aligner", "merged"), ("adapter", "activated")):
        manifest = facts[name]["manifest"]
        assert (manifest["role"], manifest["kind"], manifest["layout"]) == ("aligner", kind, "conversation")
        assert "empathy" in manifest["objectives"]
        assert manifest["data"] and manifest["recipe"] and manifest["conversion"]


def test_policy_and_adapter_share_what_was_read():
    with open_engine(POLICY, adapter=ADAPTER) as engine:
        shared = align(PARCEL, "empathy", policy=GgufPolicy(engine), aligner=GgufAligner(engine))
    assert shared.edit.finish == shared.answer.generation.finish == "end"
    assert shared.text != shared.answer.text
    assert shared.edit.counts.read < 70  # the request alone
    with open_engine(POLICY) as alone:
        assert GgufPolicy(alone).answer(PARCEL).text == shared.answer.text


def test_another_objective_another_edit(pair):
    policy, aligner = pair
    edits = {o: align(PARCEL, o, policy=policy, aligner=aligner).text for o in ("empathy", "brevity", "politeness")}
    assert len(set(edits.values())) == 3


def test_drafting_never_changes_the_text(pair):
    policy, aligner = pair
    plain = GgufAligner(aligner.engine, draft=False)
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
