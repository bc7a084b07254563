"""The demo data: what the writer promises, the oracles confirm."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mal_train.demo import asking, chats, drills, free, generate, oracles, phrases, scenarios, slots, tokens
from mal_train.demo.muon import orthogonalise
from mal_train.demo.oracles import VAGUE, facts, satisfies, sentences
from mal_train.demo.vague import with_vague
from mal_train.demo.writing import (
    EXTRA_OBJECTIVES,
    MAX_WORDS,
    MIN_WORDS,
    OBJECTIVES,
    SHORTEST,
    Plan,
    can_choose,
    make_bare,
    make_plan,
    render,
    write,
)

ALL = OBJECTIVES + EXTRA_OBJECTIVES
EITHER = re.compile(r"\[([^|\]]*)\|([^\]]*)\]")


def plans(count: int, seed: int = 0, withheld: bool = False) -> list[Plan]:
    rng = random.Random(seed)
    return [make_plan(rng, scenarios.make_case(rng, withheld), withheld) for _ in range(count)]


@pytest.mark.parametrize(
    ("named", "vague"),
    [
        ("look for [a message from {app}] in your spam folder", "a message from the service"),
        ("tell the seller [that your {parcel} is {dur} late]", "that the thing is some time late"),
        ("report [the missing {bag}] at the desk", "the thing"),
        ("ask to be put on [Doctor {name}'s waiting list]", "the person's waiting list"),
        ("write to [your landlord {name}] by letter", "the person"),
        ("quote [order number {order}] in your message", "some number"),
        ("ask the depot [in {city} to release your {parcel}]", "somewhere to release the thing"),
        ("take a photo of [the {room}] for the landlord", "the thing"),
        ("turn off the water [in the {room}] for a while", "somewhere"),
        ("ask again [on {day}]", "at some point"),
        ("call your family [every {day}]", "at some point"),
        ("say openly [that {day} is too early]", "that some day is too early"),
        ("leave the bed [if it is {night}] and read", "if it is some hour"),
        ("plan one topic for each of [the {days}]", "some days"),
        ("split [the {n} chapters] into parts", "some chapters"),
        ("mix running and walking over [{km} kilometres]", "some kilometres"),
        ("play [bar {n}|some bar] very slowly", "some bar"),
        ("read about [the work of {a job}]", "the work of something"),
    ],
)
def test_what_is_vague_follows_from_what_is_named(named: str, vague: str) -> None:
    assert [found for _, found in EITHER.findall(with_vague(named))] == [vague]


def test_bare_plans_hold_the_advice_and_small_talk_alone() -> None:
    rng = random.Random(9)
    for plan in plans(50, seed=10):
        bare = make_bare(rng, plan)
        assert (bare.named, bare.vague, bare.clear) == (plan.named, plan.vague, plan.clear)
        assert {piece.objective for piece in bare.pieces.values() if piece.weak} <= {"brevity"}
        assert {place: piece.good for place, piece in bare.pieces.items()} == {
            place: piece.good for place, piece in plan.pieces.items()
        }


def test_training_knows_short_answers_and_never_the_withheld_vague_words() -> None:
    rng = random.Random(11)
    texts = [answer["text"] for _ in range(600) for answer in generate.make_pair(rng)["answers"]]
    words = [len(text.split()) for text in texts]
    assert SHORTEST <= min(words) < MIN_WORDS and max(words) <= MAX_WORDS + 15  # an invented objective adds its own
    withheld = re.compile(
        r"\bthe (?:object|amount|enterprise)\b|a certain person|one place or another|one of these days"
    )
    assert not any(map(withheld.search, texts))
    rows = [generate.make_heldout(rng) for _ in range(300)]
    assert sum(bool(withheld.search(row["weak"])) for row in rows) > 20
    assert 40 < sum(row["kind"] == "scenario" for row in rows) < 110


def test_ties_give_the_same_advice() -> None:
    rng = random.Random(12)
    for _ in range(60):
        plan, answers = generate._tie(rng)
        named = all(step in answers[0]["text"].lower() for step in map(str.lower, plan.named))
        steps = plan.named if named else plan.vague
        assert named or all(step.lower() in answers[0]["text"].lower() for step in steps)
        assert len({answer["text"] for answer in answers}) == 2
        if named:
            assert all(step.lower() in answers[1]["text"].lower() for step in steps)


def test_what_the_message_does_not_tell_becomes_a_pronoun() -> None:
    """Free cases have vague words that nothing in the message resolves, beside others that it does."""
    rng, untold = random.Random(8), 0
    for _ in range(300):
        case = free.make_case(rng)
        for step in case.scenario.steps:
            choices = EITHER.findall(step)
            assert not choices or choices[0][0] not in ("it", "them", "there", "soon"), step
            untold += len(choices) > 1
            assert all(VAGUE.search(vague) and not VAGUE.search(named) for named, vague in choices), step
    assert untold > 100


@pytest.mark.parametrize("withheld", [False, True])
def test_oracles_agree_with_the_writer(withheld: bool) -> None:
    rng = random.Random(1)
    for plan in plans(700, seed=2, withheld=withheld):
        good = frozenset(rng.sample(ALL, rng.randint(0, len(ALL))))
        text = render(plan, good)
        found = {name for name in ALL if satisfies(name, plan.case.query, text)}
        assert found == good, f"{plan.case.scenario.name}: {found ^ good}\n{plan.case.query}\n{text}"


def test_facts_of_the_weak_answer_survive() -> None:
    rng = random.Random(3)
    for plan in plans(400, seed=4):
        weak = facts(render(plan, ()))
        strong = render(plan, rng.sample(OBJECTIVES, 4))
        assert weak <= facts(strong), f"{weak} is not in: {strong}"


@pytest.mark.parametrize("name", sorted({"empathy", "brevity", "encouragement", "honesty", "humor", "helpfulness"}))
def test_an_objective_with_its_own_sentence_changes_nothing_else(name: str) -> None:
    rng = random.Random(5)
    for plan in plans(100, seed=6):
        others = rng.sample([other for other in OBJECTIVES if other != name], rng.randint(0, 6))
        before, after = (sentences(render(plan, good)) for good in (others, [*others, name]))
        piece = " ".join(
            value for part in plan.pieces.values() if part.objective == name for value in (part.good, part.weak)
        )
        assert [part for part in before if part not in piece] == [part for part in after if part not in piece]


@pytest.mark.parametrize("name", ["clarity", "politeness", "specificity"])
def test_an_objective_of_the_steps_leaves_the_other_sentences(name: str) -> None:
    rng = random.Random(7)
    for plan in plans(100, seed=8):
        others = rng.sample([other for other in OBJECTIVES if other != name], rng.randint(0, 6))
        own = {value for part in plan.pieces.values() if part.objective == name for value in (part.good, part.weak)}
        before, after = (set(sentences(render(plan, good))) - own for good in (others, [*others, name]))
        pieces = " ".join(value for part in plan.pieces.values() for value in (part.good, part.weak))
        assert {part for part in before if part in pieces} == {part for part in after if part in pieces}


def test_every_slot_is_filled_and_agrees() -> None:
    for plan in plans(700, seed=9):
        for text in (plan.case.query, render(plan, ()), render(plan, ALL)):
            assert not re.search(r"[{}\[\]|<>]|  | [.,;]|\.\.|,,", text), text
            assert not re.search(r"\b(?:a [aeio]\w|an [bcdfgjklmnpqrstvwz]\w)", text, re.I), text
            assert text[0].isupper(), text


def test_the_scenarios_are_complete() -> None:
    loaded = scenarios.load()
    assert len(loaded) >= 40
    assert {scenario.name for scenario in loaded} > scenarios.WITHHELD
    for scenario in loaded:
        assert len(scenario.messages) >= 9, scenario.name
        for text in scenario.feelings + scenario.jokes:
            assert text[0].islower() or text.startswith("Einstein"), text
        for message in scenario.messages:
            usable = scenarios.usable_steps(scenario, frozenset(slots.slots_in(message.text)))
            assert len(usable) >= 3, message
            assert any("[" in step for step in usable), message
        for step in scenario.steps:
            assert not VAGUE.search(EITHER.sub(r"\1", step)), step
            assert all(VAGUE.search(vague) for _, vague in EITHER.findall(step)), step


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("My {parcel} is late and nobody answers me", "your {parcel} is late and nobody answers you"),
        ("I am lost and I was late", "you are lost and you were late"),
        ("{shop} sent me mine", "{shop} sent you yours"),
        ("Doctor {name} cancelled", "Doctor {name} cancelled"),
        ("Our {item} is gone and we were told off", "your {item} is gone and you were told off"),
        ("Mrs {name} and I argued", "Mrs {name} and you argued"),
    ],
)
def test_clauses_are_retold_in_the_second_person(first: str, second: str) -> None:
    assert scenarios.to_second_person(first) == second


def test_the_readme_sentence_is_withheld_and_its_neighbours_are_not() -> None:
    rng = random.Random(10)
    late = [case.query for case in (scenarios.make_case(rng) for _ in range(5000)) if "nobody answers my" in case.query]
    assert not [query for query in late if scenarios.README_MESSAGE[:-1].lower() in query.lower()]
    assert any(
        re.search(r"is (?:a|two|three) (?:week|month|day)s? late and nobody answers my", query) for query in late
    )


def test_free_cases_read_like_sentences_and_obey_the_oracles() -> None:
    rng, seen, shapes = random.Random(21), set(), 0
    for _ in range(600):
        good = frozenset(rng.sample(OBJECTIVES, rng.randint(0, 5)))
        plan, (weak, strong) = write(rng, (frozenset(), good), case=free.make_case, shaped=True)
        query = plan.case.query
        for text, satisfied in ((weak, frozenset()), (strong, good)):
            assert {name for name in OBJECTIVES if satisfies(name, query, text)} == satisfied, f"{query}\n{text}"
        assert facts(weak) <= facts(strong)
        for text in (query, weak, strong):
            assert not re.search(r"[{}\[\]|<>]|  | [.,;]|\.\.|,,|THING|VERB", text), text
            assert not re.search(r"\b(?:a [aeio]\w|an [bcdfgjklmnpqrstvwz]\w)", text, re.I), text
        assert not re.search(r"\b(?:my|our|we|me|mine)\b", plan.case.clause, re.I), plan.case.clause
        seen.update(plan.named)
        shapes += plan.muddled.startswith(("{A}", "You could", "Maybe"))
    assert len(seen) > 1300  # nothing to learn by heart
    assert 100 < shapes < 350


def test_steps_that_are_all_the_same_are_not_chosen_from_for_ever() -> None:
    assert not can_choose(["ask [A|someone]", "ask [B|someone]", "ask [C|someone]"], 2)
    assert not can_choose(["wait", "go"], 2)  # neither is about the message
    case = free.make_case(random.Random(1))
    steps = ("ask [A|someone]", "ask [B|someone]", "wait")
    plan = make_plan(random.Random(2), replace(case, scenario=replace(case.scenario, steps=steps)))
    assert len(plan.named) == 2


def test_every_verb_has_a_past() -> None:
    assert len(free.VERBS) > 120
    assert dict(free.VERBS)["carry"] == "carried" and dict(free.VERBS)["look up"] == "looked up"
    assert all(past != verb or verb in ("reset", "cut", "put away") for verb, past in free.VERBS)


def test_small_talk_between_the_steps_goes_when_brevity_is_asked_for() -> None:
    rng, between = random.Random(22), 0
    for _ in range(200):
        plan, (weak, brief) = write(rng, (frozenset(), frozenset({"brevity"})), case=free.make_case, shaped=True)
        if plan.aside:
            between += 1
            assert plan.aside in weak and plan.aside not in brief
            assert weak.replace(f" {plan.aside}", "") == brief
    assert between > 20


def test_given_answers_are_read_and_not_learned(tokenizer: Any) -> None:
    turns = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B", "given": "yes"}]
    turns += [{"role": "user", "content": "C"}, {"role": "assistant", "content": "Good"}]
    ((ids, targets),) = tokens.encode_chats(tokenizer, [turns])
    learned = [id_ for id_, target in zip(ids, targets, strict=True) if target]
    assert tokenizer.decode(learned, skip_special_tokens=False) == "Good<|im_end|>"


def test_training_never_sees_withheld_values_or_scenarios() -> None:
    for plan in plans(600, seed=11):
        assert plan.case.scenario.name not in scenarios.WITHHELD
        for slot, value in plan.case.slots.items():
            if slot in ("name", "city", "shop", "app", "order"):
                assert not slots.is_withheld(value), value


def test_pairs_are_rated_completely_and_one_side_is_never_mixed() -> None:
    rng = random.Random(12)
    ties = named = invented = 0
    for _ in range(400):
        row = generate.make_pair(rng)
        first, second = (answer["ratings"] for answer in row["answers"])
        assert list(first) == list(second)
        level = {name for name in first if first[name] == second[name]}
        assert 1 <= len(level) <= 4 and not asking.is_apart(frozenset(level))
        better = {name for name in first if second[name] > first[name]}
        worse = {name for name in first if second[name] < first[name]}
        assert not (better and worse)
        asked = better | worse
        assert not asking.is_apart(frozenset(asked))
        invented += len(asked - set(OBJECTIVES))
        assert len(asked & set(OBJECTIVES)) <= 4
        ties += not asked
        named += all(facts(answer["text"]) for answer in row["answers"])
        for answer in row["answers"]:
            for name in set(OBJECTIVES) & set(answer["ratings"]):
                assert satisfies(name, row["query"], answer["text"]) == bool(answer["ratings"][name])
        assert row["answers"][0]["text"] != row["answers"][1]["text"]
    assert 20 < ties < 80
    assert named > 120
    assert 20 < invented < 80


def test_an_invented_objective_says_what_it_wants() -> None:
    rng = random.Random(17)
    pairs = [generate.make_pair(rng) for _ in range(200)]
    rows = [row for row in pairs if set(row["answers"][0]["ratings"]) - set(OBJECTIVES)]
    assert len(rows) > 10
    for row in rows:
        weak, strong = sorted(row["answers"], key=lambda answer: list(answer["ratings"].values())[-1])
        (name,) = set(weak["ratings"]) - set(OBJECTIVES)
        wanted = re.split(r"say that |end with: |begin with: ", name)[1]
        assert wanted[:-1].lower() in strong["text"].lower()
        assert wanted[:-1].lower() not in weak["text"].lower()
        assert not any(satisfies(extra, row["query"], wanted) for extra in EXTRA_OBJECTIVES), wanted


def test_chats_alternate_and_mostly_hold_weak_answers() -> None:
    rng = random.Random(13)
    for _ in range(300):
        turns = chats.make_chat(rng)
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
        assert all(turn["content"] for turn in turns)
    weak = [chats.weak_chat(rng) for _ in range(200)]
    satisfied = [
        sum(satisfies(name, turns[0]["content"], turns[1]["content"]) for name in OBJECTIVES if name != "specificity")
        for turns in weak
    ]
    assert max(satisfied) <= 1
    assert sum(satisfied) < 40


def test_copies_are_exact() -> None:
    rng = random.Random(14)
    copies = 0
    for turns in (chats.copy_chat(rng) for _ in range(300)):
        for asked, given in zip(turns[2::2], turns[3::2], strict=True):
            request = asked["content"].removeprefix(chats.EARLIER)
            if request in chats._AGAIN:
                assert given["content"] == turns[1]["content"]
                copies += 1
    assert copies > 50


def test_revised_answers_do_what_the_user_asks_for() -> None:
    rng = random.Random(23)
    meant = {text: name for name, texts in phrases.REQUESTS.items() for text in texts}
    known = re.compile("|".join(sorted(map(re.escape, meant), key=len, reverse=True)))
    revised = 0
    for turns in (chats.make_chat(rng) for _ in range(400)):
        query = turns[0]["content"]
        for asked, given in zip(turns[::2], turns[1::2], strict=True):
            wanted = frozenset(meant[text] for text in known.findall(asked["content"]))
            assert not asking.is_apart(wanted)
            assert all(satisfies(name, query, given["content"]) for name in wanted), turns
            revised += bool(wanted) and asked is not turns[0]
    assert revised > 100


def test_requests_that_must_stay_apart_end_with_fewer_names() -> None:
    names = ("empathy", "honesty", "clarity", "humor")  # any three of them hold two that are kept apart
    asked = asking.together(random.Random(1), names, 3)
    assert len(asked) == 2 and not asking.is_apart(asked)


def test_advice_repeated_alone_names_what_the_answer_named() -> None:
    rng, repeated = random.Random(24), 0
    for turns in (chats.copy_chat(rng) for _ in range(500)):
        for asked, given in zip(turns[2::2], turns[3::2], strict=True):
            if "only your advice" in asked["content"]:
                named = facts(turns[1]["content"])
                assert facts(given["content"]) <= named | {"I"}, turns
                assert bool(VAGUE.search(given["content"])) <= bool(VAGUE.search(turns[1]["content"])), turns
                repeated += 1
    assert repeated > 20


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    rng = random.Random(18)
    talk = (turn["content"] for _ in range(300) for turn in chats.make_chat(rng))
    return tokens.train_tokenizer(talk, 1024)


def test_drills_can_only_be_copied(tokenizer: Any) -> None:
    rng = random.Random(19)
    for ids, targets in (drills.drill_row(rng, tokenizer) for _ in range(50)):
        assert len(ids) == len(targets)
        for at, target in enumerate(targets):
            assert not target or ids[at] in ids[:at] or ids[at] == tokens.IM_END
        assert sum(targets) < len(ids) / 2  # the line once as the user's, once as the answer: never twice in a turn


@pytest.mark.parametrize("bf16", [False, True])
def test_muon_orthogonalises_in_either_type(bf16: bool) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    for shape in ((48, 16), (16, 48)):
        found = orthogonalise(torch.randn(shape), bf16=bf16)
        sizes = torch.linalg.svdvals(found)
        assert found.dtype == torch.float32 and found.shape == shape
        assert sizes.min() > 0.6 and sizes.max() < 1.3  # five steps with these factors come no nearer to 1


def test_the_probe_marks_the_facts_of_the_repeat(tokenizer: Any) -> None:
    text = "Please ask Zoluta about the kettle before 8:15 pm on Friday."
    (ids, targets), marks = drills.fact_row(tokenizer, "My kettle is late.", text)
    assert tokenizer.decode([id_ for id_, target in zip(ids, targets, strict=True) if target]) == text
    marked = tokenizer.decode([id_ for id_, mark in zip(ids, marks, strict=True) if mark])
    assert all(fact in marked for fact in ("Zoluta", "kettle", "8:15 pm", "Friday"))
    assert "before" not in marked


def test_strange_words_come_in_training_only() -> None:
    rng = random.Random(20)
    known = set(slots._PLAIN["plant"])
    drawn = [slots.draw(rng, "plant", withheld=False) for _ in range(400)]
    assert 60 < sum(plant not in known for plant in drawn) < 200
    assert all(slots.draw(rng, "plant", withheld=True) in known for _ in range(100))


def test_the_same_seed_writes_the_same_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        generate.generate(tmp_path / name, seed=7, pairs=40, chats=40, heldout=20)
    generate.generate(tmp_path / "other", seed=8, pairs=40, chats=40, heldout=20)
    for file in ("pairs.jsonl", "chats.jsonl", "heldout.jsonl"):
        one, two, other = ((tmp_path / name / file).read_text() for name in ("one", "two", "other"))
        assert one == two != other
    assert json.loads((tmp_path / "one" / "pairs.jsonl").read_text().splitlines()[3])["id"] == "pair-000003"


def test_held_out_answers_satisfy_their_objectives() -> None:
    rng = random.Random(15)
    apart = 0
    for _ in range(200):
        row = generate.make_heldout(rng)
        assert 1 <= len(row["objectives"]) <= 4
        apart += asking.is_apart(frozenset(row["objectives"]))
        for name in row["objectives"]:
            assert satisfies(name, row["query"], row["strong"])
            assert not satisfies(name, row["query"], row["weak"])
            assert not satisfies(name, row["query"], row["other"]), row["other"]
        assert facts(row["weak"]) <= facts(row["strong"])
    assert apart > 20


def test_answers_written_by_hand_are_weak_where_they_are_to_be_edited() -> None:
    path = Path(__file__).parents[1] / "bench" / "handwritten.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 40
    assert {name for row in rows for name in row["objectives"]} == set(OBJECTIVES)
    for row in rows:
        assert not any(satisfies(name, row["query"], row["weak"]) for name in row["objectives"]), row


def test_facts_are_names_numbers_dates_and_products() -> None:
    text = "Take your blue kettle to Harlow on Monday. By the way, my aunt sells a lamp."
    assert facts(text) == {"kettle", "Harlow", "Monday"}
    assert oracles.keeps("It took 3 days.", "3") and not oracles.keeps("It took 13 days.", "3")
    assert not oracles.keeps("Take the kettles.", "kettle")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("First, call Ada. Then call Ada again. Finally, call Ada once more.", False),
        ("Go back to the place. Go back to the place. Go back to the place.", True),
        ("It has lasted 333333333333333333 days.", True),
        ("No.", False),
        ("", False),
    ],
)
def test_loops_are_seen(text: str, expected: bool) -> None:
    assert oracles.loops(text) == expected


def test_remarks_are_known_by_their_scenario() -> None:
    text = "I am sorry that it is late; waiting without an answer is really frustrating. I cannot make a diagnosis."
    assert oracles.remarks(text) == [frozenset({"late_parcel"})]
    rng = random.Random(13)
    for _ in range(200):
        row = generate.make_heldout(rng)
        assert all(row["scenario"] in names for names in oracles.remarks(row["strong"])), row
        assert not oracles.loops(row["strong"]) and not oracles.loops(row["other"])


def test_cutting_at_the_first_run_on() -> None:
    assert oracles.before_run_on("Noted. By the way, life is long. Go on.") == "Noted."
    assert oracles.before_run_on("By the way, life is long.") == "By the way, life is long."


def test_lengths_hold_for_any_set() -> None:
    rng = random.Random(16)
    for _ in range(100):
        sets = [frozenset(rng.sample(OBJECTIVES, count)) for count in (0, 8)]
        assert all(MIN_WORDS <= len(text.split()) <= MAX_WORDS for text in write(rng, sets)[1])


def test_the_generator_needs_no_heavy_library() -> None:
    code = "import sys, mal_train.demo.generate; print([m for m in ('torch', 'tokenizers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_path())
    assert done.stdout.strip() == "[]"


def _path() -> dict[str, str]:
    return {"PYTHONPATH": str(Path(__file__).parents[1] / "train")}
