"""The embedded pair, as it ships."""

import random
from pathlib import Path

import pytest

from mal_train.demo.generate import make_heldout
from mal_train.demo.oracles import facts, keeps, satisfies
from mal_train.demo.writing import OBJECTIVES
from metaaligner_lite import (
    DEMO_ADAPTER,
    DEMO_ALIGNER,
    DEMO_POLICY,
    GgufAligner,
    GgufPolicy,
    GivenAnswer,
    align,
    open_engine,
)
from metaaligner_lite.describe import describe

#: Floors on a few rows: facts kept and objectives satisfied, by the aligner and by the adapter over the policy.
ALIGNER, ADAPTER = (0.9, 0.85), (0.85, 0.75)
PARCEL = "My parcel is a week late and nobody answers my emails."
EXAMPLE = "clarity,honesty,brevity"
README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def pair():
    with open_engine(DEMO_POLICY) as policy, open_engine(DEMO_ALIGNER) as aligner:
        yield GgufPolicy(policy), GgufAligner(aligner)


def test_size_and_manifest():
    files = (DEMO_POLICY, DEMO_ALIGNER, DEMO_ADAPTER)
    assert sum(path.stat().st_size for path in files) <= 16_000_000
    assert DEMO_POLICY.stat().st_size + DEMO_ALIGNER.stat().st_size <= 12_000_000
    facts_of = {path.stem: describe(path, 1024) for path in files}
    assert [facts_of[name]["quantization"] for name in ("policy", "aligner")] == ["Q4_K_M", "Q6_K"]
    for name, kind in (("aligner", "merged"), ("adapter", "activated")):
        manifest = facts_of[name]["manifest"]
        assert (manifest["role"], manifest["kind"], manifest["layout"]) == ("aligner", kind, "conversation")
        assert set(manifest["objectives"]) == set(OBJECTIVES)
        assert manifest["data"] and manifest["recipe"] and manifest["conversion"]


def test_the_readme_example_is_plainly_better(pair):
    policy, aligner = pair
    correction = align(PARCEL, EXAMPLE, policy=policy, aligner=aligner)
    assert correction.edit.finish == correction.answer.generation.finish == "end"
    for objective in EXAMPLE.split(","):
        assert not satisfies(objective, PARCEL, correction.answer.text)
        assert satisfies(objective, PARCEL, correction.text)
    shown = " ".join(README.read_text(encoding="utf-8").split())
    assert f'"{PARCEL}" --objectives "{EXAMPLE}"' in shown


def test_the_message_itself_can_be_retold(pair):
    policy, aligner = pair
    correction = align(PARCEL, "empathy,clarity", policy=policy, aligner=aligner)
    assert "your parcel is a week late and nobody answers your emails" in correction.text
    assert all(satisfies(objective, PARCEL, correction.text) for objective in ("empathy", "clarity"))


def held_out(aligner, count):
    """Shares of facts kept and of objectives satisfied in held-out answers with so many facts in all."""
    rng, kept, satisfied = random.Random(99), [], []
    while len(kept) < count:
        row = make_heldout(rng)
        if found := facts(row["weak"]):
            text = align(row["query"], row["objectives"], policy=GivenAnswer(row["weak"]), aligner=aligner).text
            kept += [keeps(text, fact) for fact in found]
            satisfied += [satisfies(name, row["query"], text) for name in row["objectives"]]
    return sum(kept) / len(kept), sum(satisfied) / len(satisfied)


def test_the_facts_of_held_out_answers_survive(pair):
    kept, satisfied = held_out(pair[1], 60)
    assert kept >= ALIGNER[0]
    assert satisfied >= ALIGNER[1]


def test_policy_and_adapter_on_one_model_do_the_same():
    with open_engine(DEMO_POLICY, adapter=DEMO_ADAPTER) as engine:
        aligner = GgufAligner(engine)
        kept, satisfied = held_out(aligner, 60)
        assert kept >= ADAPTER[0]
        assert satisfied >= ADAPTER[1]
        shared = align(PARCEL, "empathy", policy=GgufPolicy(engine), aligner=aligner)
        assert shared.edit.counts.read < 70  # the request alone
    with open_engine(DEMO_POLICY) as alone:
        assert GgufPolicy(alone).answer(PARCEL).text == shared.answer.text


def test_another_objective_another_edit(pair):
    policy, aligner = pair
    edits = {o: align(PARCEL, o, policy=policy, aligner=aligner).text for o in ("empathy", "brevity", "politeness")}
    assert len(set(edits.values())) == 3


def test_drafting_never_changes_the_embedded_aligners_text(pair):
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
