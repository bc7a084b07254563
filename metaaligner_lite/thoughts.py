"""What a model thinks before it answers, kept apart from the answer: as a whole text, or while it streams.

One table holds the marks that released models write around their thoughts. They count at the beginning of a text
alone: a "<think>" in the middle of an answer is text. Thoughts that are never closed leave no answer.
"""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# What opens thoughts, and what closes them. Compared without regard to case.
_THOUGHTS = {
    "<think>": "</think>",  # DeepSeek R1, Qwen 3, SmolLM3, GLM, Granite, MiniMax and most others
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<reasoning>": "</reasoning>",
    "<seed:think>": "</seed:think>",  # Seed-OSS
    "[think]": "[/think]",  # Magistral, Ministral
    "<|start_thinking|>": "<|end_thinking|>",  # Command A, R7B
    "<|begin_of_thought|>": "<|end_of_thought|>",  # Sky-T1, OpenThinker
    "<|inner_prefix|>": "<|inner_suffix|>",  # Apertus
    "<|channel>thought": "<channel|>",  # Gemma 4
    "<|think|>": "<|end|>",  # Solar Open
    "<|begin|>assistant<|think|>": "<|end|>",
    "<|open|>think<|sep|>": "<|close|>think<|sep|>",  # Kimi K3
    "<mm:think>": "</mm:think>",  # MiniMax M3
    "<think:opensource>": "</think:opensource>",  # Hunyuan
    "◁think▷": "◁/think▷",  # Kimi-VL
}
# What only a template can open: as a model's own words they may begin an answer.
_BY_TEMPLATE = {"here are my reasoning steps:": "[begin final response]"}  # Apriel
# What some of those models write around the answer that follows.
_ANSWERS = {
    "<answer>": "</answer>",
    "<response>": "</response>",
    "<|start_response|>": "<|end_response|>",
    "<|begin_of_solution|>": "<|end_of_solution|>",
    "<|begin|>assistant<|content|>": "<|end|>",
    "<|content|>": "<|end|>",
    "<|open|>response<|sep|>": "<|close|>response<|sep|>",
    "<|start_text|>": "<|end_text|>",
    "[begin final response]": "[end final response]",
}
# gpt-oss: <|start|>assistant<|channel|>analysis<|message|>...<|end|>; what the channel "final" holds is the answer.
_HEADS = ("<|channel|>", "<|start|>")
_MESSAGE = "<|message|>"
_TURN_ENDS = ("<|end|>", "<|return|>", "<|call|>", *_HEADS)
_LONGEST_HEAD = 200

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)  # str.lower may change a text's length

_OPENINGS = (*_THOUGHTS, *_ANSWERS, *_HEADS)
_FIRST = {opening[0] for opening in _OPENINGS}
_KEPT_ENDS = (*_HEADS, *_ANSWERS)  # they end what stands before, and open what follows
_TOKEN = re.compile(r"<[^<>]*>|\[[^\[\]]*\]|◁[^◁▷]*▷")
_MARKS = set(
    _TOKEN.findall("".join([*_OPENINGS, *_THOUGHTS.values(), *_BY_TEMPLATE.values(), *_ANSWERS.values(), *_TURN_ENDS]))
) | {_MESSAGE}

_CLOSE = r"(?P<mark></think(?:ing)?>|\[/THINK\]|</seed:think>)"
_LONE_CLOSE = re.compile(rf"(?:\A|(?<=[.!?…:)。！？\n]))[ \t]*{_CLOSE}")
_LONE_CLOSE_OF_A_LINE = re.compile(rf"(?<=[^\s`'\"]){_CLOSE}[ \t]*(?=\n|\Z)")
_BARE_CHANNELS = re.compile(r"analysis(?=[A-Z])(?P<thoughts>.*?)assistant\s*final(?P<answer>.*)", re.DOTALL)


_SPACE = re.compile(r"\s*")


@functools.cache
def _any_of(*marks: str) -> re.Pattern[str]:
    """Finds the first of these marks, as the group "end", or the beginning of one at the end of a text."""
    begun = {mark[:size] for mark in marks for size in range(1, len(mark))}
    ends, begins = ("|".join(map(re.escape, sorted(some, key=len, reverse=True))) for some in (marks, begun))
    return re.compile(rf"(?P<end>{ends})|(?:{begins})\Z")


def may_think(text: str) -> bool:
    """Whether `split_thoughts` has to look at a text: cheap, and never off where it would find something."""
    if "<" not in text and "[" not in text and "◁" not in text:
        return text.lstrip()[:8] == "analysis"
    return text.lstrip()[:1] in _FIRST or "</think" in text or "[/THINK]" in text or "</seed:think>" in text


@dataclass(frozen=True, slots=True)
class Thoughts:
    """A text taken apart. `finished` is off if the thoughts were not closed: there is no answer then."""

    reasoning: str
    answer: str
    finished: bool = True


def split_thoughts(text: str, opened: str = "") -> Thoughts:
    """The thoughts at the beginning of a text, and the answer after them.

    `opened` is the mark with which the chat template began the thoughts itself, so that only the closing one stands
    in the text. Where the template is not known, a lone closing mark counts if it begins or ends a line or follows
    the end of a sentence, outside of quotes and code.
    """
    split = ThoughtFilter(opened=opened)
    split.feed(text)
    found = split.close()
    if found.reasoning or not found.finished or opened:
        return found
    if bare := _BARE_CHANNELS.fullmatch(found.answer):  # gpt-oss, printed by a program that drops special tokens
        return Thoughts(bare["thoughts"].strip(), bare["answer"].strip())
    lone = _LONE_CLOSE.search(found.answer) or _LONE_CLOSE_OF_A_LINE.search(found.answer)
    if lone:
        before, after = found.answer[: lone.start()], found.answer[lone.end() :]
        quoted = before.count("`") % 2 == 1
        if not quoted and lone["mark"].replace("/", "") not in before:
            return Thoughts(before.strip(), after.strip())
    return found


def opened_thoughts(prompt_end: str) -> str:
    """The mark that the end of a prompt opens thoughts with, "" if it opens none."""
    end = prompt_end.rstrip().translate(_LOWER)
    return next((mark for mark in (*_THOUGHTS, *_BY_TEMPLATE) if end.endswith(mark)), "")


def marks_among(specials: Mapping[str, int]) -> frozenset[int]:
    """The special tokens of a vocabulary (text -> id) that must be seen as text, to tell thoughts from the answer."""
    found = {text.translate(_LOWER): token for text, token in specials.items() if text.translate(_LOWER) in _MARKS}
    openings = (set(_TOKEN.findall(opening)) for opening in (*_THOUGHTS, *_BY_TEMPLATE.values(), "<|channel|>"))
    return frozenset(found.values()) if any(opening <= found.keys() for opening in openings) else frozenset()


class ThoughtFilter:
    """A text in, as it grows; the answer out: thoughts are withheld, whatever is not yet known is held back.

    `on_text` gets the answer as it grows.
    """

    def __init__(self, on_text: Callable[[str], None] | None = None, opened: str = "") -> None:
        self._on_text = on_text
        self._held = self._low = ""  # what is not yet known, and the same in lower case; taken up to `_at`
        self._at = 0
        self._reasoning: list[str] = []
        self._answer: list[str] = []
        self._ends = _any_of((_THOUGHTS | _BY_TEMPLATE)[opened]) if opened else None
        self._step = self._think if opened else self._begin

    def feed(self, text: str) -> None:
        """Take the next part."""
        self._held = self._held[self._at :] + text
        self._low = self._low[self._at :] + text.translate(_LOWER)
        self._at = 0
        while self._step():
            pass

    def close(self) -> Thoughts:
        """End the text; returns what it held."""
        finished = self._step in (self._begin, self._speak)
        rest, self._at = self._held[self._at :], len(self._held)
        if finished:
            self._say(rest)
        elif self._step == self._think:
            self._reasoning.append(rest)
        reasoning = "\n\n".join(part for part in map(str.strip, "".join(self._reasoning).split("\0")) if part)
        return Thoughts(reasoning, "".join(self._answer).strip(), finished or bool(self._answer))

    # Each step takes what it can of the held text, and tells whether another step may follow at once. It looks at no
    # more than it takes: a text may hold thousands of marks.

    def _begin(self) -> bool:
        """What stands where thoughts or an answer may begin."""
        low = self._low
        start = _SPACE.match(low, self._at).end()  # type: ignore[union-attr]
        mark = max((opening for opening in _OPENINGS if low.startswith(opening, start)), key=len, default="")
        left = len(low) - start
        if any(len(opening) > left and opening.startswith(low[start:]) for opening in _OPENINGS):
            return False  # it may become a mark, or a longer one
        self._ends, self._step = None, self._speak
        if mark in _HEADS:
            self._at, self._step = start, self._read_head
        elif mark:
            self._at, self._ends = start + len(mark), _any_of((_THOUGHTS | _ANSWERS)[mark])
            self._step = self._think if mark in _THOUGHTS else self._speak
        return True

    def _read_head(self) -> bool:
        """gpt-oss names the channel before the message."""
        place = self._held.find(_MESSAGE, self._at)
        if place < 0:
            if len(self._held) - self._at > _LONGEST_HEAD:
                self._ends, self._step = None, self._speak
                return True
            return False
        head = self._held[self._at : place]
        self._at, self._ends = place + len(_MESSAGE), _any_of(*_TURN_ENDS)
        final = "final" in head or "<|channel|>" not in head
        self._step = self._speak if final else self._think
        return True

    def _think(self) -> bool:
        before, ended = self._until_end()
        self._reasoning.append(before + "\0" * ended)
        return ended

    def _speak(self) -> bool:
        before, ended = self._until_end()
        self._say(before)
        return ended

    def _until_end(self) -> tuple[str, bool]:
        """The held text up to the mark that ends it, and whether the mark is there; its beginning stays held."""
        found = self._ends.search(self._low, self._at) if self._ends else None
        start = self._at
        if found and found["end"]:
            self._at, self._step = found.start() if found["end"] in _KEPT_ENDS else found.end(), self._begin
            return self._held[start : found.start()], True
        self._at = found.start() if found else len(self._held)
        return self._held[start : self._at], False

    def _say(self, text: str) -> None:
        if not self._answer:
            text = text.lstrip()
        if text:
            self._answer.append(text)
            if self._on_text:
                self._on_text(text)
