"""What is read of each folder of real text: chosen answers, refusals, own answers, pairs as they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metaaligner_lite.errors import DataError
from metaaligner_lite.records import Account, read_records

from .sources import LONGEST, Base, Source, clean, front, recent, turns_of, usable
from .texts import count, normal


def _dialogues(path: Path, source: Source, account: Account) -> Iterator[Base]:
    for where, record in _records(path, account):
        chosen, rejected = turns_of(str(record["chosen"])), turns_of(str(record["rejected"]))
        if len(chosen) < 2 or chosen[-1][0] != "assistant" or chosen[-2][0] != "user":
            account.refuse("not a dialogue that ends with an answer", where)
            continue
        query, text = clean(chosen[-2][1]), clean(chosen[-1][1])
        history = recent(tuple((role, clean(content)) for role, content in chosen[:-2]))
        if len(chosen) > 2 and not history:
            account.refuse("turns before it are too long", where)
        elif count(query) > 120:
            account.refuse("a query over 120 words", where)
        elif count(text) < 12 or count(text) > LONGEST:
            account.refuse(f"an answer under 12 or over {LONGEST} words", where)
        elif reason := usable(text):
            account.refuse(reason, where)
        else:
            worse = clean(rejected[-1][1]) if rejected and chosen[:-1] == rejected[:-1] else ""
            name = f"{path.name.split('.')[0]}/{where.split()[-1]}"
            yield Base(name, query, text, source.name, history, worse)
            if "helpful" in source.name and 70 <= count(worse) <= LONGEST and not usable(worse):
                yield Base(f"{name}/second", query, worse, source.name, history)  # a long answer, for the rules


def _rm_chat(path: Path, source: Source, account: Account) -> Iterator[Base]:
    for where, record in _records(path, account):
        for number, text in enumerate(record["chosen"][1:], 1):
            cut = front(clean(text), 190)
            if reason := usable(cut) or ("no whole part short enough" if count(cut) < 60 else ""):
                account.refuse(reason, where)
            else:
                yield Base(f"rm-chat/{record['id']}/{number}", clean(record["prompt"]), cut, source.name)


def _rm_safety(path: Path, source: Source, account: Account) -> Iterator[Base]:
    for where, record in _records(path, account):
        refusal = min((clean(text) for text in record["chosen"] if count(text) >= 6), key=count, default="")
        comply = min((clean(text) for text in record["rejected"] if count(text) >= 12), key=count, default="")
        if not refusal or not comply or count(comply) > LONGEST:
            account.refuse("no refusal, or a compliance too short or long", where)
        else:
            yield Base(
                f"rm-safe/{record['id']}", clean(record["prompt"]), refusal, source.name, (), comply, ("harmlessness",)
            )


def _vicuna(path: Path, source: Source, account: Account) -> Iterator[Base]:
    for where, record in _records(path, account):
        match = re.search(
            r"instruction to evaluate:\s*(.*?)\s*###Response to evaluate:\s*(.*?)\s*###Reference",
            str(record["instruction"]),
            re.S | re.I,
        )
        scores = record.get("gpt4_score")
        if not match or not scores or min(scores) < 4:
            account.refuse("scores under 4, or no answer in the prompt", where)
            continue
        cut = front(clean(match[2]), 190)
        if reason := usable(cut) or ("no whole part short enough" if count(cut) < 40 else ""):
            account.refuse(reason, where)
        else:
            yield Base(f"prometheus/{record['idx']}/{record['response_source']}", clean(match[1]), cut, source.name)


def _safety(path: Path, source: Source, account: Account) -> Iterator[Base]:
    for where, record in _records(path, account):
        for answer in record["answers"]:
            cut = front(clean(answer["text"]), 190)
            if float(answer.get("safety", 0)) < 5 or usable(cut):
                account.refuse("not safe enough, or not a whole text", where)
            else:
                yield Base(f"just-safe/{record['id']}/{answer['model']}", clean(record["input"]), cut, source.name)


_FROM_MIX = {  # the parts of real-mix that are an edit more than a new text, and at most so many of each
    "onestopenglish": 200,
    "truthfulqa": 150,
    "llmbar": 60,
    "medical-plain-language": 20,
}


def _mix(path: Path, source: Source, account: Account) -> Iterator[Base]:
    used = dict.fromkeys(_FROM_MIX, 0)
    for where, record in _records(path, account):
        part, answers = record["source"], record["answers"]
        if part not in _FROM_MIX:
            account.refuse(f"{part}: another style, changed facts, or read from its own folder", where)
        elif record["split"] != "train":
            account.refuse("held out by its maker", where)
        elif used[part] >= _FROM_MIX[part]:
            account.refuse(f"{part}: enough of it", where)
        else:
            better, worse = answers[0], answers[-1]
            signed = tuple(o for o, v in better["ratings"].items() if v > worse["ratings"].get(o, v) and o in ALLOWED)
            text, old = clean(better["text"]), clean(worse["text"])
            shared = len(set(normal(text).split()) & set(normal(old).split())) / max(1, len(set(normal(text).split())))
            if not signed:
                account.refuse("no objective of ours in it", where)
            elif shared < 0.6 or not 12 <= count(text) <= 150 or count(old) > 150 or usable(text) or text == old:
                account.refuse("a free rewriting, too short or long, or not a whole text", where)
            else:
                used[part] += 1
                yield Base(f"mix/{record['id']}", clean(record["query"]), text, part, (), old, signed)


ALLOWED = ("simplicity", "readability", "honesty", "repetition", "instruction following", "helpfulness", "brevity")


def _own(path: Path, source: Source, account: Account) -> Iterator[Base]:
    for where, record in _records(path, account):
        text = clean(record["text"])
        history = tuple((turn["role"], turn["content"]) for turn in record.get("history", ()))
        if record.get("ended") is False:
            text = front(text, count(text) - 1)
        text = front(text, LONGEST)
        if reason := usable(text) or ("under 25 words" if count(text) < 25 else ""):
            account.refuse(reason, where)
        else:
            yield Base(f"own/{record['id']}", record["query"], text, source.name, history)


def _records(path: Path, account: Account) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, record in read_records(path):
        account.read += 1
        if isinstance(record, DataError):
            account.refuse(str(record), f"{path.name}, {where}")
        else:
            yield f"{path.name}, {where}", record


_HH = "anthropics/hh-rlhf"
SOURCES = (
    Source(
        "hh-rlhf helpful",
        (
            "hh-rlhf/helpful-base-test.jsonl.gz",
            "hh-rlhf/helpful-rejection-sampled-test.jsonl.gz",
            "hh-rlhf/helpful-online-test.jsonl.gz",
        ),
        "MIT",
        _HH,
        _dialogues,
    ),
    Source("hh-rlhf harmless", ("preference/hh-rlhf-harmless-base-test.jsonl.gz",), "MIT", _HH, _dialogues),
    Source("rm-bench chat", ("rm-bench/chat_filtered.json.gz",), "ODC-BY", "THU-KEG/RM-Bench", _rm_chat),
    Source("rm-bench safety", ("rm-bench/safety-refuse_filtered.json.gz",), "ODC-BY", "THU-KEG/RM-Bench", _rm_safety),
    Source(
        "prometheus-eval",
        ("prometheus-eval/vicuna_eval.json.gz",),
        "Apache-2.0",
        "prometheus-eval/prometheus-eval",
        _vicuna,
    ),
    Source("just-eval safety", ("just-eval-safety/safety.jsonl.gz",), "MIT", "Re-Align/just-eval", _safety),
    Source(
        "real-mix",
        ("rows/real-mix.jsonl.gz",),
        "each part its own: CC BY-SA 4.0, Apache-2.0, MIT, CC BY 4.0",
        "rows/make_rows.py over the sets that CONVERT.md names",
        _mix,
    ),
)
# Folders that are looked at and left, with the reason; the account lists them.
LEFT = {
    "unieval": "lower-case, tokenized answers to queries that no user writes",
    "paradetox": "lower-case texts without courtesy; offensive",
    "neutralizing-bias": "lower-case, tokenized",
    "positive-frames": "tweets: another style, and facts change",
    "halueval": "teaches clipping to a bare name",
    "legal-plain-english": "summaries that do not cover their text",
    "eval-only": "for evaluation only; read for its queries",
    "policy_outputs": "for evaluation only; read for its queries",
}


def own_answers(path: Path) -> Source:
    """The source that `python -m mal_train.corpus.own_answers` made."""
    return Source(
        "SmolLM2's own answers",
        (path.name,),
        "Apache-2.0",
        "SmolLM2-135M-Instruct, python -m mal_train.corpus.own_answers",
        _own,
    )
