"""Data sets of every form, with good and bad rows, become rows; every record is accounted for."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from dataclasses import replace

import pytest
import typer

from mal_train import formats, scorers
from mal_train.build import build, summarize
from mal_train.formats import FORMATS, Mapped, detect
from mal_train.reference import as_row, comparable, reference_edits
from mal_train.reformulate import reformulate_rows
from mal_train.rows import Answer, Names, Row, read_rows, to_json
from metaaligner_lite.cli import data as cli
from metaaligner_lite.errors import DataError, FileProblem, UsageError
from metaaligner_lite.objectives import Objective, builtin_catalogue, resolve
from metaaligner_lite.prompts import LAYOUTS, PLAIN_DIALOGUE, edit_prompt
from metaaligner_lite.records import read_records

KNOWN = builtin_catalogue()
NAMES = Names(None)
HH = "\n\nHuman: Hello\n\nAssistant: Hi.\n\nHuman: Where is it?\n\nAssistant:"
BETTER = Mapped(NAMES, objectives=(KNOWN["harmlessness"],))


SAID = [{"role": "assistant", "content": "so"}]


def mapped_for(name):
    return replace(BETTER, answers=("good", "bad")) if name == "answers" else BETTER


def one(name, record):
    (row,) = FORMATS[name](record, mapped_for(name))
    return row.query, [(a.text, {o.name: v for o, v in a.ratings.items()}) for a in row.answers]


def completion(text, **ratings):
    return {"response": text, "annotations": {name: {"Rating": value} for name, value in ratings.items()}}


# --- formats: (format, record, query, answers) ---

GOOD = [
    (
        "rows",
        {
            "id": "7",
            "query": "q",
            "answers": [{"text": "a", "ratings": {"humour": 2}}, {"text": "b", "ratings": {"humor": 1}}],
        },
        ("q", [("a", {"humor": 2}), ("b", {"humor": 1})]),
    ),
    (
        "ultrafeedback",
        {
            "instruction": "q",
            "completions": [completion("a", honesty="5", helpfulness="N/A"), completion("b", honesty="3")],
        },
        ("q", [("a", {"honesty": 5}), ("b", {"honesty": 3})]),
    ),
    (
        "dialogues",
        {"chosen": HH + " It is late.", "rejected": HH + " No idea."},
        (
            "Where is it?",
            [("It is late.", {"harmlessness": 1}), ("No idea.", {"harmlessness": 0})],
        ),
    ),
    (
        "dialogues",
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        ("q", [("a", {"harmlessness": 1}), ("b", {"harmlessness": 0})]),
    ),
    (
        "dialogues",
        {
            "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
            "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}],
        },
        ("q", [("a", {"harmlessness": 1}), ("b", {"harmlessness": 0})]),
    ),
    (  # one question is the question alone, as at run time
        "dialogues",
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        ("q", [("a", {"harmlessness": 1}), ("b", {"harmlessness": 0})]),
    ),
    (  # TRL with an explicit prompt
        "dialogues",
        {
            "prompt": [{"role": "user", "content": "p"}, *SAID, {"role": "user", "content": "q"}],
            "chosen": [{"role": "assistant", "content": "a"}],
            "rejected": [{"role": "assistant", "content": "b"}],
        },
        (
            "q",
            [("a", {"harmlessness": 1}), ("b", {"harmlessness": 0})],
        ),
    ),
    (
        "dialogues",
        {"prompt": "q", "chosen": SAID, "rejected": [{"role": "assistant", "content": "b"}]},
        ("q", [("so", {"harmlessness": 1}), ("b", {"harmlessness": 0})]),
    ),
    (  # signs in the columns of a table
        "preferences",
        {"query": "q", "first": "a", "second": "b", "empathy": ">", "brevity": "=", "clarity": "-1", "model": "m"},
        ("q", [("a", {"empathy": 1, "brevity": 1, "clarity": 0}), ("b", {"empathy": 0, "brevity": 1, "clarity": 1})]),
    ),
    (
        "preferences",
        {"query": "q", "first": "a", "second": "b", "preferences": {"empathy": ">", "brevity": "=", "clarity": -1}},
        ("q", [("a", {"empathy": 1, "brevity": 1, "clarity": 0}), ("b", {"empathy": 0, "brevity": 1, "clarity": 1})]),
    ),
    (
        "safe-rlhf",
        {"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 0, "safer_response_id": 1},
        ("q", [("a", {"helpfulness": 1, "harmlessness": 0}), ("b", {"helpfulness": 0, "harmlessness": 1})]),
    ),
    (
        "corrections",
        {"question": "q", "answer": "weak", "correction": "better"},
        ("q", [("better", {"harmlessness": 1}), ("weak", {"harmlessness": 0})]),
    ),
    (
        "corrections",
        {"question": "q", "answer": "same", "correction": "same"},
        ("q", [("same", {"harmlessness": 1}), ("same", {"harmlessness": 1})]),
    ),
    ("ratings", {"query": "q", "answer": "a", "empathy": "3", "model": "m"}, ("q", [("a", {"empathy": 3})])),
    ("answers", {"prompt": "q", "good": "a", "bad": "b", "model": "m"}, ("q", [("a", {}), ("b", {})])),
    (  # as a table has it: the ids are texts
        "safe-rlhf",
        {"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": "1", "safer_response_id": ""},
        ("q", [("a", {"helpfulness": 0}), ("b", {"helpfulness": 1})]),
    ),
]


@pytest.mark.parametrize(("name", "record", "expected"), GOOD)
def test_formats(name, record, expected):
    assert detect(record, mapped_for(name)) == name
    query, answers = one(name, record)
    assert (query, [(text, dict(sorted(ratings.items()))) for text, ratings in answers]) == (
        expected[0],
        [(text, dict(sorted(ratings.items()))) for text, ratings in expected[1]],
    )


@pytest.mark.parametrize(
    ("name", "record", "reason"),
    [
        ("rows", {"query": "q", "answers": "a"}, "fewer than two answers"),
        ("rows", {"query": "q", "answers": [{"text": 1}]}, "an answer without text"),
        ("ultrafeedback", {"instruction": "q", "completions": None}, "no completions"),
        ("ultrafeedback", {"instruction": None, "completions": []}, "no text under 'instruction'"),
        ("dialogues", {"chosen": HH + " a", "rejected": "\n\nHuman: Other\n\nAssistant: b"}, "part before"),
        ("dialogues", {"chosen": "no turns", "rejected": "none"}, 'no "Assistant:" turn'),
        ("dialogues", {"chosen": HH + " a", "rejected": HH + " a"}, "the same text"),
        ("dialogues", {"chosen": HH, "rejected": None}, "is no text"),
        (
            "preferences",
            {"query": "q", "first": "a", "second": "b", "preferences": {"empathy": "better"}},
            "expected >",
        ),
        ("preferences", {"query": "q", "first": "a", "preferences": {"empathy": ">"}}, "no text under"),
        ("preferences", {"query": "q", "first": "a", "second": "b"}, "no preferences"),
        ("preferences", {"query": "q", "first": "a", "second": "b", "preferences": {"empathy": [1]}}, "expected >"),
        ("dialogues", {"chosen": HH + " a\n\nHuman: and", "rejected": HH + " b\n\nHuman: and"}, "does not end in an"),
        ("dialogues", {"chosen": "x" + HH + " a", "rejected": "x" + HH + " b"}, "text before the first turn"),
        ("dialogues", {"chosen": SAID, "rejected": SAID}, "no text under 'query'"),
        ("safe-rlhf", {"prompt": "q", "response_0": "a"}, "no two answers to compare"),
        ("corrections", {"question": "q", "answer": None, "correction": "c"}, "no text under 'answer'"),
        ("ratings", {"query": "q", "answer": "a", "empathy": "good"}, "not a number"),
        ("answers", {"query": "q", "good": "a"}, "no text under 'bad'; it has 'query', 'good'"),
        ("answers", {"query": "q", "good": "a", "bad": None}, "no text under 'bad'"),
        ("edits", {"prompt": [{"role": "user", "content": "q"}], "completion": "a"}, "no prompt and completion"),
        ("edits", {"messages": [{"role": "user"}]}, "a message without role or text"),
        ("rows", {"query": "q", "answers": [{"text": "a", "ratings": [1]}]}, "'ratings' is no table"),
        ("rows", {"query": "q", "answers": [{"text": "a", "ratings": {"humor": 10**400}}]}, "is not a number"),
        (
            "ultrafeedback",
            {"instruction": "q", "completions": [{"response": "a", "annotations": [1]}]},
            "'annotations' is no table",
        ),
        ("dialogues", {"chosen": [{"role": ["user"], "content": "a"}], "rejected": SAID}, "without a known role"),
        ("safe-rlhf", {"prompt": "q", "response_0": "a", "response_1": "b", "safer_response_id": 2}, "expected 0 or 1"),
        ("edits", {"prompt": "Say hello", "completion": "Hello"}, "in none of our layouts"),
        ("edits", {"conversations": [{"from": "human", "value": "x"}]}, "not one of our prompts"),
        ("edits", {"prompt": 3, "completion": "Hello"}, "no prompt and completion"),
    ],
)
def test_bad_records_tell_their_reason(name, record, reason):
    with pytest.raises(DataError, match=reason):
        one(name, record)


def spoilt(value):
    """Copies of a record, each with another of its parts, at any depth, turned into what nobody expects there."""
    yield from (None, True, 3, float("nan"), 10**400, "x", "\ud800😀", [], [1], [[1]], {}, {"a": 1}, {"a": [1]})
    if isinstance(value, dict):
        yield from ({**value, key: other} for key, part in value.items() for other in spoilt(part))
        yield from ({k: v for k, v in value.items() if k != key} for key in value)
    if isinstance(value, list):
        yield from ([*value[:i], other, *value[i + 1 :]] for i, part in enumerate(value) for other in spoilt(part))


@pytest.mark.parametrize(("name", "record"), [(name, record) for name, record, _ in GOOD])
def test_whatever_a_record_holds_it_is_used_or_counted(tmp_path, name, record):
    broken = [json.dumps(other) for other in spoilt(record)]
    refused = 0
    for line in broken:
        (tmp_path / "s.jsonl").write_text(line + "\n")
        try:
            account = build(
                [tmp_path / "s.jsonl"], tmp_path / "r.jsonl", mapped_for(name), form=name, force=True
            ).account
        except (DataError, UsageError):
            refused += 1
        else:
            assert account.read == account.used == 1 and read_rows(tmp_path / "r.jsonl")[0]
    assert refused > 0


def test_a_form_nobody_knows_is_named_with_its_keys():
    with pytest.raises(UsageError, match="its keys \\(foo\\); name it with --format"):
        detect({"foo": 1}, BETTER)


def messages(turns):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]


@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_our_own_prompts_are_read_back(layout, equal):
    """TRL and ShareGPT rows of every layout become the row whose only edit they are."""
    objectives = [KNOWN["harmlessness"], Objective("calm", "The response should be calm; not loud.")]
    pieces = edit_prompt(layout, "Human: Is it; late?", "No | idea.", objectives, PLAIN_DIALOGUE, equal=equal)
    prompt = "".join(piece.text for piece in pieces)
    if layout.startswith("conversation"):
        request = prompt.split("User: ")[2].removesuffix("\n\nAssistant:")
        turns = ["Human: Is it; late?", "No | idea.", request, "Sorry."]
        records = [
            {"messages": messages(turns)},
            {"prompt": messages(turns)[:3], "completion": messages(turns)[3:]},
            {"conversations": [{"from": r, "value": t} for r, t in zip(["human", "gpt"] * 2, turns, strict=True)]},
        ]
    else:
        records = [
            {"prompt": prompt, "completion": "Sorry."},
            {"prompt": messages([prompt]), "completion": [{"role": "assistant", "content": "Sorry."}]},
            {"conversations": [{"from": "human", "value": prompt}, {"from": "gpt", "value": "Sorry."}]},
        ]
    for record in records:
        assert detect(record, BETTER) == "edits"
        (row,) = formats.edits(record, BETTER)
        sets = reformulate_rows([row])
        ((edit,), rest) = (sets.equal, sets.contrastive) if equal else (sets.contrastive, sets.equal)
        assert not rest and edit.equal == equal
        assert (edit.query.strip(), edit.answer, edit.target) == ("Human: Is it; late?", "No | idea.", "Sorry.")
        assert {o.description for o in edit.objectives} == {o.description for o in objectives}


def test_an_edit_without_objectives_is_refused():
    prompt = "".join(p.text for p in edit_prompt("paper/ultrafeedback", "q", "a", [Objective("x", "y")]))
    with pytest.raises(DataError, match="names no objective"):
        one("edits", {"prompt": prompt.replace("X: y", ""), "completion": "c"})


# --- files ---


def test_every_kind_of_file(tmp_path):
    records = [{"query": "q, with\na line", "answer": ""}, {"query": "p", "answer": 'say "x"'}]
    text = 'query,answer\n"q, with\na line",\np,"say ""x"""\n'
    (tmp_path / "a.csv").write_text(text)
    (tmp_path / "a.tsv").write_text('query\tanswer\n"q, with\na line"\t\np\t"say ""x"""\n')
    (tmp_path / "a.json").write_text(json.dumps(records))
    (tmp_path / "b.json").write_text(json.dumps({"data": records}))
    lines = "\n".join(map(json.dumps, records))
    (tmp_path / "a.jsonl").write_text("\ufeff" + lines + "\n\n")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(lines)
    for path in sorted(tmp_path.iterdir()):
        assert [record for _, record in read_records(path)] == records, path


def test_parquet(tmp_path):
    import pyarrow
    from pyarrow import parquet

    records = [{"query": "q", "answer": "a", "empathy": 1.0}, {"query": "q", "answer": "b", "empathy": None}]
    parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "a.parquet")
    assert [record for _, record in read_records(tmp_path / "a.parquet")] == records
    pair = {"instruction": "q", "completions": [completion("a", honesty="5"), completion("b", honesty="3")]}
    bad = {"instruction": None, "completions": pair["completions"]}
    parquet.write_table(pyarrow.Table.from_pylist([pair, bad]), tmp_path / "c.parquet")
    account = build([tmp_path / "c.parquet"], tmp_path / "rows.jsonl", BETTER).account
    assert (account.read, account.used) == (2, 1) and "no text under 'instruction'" in account.lines()[1]
    ((row,), _) = read_rows(tmp_path / "rows.jsonl")
    assert [(a.text, list(a.ratings.values())) for a in row.answers] == [("a", [5]), ("b", [3])]
    (tmp_path / "b.parquet").write_text("not parquet")
    with pytest.raises(FileProblem, match="no Parquet file"):
        list(read_records(tmp_path / "b.parquet"))


def test_a_parquet_file_damaged_further_on_is_one_clear_error(tmp_path):
    import pyarrow
    from pyarrow import parquet

    records = [{"query": f"question {n}", "answer": "a"} for n in range(4000)]
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(records), path, row_group_size=2000, use_dictionary=False)
    content = bytearray(path.read_bytes())
    middle = len(content) * 6 // 10
    content[middle : middle + 400] = b"\xff" * 400
    path.write_bytes(content)
    with pytest.raises(FileProblem, match=r"cannot be read after record \d+: .*damaged"):
        list(read_records(path))


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("a.xlsx", b"", UsageError, "unknown kind of file.*csv"),
        ("a.json", b"{", FileProblem, "not valid JSON"),
        ("a.csv", b"\xff\xfd", FileProblem, "not UTF-8"),
        ("a.jsonl.gz", b"no gzip", FileProblem, "cannot read"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, error, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        list(read_records(tmp_path / name))


def test_a_csv_record_with_too_few_or_many_fields_is_told(tmp_path):
    (tmp_path / "a.csv").write_text("query,answer\nq\nq,a,b\nq,a\n")
    found = [record for _, record in read_records(tmp_path / "a.csv")]
    assert [isinstance(record, DataError) for record in found] == [True, True, False]


# --- build ---


def write(path, records):
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records) + "\n")
    return path


def test_build_accounts_for_every_record(tmp_path):
    pair = {"chosen": HH + " A better answer.", "rejected": HH + " No."}
    source = write(
        tmp_path / "s.jsonl", [pair, "{", {**pair, "rejected": "none"}, {**pair, "rejected": pair["chosen"]}]
    )
    built = build([source], tmp_path / "rows.jsonl", BETTER)
    assert (built.account.read, built.account.used) == (4, 1) and built.account.refused.total() == 3
    assert built.forms == {str(source): "dialogues"}
    rows, _ = read_rows(tmp_path / "rows.jsonl")
    assert rows[0].id == "s:1" and summarize(rows)["improving edits"] == 1
    with pytest.raises(FileProblem, match="exists already"):
        build([source], tmp_path / "rows.jsonl", BETTER)
    with pytest.raises(DataError, match=r"s\.jsonl, line 2: not valid JSON"):
        build([source], tmp_path / "rows.jsonl", BETTER, strict=True, force=True)
    assert len(read_rows(tmp_path / "rows.jsonl")[0]) == 1 and not (tmp_path / "rows.jsonl.part").exists()


def test_the_parts_that_a_record_is_used_without_are_counted(tmp_path):
    kept = [completion("a", honesty=5, helpfulness="N/A"), completion("b", honesty=3, helpfulness="good")]
    record = {"instruction": "q", "completions": [*kept, {"annotations": {}}, "c"]}
    source = write(tmp_path / "s.jsonl", [record, record])
    built = build([source], tmp_path / "rows.jsonl", BETTER)
    assert (built.account.read, built.account.used, built.rows) == (2, 2, 2)
    (without, four), (rating, two) = built.parts.refused.most_common()
    assert (four, two) == (4, 2) and "a completion without text" in without and "rating of 'helpfulness'" in rating
    assert any(
        line.startswith("4 refused: a completion") and "(first: s.jsonl, line 1)" in line for line in built.lines()
    )
    with pytest.raises(DataError, match="line 1: the rating of 'helpfulness' is not a number"):
        build([source], tmp_path / "rows.jsonl", BETTER, strict=True, force=True)


def test_a_limit_leaves_no_record_unaccounted(tmp_path):
    pair = {"chosen": HH + " A better answer.", "rejected": HH + " No."}
    source = write(tmp_path / "s.jsonl", [pair, "{", *[pair] * 8])
    account = build([source], tmp_path / "rows.jsonl", BETTER, limit=3).account
    assert (account.read, account.used, account.refused.total()) == (4, 3, 1)
    (tmp_path / "t.csv").write_text("query,answer,empathy\nq,a,3\nq,b,1\np,a,3\np,b,1\n")
    account = build([tmp_path / "t.csv"], tmp_path / "rows.jsonl", BETTER, limit=1, force=True).account
    assert (account.read, account.used, account.refused["behind --limit"]) == (4, 2, 2)


def test_columns_are_mapped_whatever_the_form(tmp_path):
    prompt = "".join(p.text for p in edit_prompt("paper/ultrafeedback", "q", "a", [KNOWN["humor"]]))
    for ours, theirs in (
        ({"prompt": prompt, "completion": "c"}, ("p", "c")),
        ({"question": "q", "answer": "a", "correction": "c"}, ("x", "y", "z")),
        ({"query": "q", "first": "a", "second": "b", "empathy": ">"}, ("i", "j", "k", "l")),
    ):
        source = write(tmp_path / "s.jsonl", [dict(zip(theirs, ours.values(), strict=True)), {}])
        mapped = Mapped(NAMES, dict(zip(ours, theirs, strict=True)) | {"id": "none"}, objectives=BETTER.objectives)
        built = build([source], tmp_path / "rows.jsonl", mapped, force=True)
        assert built.account.used == 1 and built.missing == {"none"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "there is no record in it"),
        ('{"query": "q"}\n', r"its keys \(query\); name it with --format"),
        ("[" * 100_000 + "\n", "not valid JSON"),
        ('{"query": "q", "answer": "a", "empaty": 1, "model": "m"}\n', "columns not read: empaty, model"),
        (json.dumps({"instruction": "q", "completions": [completion("a", vibes=1)] * 2}), "unknown objective 'vibes'"),
    ],
)
def test_what_makes_no_row_says_why(tmp_path, content, message):
    (tmp_path / "s.jsonl").write_text(content)
    with pytest.raises((DataError, UsageError), match=message):
        build([tmp_path / "s.jsonl"], tmp_path / "rows.jsonl", BETTER)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.jsonl"]


def test_unrated_pairs_say_how_to_rate_them(tmp_path):
    source = write(tmp_path / "s.jsonl", [{"chosen": HH + " a", "rejected": HH + " b"}])
    with pytest.raises(DataError, match="--objectives, or rate the answers with --score or --reward"):
        build([source], tmp_path / "rows.jsonl", Mapped(NAMES))


def test_a_ratings_table_is_put_together_by_query(tmp_path):
    (tmp_path / "t.csv").write_text("prompt,text,feel,model\nq,a,3,m\np,x,1,m\nq,b,1,n\nq,c,,n\n")
    mapped = Mapped(NAMES, {"query": "prompt", "answer": "text", "empathy": "feel"})
    built = build([tmp_path / "t.csv"], tmp_path / "rows.jsonl", mapped)
    ((row,), _) = read_rows(tmp_path / "rows.jsonl")
    assert [(a.text, list(a.ratings.values())) for a in row.answers] == [("a", [3.0]), ("b", [1.0]), ("c", [])]
    assert (built.account.read, built.account.used, built.rows) == (4, 3, 1)
    assert built.unread == {"model"}


def test_rows_read_back_as_they_were(tmp_path):
    new = resolve(["calm: The response should be calm, not loud."])[0]
    row = Row("1", "q", (Answer("a", {new: 1.0, KNOWN["humor"]: 0.5}), Answer("b", {new: 0.0})))
    rows, _ = read_rows(write(tmp_path / "rows.jsonl", [to_json(row)]))
    assert rows == [row]


def test_lines_are_what_json_writes():
    """With orjson or without it, whatever the texts hold."""
    from json.encoder import encode_basestring

    from mal_train.rows import Lines

    text = "".join(map(chr, range(160))) + '\u2028é😀"\\/'
    row = Row("1", text, (Answer(text, {KNOWN["humor"]: 0.5}), Answer("b", {KNOWN["humor"]: 1.0})))
    assert Lines(KNOWN)(row) == json.dumps(to_json(row), ensure_ascii=False) + "\n"
    orjson = pytest.importorskip("orjson")
    assert orjson.dumps(text).decode() == encode_basestring(text)


# --- scorers ---


@pytest.mark.parametrize(
    ("name", "better", "worse"),
    [
        ("length", "Short.", "word " * 40),
        ("readability", "The cat sat. It was glad.", "Organizational internationalization necessitates deliberation."),
        ("repetition", "We will look into it today.", "we will look we will look we will look we will look"),
        ("specificity", "It left for Berlin on 3 May, number 4417.", "It left for somewhere some time ago."),
        ("politeness", "I am sorry; thank you.", "No."),
        ("structure", "- one\n- two\n- three", "one two three"),
        ("clarity", "Go home. Then rest.", "Go home. Then rest.\n\nHuman: why?"),
        ("length", "Short.", ""),
    ],
)
def test_scorers_rank(name, better, worse):
    (scorer,) = scorers.chosen_scorers([name])
    rated = scorers.rate(Row("1", "q", (Answer(better, {}), Answer(worse, {}))), [scorer], NAMES)
    first, second = (a.ratings[NAMES[scorer.objective]] for a in rated.answers)
    assert first > second


def test_close_scores_are_ties_and_names_are_checked():
    (scorer,) = scorers.chosen_scorers(["length"])
    rated = scorers.rate(Row("1", "q", (Answer("a b c", {}), Answer("a b", {}))), [scorer], NAMES)
    assert summarize([rated])["equal edits"] == 1
    with pytest.raises(UsageError, match="unknown scorer 'lenght'; expected length"):
        scorers.chosen_scorers(["lenght"])


@pytest.fixture
def classifier(tmp_path):
    """A random Llama with two logits, as reward models come."""
    pytest.importorskip("torch")
    from tiny_train import make_base
    from transformers import LlamaConfig, LlamaForSequenceClassification

    folder = make_base(tmp_path / "classifier")
    config = LlamaConfig.from_pretrained(folder, num_labels=2, pad_token_id=0)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_reward_models_are_asked_once(classifier, tmp_path):
    from mal_train.rewards import Rewards, parse_reward

    reward = parse_reward(f"humor={classifier}#1")
    rows = [Row(str(i), f"q{i}", (Answer("a", {}), Answer("long answer", {}))) for i in range(5)]
    rewards = Rewards([reward], NAMES, tmp_path / "cache.sqlite", batch_size=3)
    rated = rewards(rows)
    assert rewards.asked == 10 and all(KNOWN["humor"] in a.ratings for row in rated for a in row.answers)
    again = Rewards([reward], NAMES, tmp_path / "cache.sqlite", batch_size=7)
    assert again(rows) == rated and again.asked == 0
    with pytest.raises(UsageError, match="has 2 logits; there is no #5"):
        Rewards([parse_reward(f"humor={classifier}#5")], NAMES, tmp_path / "c2.sqlite")(rows)
    with pytest.raises(UsageError, match="expected OBJECTIVE=FOLDER"):
        parse_reward("humor")


def test_a_reward_model_is_never_shown_more_than_it_reads(tmp_path):
    pytest.importorskip("torch")
    from tiny_train import make_base
    from transformers import BertConfig, BertForSequenceClassification

    from mal_train.rewards import Rewards, parse_reward

    folder = make_base(tmp_path / "m")
    config = BertConfig(
        vocab_size=400,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        num_labels=1,
        pad_token_id=0,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    row = Row("1", "a long question " * 50, (Answer("a long answer " * 50, {}), Answer("", {})))
    for reward in (f"humor={folder}", f"humor={folder}@answer"):
        (found,) = Rewards([parse_reward(reward)], NAMES, tmp_path / "cache.sqlite")([row])
        assert all(abs(a.ratings[KNOWN["humor"]]) < 10 for a in found.answers)
    with pytest.raises(FileProblem, match="cannot open the reward model.*hf download"):
        Rewards([parse_reward(f"humor={tmp_path}/none")], NAMES, tmp_path / "cache.sqlite")([row])


# --- the reference code's choices ---


def rated(text, *values):
    return Answer(text, dict(zip(resolve("harmlessness,helpfulness,humor"), values, strict=False)))


def made(row, style):
    return [
        (e.answer, e.target, {o.name for o in e.objectives}, e.equal)
        for e in reference_edits(row, style, random.Random(0))
    ]


def test_reference_hh_rlhf_nests_its_prompts():
    """The context of a pair's second and third prompt is the prompt before it, as the script's variable is."""
    row = Row("1", "\n\nHuman: q? \n\nAssistant:", (rated("y1", 1, 0, 5), rated("y2", 0, 1, 5)))
    first, second, third = (edit.query for edit in reference_edits(row, "hh-rlhf", random.Random(0)))
    assert first == row.query
    for nested, context, answer in ((second, first, "y2"), (third, second, "y1")):
        assert nested.startswith("You are an assistant to human.")
        assert nested.endswith(f" | Context: {context} | Answer: {answer} | Edit: ")


def test_reference_hh_rlhf_names_the_wrong_objectives_in_equal_prompts():
    row = Row("1", "q", (rated("y1", 1, 0, 5), rated("y2", 0, 1, 5)))
    assert made(row, "hh-rlhf") == [
        ("y2", "y1", {"harmlessness"}, False),
        ("y1", "y2", {"helpfulness"}, False),
        ("y2", "y1", {"helpfulness"}, True),
    ]


def test_reference_ultrafeedback_takes_one_direction_and_the_last_partner():
    four = resolve("instruction following,honesty,truthfulness,helpfulness")

    def answer(text, *values):
        return Answer(text, dict(zip(four, values, strict=False)))

    answers = (answer("a", 3, 1, 1, 2), answer("b", 1, 2, 1, 2), answer("c", 3, 1, 1, 2), answer("d", 5))
    names = {objective.name for objective in four}
    assert made(comparable(Row("1", "q", answers)), "ultrafeedback") == [
        ("b", "a", {"instruction following"}, False),
        ("c", "a", set(), False),  # all ties: an improving edit toward nothing
        ("c", "a", names, True),
        ("c", "b", {"honesty"}, False),
        ("c", "b", {"truthfulness", "helpfulness"}, True),
    ]


@pytest.mark.parametrize("style", ["hh-rlhf", "ultrafeedback"])
def test_a_reference_edit_survives_as_a_row(style):
    row = Row("1", "q", (rated("y1", 1, 0, 5), rated("y2", 0, 1, 5)))
    for edit in reference_edits(row, style, random.Random(0)):
        sets = reformulate_rows([as_row(edit, "x")])
        (back,) = sets.contrastive + sets.equal
        assert (back.answer, back.target, set(back.objectives)) == (edit.answer, edit.target, set(edit.objectives))


def test_reference_hh_rlhf_keeps_the_marks_of_a_single_question(tmp_path):
    """Its reward models and its prompts see them; the prompt is the same, since the layout puts them there anyway."""
    source = write(
        tmp_path / "s.jsonl",
        [
            {"chosen": "\n\nHuman: q?\n\nAssistant: a", "rejected": "\n\nHuman: q?\n\nAssistant: b"},
            {"prompt": "q?", "chosen": "a", "rejected": "b"},
            {"prompt": "\n\nHuman: q? \n\nAssistant:", "chosen": "a", "rejected": "b"},
        ],
    )
    seen = []

    def reward(rows):
        seen.extend(row.query for row in rows)
        return rows

    build([source], tmp_path / "rows.jsonl", BETTER, reference="hh-rlhf", rewards=reward)
    assert seen == ["\n\nHuman: q? \n\nAssistant:"] * 3
    rows, _ = read_rows(tmp_path / "rows.jsonl")
    objective = [KNOWN["harmlessness"]]
    marked, bare = (edit_prompt("paper/hh-rlhf", query, "b", objective) for query in (rows[0].query, "q?"))
    assert marked == bare


def test_no_model_is_asked_about_texts_that_cannot_be_used(tmp_path):
    good = {"query": "q", "answers": [{"text": text, "ratings": {"humor": 1}} for text in "ab"]}
    half = {**good, "query": "half \ud800"}  # no file can hold it, and hashing it would fail
    source = write(tmp_path / "s.jsonl", [half, {**good, "answers": good["answers"][:1]}, {**good, "query": " "}, good])
    asked = []

    def reward(rows):
        asked.extend(rows)
        return rows

    account = build([source], tmp_path / "rows.jsonl", BETTER, rewards=reward).account
    assert [row.query for row in asked] == ["q"] and account.used == 1
    assert [reason.split(";")[0] for reason in account.refused] == [
        "a text with half a character (a lone surrogate)",
        "fewer than two answers",
        "no query",
    ]


def test_reference_hh_rlhf_counts_what_is_no_pair(tmp_path):
    three = {"query": "q", "answers": [{"text": t, "ratings": {"humor": i}} for i, t in enumerate("abc")]}
    source = write(tmp_path / "s.jsonl", [three, {**three, "answers": three["answers"][:2]}])
    built = build([source], tmp_path / "rows.jsonl", BETTER, reference="hh-rlhf")
    assert (built.account.used, built.rows) == (1, 1)
    assert list(built.account.refused) == ["other than two answers; --reference hh-rlhf compares two"]
    with pytest.raises(DataError, match="line 1: other than two answers"):
        build([source], tmp_path / "rows.jsonl", BETTER, reference="hh-rlhf", strict=True, force=True)


def test_reference_ultrafeedback_counts_what_it_leaves_out(tmp_path):
    names = ("instruction following", "honesty", "truthfulness", "helpfulness")
    full, part = dict.fromkeys(names, 3) | {"humor": 1}, dict.fromkeys(names[:3], 3)

    def row(*ratings):
        texts = zip("abc", ratings, strict=True)
        return {"query": "q", "answers": [{"text": text, "ratings": found} for text, found in texts]}

    source = write(tmp_path / "s.jsonl", [row(full, full, full), row(full, full, part), row(full, part, part)])
    built = build([source], tmp_path / "rows.jsonl", BETTER, reference="ultrafeedback")
    assert (built.account.read, built.account.used) == (3, 2)
    (whole,), (answer,) = built.account.refused, built.parts.refused
    assert whole.startswith("fewer than two answers with ratings for helpfulness, honesty, instruction following")
    assert answer.startswith("an answer without ratings for") and built.parts.refused[answer] == 1
    rows, _ = read_rows(tmp_path / "rows.jsonl")
    assert "humor" not in {objective.name for row in rows for one in row.answers for objective in one.ratings}
    with pytest.raises(DataError, match="line 2: an answer without ratings"):
        build([source], tmp_path / "rows.jsonl", BETTER, reference="ultrafeedback", strict=True, force=True)


# --- the command ---


@pytest.fixture
def mal(capsys):
    app = typer.Typer()
    app.add_typer(cli.app, name="data")

    def call(*args):
        app([str(arg) for arg in ("data", *args)], standalone_mode=False)
        return capsys.readouterr().out

    return call


def test_build_and_show(mal, tmp_path):
    source = write(tmp_path / "s.jsonl", [{"chosen": HH + " Short.", "rejected": HH + " word" * 30}, "{"])
    said = mal("build", source, "--score", "length, readability", "-o", tmp_path / "rows.jsonl")
    assert "s.jsonl: dialogues" in said and "1 of 2 records used" in said and "not valid JSON" in said
    shown = mal("show", tmp_path / "rows.jsonl", "-n", "1")
    assert "Edit your answer to improve it" in shown and "length" in shown and "improving edits" in shown
    told = json.loads(mal("show", tmp_path / "rows.jsonl", "--json", "-n", "1", "--layout", "paper/hh-rlhf"))
    assert told["edits"][0]["prompt"].startswith("You are an assistant to human.") and told["pairs"] == 1


def test_a_row_of_very_many_answers_is_shown_by_its_first(mal, tmp_path):
    """All pairs of 5,000 answers would be 12 million."""
    answers = [{"text": f"answer {i}", "ratings": {"humor": i}} for i in range(5000)]
    source = write(tmp_path / "rows.jsonl", [{"id": "1", "query": "q", "answers": answers}])
    said = mal("show", source)
    assert "5,000 answers" in said and "435 pairs" in said
    assert "of 1 rows with more than 30 answers the first 30 are compared" in said


def test_reward_models_from_the_command_line(mal, classifier, tmp_path):
    source = write(tmp_path / "s.jsonl", [{"chosen": HH + f" answer {i}", "rejected": HH + " other"} for i in range(3)])
    rewards = [
        "--reward",
        f"humor={classifier}#1@answer",
        "--reward",
        f"calm: The response should be calm.={classifier}",
    ]
    mal("build", source, *rewards, "-o", tmp_path / "rows.jsonl")
    (row, *_), _ = read_rows(tmp_path / "rows.jsonl")
    assert [o.name for o in row.answers[0].ratings] == ["humor", "calm"]


def test_reference_and_column_mapping(mal, tmp_path):
    (tmp_path / "t.csv").write_text("ask,good,bad\nq,a b c,word word word word word word word word word word word\n")
    flags = [
        "--answer-column",
        "good",
        "--answer-column",
        "bad",
        "--column",
        "query=ask",
        "--score",
        "length,politeness",
    ]
    told = json.loads(
        mal("build", tmp_path / "t.csv", *flags, "--reference", "hh-rlhf", "-o", tmp_path / "r.jsonl", "--json")
    )
    assert told["used"] == told["rows"] == 1 and not told["refused"]
    assert sum(told["edits_refused"].values()) == 1  # the equal edit names no objective
    with pytest.raises(UsageError, match="expected OURS=THEIRS"):
        mal("build", tmp_path / "t.csv", "--column", "query", "-o", tmp_path / "x.jsonl")


def test_data_sets_are_built_and_shown_without_torch(tmp_path):
    """Building data is for laptops, too: nothing heavy on the way."""
    rows, out = tmp_path / "in.jsonl", tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": "Hello!", "rejected": "No."}) + "\n")
    build_it = ["mal", "data", "build", str(rows), "--out", str(out), "--score", "length"]
    for args in (build_it, ["mal", "data", "show", str(out)]):
        code = (
            "import sys; from metaaligner_lite.cli import main\n"
            f"sys.argv = {args!r}\n"
            "try: main()\nexcept SystemExit as e: assert not e.code, e.code\n"
            "heavy = {'torch', 'transformers', 'peft'} & set(sys.modules)\n"
            "assert not heavy, heavy"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
