"""Texts taken apart: their prose, lines, sentences, words and syllables, and how easily they read."""

from __future__ import annotations

import re
from functools import lru_cache


def listed(text: str) -> frozenset[str]:
    """The words of a lexicon, which white space parts."""
    return frozenset(text.split())


CODE = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)", re.S)
_INLINE_CODE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"!?\[([^\]\n]*)\]\([^)\n]*\)|https?://\S+")
_LISTED = re.compile(
    r"^\s*(?:[-*•+–]\s+|\(?\d{1,2}[.):]\s+|\(?[a-zA-Z][.)]\s+|#{1,6}\s+|>\s+|step \d+\s*[:.]\s*)", re.I
)
ITEM = re.compile(r"^\s*(?:[-*•+–]\s+|\(?\d{1,2}[.):]\s+|\**(?:step )?\d{1,2}[.):]|\*\*[^*\n]+\*\*\s*:|step \d+)", re.I)
_WORD = re.compile(r"[^\W_]+(?:['’.,](?=[^\W_])[^\W_]+)*(?:-[^\W_]+)*")
_END = re.compile(r"(?<=[.!?…])[\"'”’)\]*_]*\s+(?=[\"'“‘(\[*_]*[A-Z0-9À-Ý¿¡])")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"“'])(?:Mr|Mrs|Ms|Dr|Prof|Rev|Gen|Sen|Rep|Lt|Col|Sgt|Capt|St|Jr|Sr|Inc|Ltd|Co|Corp|vs|etc|approx|"
    r"dept|est|fig|vol|e\.g|i\.e|cf|al|No|a\.m|p\.m|U\.S|U\.K|Ph\.D|Jan|Feb|Aug|Sept|Oct|Nov|Dec|[A-Z])\.$"
)


@lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """The prose of a text: without blocks of code, links' addresses and the signs of Markdown."""
    text = _LINK.sub(lambda match: match.group(1) or "", CODE.sub("\n", text))
    return re.sub(r"\*\*|__|(?<!\w)[*_](?=\w)|(?<=[\w.!?])[*_](?!\w)|`", "", text)


def lines(text: str) -> list[str]:
    """The lines of its prose, without list marks and signs of headings; empty ones are left out."""
    stripped = (_LISTED.sub("", line).strip() for line in plain(text).split("\n"))
    return [line for line in stripped if line]


@lru_cache(maxsize=4096)
def sentences(text: str) -> tuple[str, ...]:
    """The sentences of a text. A line ends one, too: headings and items of lists stand alone.

    "Dr.", "e.g." and initials do not end a sentence; a line that goes on in lower case does not either.
    """
    joined: list[str] = []
    for line in lines(text):
        if joined and line[0].islower() and joined[-1][-1] not in ".!?:;…":
            joined[-1] += " " + line
        else:
            joined.append(line)
    found: list[str] = []
    for line in joined:
        parts = _END.split(line)
        sentence = ""
        for part in parts:
            sentence = f"{sentence} {part}".strip()
            if not _ABBREVIATION.search(sentence):
                found.append(sentence)
                sentence = ""
        if sentence:
            found.append(sentence)
    return tuple(sentence for sentence in found if words(sentence))


def words(text: str) -> list[str]:
    """The words of a text, lower case; "don't", "3.5" and "well-known" are one each."""
    return [word.lower().replace("’", "'") for word in _WORD.findall(text)]


def straight(text: str) -> str:
    """The text with its apostrophes straight."""
    return text.replace("’", "'")


@lru_cache(maxsize=4096)
def unquoted(text: str) -> str:
    """The prose of a text without what it quotes, apostrophes straight: 'say "thank you"' thanks nobody."""
    text = _INLINE_CODE.sub("", text)
    quoted = r"\"[^\"\n]{1,300}\"|“[^”\n]{1,300}”|(?<!\w)‘[^’\n]{1,300}’|(?<!\w)'[^'\n]{2,300}'(?!\w)"
    return straight(re.sub(quoted, "''", plain(text)))


@lru_cache(maxsize=65536)
def syllables(word: str) -> int:
    """Roughly: runs of vowels, a silent final e or -ed not counted. "readable" 3, "cheese" 1, "wanted" 2."""
    word = word.lower()
    if len(word) > 3:
        word = re.sub(r"(?<=[^aeiouytd])ed$|(?<=[^l\W])es$|(?<=[^aeiouyl])e$|(?<=[aeiouy]l)e$", "", word)
    return max(1, len(re.findall(r"[aeiouyäöüéèáàíóú]+", word)))


def sentence_words(text: str) -> list[int]:
    """Words of each sentence; short lines without an end (headings, bare list items) are no sentences."""
    counts = [(len(words(sentence)), sentence) for sentence in sentences(text)]
    return [count for count, sentence in counts if count > 7 or re.search(r"[.!?…][\"'”’)\]]*$", sentence)]


def flesch(text: str) -> float:
    """Flesch's reading ease, 0 (a treatise) to 100 (a child's book); from 60 on it is plain English."""
    found = [word for word in words(plain(text)) if word[0].isalpha()]
    if not found:
        return 0.0
    parts = max(1, len(sentences(text)))
    ease = 206.835 - 1.015 * len(found) / parts - 84.6 * sum(map(syllables, found)) / len(found)
    return min(100.0, max(0.0, ease))


def hard_words(text: str) -> float:
    """The share of words of three or more syllables, names and -ed, -es, -ing forms left out (Gunning)."""
    found = re.findall(r"(?<![\w'’])[a-z][a-z]*", plain(text))
    hard = [word for word in found if syllables(re.sub(r"(?:ing|ly)$", "", word)) >= 3]
    return len(hard) / len(found) if found else 0.0


_COMMON = listed(
    """the and for are was were has have had but not you your with that this from they them will would can could should
    what when where which who how any all get got give take make let out off about after before since until into over
    under than then there here its it's been being does did done every because while only also just still more most very
    too our their his her she him one two some such may might must"""
)


def telling(text: str) -> set[str]:
    """The words that tell what a text is about: of three letters or more, and not everywhere."""
    return {word for word in words(text) if len(word) > 2 and word not in _COMMON}
