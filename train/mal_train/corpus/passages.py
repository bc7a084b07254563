"""Harder and easier wordings: OneStopEnglish's articles, WikiSplit's sentences; and LLMBar's better outputs."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from metaaligner_lite.evaluation import measures
from metaaligner_lite.records import Account, read_records

from .plain import words_of
from .sources import LONGEST, Base, Source, clean, usable
from .texts import count, normal, split, words

_WORDS = (45, 130)  # of the easier passage
_ASKED = (
    "What does the article about {} say?",
    "Tell me about {} in the news.",
    "What was in the news about {}?",
    "Can you tell me what happened with {}?",
    "Explain the news about {} to me.",
)
_STOP = frozenset(
    (  # noqa: SIM905
        "about after also been before could first from have into more most only other over said says some than that "
        "their them then there these they this were what when which while will with would years year people many "
        "because where those being very your our its"
    ).split()
)


def passages(path: Path, source: Source, account: Account) -> Iterator[Base]:
    """Passages whose easier wording is readable by the rule while the harder is not, names and numbers alike."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        text = file.read()
    hard: list[str] = []
    easy: list[str] = []
    for number, block in enumerate(text.split("*******")):
        lines = [clean(line) for line in block.strip().split("\n") if line.strip()]
        if len(lines) != 2 or any(usable(line) for line in lines):
            account.read += 1
            account.refuse("a block of other than two whole sentences", f"{path.name}, block {number}")
            hard, easy = [], []
        elif normal(lines[0]) in map(normal, hard) or normal(lines[1]) in map(normal, easy):
            account.read += 1
            account.refuse("the same sentence again", f"{path.name}, block {number}")
        else:
            hard.append(lines[0])
            easy.append(lines[1])
        if count(" ".join(easy)) >= _WORDS[0]:
            yield from _passage(f"onestop/{number}", " ".join(hard), " ".join(easy), source, account)
            hard, easy = [], []


def _passage(name: str, hard: str, easy: str, source: Source, account: Account) -> Iterator[Base]:
    account.read += 1
    reason = ""
    if count(easy) > _WORDS[1] or len(split(easy)) < 3:
        reason = "a passage too long, or of less than three sentences"
    elif not measures.readable(easy) or measures.readable(hard):
        reason = "its easier wording is not readable by the rule, or its harder one is"
    elif measures.kept(hard, easy)[2] or measures.invented("", hard, easy):
        reason = "names or numbers that changed"
    if reason:
        account.refuse(reason, name)
        return
    query = _ASKED[sum(map(ord, name)) % len(_ASKED)].format(_topic(easy))
    objectives = ("readability", "simplicity") if measures.simple(easy) else ("readability",)
    yield Base(name, query, easy, source.name, (), hard, objectives)
    if count(easy) >= 60:
        yield Base(f"{name}/rules", query, easy, source.name)


def _topic(text: str) -> str:
    """Two telling words of a passage."""
    common = words_of("small") | words_of("verbs") | _STOP
    found = Counter(
        word for word in words(text) if len(word) > 3 and word not in common and not re.search(r"\d|'", word)
    )
    return " and ".join(word for word, _ in found.most_common(2))


_SPLIT_MOST = 260
_NAMED = re.compile(r"\b[A-Z][a-z]+(?: [A-Z][a-z]+)+\b(?!\w)")


def split_sentences(path: Path, source: Source, account: Account) -> Iterator[Base]:
    """WikiSplit: a long sentence and the two it was split into, where nothing was added, dropped or spaced oddly."""
    used = 0
    for where, record in read_records(path):
        account.read += 1
        if used >= _SPLIT_MOST:
            account.refuse("enough of it", where)
            continue
        hard, easy = (
            (clean(str(record.get(key, ""))) for key in ("orig", "simple")) if isinstance(record, dict) else ("", "")
        )
        name = _NAMED.search(easy)
        shared = len(set(words(hard)) & set(words(easy))) / max(1, len(set(words(easy))))
        if (
            usable(hard)
            or usable(easy)
            or '"' in easy + hard
            or re.search(r" '|' | [,.;)]|\( ", easy + hard)
            or not name
        ):
            account.refuse("quotes, stray spaces, no name, or not whole", where)
        elif shared < 0.85 or abs(count(easy) - count(hard)) > 5 or len(split(easy)) < 2:
            account.refuse("more than a split", where)
        elif measures.clear(hard) or not measures.clear(easy):
            account.refuse("its sentence is clear by the rule, or the two are not", where)
        elif measures.kept(hard, easy)[2] or measures.invented("", hard, easy):
            account.refuse("names or numbers that changed", where)
        else:
            used += 1
            readable = measures.readable(easy) and not measures.readable(hard)
            objectives = ("clarity", "readability") if readable else ("clarity",)
            yield Base(
                f"wikisplit/{where}", f"What do you know about {name[0]}?", easy, source.name, (), hard, objectives
            )


def better_outputs(path: Path, source: Source, account: Account) -> Iterator[Base]:
    """LLMBar: the better of two outputs, as a base for the rules."""
    for where, record in read_records(path):
        account.read += 1
        query = clean(str(record.get("input", ""))) if isinstance(record, dict) else ""
        text = clean(str(record.get(f"output_{record.get('label')}", ""))) if isinstance(record, dict) else ""
        if not query or count(query) > 80:
            account.refuse("no query, or one over 80 words", where)
        elif not 20 <= count(text) <= LONGEST or usable(text):
            account.refuse(usable(text) or f"an answer under 20 or over {LONGEST} words", where)
        else:
            yield Base(f"llmbar/{where}", query, text, source.name)
