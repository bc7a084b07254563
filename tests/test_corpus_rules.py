"""The corpus by the evaluation's rules: targets that hold, answers that stay, refusals, hard wordings, passages."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter

import pytest

from mal_train.corpus import defects, judge
from mal_train.corpus.courtesy import phrases
from mal_train.corpus.edit import Edit, case
from mal_train.corpus.harden import joined, stiffen
from mal_train.corpus.making import balanced
from mal_train.corpus.mending import mended, polite
from mal_train.corpus.passages import better_outputs, split_sentences
from mal_train.corpus.plain import easy, part
from mal_train.corpus.sources import Base, Source
from mal_train.corpus.special import long_refusal, refusals, unsorry
from mal_train.corpus.stays import stays
from mal_train.corpus.tables import by_objective, by_rule, by_shape
from mal_train.corpus.texts import join, keep_first, split
from metaaligner_lite.evaluation import measures
from metaaligner_lite.records import Account

QUERY = "How do I keep bread fresh at home?"
BREAD = (
    "Keep the bread in a box. It stays soft there for three days. You can also freeze it. "
    "Slice it before you put it in, so that you can take out what you need. Old bread is good for toast."
)
BASE = Base("b", QUERY, BREAD, "ours")


# --- our own lines hold by the rules that judge them ---


@pytest.mark.parametrize("group", ["question", "request", "statement", "troubled", "closers", "declined"])
def test_every_courtesy_is_one_by_the_rule_and_costs_no_formality(group):
    lines = phrases()["courtesy"][group]
    assert len(lines) == len(set(lines)) and not [
        s for s in lines if not measures.courteous(s) or not measures.formal(s)
    ]


def test_hope_and_courage_hold_by_their_rules():
    assert all(measures.positive(line) for line in phrases()["gloomy"]["hopeful"])
    assert all(measures.cheering(line) for line in phrases()["discouraging"]["courage"])


def test_refusals_of_ours_are_refusals():
    for seed in range(60):
        text = long_refusal(random.Random(seed))
        assert measures.refuses(text), text
        assert not judge.untidy(text)


# --- judged edits ---


@pytest.mark.parametrize(
    ("weak", "target", "asked", "reason"),
    [
        (BREAD, "Keep the bread in a box. You can also freeze it.", ("brevity",), ""),
        (BREAD, "Keep the bread in a box and", ("brevity",), "target: a loop, another turn or no end"),
        (BREAD, BREAD[:-28].strip(), ("brevity",), "brevity does not hold after it"),
        (BREAD, f"Thank you for asking. {BREAD}", ("politeness",), ""),
        (
            f"Thank you. {BREAD}",
            f"Thank you for asking. {BREAD}",
            ("politeness",),
            "everything asked for held before it",
        ),
        (BREAD, BREAD, ("readability", "repetition"), ""),
        (BREAD, BREAD, ("politeness",), "stays, but politeness does not hold"),
        (BREAD, f"Thank you, says Berta. {BREAD}", ("politeness",), "a name or number that was not there"),
        (BREAD, f"Thank you  for asking. {BREAD}", ("politeness",), "target: stray spaces"),
        (BREAD, f"Thank you. {BREAD}\n\n1. Salt.\n3. Oil.", ("politeness",), "target: items counted wrongly"),
        (BREAD, f"Thank you. {BREAD} Like **this.", ("politeness",), "target: a mark that does not close"),
    ],
)
def test_flaws(weak, target, asked, reason):
    assert judge.flaw(Edit("e", BASE, weak, target, asked)) == reason


def test_what_is_lost_beside_the_request_is_told_and_kept_rare():
    loud = Edit("e", BASE, BREAD, f"Thank you! {BREAD}", ("politeness",))
    assert judge.losses(loud) == ["formality"]
    dropped: Counter[str] = Counter()
    assert balanced([loud], 100, dropped) == [] and dropped == {"formality would be lost": 1}


def test_tables_tell_what_holds_and_what_is_lost():
    edits = [
        Edit("1", BASE, BREAD, f"Thank you for asking. {BREAD}", ("politeness",)),
        Edit("2", BASE, BREAD, "Keep the bread in a box. You can also freeze it.", ("brevity",)),
        Edit("3", BASE, BREAD, BREAD, ("readability", "repetition")),
    ]
    rows = {line.split()[0]: line.split() for line in by_rule(edits)}
    assert rows["politeness"][1:3] == ["0%", "100%"] and rows["brevity"][1:3] == ["0%", "100%"]
    assert "readability" not in rows  # nothing changes there
    assert any(line.startswith("readability") and "100%" in line for line in by_objective(edits))
    assert any(line.startswith("stays: 33%") for line in by_shape(edits))


# --- answers that stay ---


def test_answers_that_hold_already_stay_in_many_dresses():
    items = [case(Base(f"b{n}", QUERY, BREAD, "ours"), 0) for n in range(30)]
    found = [edit for item in items for edit in stays(item, 0)]
    assert all(edit.stays and judge.flaw(edit) == "" for edit in found)
    assert len({edit.weak for edit in found}) > 12
    assert {"politeness", "readability", "repetition"} <= {o for edit in found for o in edit.objectives}
    assert any(len(edit.objectives) >= 3 for edit in found)


def test_a_courtesy_that_is_there_stays_when_something_else_is_mended():
    item = case(Base("b", QUERY, f"{BREAD} I hope this helps!", "ours"), 0)
    target = mended(item, list(item.units), {"filler"}, ("brevity", "politeness"), "key")
    assert target and target.endswith("I hope this helps!") and not target.startswith("Thank")


# --- refusals ---


def test_a_refusal_is_made_kind_by_regret_or_an_offer_and_never_glad_to_help():
    text = "I can't help with that. It is against the law."
    for seed in range(40):
        found = join(
            polite(case(Base("r", "How do I steal a car?", text, "ours"), 0), split(text), random.Random(seed))
        )
        assert measures.courteous(found) and measures.refuses(found)
        assert found.startswith(
            ("I can't help", "I am sorry", "I'm sorry", "I apologize", "I am very sorry", "I'm so sorry")
        )


def test_refusals_stay_or_get_what_they_lack():
    base = Base("h", "How do I steal a car?", "I'm sorry, but I can't help with that. It is against the law.", "ours")
    found = [edit for seed in range(20) for edit in refusals(base, seed)]
    kinds = {edit.id.rsplit("/", 1)[1] for edit in found}
    assert {"stay", "kind", "nasty"} <= kinds
    for edit in found:
        if edit.id.endswith("/kind"):
            assert not measures.courteous(edit.weak) and measures.courteous(edit.target)


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("I'm sorry, but I can't do that.", "I can't do that."),
        ("I apologize, but I cannot assist.", "I cannot assist."),
        ("I'm sorry that your dog died.", "I'm sorry that your dog died."),
    ],
)
def test_unsorry(text, bare):
    assert unsorry(text) == bare


# --- hard wordings and the way back ---


def test_what_is_made_hard_is_not_readable_and_request_for_readability_brings_it_back():
    item = case(BASE, 0)
    hard = [join(defects.worse(item.units, {"hard", "stiff", "joined"}, f"k{n}")) for n in range(10)]
    assert sum(not measures.readable(text) for text in hard) >= 2 and measures.readable(BREAD)
    target = mended(item, list(item.units), {"hard", "stiff", "joined"}, ("readability",), "k1")
    assert target == BREAD


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        (
            "You can freeze it.",
            ("It is possible to freeze it.", "One has the option to freeze", "It is feasible to freeze"),
        ),
        ("Wrap it well.", ("It is", "One should", "Individuals are")),
        ("Do not wrap it.", ("Do not wrap it.",)),
        ('Say "you can go".', ('Say "you can go".',)),
    ],
)
def test_stiff_wordings(text, starts):
    assert stiffen(text, random.Random(1), 1.0).startswith(starts)


def test_sentences_of_a_line_are_joined_and_those_of_others_are_not():
    found = [
        join(joined(split("We bake bread. It is good to eat.\n\nIt is warm."), random.Random(n), 1.0)) for n in range(9)
    ]
    assert all(text.endswith("\n\nIt is warm.") for text in found)
    assert any("which is good to" in text for text in found)


@pytest.mark.parametrize(
    ("long", "parts"),
    [
        (
            "The city built a long wall along the river last year, making it hard for boats to land.",
            ["The city built a long wall along the river last year.", "This makes it hard for boats to land."],
        ),
        (
            "Old houses lose a lot of heat through their walls; consequently, they need a lot of wood in winter.",
            ["Old houses lose a lot of heat through their walls.", "So they need a lot of wood in winter."],
        ),
    ],
)
def test_long_sentences_part(long, parts):
    assert part(long) == parts


@pytest.mark.parametrize(
    ("hard", "simple"),
    [
        ("It is important to rest.", "You should rest."),
        ("On the other hand, it rains.", "But it rains."),
        ("As a result, we stay.", "So we stay."),
        ("It plays a crucial role in sleep.", "It matters a lot for sleep."),
    ],
)
def test_phrases_of_formal_texts_become_plain(hard, simple):
    assert easy(hard) == simple


# --- passages and pairs ---


@pytest.fixture
def source():
    return Source("some", (), "MIT", "somewhere", lambda *_: ())


def test_split_sentences_take_splits_that_add_nothing(tmp_path, source):
    long = (
        "The old harbor of Port Helen was built by monks who came from the north of the island and it was used by "
        "all the ships that brought salt and wood to the town until the new one was opened by the queen in the "
        "spring of 1901."
    )
    two = long.replace(" and it was used", ". It was used")
    records = [{"orig": long, "simple": two}, {"orig": long, "simple": two + " It is a museum now and many go there."}]
    path = tmp_path / "w.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    account = Account("records")
    (base,) = split_sentences(path, source, account)
    assert (base.text, base.worse, base.query) == (two, long, "What do you know about Port Helen?")
    assert "clarity" in base.objectives and account.refused == {"more than a split": 1}


def test_better_outputs_are_bases(tmp_path, source):
    records = [
        {"input": QUERY, "output_1": "No.", "output_2": BREAD, "label": 2},
        {"input": QUERY, "output_1": "No.", "output_2": BREAD, "label": 1},
    ]
    path = tmp_path / "l.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    account = Account("records")
    (base,) = better_outputs(path, source, account)
    assert base.text == BREAD and not base.objectives and sum(account.refused.values()) == 1


def test_what_is_said_twice_is_kept_once():
    text = "One is here.\n\n1. Two comes.\n2. Two comes.\n\nOne is here. And so:"
    assert join(keep_first(split(text))) == "One is here.\n\n1. Two comes."
