"""Every form that train/README.md names, read from a file of a few lines: the table there and the files here agree."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from mal_train.build import build
from mal_train.formats import FORMATS, MEANING, Mapped
from mal_train.look import look
from mal_train.rows import Names, read_rows
from metaaligner_lite.errors import DataError, UsageError
from metaaligner_lite.objectives import resolve

README = Path(__file__).parent.parent / "train" / "README.md"
TABLE = re.findall(r"^\| `(\w[\w-]*)` \| ([^|]+?) \| (.+) \| ([^|]+) \|$", README.read_text(encoding="utf-8"), re.M)
HELPFUL = Mapped(Names(None), objectives=tuple(resolve("helpfulness")))


def user(text):
    return {"role": "user", "content": text}


def bot(text):
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be kind."}
SAID = [user("Hi"), bot("Hello.")]
BETTER = [("good", {"helpfulness": 1}), ("bad", {"helpfulness": 0})]
WORSE = [("good", {"helpfulness": 0}), ("bad", {"helpfulness": 1})]
TIE = [("good", {"helpfulness": 1}), ("bad", {"helpfulness": 1})]
HH = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: q\n\nAssistant:"


JUDGE = (
    "###Task Description:\nRate it.\n\n###The instruction to evaluate:\n{query}\n\n"
    "###Response to evaluate:\n{answer}\n\n###Score Rubrics:\n[Is it good?]\n\n###Feedback: "
)


def pair(answers=None, history=(), query="q"):
    return (list(history), query, answers or BETTER)


# name in the table -> records, the rows they become, and reasons (or parts of them) of what is refused
FORMS = {
    "our own rows": (
        [
            {
                "query": "q",
                "answers": [{"text": t, "ratings": r} for t, r in BETTER],
                "history": SAID,
                "source": "here",
            }
        ],
        [pair(history=SAID)],
        [],
    ),
    "HH-RLHF": (
        [
            {"chosen": HH + " good", "rejected": HH + " bad"},
            {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"},
            {"chosen": HH + " Human: and then?", "rejected": HH + " bad"},
            {"chosen": HH + " good", "rejected": HH.replace("Hello", "Hullo") + " bad"},
        ],
        [pair(history=SAID), pair()],
        ["begins with somebody's turn", "part before their last answer"],
    ),
    "TRL, paired": (
        [
            {"prompt": "q", "chosen": "good", "rejected": "bad"},
            {"prompt": HH, "chosen": "good", "rejected": "bad"},
            {"prompt": "q", "chosen": "\n\nHuman: good", "rejected": "bad"},
        ],
        [pair(), pair(history=SAID)],
        ["begins with somebody's turn"],
    ),
    "TRL, conversational": (
        [
            {"prompt": [SYSTEM, *SAID, user("q")], "chosen": [bot("good")], "rejected": [bot("bad")]},
            {"prompt": [SYSTEM, user("q")], "chosen": [bot("good")], "rejected": [bot("bad")], "tools": []},
            {"prompt": [user("q")], "chosen": [SYSTEM, bot("good")], "rejected": [SYSTEM, bot("bad")]},
            {"prompt": "q", "chosen": [bot("<think>So.</think>\n\ngood")], "rejected": [bot("bad")]},
        ],
        [pair(history=[SYSTEM, *SAID]), pair(history=[SYSTEM]), pair(history=[SYSTEM]), pair()],
        [],
    ),
    "TRL, implicit prompt": (
        [{"chosen": [SYSTEM, *SAID, user("q"), bot("good")], "rejected": [SYSTEM, *SAID, user("q"), bot("bad")]}],
        [pair(history=[SYSTEM, *SAID])],
        [],
    ),
    "TRL, implicit prompt in texts": (
        [
            {"chosen": "The sky is blue.", "rejected": "The sky is green."},
            {"chosen": "The sky is blue.", "rejected": "The sky is black."},
            {"chosen": "It is late", "rejected": "Not yet"},
        ],
        [
            pair([("blue.", {"helpfulness": 1}), ("green.", {"helpfulness": 0})], query="The sky is"),
            pair([("blue.", {"helpfulness": 1}), ("black.", {"helpfulness": 0})], query="The sky is"),
        ],
        ["texts that begin alike"],
    ),
    "TRL, with images": (
        [
            {"images": ["a.png"], "prompt": "q", "chosen": "good", "rejected": "bad"},
            {"images": [], "prompt": "q", "chosen": "good", "rejected": "bad"},
            {
                "images": None,
                "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "q"}]}],
                "chosen": [bot("good")],
                "rejected": [bot("bad")],
            },
        ],
        [pair()],
        ["'images'", "type 'image'"],
    ),
    "LLaMA-Factory, Alpaca": (
        [
            {"instruction": "q", "input": "", "chosen": "good", "rejected": "bad"},
            {
                "instruction": "q",
                "input": "more",
                "chosen": "good",
                "rejected": "bad",
                "system": "Be kind.",
                "history": [["Hi", "Hello."]],
            },
        ],
        [pair(), pair(history=[SYSTEM, *SAID], query="q\nmore")],
        [],
    ),
    "LLaMA-Factory, ShareGPT": (
        [
            {
                "conversations": [
                    {"from": "human", "value": "Hi"},
                    {"from": "gpt", "value": "Hello."},
                    {"from": "human", "value": "q"},
                ],
                "chosen": {"from": "gpt", "value": "good"},
                "rejected": {"from": "gpt", "value": "bad"},
                "system": "Be kind.",
            }
        ],
        [pair(history=[SYSTEM, *SAID])],
        [],
    ),
    "orca_dpo_pairs": (
        [
            {"system": "Be kind.", "question": "q", "chosen": "good", "rejected": "bad"},
            {"system": "", "question": "q", "chosen": "good", "rejected": "bad"},
        ],
        [pair(history=[SYSTEM]), pair()],
        [],
    ),
    "distilabel's orca": (
        [
            {"system": "", "input": "q", "chosen": "good", "rejected": "bad", "rating": [9, 7], "status": "unchanged"},
            {"system": "", "input": "q", "chosen": "good", "rejected": "bad", "rating": [7, 7], "status": "tie"},
        ],
        [pair(), pair(TIE)],
        [],
    ),
    "UltraFeedback, binarized": (
        [
            {
                "prompt": "q",
                "prompt_id": "1",
                "messages": [user("q"), bot("good")],
                "chosen": [user("q"), bot("good")],
                "rejected": [user("q"), bot("bad")],
                "score_chosen": chosen,
                "score_rejected": 7.0,
            }
            for chosen in (8.0, 7.0, 6.0, None)
        ],
        [pair(), pair(TIE), pair()],
        ["scores contradict its choice"],
    ),
    "UltraFeedback, cleaned": (
        [
            {
                "source": "s",
                "prompt": "q",
                "chosen": [user("q"), bot("good")],
                "chosen-rating": chosen,
                "chosen-model": "a",
                "rejected": [user("q"), bot("bad")],
                "rejected-rating": 4.5,
                "rejected-model": "b",
            }
            for chosen in (5.0, 4.5, 4.0)
        ],
        [pair(), pair(TIE)],
        ["scores contradict its choice"],
    ),
    "RM-Bench": (
        [{"id": 1, "prompt": "q", "chosen": ["good", "better"], "rejected": ["bad"]}],
        [pair([("good", {"helpfulness": 1}), ("better", {"helpfulness": 1}), ("bad", {"helpfulness": 0})])],
        [],
    ),
    "TruthfulQA": (
        "Type,Question,Best Answer,Correct Answers,Incorrect Answers\nx,q,good,good; better,bad\n",
        [pair([("good", {"helpfulness": 1}), ("better", {"helpfulness": 1}), ("bad", {"helpfulness": 0})])],
        [],
    ),
    "HHH, for judges": (
        [
            {
                "source": "other",
                "chosen_instruction": JUDGE.format(query=query, answer="good"),
                "rejected_instruction": JUDGE.format(query=other, answer="bad"),
            }
            for query, other in ((HH, HH), ("q", "r"))
        ],
        [pair(history=SAID)],
        ["to different queries"],
    ),
    "a table of chats": (
        'prompt;chosen;rejected\nq;"[{""role"": ""assistant"", ""content"": ""good""}]";'
        "\"[{'role': 'assistant', 'content': 'bad'}]\"\n",
        [pair()],
        [],
    ),
    "LMArena": (
        [
            {
                "question_id": "1",
                "model_a": "x",
                "model_b": "y",
                "winner": winner,
                "conversation_a": [*before, user("q"), bot("good")],
                "conversation_b": [*before, user("q"), bot("bad")],
            }
            for winner, before in (("model_a", []), ("model_b", SAID), ("tie (bothbad)", []), ("nobody", []))
        ]
        + [
            {
                "winner": "tie",
                "conversation_a": [user("q"), bot("good"), user("and"), bot("one")],
                "conversation_b": [user("q"), bot("bad"), user("and"), bot("other")],
            },
            {"winner": "tie", "conversation_a": [user("q"), bot("a")], "conversation_b": [user("r"), bot("b")]},
        ],
        [pair(), pair(WORSE, SAID), pair(TIE), pair(TIE)],
        ["names no winner", "part before their last answer"],
    ),
    "LMArena, as a table": (
        "id,model_a,model_b,prompt,response_a,response_b,winner_model_a,winner_model_b,winner_tie\n"
        '1,x,y,"[""q""]","[""good""]","[""bad""]",0,1,0\n'
        '2,x,y,"[""q""]","[""good""]","[""bad""]",0,0,1\n'
        '3,x,y,"[""q"",""r""]","[""good"",""s""]","[""bad"",""t""]",1,0,0\n'
        '4,x,y,"[""Hi"",""q""]","[""Hello."",""good""]","[""Hello."",""bad""]",1,0,0\n',
        [pair(WORSE), pair(TIE), pair(), pair(history=SAID)],
        [],
    ),
    "AlpacaFarm, LLMBar": (
        [
            {"instruction": "q", "input": "", "output_1": "good", "output_2": "bad", "preference": value}
            for value in (1, 2, 1.5, 7)
        ],
        [pair(), pair(WORSE), pair(TIE)],
        ["names no winner"],
    ),
    "PandaLM": (
        [
            {
                "instruction": "q",
                "input": "",
                "response1": "good",
                "response2": "bad",
                **{f"annotator{i}": v for i, v in enumerate(votes, 1)},
            }
            for votes in ((1, 1, 2), (2, 0, 2), (1, 2, 0))
        ],
        [pair(), pair(WORSE), pair(TIE)],
        [],
    ),
    "HelpSteer 2, preferences": (
        [
            {
                "prompt": prompt,
                "response_1": "good",
                "response_2": "bad",
                "preference_strength": value,
                "split": "train",
            }
            for prompt, value in (
                ("q", -2),
                ("q", 3),
                ("q", 0),
                ("Hi<extra_id_1>Assistant\nHello.\n<extra_id_1>User\nq", -1),
            )
        ],
        [pair(), pair(WORSE), pair(TIE), pair(history=SAID)],
        [],
    ),
    "HelpSteer 3": (
        [
            {
                "domain": "general",
                "context": [*before, user("q")],
                "response1": "good",
                "response2": "bad",
                "overall_preference": value,
                "individual_preference": [{"score": value}],
            }
            for before, value in ((SAID, -3), ([SYSTEM], 1), ([], 0))
        ],
        [pair(history=SAID), pair(WORSE, [SYSTEM]), pair(TIE)],
        [],
    ),
    "SHP": (
        [
            {
                "post_id": "1",
                "history": "q",
                "human_ref_A": "good",
                "human_ref_B": "bad",
                "labels": label,
                "score_A": a,
                "score_B": b,
                "score_ratio": 2.0,
            }
            for label, a, b in ((1, 8, 4), (0, 4, 8), (1, 4, 8))
        ],
        [pair(), pair(WORSE)],
        ["scores contradict its choice"],
    ),
    "WebGPT": (
        [
            {
                "question": {"dataset": "x", "id": "1", "full_text": "q"},
                "answer_0": "good",
                "answer_1": "bad",
                "score_0": score,
                "score_1": -score,
            }
            for score in (0.5, -0.5, 0.0)
        ],
        [pair(), pair(WORSE), pair(TIE)],
        [],
    ),
    "Prometheus, preferences": (
        [
            {
                "orig_criteria": "kind",
                "orig_instruction": "q",
                "orig_response_A": "good",
                "orig_response_B": "bad",
                "orig_preference": value,
                "instruction": "###Task",
                "output": "[RESULT] A",
            }
            for value in "AB"
        ],
        [pair(), pair(WORSE)],
        [],
    ),
    "PKU-SafeRLHF": (
        [
            {
                "prompt": "q",
                "response_0": "good",
                "response_1": "bad",
                "better_response_id": 0,
                "safer_response_id": 1,
                "is_response_0_safe": zero,
                "is_response_1_safe": one,
            }
            for zero, one in ((True, True), (True, False))
        ],
        [pair([("good", {"helpfulness": 1, "harmlessness": 0}), ("bad", {"helpfulness": 0, "harmlessness": 1})])],
        ["named safer is not safe"],
    ),
    "Nectar": (
        [
            {
                "prompt": f"{HH} ",
                "answers": [
                    {"answer": "bad", "model": "x", "rank": 2.0},
                    {"answer": "good", "model": "y", "rank": 1.0},
                    {"answer": "none", "model": "z", "rank": None},
                ],
                "turns": 2,
                "num_responses": 2,
            }
        ],
        [pair([("bad", {"helpfulness": -2}), ("good", {"helpfulness": -1})], SAID)],
        ["without text or rank"],
    ),
    "lists of ranks": (
        [
            {"prompt": "q", "responses": ["bad", "good"], "rank": [1, 0]},
            {"prompt": "q", "responses": ["a"], "rank": []},
        ],
        [pair([("bad", {"helpfulness": -1}), ("good", {"helpfulness": 0})])],
        ["a rank each"],
    ),
    "UltraFeedback": (
        [
            {
                "instruction": "q",
                "completions": [
                    {"response": "good", "annotations": {"honesty": {"Rating": "5"}, "helpfulness": {"Rating": "N/A"}}},
                    {"response": "bad", "annotations": {"honesty": {"Rating": "3"}, "vibes": {"Rating": "1"}}},
                ],
            }
        ],
        [pair([("good", {"honesty": 5}), ("bad", {"honesty": 3})])],
        [],
    ),
    "just-eval": (
        [
            {"id": 1, "instruction": "q", "answers": [{"text": "good", "safety": 5}, {"text": "bad", "safety": 1}]},
            {"instruction": "q", "answers": {"x": "good", "y": "bad"}, "safety": {"x": 5, "y": 1}},
        ],
        [pair([("good", {"harmlessness": 5}), ("bad", {"harmlessness": 1})])] * 2,
        [],
    ),
    "lists of scores": (
        [
            {"prompt": "q", "responses": ["good", "bad"], "scores": [0.5, 0.25]},
            {"prompt": "q", "completions": ["step", "step"], "labels": [True, False]},
        ],
        [pair([("good", {"helpfulness": 0.5}), ("bad", {"helpfulness": 0.25})])],
        ["steps of one answer"],
    ),
    "a table of ratings": (
        "query;answer;empathy\nq;good;3\np;x;1\nq;bad;1\n",
        [pair([("good", {"empathy": 3}), ("bad", {"empathy": 1})])],
        ["fewer than two answers"],
    ),
    "HelpSteer 2": (
        [
            {"prompt": "q", "response": text, "helpfulness": value, "correctness": 4, "verbosity": 2}
            for text, value in (("good", 4), ("bad", 1))
        ],
        [pair([("good", {"helpfulness": 4, "correctness": 4}), ("bad", {"helpfulness": 1, "correctness": 4})])],
        [],
    ),
    "UniEval": (
        [
            {"source": "q", "system_output": text, "scores": {"informativeness": value, "naturalness": 1}}
            for text, value in (("good", 4.5), ("bad", 2))
        ],
        [pair([("good", {"informativeness": 4.5}), ("bad", {"informativeness": 2})])],
        [],
    ),
    "Prometheus, feedback": (
        [
            {
                "orig_instruction": "q",
                "orig_response": text,
                "orig_score": score,
                "orig_criteria": "kind",
                "instruction": "###Task",
                "output": "[RESULT]",
            }
            for text, score in (("good", "5"), ("bad", "2"))
        ],
        [pair([("good", {"helpfulness": 5}), ("bad", {"helpfulness": 2})])],
        [],
    ),
    "Prometheus, judged": (
        [
            {"idx": 1, "instruction": JUDGE.format(query="q", answer=text), "gpt4_score": scores}
            for text, scores in (("good", [5, 4]), ("bad", [2, 1]))
        ],
        [pair([("good", {"helpfulness": 4.5}), ("bad", {"helpfulness": 1.5})])],
        [],
    ),
    "AlpacaEval": (
        [
            {"dataset": "x", "instruction": "q", "output": text, "model": text, "preference": value}
            for text, value in (("good", 1.9), ("bad", 1.1), ("new", None))
        ],
        [pair([("good", {"helpfulness": 1.9}), ("bad", {"helpfulness": 1.1}), ("new", {})])],
        [],
    ),
    "prompts and completions": (
        [
            {"prompt": "q", "completion": "good"},
            {"prompt": "q", "completion": "bad"},
            {"prompt": "alone", "completion": "x"},
        ],
        None,
        None,
    ),
    "TruthfulQA, for judges": (
        [
            {"prompt": f"Q: q\nA: {text}\n{about}:", "completion": answer}
            for text, about, answer in (("good", "True", " yes"), ("bad", "True", " no"), ("bad", "Helpful", " yes"))
        ],
        [pair([("good", {"truthfulness": 1}), ("bad", {"truthfulness": 0}), ("bad", {"helpfulness": 1})])],
        [],
    ),
    "MetaAligner's samples": ("query,goldens,generated_text\nq,good,bad\n", None, None),
    "numbered answers": (
        [{"question": "q", "prediction 1": "good", "prediction 2": "bad", "prediction 3": "x", "preference": [0, 1]}],
        None,
        None,
    ),
    "TRL, unpaired (KTO)": (
        [
            {"prompt": "q", "completion": "good", "label": True},
            {"prompt": [SYSTEM, user("q")], "completion": [bot("good")], "label": True},
            {"prompt": "alone", "completion": "x", "label": True},
            {"prompt": "q", "completion": "bad", "label": False},
            {"prompt": [SYSTEM, user("q")], "completion": [bot("bad")], "label": False},
            {"prompt": "q", "completion": "bad", "label": "perhaps"},
        ],
        [pair(), pair(history=[SYSTEM])],
        ["fewer than two answers", "neither yes nor no"],
    ),
    "LLaMA-Factory, KTO": (
        [
            {"messages": [*SAID, user("q"), bot("good")], "kto_tag": True},
            {"messages": [*SAID, user("q"), bot("bad")], "kto_tag": False},
            {"messages": [user("q")], "kto_tag": False},
        ],
        [pair(history=SAID)],
        ["does not end in an answer"],
    ),
    "BeaverTails": (
        [
            {"prompt": "q", "response": "good", "category": {"x": False}, "is_safe": True},
            {"prompt": "q", "response": "bad", "category": {"x": True}, "is_safe": False},
        ],
        [pair([("good", {"harmlessness": 1}), ("bad", {"harmlessness": 0})])],
        [],
    ),
    "PKU Aligner": (
        [
            {"question": "q", "answer": "bad", "correction": "good"},
            {"question": "q", "answer": "same", "correction": "same"},
        ],
        [pair(), pair([("same", {"helpfulness": 1})] * 2)],
        [],
    ),
    "HelpSteer 3, edits": (
        [{"context": [*SAID, user("q")], "original_response": "bad", "edited_response": "good", "feedback": ["x"]}],
        [pair(history=SAID)],
        [],
    ),
    "our own pairs": (
        [
            {"query": "q", "first": "good", "second": "bad", "preferences": {"empathy": ">", "brevity": "="}},
            {"query": "q", "first": "good", "second": "bad", "empathy": ">", "brevity": 0},
        ],
        [pair([("good", {"empathy": 1, "brevity": 1}), ("bad", {"empathy": 0, "brevity": 1})])] * 2,
        [],
    ),
    "aligner data": (None, None, None),  # tests/test_data.py tries it with every layout
    "a table of answers": ("query,first try,second try\nq,good,bad\n", None, None),
}
UNREAD = {
    "our own rows": {"source"},
    "TRL, conversational": {"tools"},
    "UltraFeedback, binarized": {"messages", "prompt_id"},
    "UltraFeedback, cleaned": {"source", "chosen-model", "rejected-model"},
    "HelpSteer 2": {"verbosity"},
    "UniEval": {"scores: naturalness"},
    "Nectar": {"turns", "num_responses"},
    "UltraFeedback": {"completions: vibes"},
    "SHP": {"post_id", "score_ratio"},
    "TruthfulQA": {"Type", "Best Answer"},
    "AlpacaEval": {"dataset", "model"},
}


def test_the_table_and_the_files_name_the_same_forms():
    assert len(TABLE) > 35 and [name for _, name, _, _ in TABLE] == list(dict.fromkeys(name for _, name, _, _ in TABLE))
    assert {name for _, name, _, _ in TABLE} == set(FORMS)
    assert {form for form, *_ in TABLE} == set(FORMATS) == set(MEANING)


def written(folder, content):
    path = folder / ("s.csv" if isinstance(content, str) else "s.jsonl")
    text = content if isinstance(content, str) else "\n".join(map(json.dumps, content)) + "\n"
    path.write_text(text, encoding="utf-8")
    return path


def plain(rows):
    return [
        (
            [{"role": turn.role, "content": turn.content} for turn in row.history],
            row.query,
            [(a.text, {o.name: v for o, v in a.ratings.items()}) for a in row.answers],
        )
        for row in rows
    ]


@pytest.mark.parametrize(("form", "name"), [(form, name) for form, name, _, _ in TABLE])
def test_each_form_becomes_what_the_table_says(tmp_path, form, name):
    content, expected, reasons = FORMS[name]
    if content is None or expected is None:
        pytest.skip("needs a layout or a flag; its own test is below or in test_data.py")
    source = written(tmp_path, content)
    built = build([source], tmp_path / "rows.jsonl", HELPFUL)
    rows, _ = read_rows(tmp_path / "rows.jsonl")
    assert built.forms == {str(source): form}
    assert plain(rows) == expected
    refused = [*built.account.refused, *built.parts.refused]
    assert len(refused) == len(reasons) and all(any(r in one for one in refused) for r in reasons), refused
    assert built.account.read == built.account.used + built.account.refused.total()
    assert UNREAD.get(name, set()) <= built.unread
    if name in UNREAD:
        assert built.unread == UNREAD[name]


@pytest.mark.parametrize(("form", "name"), [(form, name) for form, name, _, _ in TABLE])
def test_show_says_what_each_is_taken_for(tmp_path, form, name):
    content = FORMS[name][0]
    if content is None or name == "a table of answers":
        pytest.skip("needs a layout or a flag")
    seen = look(written(tmp_path, content), HELPFUL)
    text = "\n".join(seen.lines())
    assert seen.form == form and f"{form}: {MEANING[form]}" in text and len(seen.lines()) < 40
    assert all(unread in text for unread in UNREAD.get(name, ()))


@pytest.mark.parametrize("name", ["prompts and completions", "MetaAligner's samples", "numbered answers"])
def test_answers_that_nothing_rates_are_for_scorers(tmp_path, name):
    from mal_train.scorers import chosen_scorers

    source = written(tmp_path, FORMS[name][0])
    with pytest.raises(DataError, match="no objective is rated.*--score or --reward"):
        build([source], tmp_path / "rows.jsonl", Mapped(Names(None)))
    build([source], tmp_path / "rows.jsonl", Mapped(Names(None)), scorers=chosen_scorers(["length"]))
    ((_, query, answers),) = plain(read_rows(tmp_path / "rows.jsonl")[0])
    assert query == "q" and [text for text, _ in answers][:2] == ["good", "bad"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([{"orig": "a long text", "simple": "a text", "split": "x"}], "texts and their rewritings (orig, simple)"),
        ([{"source": "a long text", "target": "a text"}], "--column answer=source --column correction=target"),
        ([{"id": 1, "prompt": "q", "label": "safe"}], "questions, and no answers to compare"),
    ],
)
def test_what_lacks_a_part_is_named_with_it(tmp_path, content, said):
    source = written(tmp_path, content)
    assert said in "\n".join(look(source, HELPFUL).lines())
    with pytest.raises(UsageError, match=re.escape(said)):
        build([source], tmp_path / "rows.jsonl", HELPFUL)


def test_a_table_of_answers(tmp_path):
    source = written(tmp_path, FORMS["a table of answers"][0])
    mapped = replace(HELPFUL, answers=("first try", "second try"))
    with pytest.raises(DataError, match="no objective is rated"):
        build([source], tmp_path / "rows.jsonl", mapped)
    assert [a for a, _ in plain(look(source, mapped).rows)[0][2]] == ["good", "bad"]


@pytest.mark.parametrize(
    "prompt",
    [
        HH,
        "Human: Hi\n\nAssistant: Hello.\n\nHuman: q\n\nAssistant:",
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello.<end_of_turn>\n"
        "<start_of_turn>user\nq<end_of_turn>\n<start_of_turn>model\n",
        "<|user|>\nHi</s>\n<|assistant|>\nHello.</s>\n<|user|>\nq</s>\n<|assistant|>\n",
        "### Human: Hi\n### Assistant: Hello.\n### Human: q\n### Assistant:",
        "BEGINNING OF CONVERSATION: USER: Hi ASSISTANT: Hello.</s>USER: q ASSISTANT:",
        "Hi<extra_id_1>Assistant\nHello.\n<extra_id_1>User\nq\n<extra_id_1>Assistant\n",
    ],
)
def test_transcripts_are_turns(tmp_path, prompt):
    source = written(tmp_path, [{"prompt": prompt, "chosen": "good", "rejected": "bad"}])
    build([source], tmp_path / "rows.jsonl", HELPFUL)
    assert plain(read_rows(tmp_path / "rows.jsonl")[0]) == [pair(history=SAID)]


@pytest.mark.parametrize(
    "text",
    [
        "Human: is that a word?",
        "What does 'Human:' mean?\n\nAssistant: is another",
        "### Human: alone",
        "USER: one",
        "Write a chat:\n\nHuman: Hi\n\nAssistant: Hello",
    ],
)
def test_what_is_no_transcript_stays_a_query(tmp_path, text):
    source = written(tmp_path, [{"prompt": text, "chosen": "good", "rejected": "bad"}])
    build([source], tmp_path / "rows.jsonl", HELPFUL)
    assert plain(read_rows(tmp_path / "rows.jsonl")[0]) == [pair(query=text)]


def test_answers_in_json_stay_text(tmp_path):
    source = written(tmp_path, [{"prompt": "[1, 2]", "chosen": '{"a": 1}', "rejected": '[{"a": 1}]'}])
    build([source], tmp_path / "rows.jsonl", HELPFUL)
    ((_, query, answers),) = plain(read_rows(tmp_path / "rows.jsonl")[0])
    assert query == "[1, 2]" and [text for text, _ in answers] == ['{"a": 1}', '[{"a": 1}]']


def test_thoughts_are_taken_out_and_counted(tmp_path):
    def record(first):
        return {"prompt": "q", "chosen": first, "rejected": "bad"}

    source = written(
        tmp_path, [record("<think>\nSo.\n</think>\n\ngood"), record("<think>So on"), record("a <think> b")]
    )
    built = build([source], tmp_path / "rows.jsonl", HELPFUL)
    assert [a[0][0] for _, _, a in plain(read_rows(tmp_path / "rows.jsonl")[0])] == ["good", "a <think> b"]
    assert list(built.notes.values()) == [1] and list(built.account.refused) == [
        "thoughts that never end, and no answer"
    ]
    assert any("1 times: an answer without its thoughts" in line for line in built.lines())
    built = build([source], tmp_path / "rows.jsonl", HELPFUL, keep_thoughts=True, force=True)
    kept = [a[0][0] for _, _, a in plain(read_rows(tmp_path / "rows.jsonl")[0])]
    assert kept == ["<think>\nSo.\n</think>\n\ngood", "<think>So on", "a <think> b"] and not built.notes


def test_training_and_running_see_the_same_turns(tmp_path):
    """A transcript becomes history and query for training, and in a batch that is run."""
    from metaaligner_lite.rows import Reading
    from metaaligner_lite.rows import read_rows as read_cases

    source = written(tmp_path, [{"query": HH, "first": "good", "second": "bad", "preferences": {"empathy": ">"}}])
    build([source], tmp_path / "rows.jsonl", HELPFUL)
    ((row,), _) = read_rows(tmp_path / "rows.jsonl")
    (ran,) = read_cases(source, Reading(objectives=HELPFUL.objectives))
    assert (ran.case.query, ran.case.history) == (row.query, row.history) == ("q", row.history) and row.history


# --- held out ---

QUESTION = "My parcel number 4417 is a week late; where is it now, and who can tell me more?"


def test_held_out_queries_are_dropped_and_counted(tmp_path):
    def record(*said):
        turns = [turn for text in said for turn in (user(text), bot("Yes."))][:-1]
        return {"prompt": turns, "chosen": "good", "rejected": "bad"}

    source = written(
        tmp_path,
        [
            record(QUESTION),
            record(QUESTION.upper().replace(",", " --")),
            record(QUESTION.replace("a week", "two weeks")),
            record("Hello", QUESTION),
            record("My parcel is a week late."),
            record("Where is it?"),
        ],
    )
    held = tmp_path / "eval.csv"
    held.write_text(f'query,goldens\n"{QUESTION}",x\nWhere is it?,y\nNobody asks this of anyone here.,z\n')
    built = build([source], tmp_path / "rows.jsonl", HELPFUL, held_out=[held])
    rows, _ = read_rows(tmp_path / "rows.jsonl")
    assert [row.query for row in rows] == ["My parcel is a week late."]
    assert dict(built.account.refused) == {
        "its query occurs in eval.csv, which is held out": 3,
        "its query nearly occurs in eval.csv, which is held out": 2,
    }
    said = "of the 3 queries of eval.csv, {} occur in the data word for word (case and marks aside), {} more nearly"
    assert said.format(2, 0) in built.lines()
    held.write_text(f'query\n"{QUESTION.upper()}"\nWhere is it?\n"{QUESTION.replace("a week", "a month")} Quickly."\n')
    built = build([source], tmp_path / "rows.jsonl", HELPFUL, held_out=[held], force=True)
    assert said.format(2, 1) in built.lines()
    nothing = tmp_path / "nothing.jsonl"
    nothing.write_text('{"a": 1}\n')
    with pytest.raises(DataError, match="no query to hold out"):
        build([source], tmp_path / "other.jsonl", HELPFUL, held_out=[nothing])


def test_held_out_dialogues(tmp_path):
    source = written(tmp_path, [{"chosen": HH + " good", "rejected": HH + " bad"}, *FORMS["TRL, paired"][0][:1]])
    held = tmp_path / "eval.jsonl"
    held.write_text(json.dumps({"chosen": HH + " other", "rejected": HH + " another"}) + "\n")
    built = build([source], tmp_path / "rows.jsonl", HELPFUL, held_out=[held])
    assert (built.account.used, built.account.refused.total()) == (1, 1)


def test_answers_are_put_together_beyond_memory(tmp_path):
    from mal_train.gathered import Gathered
    from mal_train.rows import Answer, Row

    calm = resolve("calm: The response should be calm.")[0]
    names = Names(None)
    small, large = Gathered(), Gathered(held=2000)
    for number in range(300):
        row = Row("", f"question {number % 90}", (Answer(f"answer {number}", {calm: 1.0, names["humor"]: number}),))
        small.add(f"record {number}", row)
        large.add(f"record {number}", row)
    expected = sorted(small.rows(), key=lambda found: found[1].query)
    assert sorted(large.rows(), key=lambda found: found[1].query) == expected and len(expected) == 90
