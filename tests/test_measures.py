"""The rules of evaluation/ (measures, intact, texts) and of bench/real_policies.py agree with a reader's verdicts."""

import argparse
import csv
import json
import random
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"
sys.path.insert(0, str(BENCH))

import real_policies as proof  # noqa: E402

from metaaligner_lite.errors import FileProblem, UsageError  # noqa: E402
from metaaligner_lite.evaluation import intact, stats, texts  # noqa: E402
from metaaligner_lite.evaluation import measures as m  # noqa: E402


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three?", 3),
        ("Dr. Smith met Mr. J. Jones at 5 p.m. on Monday. They talked.", 2),
        ("It costs 3.5 dollars, e.g. in the U.S. Market. Then it rose.", 2),
        ('He said "Go away." Then he left.', 2),
        ("## Steps\n\n1. Boil water.\n2. Add salt\n- **Stir** well", 4),
        ("a line that was wrapped\nand goes on here. Next one.", 2),
        ("```python\nx = 1. \nY = 2.\n```\nThat is all.", 1),
        ("", 0),
    ],
)
def test_sentences(text, count):
    assert len(texts.sentences(text)) == count


@pytest.mark.parametrize(
    ("word", "count"),
    [("readable", 3), ("cheese", 1), ("wanted", 2), ("asked", 1), ("people", 2), ("table", 2), ("the", 1), ("area", 2)],
)
def test_syllables(word, count):
    assert texts.syllables(word) == count


VERDICTS = [
    (m.courteous, "Please let the dough rest for an hour.", True),
    (m.courteous, "Let the dough rest for an hour.", False),
    (m.courteous, "Thank you for asking. It takes an hour.", True),
    (m.courteous, "I'd be happy to help. It takes an hour.", True),
    (m.courteous, "I would not be happy to help.", False),
    (m.courteous, "I am not happy to help you with this.", False),
    (m.courteous, "You cannot please everyone.", False),
    (m.courteous, "He did it to please his father.", False),
    (m.courteous, 'Teach her to say "thank you" and "please".', False),
    (m.courteous, "No thanks to the weather, it took an hour.", False),
    (m.courteous, "Thanks to the yeast, it rises.", False),
    (m.courteous, "Please read the manual, you idiot.", False),
    (m.courteous, "I’m sorry, I don’t have that list.", True),
    (m.courteous, "**Please** note the `please` flag.", True),
    (m.courteous, "Run `please install` first.", False),
    (m.acknowledges, "I'm so sorry to hear about your dog. Give it time.", True),
    (m.acknowledges, "I’m sorry to hear that.", True),
    (m.acknowledges, "I'm sorry, but I cannot help with that.", False),
    (m.acknowledges, "That sounds really hard. Try to rest.", True),
    (m.acknowledges, "It's completely normal to feel scared before a test.", True),
    (m.acknowledges, "Making friends can be challenging, but there are clubs.", True),
    (m.acknowledges, "Go to bed earlier. Drink less coffee. Walk. I understand how you feel.", False),  # too late
    (m.acknowledges, "The exam is on Friday. Study the second chapter.", False),
    (m.acknowledges, 'Tell her "I am sorry to hear that".', False),
    (m.feels, "I'm really anxious about my driving test. What helps?", True),
    (m.feels, "I’ve been so stressed lately.", True),
    (m.feels, "My grandmother passed away. What do I write?", True),
    (m.feels, "Why are people sad?", False),
    (m.feels, "I lost weight. What should I wear?", False),
    (m.feels, "I'm afraid not. Tell me another one.", False),
    (m.feels, 'Translate "I am sad" to German.', False),
    (m.clear, "Turn the valve to the left. Wait a minute. Then open the tap.", True),
    (m.clear, "Perhaps it might be that, in a sense, you could maybe turn the valve, I guess.", False),
    (m.clear, "Turn the valve. " + "and then again " * 20 + "stop.", False),
    (m.clear, "Turn it off.\nHuman: And then?", False),
    (m.clear, "", False),
    (m.readable, "The cat sat on the mat. It was warm there. The sun was out.", True),
    (m.readable, "Epistemological considerations necessitate interdisciplinary methodological sophistication.", False),
    (m.readable, "", False),
    (m.simple, "The cat sat on the mat. It was warm there.", True),
    (m.simple, "Regulations concerning agricultural subsidies differ considerably between jurisdictions.", False),
    (m.structured, "1. Boil water.\n2. Add salt.\n3. Stir.", True),
    (m.structured, "- **Water**: boil it\n- **Salt**: add it\n* Stir", True),
    (m.structured, "First, boil water. Then add salt. Finally, stir.", True),
    (m.structured, "There were 3. He had 2. They won.", False),
    (m.structured, "Boil water and add salt, then stir.", False),
    (m.structured, "```\n- a\n- b\n- c\n```", False),
    (m.formal, "We regret that the delivery is late.", True),
    (m.formal, "We're sorry it's late.", False),
    (m.formal, 'The title is "Don\'t Look Up".', True),
    (m.formal, "Great news!", False),
    (m.formal, "John's letter has arrived.", True),
    (m.cheering, "With a little practice it will work.", True),
    (m.cheering, "You can do this.", True),
    (m.cheering, "You can download this.", False),
    (m.calming, "There's no need to worry. It passes.", True),
    (m.calming, "Worry about it.", False),
    (m.careful, "Talk to your doctor before you stop.", True),
    (m.careful, "Talk about it with friends.", False),
    (m.positive, "A wonderful idea, and a great way to enjoy the day.", True),
    (m.positive, "A bad idea, and a terrible way to lose money.", False),
    (m.neutral, "The plan costs more.", True),
    (m.neutral, "Obviously the plan is outrageous.", False),
    (m.respectful, "You could try again.", True),
    (m.respectful, "You should have known. It is common sense.", False),
    (m.refuses, "I'm sorry, but I can't help with that request.", True),
    (m.refuses, "As an AI, I cannot provide that.", True),
    (m.refuses, "You can’t park there, but you can park here.", False),
    (m.refuses, "To kill a process, use its id.", False),
]


@pytest.mark.parametrize(("rule", "text", "verdict"), VERDICTS)
def test_verdicts(rule, text, verdict):
    assert rule(text) is verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Bread needs flour. It needs water, too. Bake it for an hour.", True),
        ("Bread needs flour and water. It is fine. Bread needs flour and water.", False),
        (
            "You should always bake fresh bread slowly at home. You should always bake fresh warm bread slowly home.",
            False,
        ),
        ("- eggs\n- milk\n- eggs", True),  # an item of a list is no statement
        ("", False),
    ],
)
def test_repetition(text, verdict):
    assert m.unrepetitive("How is bread baked?", text) is verdict


def test_what_the_query_says_is_no_repetition():
    query = "What are the side effects of the new drug?"
    text = (
        "The side effects of the new drug are mild. Doctors saw the side effects of the new drug early. "
        "The side effects of the new drug pass."
    )
    assert m.repeated_grams(text, query) < m.repeated_grams(text)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("It is done.", True),
        ('He said "yes."', True),
        ("It is done", False),
        ("That depends on the", False),
        ("1. Boil water.\n2. Add salt.\n3. Stir the", False),
        ("1. Boil water.\n2. Add salt.\n3.", False),
        ("So the remainder is 0.", True),
        ("- eggs\n- milk\n- flour", True),
        ("1. Eggs are boiled.\n2. Milk is warmed.\n3. Query", False),
        ("```python\nprint(1)\n```", True),
        ("```python\nprint(1)", False),
        ("Sincerely,\nAnna Smith", True),
        ("Join us! #Innovation", True),
        ("Paris", True),
        ("Good luck 🙂", True),
        ("", False),
    ],
)
def test_ends_whole(text, verdict):
    assert intact.ends_whole(text) is verdict


@pytest.mark.parametrize(
    ("text", "loop", "turn"),
    [
        ("You can go there. You can see it. You can stay.", False, False),
        ("I like it very much. I like it very much. I like it very much.", True, False),
        ("ha" * 3 + "!" * 40, True, False),
        ("-" * 60 + "\nDone.", False, False),
        ("Sure.\n\nHuman: And then?", False, True),
        ("Sure.\n### Instruction: write", False, True),
        ("Human: that is what the first word says.", False, False),
        ("```\nUser: admin\n```\nThat is the log.", False, False),
        ("A test:\n\nThe user: a person.", False, False),
    ],
)
def test_loops_and_turns(text, loop, turn):
    assert (intact.loops(text), intact.runs_on(text)) == (loop, turn)


def test_tidied_cuts_turns_repeats_and_half_sentences():
    assert intact.tidied("Boil water.\n\nHuman: And then?\n\nAssistant: Salt.") == "Boil water."
    assert intact.tidied("I like it very much. It is good. I like it very much. I like it very much.") == (
        "I like it very much. It is good."
    )
    assert intact.tidied("Boil the water for tea. Add the") == "Boil the water for tea."
    whole = "1. Boil water.\n2. Add salt."
    assert intact.tidied(whole) == whole


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The Eiffel Tower is 330 m high.", {"eiffel", "tower", "330"}),
        ("Paris is nice. London is larger.", set()),  # at the beginning of a sentence nothing tells a name
        ("He paid $1,250.50 on 12/05/2020.", {"1250.50", "12/05/2020"}),
        ("1. Ask Anna.\n2. Call NASA.", {"anna", "nasa"}),
        ("I think I'm late.", set()),
        ("## How To Bake Fresh Bread\n\nMix flour.", set()),
        ("He lives in Anna's house with Bob.", {"anna", "bob"}),
        ("Remember: The house is old.", set()),
    ],
)
def test_facts(text, found):
    assert intact.facts(text) == found


def test_nothing_invented_in_another_spelling():
    assert not intact.invented("", "It takes three weeks in paris.", "In May? No: in 3 weeks, in Paris.") - {"may"}
    assert not intact.invented("Who is Ada Lovelace?", "A mathematician.", "She is Ada Lovelace.")
    assert not intact.invented("", "It costs 1,000 dollars.", "It costs 1000 dollars.")
    assert intact.invented("", "It takes a while.", "It takes 14 days, says Miller.") == {"14", "miller"}


def test_kept_tells_dropped_sentences_from_changed_facts():
    before = "The famous tower in Paris was built in 1889 by skilled workers. The museum opened its doors in 1977."
    dropped = "The famous tower in Paris was built in 1889 by skilled workers."
    changed = "The famous tower in Paris was built in 1899 by skilled workers. The museum opened its doors in 1977."
    assert intact.kept(before, before) == (3, 3, 0)
    assert intact.kept(before, dropped) == (3, 2, 0)
    assert intact.kept(before, changed) == (3, 2, 1)


def test_stays_and_copied():
    assert intact.stays("a b\n c", "a  b c\n")
    assert not intact.stays("a b c", "a b c.")
    assert intact.copied("one two three four five six", "one two three nine four five six") == pytest.approx(6 / 7)
    assert intact.copied("one two three", "four five") == 0
    assert intact.copied("one two three", "") == 0


def test_brevity_asks_for_a_quarter_a_whole_sentence_and_the_meaning():
    brevity = m.MEASURES["brevity"]
    before = " ".join(["Bread needs flour and water."] * 8)
    short = " ".join(["Bread needs flour and water."] * 6)
    assert not brevity.before("", before)
    assert brevity.satisfied("", before, short, 0.75)
    assert not brevity.satisfied("", before, short, 0.74)
    assert not brevity.satisfied("", before, short + " And also", 1.0)
    assert not brevity.satisfied("", before, before, 1.0)
    assert not brevity.satisfied("", before, "", 1.0)
    assert brevity.change("", before, short) == 1
    assert brevity.change("", short, before) == -1


def test_an_objective_needs_the_meaning_too():
    politeness = m.MEASURES["politeness"]
    assert politeness.satisfied("", "Boil it.", "Please boil it.", 0.9)
    assert not politeness.satisfied("", "Boil it.", "Please call me.", 0.4)


def test_every_rule_tells_itself_and_is_of_the_catalogue():
    for name, measure in m.MEASURES.items():
        assert proof.named(name) == name
        assert measure.says.endswith((".", ")"))
        assert isinstance(measure.holds("I am sad.", ""), bool)


def test_interval_of_independent_outcomes():
    mean, low, high = stats.bootstrap([(str(i), i < 80) for i in range(100)])
    assert mean == 0.8
    assert low == pytest.approx(0.72, abs=0.015)  # 1.96 standard errors of 0.04
    assert high == pytest.approx(0.88, abs=0.015)


def test_interval_of_clustered_outcomes_is_wider():
    once = stats.bootstrap([(str(i), i < 10) for i in range(20)])
    often = stats.bootstrap([(str(i), i < 10) for i in range(20) for _ in range(50)])
    apart = stats.bootstrap([(f"{i} {j}", i < 10) for i in range(20) for j in range(50)])
    assert often == once
    assert apart[2] - apart[1] < 0.3 * (often[2] - often[1])


def test_interval_covers_as_often_as_it_says():
    rng, covered = random.Random(0), 0
    for trial in range(100):
        found = []
        for i in range(60):
            shared = rng.gauss(0, 1)
            found += [(str(i), 0.3 + shared + rng.gauss(0, 0.2)) for _ in range(rng.randint(1, 4))]
        _, low, high = stats.bootstrap(found, draws=200, seed=trial)
        covered += low <= 0.3 <= high
    assert 0.86 <= covered / 100 <= 0.99


def test_interval_of_nothing_and_of_one_query():
    assert stats.bootstrap([]) is None
    mean, low, high = stats.bootstrap([("a", 1.0), ("a", 0.0)])
    assert (mean, low, high) == (0.5, float("-inf"), float("inf"))


# --- real_policies.py ---

ANSWER = (
    "The bread needs flour, water, salt and yeast. Mix it all well and let the dough rest for 2 hours. "
    "Then bake it in a hot oven until the crust is brown and Anna is hungry."
)


@pytest.fixture
def folder(tmp_path):
    """A data folder with one file of answers, some of them too short or too long."""
    path = tmp_path / "data" / "policy_outputs" / "ultrafeedback" / "gpt-3.5-turbo.csv"
    path.parent.mkdir(parents=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["query", "goldens", "generated_text"])
        table.writerows([[f"How is bread number {i} baked?", "", f"{ANSWER} Bread {i} is done."] for i in range(6)])
        table.writerow(["Short?", "", "Yes."])
        table.writerow(["Long?", "", "word " * 300])
    return tmp_path


def options(folder, **more):
    given = {
        "data": folder / "data",
        "edits": folder / "edits.jsonl",
        "policies": ["uf/gpt-3.5-turbo"],
        "n": 3,
        "seed": 0,
        "threads": 1,
        "beside": 2,
        "time": 0,
        "base": None,
        "adapter": None,
        "aligner": None,
        "alone": False,
        "gate": False,
        "half": "",
        "name": "",
        "layout": "",
        "score_only": False,
    }
    return argparse.Namespace(**(given | more))


def test_answers_of_a_fitting_length_are_loaded_and_drawn_by_seed(folder):
    cases = proof.load(options(folder))
    assert len(cases) == 6
    drawn = proof.sample(cases, "brevity", 3, 0)
    assert drawn == proof.sample(cases[::-1], "brevity", 3, 0)
    assert any(drawn != proof.sample(cases, "brevity", 3, seed) for seed in (1, 2, 3, 4))
    assert proof.sample(cases, "empathy", 3, 0) == []  # nobody there says a feeling
    assert proof.sample(cases, "harmlessness", 3, 0) == []


def test_a_missing_file_is_told_with_its_origin(tmp_path):
    with pytest.raises(FileProblem, match=r"gpt-3\.5-turbo\.csv is not there(.|\n)*MetaAligner on GitHub \(MIT\)"):
        proof.load(options(tmp_path))


def test_no_policy_of_that_name(folder):
    with pytest.raises(UsageError, match="no policy is called nobody"):
        proof.load(options(folder, policies=["nobody"]))


def test_dialogues_become_turns():
    turns, asked = proof.dialogue("\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: I'm sad. \n\nAssistant:")
    assert [(turn.role, turn.content) for turn in turns] == [("user", "Hi"), ("assistant", "Hello.")]
    assert asked == "I'm sad."
    assert proof.dialogue("Why do they say Human: so often?") == ((), "Why do they say Human: so often?")


@pytest.mark.parametrize(
    ("row", "hit"),
    [
        ({"query": "how is bread number 4 BAKED"}, True),
        ({"query": "\n\nHuman: How is bread number 4 baked?\n\nAssistant: Slowly.\n\nHuman: Why?"}, True),
        ({"query": "Why?", "history": [{"role": "user", "content": "How is bread number 4 baked?"}]}, True),
        ({"query": "How is bread number 44 baked?"}, False),
    ],
)
def test_a_query_of_training_is_an_error(folder, row, hit):
    rows = folder / "rows.jsonl"
    rows.write_text(json.dumps({"query": "Another one?"}) + "\n" + json.dumps(row) + "\n", encoding="utf-8")
    cases = proof.load(options(folder))
    if hit:
        with pytest.raises(UsageError, match=r"1 queries .*line 2: 'How is bread number 4 baked\?'"):
            proof.disjoint(cases, rows)
    else:
        proof.disjoint(cases, rows)


def test_edits_are_kept_and_a_killed_run_goes_on(folder, tiny_path):
    chosen = options(folder, base=tiny_path, alone=True, threads=1)
    plan = {request: proof.sample(proof.load(chosen), request, 3, 0) for request in ("brevity", "brevity,politeness")}
    proof.write_edits(plan, chosen)
    written = chosen.edits.read_text(encoding="utf-8")
    assert len(written.splitlines()) == 6
    proof.write_edits(plan, chosen)
    assert chosen.edits.read_text(encoding="utf-8") == written  # nothing was left to do
    rows = written.splitlines(keepends=True)
    chosen.edits.write_text("".join(rows[:4]) + rows[4][:50], encoding="utf-8")  # killed while it wrote
    proof.write_edits(plan, chosen)
    again = [json.loads(line) for line in chosen.edits.read_text(encoding="utf-8").splitlines()]
    edits = [{name: row[name] for name in ("key", "edit", "objectives")} for row in again]
    assert sorted(map(str, edits)) == sorted(
        str({name: row[name] for name in ("key", "edit", "objectives")}) for row in map(json.loads, rows)
    )
    columns = proof.read_edits(plan, [chosen.edits])
    assert list(columns) == [proof.UNALIGNED, proof.TIDIED, "self-edit by prompt"]
    assert [len(column) for column in columns.values()] == [6, 6, 6]


def test_one_aligner_must_be_named(folder, tiny_path):
    with pytest.raises(UsageError, match="name one aligner"):
        proof.write_edits({}, options(folder, base=tiny_path))


class Same:
    """A judge of meaning that finds it kept wherever an edit still speaks of bread."""

    def __call__(self, before, after):
        return 1.0 if "bread" in after.lower() else 0.2


def test_tables_tell_what_edits_did(folder):
    chosen = options(folder)
    plan = {request: proof.sample(proof.load(chosen), request, 6, 0) for request in ("brevity", "politeness")}
    short = "The bread needs flour, water, salt and yeast."
    with chosen.edits.open("w", encoding="utf-8") as log:
        for request, cases in plan.items():
            for i, case in enumerate(cases):
                polite = f"Thank you for asking. {case.answer}" if i < 4 else "Thank you for asking. No idea."
                row = {
                    "query": case.query,
                    "answer": case.answer,
                    "objectives": [request],
                    "name": "mine",
                    "model": "x",
                }
                row |= {"edit": short if request == "brevity" else polite}
                log.write(json.dumps(row) + "\n")
    report = proof.Report(plan, proof.read_edits(plan, [chosen.edits]), [], Same())
    text = "\n".join(report.markdown({}))
    figures = report.figures()
    assert figures["satisfied"]["mine"]["brevity"]["brevity"]["mean"] == 1
    assert figures["satisfied"][proof.UNALIGNED]["brevity"]["brevity"]["mean"] == 0
    assert figures["satisfied"]["mine"]["politeness"]["politeness"]["mean"] == pytest.approx(4 / 6)
    assert figures["tax"]["mine"]["brevity"]["brevity"]["mean"] == 1
    assert figures["kept"]["mine"]["politeness"]["nothing_invented"] == 1
    assert figures["kept"]["mine"]["brevity"]["facts_kept"] < 1
    assert figures["kept"]["mine"]["brevity"]["facts_changed"] == 0
    assert "| brevity | brevity | 0 [0, 0] n 6 | 0 [0, 0] n 6 | 100 [100, 100] n 6 |" in text
    assert any("+ " + short in line for line in report.examples(1))


def test_a_query_is_in_one_half_whoever_answers():
    halves = [proof.half(f"How is bread number {i} baked?") for i in range(200)]
    assert 70 < halves.count("choose") < 130
    assert proof.half("  how is BREAD number 3 baked") == halves[3]


def test_what_a_gate_lets_through_is_a_column():
    case = proof.Case("mine", "How?", ANSWER, asked="How?")
    edits = {
        ("mine", "a", "brevity"): proof.Edit(case, "brevity", "Better.", {"preference": 0.2}),
        ("mine", "b", "brevity"): proof.Edit(case, "brevity", "Worse.", {"preference": -0.1}),
        ("mine", "c", "brevity"): proof.Edit(case, "brevity", "Failed.", {"preference": None}),
    }
    columns = dict(proof.gates({"tuned": edits, "other": {("mine", "a", "x"): proof.Edit(case, "x", "A")}}, [0.0, 0.3]))
    assert list(columns) == ["tuned, gate 0", "tuned, gate 0.3"]
    texts = [[edit.text for edit in column.values()] for column in columns.values()]
    assert texts == [["Better.", ANSWER, "Failed."], [ANSWER, ANSWER, "Failed."]]
