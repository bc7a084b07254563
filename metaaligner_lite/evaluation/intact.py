"""What every edit must keep: an ended text without loops or invented turns, and the answer's names and numbers."""

from __future__ import annotations

import re
from collections import Counter
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import pairwise

from .texts import CODE, ITEM, listed, plain, sentences, telling, words

_RUN = 3  # words in a row that count as copied; shorter matches are chance
_TURN = re.compile(r"(?:^|\n)[ \t]*(?:#+ *)?\**(?:Human|User|Assistant|Instruction)\**[ \t]*:", re.I)


def runs_on(text: str) -> bool:
    """Whether a text goes on into an invented turn ("Human:" at the beginning of a later line, outside code)."""
    return bool(_TURN.search(CODE.sub("\n", text).strip(), 1))


def loops(text: str) -> bool:
    """Whether it goes round in circles: a sentence of five words or more three times or twice in a row, eight words
    four times, or one sign thirty times."""
    said = [tuple(words(sentence)) for sentence in sentences(text)]
    long = [sentence for sentence in said if len(sentence) >= 5]
    if any(count >= 3 for count in Counter(long).values()) or any(a == b for a, b in pairwise(long)):
        return True
    found = words(plain(text))
    grams = Counter(tuple(found[i : i + 8]) for i in range(len(found) - 7))
    return any(count >= 4 for count in grams.values()) or bool(re.search(r"([^\s\-=_.*#~|])\1{29}", text))


_LOOSE = listed(
    """a an the of and or but to with for from in on at by as that which who because if when while than into is are was
    were be your my our their its his her this these can will would should could may might must not very such"""
)


def ends_whole(text: str) -> bool:
    """Whether the last sentence is ended; an item of a list, a title or a name may stand without a mark.

    A loose word ("of", "the") ends nothing, nor does an item without a mark where all others have one.
    """
    body = text.rstrip()
    if not body:
        return False
    if body.count("```") % 2:
        return False
    if re.search(r"(?:[.!?…:;)\]}>|]|```|[\"'”’*_`]|[\U0001F300-\U0001FAFF\u2600-\u27BF\ufe0f])$", body):
        return not re.search(r"(?:^|\n)\s*\(?\d{1,2}[.)]$", body)  # "3." began an item
    rows = [row for row in body.split("\n") if row.strip()]
    last = words(rows[-1])
    if not last or re.search(r"#\w+$", rows[-1]):
        return True  # a rule, a row of signs, a hashtag
    if last[-1] in _LOOSE:
        return False
    if len(rows) > 1 and ITEM.match(rows[-1]):
        others = [row for row in rows[:-1] if ITEM.match(row)]
        return not others or not all(re.search(r"[.!?]\W*$", row) for row in others)
    if len(rows) > 1:
        return len(last) <= 5 or not re.search(r"[.!?]\W*$", rows[-2])  # a signature, a line of verse or of a table
    return len(last) <= 2 and len(sentences(body)) == 1


@lru_cache(maxsize=1 << 14)
def clean(text: str) -> bool:
    """No loop, no run-on turn, and an ended last sentence."""
    return bool(text.strip()) and not loops(text) and not runs_on(text) and ends_whole(text)


def tidied(text: str) -> str:
    """The text up to an invented turn, without sentences said before and without a last one that is not ended.

    The baseline that needs no model. Blocks of code are left as they are.
    """
    cut = _TURN.search(text, 1) if runs_on(text) else None
    body = text[: cut.start()].rstrip() if cut else text.rstrip()
    if "```" in body or not (loops(body) or not ends_whole(body)):
        return body
    seen: set[tuple[str, ...]] = set()
    kept: list[str] = []
    for row in body.split("\n"):
        parts = re.split(r"(?<=[.!?]) +", row)
        fresh = []
        for part in parts:
            said = tuple(words(part))
            if len(said) < 5 or said not in seen:
                fresh.append(part)
            seen.add(said)
        if fresh or not row.strip():
            kept.append(" ".join(fresh))
    body = "\n".join(kept).rstrip()
    if not ends_whole(body):
        whole = re.match(r".*[.!?][\"'”’)\]*]*(?=\s|$)", body, re.S)
        if whole and ends_whole(whole.group()) and len(words(whole.group())) >= len(words(body)) / 2:
            body = whole.group()
    return body


_NUMBER_WORDS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "dozen": "12", "thirteen": "13", "fourteen": "14",
    "fifteen": "15", "sixteen": "16", "seventeen": "17", "eighteen": "18", "nineteen": "19", "twenty": "20",
    "thirty": "30", "forty": "40", "fifty": "50", "hundred": "100", "thousand": "1000", "half": "0.5",
}  # fmt: skip
_NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*")
_NAME = re.compile(r"(?<![\w'’])[A-Z][\w’']*[a-z0-9][\w’']*|(?<![\w'’])[A-Z]{2,}\b")
_NO_NAMES = listed("i i'm i'd i've i'll ok okay sincerely dear regards yours best hello hi")


@lru_cache(maxsize=1 << 14)
def facts(text: str) -> frozenset[str]:
    """Names and numbers: words with a capital inside a sentence, and digits; numbers of list items left out.

    A word at the beginning of a sentence or line, or in a line all of capitals (a title), tells no name.
    """
    found: set[str] = set()
    for sentence in sentences(text):
        found |= {_number(number) for number in _NUMBER.findall(sentence)}
        body = re.sub(r"^\W*[\w'’-]+", lambda match: " " * len(match.group()), sentence, count=1)
        body = re.sub(r"(?<=[:;\"“(—–])(\s*[\"'“(]?)[A-Z][\w'’]*", lambda match: match.group(1), body)
        if _title(sentence):
            continue
        found |= {_name(name) for name in _NAME.findall(body)} - _NO_NAMES
    return frozenset(found)


def _title(sentence: str) -> bool:
    long = [word for word in re.findall(r"[A-Za-z][\w'’]*", sentence) if len(word) > 3]
    return len(long) >= 2 and not re.search(r"[.!?]$", sentence) and sum(w[0].isupper() for w in long) > 0.7 * len(long)


def _name(name: str) -> str:
    return re.sub(r"['’]s?$", "", name).lower().replace("’", "'")


def _number(number: str) -> str:
    number = re.sub(r"(?<=\d),(?=\d{3}(?:\D|$))", "", number)
    return number.rstrip(".,:/").removesuffix(".0")


def _said(text: str) -> set[str]:
    """Everything a fact may be found in: words, their stems in 's, numbers, also those written as words."""
    found = {word.strip("'") for word in words(text)} | {_number(number) for number in _NUMBER.findall(text)}
    found |= {part for word in found for part in re.split(r"[-.']", word)} | {_name(word) for word in found}
    return found | {_NUMBER_WORDS[word] for word in found if word in _NUMBER_WORDS}


def invented(query: str, before: str, after: str) -> set[str]:
    """Names and numbers of an edit that neither the query nor the answer holds, in whatever case or spelling."""
    known = _said(query) | _said(before)
    return {fact for fact in facts(after) if fact not in known and fact.rstrip("s") not in known}


def kept(before: str, after: str) -> tuple[int, int, int]:
    """Names and numbers of the answer: all, those the edit holds, and those it changed.

    Changed is a fact that is gone while the sentence around it is still there (most of its other telling words):
    a shortened answer may drop whole sentences, not the numbers within.
    """
    there, bag = _said(after), telling(after)
    all_facts, held, changed = facts(before), 0, set[str]()
    for fact in all_facts:
        held += fact in there
    gone = {fact for fact in all_facts if fact not in there}
    for sentence in sentences(before):
        around = telling(sentence) - gone
        if len(around) >= 4 and len(around & bag) >= 0.75 * len(around):
            changed |= facts(sentence) & gone
    return len(all_facts), held, len(changed)


def copied(before: str, after: str) -> float:
    """The part of the edit that stands in the answer, in runs of three words or more, in the same order."""
    old, new = before.split(), after.split()
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks if block.size >= _RUN) / max(1, len(new))


def stays(before: str, after: str) -> bool:
    """Word for word the same; white space does not count."""
    return before.split() == after.split()
