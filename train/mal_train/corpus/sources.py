"""The folders of real text: which may be trained on, what is read of each, and which queries are kept out.

Every record read is used or counted with its reason. Nothing but queries is read of the files for evaluation.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metaaligner_lite.errors import FileProblem
from metaaligner_lite.records import Account, read_records

from .texts import Unit, count, join, normal, split

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
_CAPITAL = re.compile(r"[A-Z]")
_LEAK = re.compile(r"\n\s*(?:Human|User|Assistant):|\bHuman:")
LONGEST = 230  # words of an answer
_TALK = 100  # words of history that a row may carry

_PAPERS = "MIT, from samples/ of SteveKGYang/MetaAligner on GitHub"
# Where queries are kept out of training: file, the column that holds them, licence and origin.
_HELD_OUT = (
    ("policy_outputs/hh-rlhf/Claude-3.csv", "query", _PAPERS),
    ("policy_outputs/hh-rlhf/llama2-chat-70B.csv", "query", _PAPERS),
    ("policy_outputs/ultrafeedback/gpt-3.5-turbo.csv", "query", _PAPERS),
    ("policy_outputs/ultrafeedback/Vicuna-13B.csv", "query", _PAPERS),
    ("eval-only/just-eval/just-eval.jsonl.gz", "query", "MIT, from Re-Align/just-eval on GitHub"),
    ("eval-only/alpaca-eval/outputs.jsonl.gz", "instruction", "CC BY-NC 4.0, from tatsu-lab/alpaca_eval on GitHub"),
    ("eval-only/xstest/xstest_prompts.csv.gz", "prompt", "CC BY 4.0, from paul-rottger/exaggerated-safety on GitHub"),
)


def check(data: Path, sources: Iterable[Source]) -> None:
    """Raise FileProblem if a file is missing: one that lists all of them, with licences and origins."""
    wanted = {name: f"kept out of training; {origin}" for name, _, origin in _HELD_OUT}
    for source in sources:
        wanted |= dict.fromkeys(source.files, f"{source.name}; {source.licence}, from {source.origin}")
    if missing := {name: what for name, what in wanted.items() if not (data / name).is_file()}:
        listed = "\n".join(f"  {name}: {what}" for name, what in missing.items())
        raise FileProblem(f"{data} lacks {len(missing)} of the {len(wanted)} files that --data is to hold:\n{listed}")


def excluded(data: Path) -> Excluded:
    """The queries of the files for evaluation.

    Raises FileProblem if a record of them has none: what cannot be read cannot be kept out.
    """
    found = Excluded()
    csv.field_size_limit(1 << 30)
    for name, column, origin in _HELD_OUT:
        count = 0
        for where, record in read_records(data / name):
            query = record.get(column) if isinstance(record, dict) else None
            if not isinstance(query, str):
                why = record if isinstance(record, Exception) else f"it has no text under {column!r}"
                raise FileProblem(f"{data / name}, {where}: {why}; its queries must stay out of training ({origin})")
            found.add(query, name)
            count += 1
        if not count:
            raise FileProblem(f"{data / name} holds no record; its queries must stay out of training ({origin})")
    return found


def read(source: Source, data: Path, kept_out: Excluded) -> tuple[list[Base], Account]:
    """The usable bases of a source and the account of all its records.

    Raises FileProblem if a record is of another form than the source's.
    """
    account = Account("records")
    found: list[Base] = []
    seen: set[tuple[str, str]] = set()
    for name in source.files:
        for base in _bases(data / name, source, account):
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


def _bases(path: Path, source: Source, account: Account) -> Iterator[Base]:
    before = account.read
    try:
        yield from source.read(path, source, account)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        form = f"{source.name}, from {source.origin}"
        raise FileProblem(
            f"{path}: record {account.read - before:,} is not of the form of {form} ({error!r})"
        ) from error
    if account.read == before:
        account.refuse("a file without records", path.name)


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
    if re.search(r"(?:^|\n)\s*\d{1,2}[.)]$", text.strip()) or text.count("(") > len(re.findall(r"\)", text)):
        return "an answer that breaks off"
    if "```" in text or "|" in text or "http" in text or re.search(r"[{}<>\\]", text):
        return "code, tables or addresses"
    if not text.isascii() and sum(ord(c) > 127 and c not in "’‘“”–—…éèñüöä°½¼•£€" for c in text) > 2:
        return "other scripts or signs"
    units = [normal(unit.text) for unit in split(text)]
    if len(units) != len(set(units)):
        return "sentences twice"
    if text[0].islower() or len(_CAPITAL.findall(text)) > 0.3 * len(text):
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
    kept: list[Unit] = []
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


def dump(record: dict[str, Any]) -> str:
    """A record as one line of JSON."""
    return json.dumps(record, ensure_ascii=False)
