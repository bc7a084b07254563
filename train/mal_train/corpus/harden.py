"""The way that strong policies write, put on easy text: long sentences, stiff wording. Its reverse is an edit."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import cache

from .plain import words_of
from .texts import MARKER, Unit, count, lower_first

_LONGEST = 55  # words of a sentence that was joined
_STIFF = (
    (r"\bYou can also (?!be\b)", ("It is also possible to ", "One also has the option to ")),
    (r"\bYou can (?!be\b|not\b|also\b)", ("It is possible to ", "One has the option to ", "It is feasible to ")),
    (r"\bYou should (?!not\b|be\b|also\b|always\b)", ("It is advisable to ", "It is recommended to ")),
    (r"\bYou (?:need|have) to ", ("It is necessary to ", "It is essential to ", "It is imperative to ")),
    (r"\b(and|so|that|but|then) you can (?!be\b|not\b)", (r"\1 it is possible to ", r"\1 you have the ability to ")),
    (r"\b(and|so|that|but|then) you should (?!not\b|be\b)", (r"\1 it is advisable to ",)),
    (r"\b(and|so|that|but|then) you (?:need|have) to ", (r"\1 it is necessary to ", r"\1 it is imperative to ")),
    (r"\bI(?: would|'d) (?:suggest|recommend) (?=\w+ing\b)", ("It may be beneficial to consider ",)),
    (r"\bI think (?:that )?(?=it|you|they|the|this|there)", ("I am of the opinion that ",)),
    (r"\b([Ii])f you want to ", (r"\1n the event that you wish to ",)),
    (r"\b([Ii])f you have ", (r"\1n the event that you are in possession of ",)),
    (r"\bbefore you ", ("prior to the point at which you ",)),
    (r"\bwhen you ", ("on those occasions when you ", "at the time when you ")),
    (r"(?<=\w) by (?=\w{3,}ing\b)", (" by means of ", " through the process of ")),
    (r", so (?=you|it|they|we|there|this)", ("; consequently, ", ", with the consequence that ")),
    (r", but (?=you|it|they|we|there|this|I)", ("; however, ", "; nevertheless, ")),
    (r"(?<=\w) about (?=\d|one |two |three |half )", (" approximately ",)),
    (r"\b(help|helps) you (?=\w{3,}\b)", (r"\1 to facilitate your efforts to ",)),
    (r"\bto (?=(?:help|make|keep|get|find|avoid|reduce|improve|prevent)\b)", ("in order to ",)),
    (r"\bThere are (?:many|lots of|a lot of) ", ("There exists a considerable number of ", "There is a multitude of ")),
    (r"\bThis (?:means|is) (?=that\b)", ("The implication of this is ",)),
)  # fmt: skip
_STIFF_RULES = tuple((re.compile(pattern), instead) for pattern, instead in _STIFF)
_ADVICE = (
    "It is advisable to", "It is recommended to", "It is important to", "It is essential to", "It is beneficial to",
    "One should endeavor to", "Individuals are encouraged to", "It is generally preferable to",
)  # fmt: skip
_WHICH = re.compile(
    r"(?:This|It|That|They|These) (is|are|can|will|may|means|makes|helps|help|has|have|allows|allow|gives|give|could|"
    r"would|might|keeps|keep|lets|prevents|reduces|includes|include|comes|come|contains|contain|causes|takes|needs) "
)
_ING = {
    "makes": "making", "helps": "helping", "help": "helping", "allows": "allowing", "allow": "allowing",
    "gives": "giving", "give": "giving", "keeps": "keeping", "keep": "keeping", "lets": "letting",
    "prevents": "preventing", "reduces": "reducing", "causes": "causing", "means": "meaning", "is": "being",
}  # fmt: skip
_CONNECTED = (
    (re.compile(r"(?:But|However,) "), (", although ", "; however, ", ", whereas ")),
    (re.compile(r"(?:So|Therefore,) "), ("; consequently, ", ", with the result that ")),
    (re.compile(r"(?:Then|Next,|After that,) "), (", after which ", "; subsequently, ")),
    (re.compile(r"Also, "), ("; additionally, ", "; furthermore, ")),
    (re.compile(r"For example, "), ("; for instance, ", ", as exemplified by the fact that ")),
)
_JOINTS = (
    ", and ", "; furthermore, ", "; moreover, ", "; in addition, ", ", while ", ", given that ", "; additionally, ",
    ", and it should also be noted that ", ", particularly since ", "; similarly, ", ", whereas ",
)  # fmt: skip
_FRAMES = ("Given that {}, {}", "Since {}, {}", "As {}, {}", "Considering that {}, {}", "While {}, {}")


@cache
def _verbs() -> frozenset[str]:
    return frozenset(words_of("verbs"))


def _small(text: str) -> str | None:
    """A sentence as it goes on inside another, also one that begins with an imperative or a common noun."""
    first = re.match(r"[A-Za-z']+", text)
    if first and (first.group().lower() in _verbs() or first.group().lower() in words_of("small")):
        return text[0].lower() + text[1:]
    return lower_first(text)


def stiffen(text: str, rng: random.Random, share: float = 0.8) -> str:
    """A sentence in official wording: advice becomes "it is advisable to", "so" becomes "consequently"."""
    if '"' in text or "`" in text:
        return text
    mark = MARKER.match(text)
    head, body = (mark.group(), text[mark.end() :]) if mark else ("", text)
    first = re.match(r"[A-Z][a-z]+(?= (?!not\b)\w)", body)
    if first and first.group().lower() in _verbs() and body[-1:] == "." and rng.random() < share:
        verb = first.group().lower()
        body = f"{rng.choice(_ADVICE)} {verb}{body[first.end() :]}"
    for pattern, choices in _STIFF_RULES:
        if rng.random() < share:
            body = pattern.sub(rng.choice(choices), body, count=1)
    return head + body


def joined(units: Sequence[Unit], rng: random.Random, share: float = 0.85) -> list[Unit]:
    """The units with neighbouring sentences of a line run together, three at most."""
    found: list[Unit] = []
    links = 0
    for unit in units:
        before = found[-1] if found else None
        together = None
        if before and links < 2 and unit.lead == " " and not (before.origin or unit.origin or before.heading):
            together = _together(before.text, unit.text, rng) if rng.random() < share else None
        if before and together:
            found[-1] = before.worded(together)
            links += 1
        else:
            found.append(unit)
            links = 0
    return found


def _together(first: str, second: str, rng: random.Random) -> str | None:
    """Two sentences as one, or None where they do not go together."""
    if count(first) + count(second) > _LONGEST or '"' in first + second or first[-1] != "." or second[-1] not in ".!":
        return None
    head, second = first[:-1], second[:-1] + "."
    if (match := _WHICH.match(second)) and count(second) > 3:
        rest = second[match.end() :]
        if match[1] in _ING and rng.random() < 0.35:
            return f"{head}, {rng.choice(('', '', 'thereby ', 'thus '))}{_ING[match[1]]} {rest}"
        return f"{head}, which {match[1]} {rest}"
    for pattern, joints in _CONNECTED:
        if match := pattern.match(second):
            return head + rng.choice(joints) + second[match.end() :]
    tail = _small(second)
    if not tail:
        return None
    mark = MARKER.match(head)
    lead, body = (mark.group(), head[mark.end() :]) if mark else ("", head)
    opening = _small(body)
    if opening and ", " not in opening and count(opening) < 20 and rng.random() < 0.3:
        return lead + rng.choice(_FRAMES).format(opening, tail)
    return head + rng.choice(_JOINTS) + tail
