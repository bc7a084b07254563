"""The folders of real text: which may be trained on, what is read of each, and which queries are kept out.

Every record read is used or counted with its reason. Nothing but queries is read of the files for evaluation.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metaaligner_lite.errors import DataError, FileProblem

from ..rows import Account
from ..sources import read_records
from .texts import count, join, normal, split

Turns = tuple[tuple[str, str], ...]  # role and content


@dataclass(frozen=True, slots=True)
class Base:
    """A real query with a real answer; `worse` is an answer that people or raters liked less, if there is one."""

    id: str
    query: str
    text: str
    source: str
    history: Turns = ()
    worse: str = ""
    objectives: tuple[str, ...] = ()  # on which `text` is better than `worse`; none: a base for the rules


@dataclass(frozen=True, slots=True)
class Source:
    """A folder (or file) of the data directory, where it comes from and under which licence."""

    name: str
    files: tuple[str, ...]
    licence: str
    origin: str
    read: Callable[[Path, Source, Account], Iterable[Base]]


@dataclass(slots=True)
class Excluded:
    """Queries kept for evaluation; `hits` counts the records left out for them, by the file that holds the query."""

    queries: dict[str, str] = field(default_factory=dict)
    hits: dict[str, int] = field(default_factory=dict)

    def add(self, text: str, where: str) -> None:
        """Keep a query out: all of it, and its first and last turn."""
        turns = [content for role, content in turns_of(text) if role == "user"] or [text]
        for part in {text, turns[0], turns[-1], " ".join(turns)}:
            key = normal(part)
            if len(key.split()) >= 4 or part is text:
                self.queries.setdefault(key, where)

    def holds(self, query: str, history: Turns = ()) -> bool:
        """Whether a query, its first turn or its whole dialogue is kept for evaluation; counts it if so."""
        asked = [content for role, content in history if role == "user"]
        whole = " ".join([*(f"{_NAMES[role]}: {content}" for role, content in history), f"Human: {query} Assistant:"])
        for part in (query, *asked[:1], " ".join([*asked, query]), whole):
            if where := self.queries.get(normal(part)):
                self.hits[where] = self.hits.get(where, 0) + 1
                return True
        return False


_NAMES = {"user": "Human", "assistant": "Assistant"}
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")
_LEAK = re.compile(r"\n\s*(?:Human|User|Assistant):|\bHuman:")
_LONGEST = 230  # words of an answer
_TALK = 100  # words of history that a row may carry

# Where queries are kept out of training: file, the column that holds them.
_HELD_OUT = (
    ("policy_outputs/hh-rlhf/Claude-3.csv", "query"),
    ("policy_outputs/hh-rlhf/llama2-chat-70B.csv", "query"),
    ("policy_outputs/ultrafeedback/gpt-3.5-turbo.csv", "query"),
    ("policy_outputs/ultrafeedback/Vicuna-13B.csv", "query"),
    ("eval-only/just-eval/just-eval.jsonl.gz", "query"),
    ("eval-only/alpaca-eval/outputs.jsonl.gz", "instruction"),
    ("eval-only/xstest/xstest_prompts.csv.gz", "prompt"),
)


def excluded(data: Path) -> Excluded:
    """The queries of the files for evaluation. Raises FileProblem if one of them is missing: then none can be sure."""
    found = Excluded()
    csv.field_size_limit(1 << 30)
    for name, column in _HELD_OUT:
        path = _need(data, name, "the queries that must stay out of training; see its README.md")
        for _, record in read_records(path):
            if isinstance(record, dict):
                found.add(str(record.get(column, "")), name)
    return found


def read(source: Source, data: Path, kept_out: Excluded) -> tuple[list[Base], Account]:
    """The usable bases of a source and the account of all its records. Raises FileProblem if a file is missing."""
    account = Account("records")
    found: list[Base] = []
    seen: set[tuple[str, str]] = set()
    for name in source.files:
        path = _need(data, name, f"source {source.name}, {source.licence}, from {source.origin}")
        for base in source.read(path, source, account):
            key = (normal(base.query), normal(base.text))
            if kept_out.holds(base.query, base.history):
                account.refuse("its query is kept for evaluation", base.id)
            elif key in seen:
                account.refuse("the same query and answer again", base.id)
            else:
                seen.add(key)
                found.append(base)
    account.used = len(found)
    return found, account


def _need(data: Path, name: str, what: str) -> Path:
    path = data / name
    if not path.is_file():
        raise FileProblem(f"{path} is missing: {what}. --data names the folder that holds {name.split('/')[0]}/")
    return path


def turns_of(dialogue: str) -> list[tuple[str, str]]:
    """The turns of a transcript as HH-RLHF writes them; none for a plain text."""
    parts = _TURN.split(dialogue)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [(roles[role], text.strip()) for role, text in zip(parts[1::2], parts[2::2], strict=False)]


def usable(text: str) -> str:
    """Why an answer cannot be a base, or nothing. Whole sentences of one voice, none of them twice."""
    if not text.strip():
        return "an empty answer"
    if _LEAK.search(text):
        return "an answer with another turn in it"
    if not re.search(r"[.!?][\"')”’*]*$", text.strip()) and not _bare_list(text):
        return "an answer that breaks off"
    if text.count("(") > len(re.findall(r"\)", text)):
        return "an answer that breaks off"
    if "```" in text or "|" in text or "http" in text or re.search(r"[{}<>\\]", text):
        return "code, tables or addresses"
    if sum(ord(c) > 127 and c not in "’‘“”–—…éèñüöä°½¼•£€" for c in text) > 2:
        return "other scripts or signs"
    units = [normal(unit.text) for unit in split(text)]
    if len(units) != len(set(units)):
        return "sentences twice"
    if text[0].islower() or sum(c.isupper() for c in text) > 0.3 * len(text):
        return "written in one case"
    return ""


def _bare_list(text: str) -> bool:
    """Whether a text ends with a list whose items are no sentences."""
    items = re.findall(r"\n\s*(?:[-*•]|\d+[.)])([^\n]+)", text)
    ends = [bool(re.search(r"[.!?:]$", item.strip())) for item in items]
    return len(ends) >= 3 and not any(ends) and bool(re.search(r"\n\s*(?:[-*•]|\d+[.)])[^\n]+$", text))


def clean(text: str) -> str:
    """An answer with single spaces and straight quotes."""
    straight = text.replace("’", "'").replace("‘", "'").replace("“", '"').replace("”", '"')
    return join(split(straight))


def front(text: str, most: int) -> str:
    """The first whole sentences and items of a text, `most` words at most."""
    kept = []
    for unit in split(text):
        if count(kept) + count(unit.text) > most:
            break
        kept.append(unit)
    while kept and (kept[-1].heading or kept[-1].text.endswith(":")):
        kept.pop()
    return join(kept)


def recent(history: Turns) -> Turns:
    """The last turns of a conversation, as many as a row may carry; it begins with the user."""
    kept: list[tuple[str, str]] = []
    for role, content in reversed(history):
        if sum(count(text) for _, text in kept) + count(content) > _TALK:
            break
        kept.insert(0, (role, content))
    while kept and kept[0][0] != "user":
        kept.pop(0)
    return tuple(kept)


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
        elif count(text) < 12 or count(text) > _LONGEST:
            account.refuse(f"an answer under 12 or over {_LONGEST} words", where)
        elif reason := usable(text):
            account.refuse(reason, where)
        else:
            worse = clean(rejected[-1][1]) if rejected and chosen[:-1] == rejected[:-1] else ""
            name = f"{path.name.split('.')[0]}/{where.split()[-1]}"
            yield Base(name, query, text, source.name, history, worse)
            if "helpful" in source.name and 70 <= count(worse) <= _LONGEST and not usable(worse):
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
        if not refusal or not comply or count(comply) > _LONGEST:
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
        text = front(text, _LONGEST)
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
    Source("hh-rlhf helpful", ("hh-rlhf/helpful-base-test.jsonl.gz", "hh-rlhf/helpful-rejection-sampled-test.jsonl.gz", "hh-rlhf/helpful-online-test.jsonl.gz"), "MIT", _HH, _dialogues),
    Source("hh-rlhf harmless", ("preference/hh-rlhf-harmless-base-test.jsonl.gz",), "MIT", _HH, _dialogues),
    Source("rm-bench chat", ("rm-bench/chat_filtered.json.gz",), "ODC-BY", "THU-KEG/RM-Bench", _rm_chat),
    Source("rm-bench safety", ("rm-bench/safety-refuse_filtered.json.gz",), "ODC-BY", "THU-KEG/RM-Bench", _rm_safety),
    Source("prometheus-eval", ("prometheus-eval/vicuna_eval.json.gz",), "Apache-2.0", "prometheus-eval/prometheus-eval", _vicuna),
    Source("just-eval safety", ("just-eval-safety/safety.jsonl.gz",), "MIT", "Re-Align/just-eval", _safety),
    Source("real-mix", ("rows/real-mix.jsonl.gz",), "each part its own: CC BY-SA 4.0, Apache-2.0, MIT, CC BY 4.0", "rows/make_rows.py over the sets in CONVERT.md", _mix),
)  # fmt: skip
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


def open_text(path: Path) -> str:
    """A text file, gzipped or not."""
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return file.read()
    return path.read_text(encoding="utf-8")


def dump(record: dict[str, Any]) -> str:
    """A record as one line of JSON."""
    return json.dumps(record, ensure_ascii=False)
