"""WikiSplit's sentences, a long one and the two it was split into, and LLMBar's better outputs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from metaaligner_lite.evaluation import intact, measures
from metaaligner_lite.records import Account, read_records

from .sources import LONGEST, Base, Source, clean, usable
from .texts import count, split, words

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
        elif intact.kept(hard, easy)[2] or intact.invented("", hard, easy):
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
