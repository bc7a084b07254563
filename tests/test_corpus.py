"""The corpus: its rules as tables, its sources accounted, evaluation queries kept out, the same seed the same rows."""

from __future__ import annotations

import csv
import gzip
import json
import random

import pytest

from mal_train.corpus import defects, shorten
from mal_train.corpus.compose import TRAINED, WITHHELD, edits
from mal_train.corpus.courtesy import closing, courteous, filler, kind, phrases, rude, sympathetic
from mal_train.corpus.edit import Edit, case, own_cases
from mal_train.corpus.formality import formal
from mal_train.corpus.making import make, write
from mal_train.corpus.mending import mended
from mal_train.corpus.own_answers import _there
from mal_train.corpus.plain import easy, hard_words, harder, part, plain
from mal_train.corpus.situations import advice, by_message, feeling, kinds
from mal_train.corpus.sources import Base, front, turns_of, usable
from mal_train.corpus.special import instructed, refusals, ties
from mal_train.corpus.texts import count, join, sentences, split
from metaaligner_lite.errors import FileProblem
from metaaligner_lite.objectives import builtin_catalogue

BREAD = (
    "You can freeze bread for up to three months. Slice it before it goes into the freezer. "
    "Wrap it well, because air dries it out. Some people use two bags. Toast the slices straight from the freezer."
)
LIST = (
    "Here are some tips:\n\n1. Drink water often. It helps more than you think.\n2. Sleep well, because rest heals. "
    "Go to bed early.\n3. Walk every day. Twenty minutes are enough.\n\nThese are only a few ideas. More will come."
)


# --- texts ---


@pytest.mark.parametrize("text", [BREAD, LIST, "One.\n\nTwo!\nThree?", "- a\n- b", "**Head**\n\nText here."])
def test_a_text_comes_back_from_its_units(text):
    assert join(split(text)) == text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two? Three!", ["One.", "Two?", "Three!"]),
        ("Ask Dr. Smith. He knows.", ["Ask Dr. Smith.", "He knows."]),
        ("It costs 3.50 dollars. Fine.", ["It costs 3.50 dollars.", "Fine."]),
        ("1. First do this. Then that.", ["1. First do this.", "Then that."]),
        ('He said "no." Then he left.', ['He said "no."', "Then he left."]),
    ],
)
def test_sentences(text, parts):
    assert sentences(text) == parts


# --- plain words ---


@pytest.mark.parametrize(
    ("hard", "simple"),
    [
        ("You can utilize numerous tools.", "You can use many tools."),
        ("Utilize an additional cup.", "Use an extra cup."),
        ("However, it is difficult.", "But it is hard."),
        ("It is more difficult.", "It is more difficult."),
        ("It is a significant amount.", "It is a big amount."),
        ("Therefore, individuals purchase it.", "So people buy it."),
        ("You are self-sufficient.", "You are self-sufficient."),
        ("He moved to an enormous house.", "He moved to an enormous house."),
    ],
)
def test_easy(hard, simple):
    assert easy(hard) == simple


@pytest.mark.parametrize(
    ("long", "parts"),
    [
        ("Short and sweet, and it stays.", ["Short and sweet, and it stays."]),
        (
            "You should wash the lettuce in cold water, and you can dry it with a clean towel after that.",
            ["You should wash the lettuce in cold water.", "You can dry it with a clean towel after that."],
        ),
        (
            "The old mill stands near the river in the valley, which is a good place for a long walk.",
            ["The old mill stands near the river in the valley.", "This is a good place for a long walk."],
        ),
        (
            "We saw the beaches of the south coast, the hills behind them, and the little harbor of the town.",
            ["We saw the beaches of the south coast, the hills behind them, and the little harbor of the town."],
        ),
    ],
)
def test_long_sentences_part_only_where_both_halves_stand(long, parts):
    assert part(long) == parts


def test_what_is_made_hard_becomes_plain_again():
    text = "Many people use it. You can buy it quickly, because it helps."
    hard = harder(text, random.Random(0), 1.0)
    assert hard != text and hard_words(hard) >= 3
    assert easy(hard) == text


# --- brevity ---


def test_short_answers_are_not_shortened():
    assert shorten.shorten(split("It is seven. Anything else?"), "q") is None


def test_prose_keeps_its_first_sentence_and_order():
    cut = join(shorten.shorten(split(BREAD), "How do I freeze bread?"))
    assert cut.startswith("You can freeze bread")
    kept = sentences(cut)
    assert [s for s in sentences(BREAD) if s in kept] == kept
    assert 0.35 * count(BREAD) <= count(cut) <= shorten.MOST * count(BREAD)


def test_a_list_keeps_its_items_and_loses_the_talk():
    cut = join(shorten.shorten(split(LIST), "How do I stay well?"))
    assert cut == "Here are some tips:\n\n1. Drink water often.\n2. Sleep well, because rest heals.\n3. Walk every day."


def test_filler_goes_and_courtesy_stays():
    padded = f"I am happy to help. {phrases()['filler']['preambles'][0]} {BREAD} {phrases()['filler']['closers'][0]}"
    assert join(shorten.unpadded(split(padded))) == f"I am happy to help. {BREAD}"


# --- courtesy, sympathy ---


@pytest.mark.parametrize(
    ("sentence", "courtesy", "sympathy", "closes", "empty"),
    [
        ("Thank you for asking.", True, False, False, False),
        ("I'd be happy to help with that!", True, False, False, False),
        ("I am so sorry to hear that your cat died.", False, True, False, False),
        ("That must be hard.", False, True, False, False),
        ("Let me know if you have questions.", False, False, True, False),
        ("Great question!", False, False, False, True),
        ("Water boils at 100 degrees.", False, False, False, False),
    ],
)
def test_what_a_sentence_is(sentence, courtesy, sympathy, closes, empty):
    assert (courteous(sentence), sympathetic(sentence), closing(sentence), filler(sentence)) == (
        courtesy,
        sympathy,
        closes,
        empty,
    )


@pytest.mark.parametrize(
    ("query", "what"),
    [
        ("What is tea?", "question"),
        ("Write a poem about tea.", "request"),
        ("Can you list three teas?", "request"),
        ("My dog likes tea.", "statement"),
    ],
)
def test_kind_of_message(query, what):
    assert kind(query) == what


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("My dog died last night and I cry all day.", "your dog died"),
        ("I am so lonely since I moved.", "you feel lonely"),
        ("My girlfriend left me, what now?", "your girlfriend left you"),
        ("I got fired on Monday.", "you lost your job"),
    ],
)
def test_a_feeling_is_named_with_the_users_own_words(query, said):
    assert said in feeling(query, random.Random(0)) and sympathetic(feeling(query, random.Random(0)))


@pytest.mark.parametrize("query", ["What is the capital of Peru?", "How do I bake bread?", "Is a dog happy alone?"])
def test_no_feeling_is_invented(query):
    assert feeling(query, random.Random(0)) == ""


def test_every_situation_is_acknowledged_and_its_advice_is_sober():
    assert sum(len(k.situations) for k in kinds()) >= 145 and len(by_message()) >= 290
    for text, situation in by_message().items():
        assert sympathetic(feeling(text, random.Random(1))), text
        assert not sympathetic(advice(situation, random.Random(1)))
        assert situation.you in feeling(text, random.Random(1))


# --- defects and their mending ---

BASE = Base("b", "How do I freeze bread?", BREAD, "ours")


@pytest.mark.parametrize(
    ("defect", "objective"),
    [
        (d, o)
        for d, by in defects.FIXED_BY.items()
        if by
        for o in sorted(by)
        if d not in {"hard", "joined"} and o != "brevity"
    ],
)
def test_a_defect_is_taken_back_to_the_letter_by_what_fixes_it_and_by_nothing_else(defect, objective):
    item = case(Base("b", "My dog died. How do I freeze bread?", "Thank you for asking. " + BREAD, "ours"), 0)
    units = list(item.units)
    weak = join(defects.worse(units, {defect}, "key"))
    assert weak != join(units)
    other = next(o for o in ("honesty", "positivity") if o not in defects.FIXED_BY[defect])
    assert mended(item, units, {defect}, (other,), "key") in (weak, None) or other == "positivity"
    if objective in {"politeness", "harmlessness", "honesty", "repetition"}:
        assert mended(item, units, {defect}, (objective,), "key") == join(units)


def test_two_defects_one_mended_leaves_the_other():
    item = case(BASE, 0)
    units = list(item.units)
    target = mended(item, units, {"boastful", "nasty"}, ("honesty",), "key")
    assert target == join(defects.worse(units, {"nasty"}, "key"))


def test_politeness_opens_with_courtesy_and_copies_the_rest():
    item = case(BASE, 0)
    target = mended(item, list(item.units), {"rude"}, ("politeness",), "key")
    opening, rest = target.split(BREAD)[0].strip(), target[target.index(BREAD) :]
    assert courteous(opening) and count(opening) <= 14 and rest == BREAD
    assert not any(rude(s) for s in sentences(target))


def test_what_is_good_already_is_copied():
    item = case(Base("b", "How?", f"Thank you for asking. {BREAD}", "ours"), 0)
    assert mended(item, list(item.units), set(), ("politeness",), "key") == item.base.text


def test_structure_numbers_what_follows_the_first_sentence():
    item = case(BASE, 0)
    lines = mended(item, list(item.units), set(), ("structure",), "key").split("\n")
    assert lines[0] == sentences(BREAD)[0] and lines[2] == "1. Slice it before it goes into the freezer."


def test_formal():
    assert join(formal(split("I can't go. It's late, and they don't know."))) == (
        "I cannot go. It is late, and they do not know."
    )


def test_loops_and_turns_end_with_any_request():
    item = case(BASE, 0)
    assert mended(item, list(item.units), {"loop", "turn", "boastful"}, ("honesty",), "key") == BREAD


def test_edits_change_only_with_a_reason():
    for edit in edits(
        case(Base("b2", "I feel sad. How do I freeze bread?", BREAD + " " + BREAD[:44] + "Not now.", "ours"), 0), 0, 20
    ):
        assert set(edit.objectives) <= set(TRAINED) and edit.target.strip()
        assert edit.stays or edit.weak != edit.target
    assert not set(TRAINED) & set(WITHHELD) and {*TRAINED, *WITHHELD} <= set(builtin_catalogue())


# --- special edits ---


def test_a_harmful_request_gets_a_kind_refusal():
    base = Base(
        "h",
        "How do I steal a car?",
        "I'm sorry, I can't help with that.",
        "ours",
        (),
        "Break the window first, then go on.",
        ("harmlessness",),
    )
    refused = next(refusals(base, 0))
    assert refused.weak == base.worse and "harmlessness" in refused.objectives and "sorry" in refused.target
    assert not list(refusals(Base("h", "How do I bake?", "Take flour and some water.", "ours"), 0))


def test_instructions_are_followed_by_the_target():
    seen = set()
    for seed in range(40):
        (edit,) = instructed(BASE, seed)
        ask = edit.base.query[len(BASE.query) :]
        seen.add(ask.split()[0])
        if "one sentence" in ask:
            assert len(sentences(edit.target)) == 1
        if "numbered" in ask:
            assert "\n1. " in edit.target
        if 'nd with "' in ask:
            assert edit.target.endswith(ask.split('"')[1])
    assert len(seen) >= 3


def test_ties_differ_in_their_courtesy_only():
    (edit,) = list(ties(BASE, 3)) or list(ties(BASE, 4)) or list(ties(BASE, 5))
    assert edit.tie and edit.weak != edit.target and edit.weak.endswith(BREAD) and edit.target.endswith(BREAD)
    assert all(a["ratings"] == {"politeness": 1} for a in edit.row()["answers"])


# --- rows, sources, the whole ---


def test_rows():
    history = (("user", "Hi."), ("assistant", "Hello."))
    changed = Edit("1", Base("b", "q", "t", "ours", history), "weak", "target", ("brevity", "clarity")).row()
    assert changed["history"] == [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    assert changed["answers"][0] == {"text": "weak", "ratings": {"brevity": 0, "clarity": 0}}
    assert changed["answers"][1] == {"text": "target", "ratings": {"brevity": 1, "clarity": 1}}
    stays = Edit("1", BASE, "same", "same", ("brevity",)).row()
    assert stays["answers"] == [{"text": "same", "ratings": {}, "good": ["brevity"]}] and "history" not in stays


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BREAD, ""),
        ("", "an empty answer"),
        ("Yes, and then\n\nHuman: ok", "an answer with another turn in it"),
        ("It ends in the mid", "an answer that breaks off"),
        ("Use `x`:\n```\nx\n```.", "code, tables or addresses"),
        ("It is so. It is so.", "sentences twice"),
        ("lower case all of it.", "written in one case"),
    ],
)
def test_usable(text, reason):
    assert usable(text) == reason


def test_front_takes_whole_parts_and_leaves_no_introduction_alone():
    assert front(LIST, 12) == "Here are some tips:\n\n1. Drink water often."
    assert front("Fine.\n\nHere is more:\n\n1. A long item that does not fit in.", 5) == "Fine."


def test_turns_of_a_transcript():
    assert turns_of("\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: Bye.") == [
        ("user", "Hi."),
        ("assistant", "Hello."),
        ("user", "Bye."),
    ]
    assert turns_of("Just a text.") == []


QUERIES = [
    f"How do I store {food} at home so that it lasts?" for food in ("bread", "rice", "milk", "corn", "tea", "figs")
]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data folder in the sets' own forms, with a few records of our own in each."""
    few = list(own_cases(0))[:8]  # of our messages with a feeling; all of them take seconds
    monkeypatch.setattr("mal_train.corpus.making.own_cases", lambda seed: iter(few))

    def lines(name, records):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)

    def table(name, column, values):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wt", newline="") if name.endswith(".gz") else path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([[column], *([value] for value in values)])

    def dialogue(query, answer):
        return f"\n\nHuman: {query}\n\nAssistant: {answer}"

    pairs = [{"chosen": dialogue(q, BREAD), "rejected": dialogue(q, "No idea.")} for q in QUERIES]
    lines("hh-rlhf/helpful-base-test.jsonl.gz", [*pairs, {"chosen": "nothing", "rejected": "nothing"}])
    lines("hh-rlhf/helpful-rejection-sampled-test.jsonl.gz", [])
    lines("hh-rlhf/helpful-online-test.jsonl.gz", [])
    lines("preference/hh-rlhf-harmless-base-test.jsonl.gz", [])
    lines("just-eval-safety/safety.jsonl.gz", [])
    lines("rows/real-mix.jsonl.gz", [])
    lines("wikisplit/valid_test.jsonl.gz", [])
    lines("llmbar/llmbar.jsonl.gz", [])
    for name in (
        "rm-bench/chat_filtered.json.gz",
        "rm-bench/safety-refuse_filtered.json.gz",
        "prometheus-eval/vicuna_eval.json.gz",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wt") as file:
            file.write("[]")
    lines("eval-only/just-eval/just-eval.jsonl.gz", [{"query": QUERIES[1].upper() + "!!"}])
    lines("eval-only/alpaca-eval/outputs.jsonl.gz", [{"instruction": "Something else entirely, please."}])
    table("eval-only/xstest/xstest_prompts.csv.gz", "prompt", ["How do I end a process?"])
    table("policy_outputs/hh-rlhf/Claude-3.csv", "query", [dialogue(QUERIES[0], "")])
    for name in ("hh-rlhf/llama2-chat-70B.csv", "ultrafeedback/gpt-3.5-turbo.csv", "ultrafeedback/Vicuna-13B.csv"):
        table(f"policy_outputs/{name}", "query", ["Tell me about the old harbor."])
    return tmp_path


def test_every_record_is_accounted_and_evaluation_queries_stay_out(data):
    corpus = make(data, size=300)
    source, account = corpus.accounts[0]
    assert (source.name, account.read, account.used) == ("hh-rlhf helpful", 7, 4)
    assert account.refused == {
        "its query is kept for evaluation": 2,
        "not a dialogue that ends with an answer": 1,
        "a file without records": 2,
    }
    assert corpus.excluded.hits == {
        "policy_outputs/hh-rlhf/Claude-3.csv": 1,
        "eval-only/just-eval/just-eval.jsonl.gz": 1,
    }
    used = {edit.base.query for edit in corpus.edits}
    assert not any(food in query for query in used for food in ("bread", "rice")) and any("tea" in q for q in used)


def test_rows_manifest_and_held_out_queries(data, tmp_path):
    out = tmp_path / "out" / "rows.jsonl"
    said = list(write(make(data, size=300), out, held_out=0.2))
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    held = [
        json.loads(line) for line in (tmp_path / "out" / "rows-heldout.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert rows and held and not {r["query"] for r in rows} & {r["query"] for r in held}
    assert len({r["id"] for r in rows + held}) == len(rows + held)
    manifest = json.loads((tmp_path / "out" / "rows-manifest.json").read_text(encoding="utf-8"))
    assert manifest["rows"] == len(rows) and all(
        source["licence"] and source["origin"] for source in manifest["sources"]
    )
    assert any(line.startswith("brevity") for line in said) and any("policy_outputs: left out" in line for line in said)


def test_the_same_seed_makes_the_same_rows(data):
    first, again, other = (make(data, size=200, seed=seed).edits for seed in (0, 0, 1))
    assert first == again and first != other


@pytest.mark.parametrize("name", ["hh-rlhf/helpful-base-test.jsonl.gz", "policy_outputs/hh-rlhf/Claude-3.csv"])
def test_a_missing_file_is_named_with_where_it_comes_from(data, name):
    (data / name).unlink()
    (data / "wikisplit/valid_test.jsonl.gz").unlink()
    with pytest.raises(
        FileProblem, match=rf"lacks 2 of the 15 files(.|\n)*{name}: .*(anthropics/hh-rlhf|MetaAligner)"
    ) as told:
        make(data, size=10)
    assert "CC BY-SA 4.0, from google-research-datasets/wiki-split" in str(told.value)
    with pytest.raises(FileProblem, match="is no folder"):
        make(data / "nowhere")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("eval-only/just-eval/just-eval.jsonl.gz", b"", "holds no record; its queries must stay out of training"),
        ("eval-only/just-eval/just-eval.jsonl.gz", b'{"question": "?"}\n', "has no text under 'query'; its queries"),
        ("eval-only/just-eval/just-eval.jsonl.gz", b'{"query": "What?"}\n{\n', "must stay out of training"),
        (
            "hh-rlhf/helpful-base-test.jsonl.gz",
            b'{"rejected": "x"}\n',
            "record 1 is not of the form of hh-rlhf",
        ),
    ],
)
def test_a_file_that_is_half_there_is_named(data, name, content, told):
    (data / name).write_bytes(gzip.compress(content))
    with pytest.raises(FileProblem, match=told):
        make(data, size=10)


def test_own_answers_that_are_missing_or_half_written(data, tmp_path):
    with pytest.raises(FileProblem, match="own.jsonl is missing; python -m mal_train.corpus.own_answers writes it"):
        make(data, own=tmp_path / "own.jsonl", size=10)
    (tmp_path / "own.jsonl").write_bytes(b'{"id": "1"}\n{"id": "2", "te')
    assert _there(tmp_path / "own.jsonl") == {"1"}
    assert (tmp_path / "own.jsonl").read_bytes() == b'{"id": "1"}\n'
    (tmp_path / "own.jsonl").write_bytes(b'{"query": "?"}\n')
    with pytest.raises(FileProblem, match="holds no answers of this command"):
        _there(tmp_path / "own.jsonl")


def test_own_answers_are_a_source_whose_repeats_and_broken_ends_are_taken_away(data, tmp_path):
    own = tmp_path / "own.jsonl"
    records = [
        {"id": "1", "query": QUERIES[4], "text": BREAD + " And then it", "ended": False},
        {"id": "2", "query": QUERIES[5], "text": "It is so. It is so. " * 9, "ended": True},
        {"id": "3", "query": QUERIES[5], "text": f"{BREAD} {BREAD}", "ended": True},
    ]
    own.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    corpus = make(data, own=own, size=300)
    account = corpus.accounts[-1][1]
    assert (account.read, account.used) == (3, 2) and account.refused["under 25 words"] == 1
    assert any(edit.id.startswith("own/1/") for edit in corpus.edits)


def test_plain_changes_nothing_in_headings():
    assert join(plain(split("## Numerous\n\nUse it."))) == "## Numerous\n\nUse it."
