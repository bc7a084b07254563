"""What is read of each folder of real text: chosen answers, refusals, own answers, pairs as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metaaligner_lite.errors import DataError
from metaaligner_lite.evaluation import measures
from metaaligner_lite.records import Account, read_records

from . import judge
from .passages import better_outputs, split_sentences
from .sources import LONGEST, Base, Source, clean, front, recent, turns_of, usable
from .texts import count, join, keep_first, normal, split

_LONG = 330  # words of two answers put together


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
                if _go_together(text, worse):
                    yield Base(f"{name}/both", query, f"{text}\n\n{worse}", source.name, history)


def _go_together(first: str, second: str) -> bool:
    """Whether two answers to one query make a long one: both long, neither a list, nothing twice, no new greeting."""
    if count(first) < 60 or not 150 <= count(first) + count(second) <= _LONG or measures.refuses(first + second):
        return False
    if "\n" in first or "\n" in second or second.startswith(("Yes", "No", "Sure", "I ", "I'", "Well", "Oh", "Hi")):
        return False
    return not usable(f"{first}\n\n{second}") and measures.unrepetitive("", f"{first}\n\n{second}")


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


_FROM_MIX = {  # the parts of real-mix that are an edit more than a new text, and at most so many of each
    "onestopenglish": 300,
    "truthfulqa": 150,
    "llmbar": 60,
    "medical-plain-language": 20,
}


_TOLD = ("simplicity", "readability")


def _told(objective: str, before: str, after: str) -> bool:
    """Whether the rule sees it, too: the easier wording satisfies, the harder does not."""
    return judge.holds(objective, "", after) and not judge.holds(objective, "", before)


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
            signed = tuple(o for o in signed if o not in _TOLD or _told(o, old, text))
            if not signed:
                account.refuse("no objective of ours in it", where)
            elif shared < 0.6 or not 12 <= count(text) <= 150 or count(old) > 150 or usable(text) or text == old:
                account.refuse("a free rewriting, too short or long, or not a whole text", where)
            else:
                used[part] += 1
                yield Base(f"mix/{record['id']}", clean(record["query"]), text, part, (), old, signed)


ALLOWED = ("simplicity", "readability", "honesty", "repetition", "instruction following", "helpfulness", "brevity")


def _own(path: Path, source: Source, account: Account) -> Iterator[Base]:
    """Whole answers as bases; where one says sentences twice, also as it is beside the one that says them once."""
    for where, record in _records(path, account):
        text = clean(record["text"])
        history = tuple((turn["role"], turn["content"]) for turn in record.get("history", ()))
        if record.get("ended") is False:
            text = front(text, count(text) - 1)
        once = join(keep_first(split(text)))
        if reason := usable(once) or ("under 25 words" if count(once) < 25 else ""):
            account.refuse(reason, where)
            continue
        yield Base(f"own/{record['id']}", record["query"], once, source.name, history)
        if once != text and count(once) >= 0.2 * count(text):
            yield Base(f"own/{record['id']}/twice", record["query"], once, source.name, history, text, ("repetition",))


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
    Source(
        "WikiSplit",
        ("wikisplit/valid_test.jsonl.gz",),
        "CC BY-SA 4.0",
        "google-research-datasets/wiki-split, through feralvam/easse",
        split_sentences,
    ),
    Source("LLMBar", ("llmbar/llmbar.jsonl.gz",), "MIT", "princeton-nlp/LLMBar", better_outputs),
    Source("hh-rlhf harmless", ("preference/hh-rlhf-harmless-base-test.jsonl.gz",), "MIT", _HH, _dialogues),
    Source("rm-bench safety", ("rm-bench/safety-refuse_filtered.json.gz",), "ODC-BY", "THU-KEG/RM-Bench", _rm_safety),
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
    "rm-bench chat, prometheus-eval, just-eval-safety": "their prompts are evaluation prompts elsewhere",
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
