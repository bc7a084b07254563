"""What a model thinks before it answers, kept apart from the answer: as a whole text, or while it streams.

One table holds the marks that released models write around their thoughts. They count at the beginning of a text
alone: a "<think>" in the middle of an answer is text. Thoughts that are never closed leave no answer.
"""

from __future__ import annotations

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
        self._held = ""
        self._reasoning: list[str] = []
        self._answer: list[str] = []
        self._ends: tuple[str, ...] = ((_THOUGHTS | _BY_TEMPLATE)[opened],) if opened else ()
        self._step = self._think if opened else self._begin

    def feed(self, text: str) -> None:
        """Take the next part."""
        self._held += text
        while self._step():
            pass

    def close(self) -> Thoughts:
        """End the text; returns what it held."""
        finished = self._step in (self._begin, self._speak)
        if finished:
            self._say(self._held)
        elif self._step == self._think:
            self._reasoning.append(self._held)
        self._held = ""
        reasoning = "\n\n".join(part for part in map(str.strip, "".join(self._reasoning).split("\0")) if part)
        return Thoughts(reasoning, "".join(self._answer).strip(), finished or bool(self._answer))

    # Each step takes what it can of the held text, and tells whether another step may follow at once.

    def _begin(self) -> bool:
        """What stands where thoughts or an answer may begin."""
        text = self._held.lstrip()
        low = text.translate(_LOWER)
        mark = max((opening for opening in _OPENINGS if low.startswith(opening)), key=len, default="")
        if any(len(opening) > len(low) and opening.startswith(low) for opening in _OPENINGS):
            return False  # it may become a mark, or a longer one
        self._held = text[len(mark) :] if mark else self._held
        if mark in _THOUGHTS:
            self._ends, self._step = (_THOUGHTS[mark],), self._think
        elif mark in _ANSWERS:
            self._ends, self._step = (_ANSWERS[mark],), self._speak
        elif mark:
            self._held, self._step = mark + self._held, self._read_head
        else:
            self._ends, self._step = (), self._speak
        return True

    def _read_head(self) -> bool:
        """gpt-oss names the channel before the message."""
        head, message, rest = self._held.partition(_MESSAGE)
        if not message:
            if len(self._held) > _LONGEST_HEAD:
                self._ends, self._step = (), self._speak
                return True
            return False
        self._held, self._ends = rest, _TURN_ENDS
        final = "final" in head or "<|channel|>" not in head
        self._step = self._speak if final else self._think
        return True

    def _think(self) -> bool:
        before, ended = self._until_end()
        self._reasoning.append(before + "\0" * ended)
        return ended

    def _speak(self) -> bool:
        if not self._ends:
            self._say(self._held)
            self._held = ""
            return False
        before, ended = self._until_end()
        self._say(before)
        return ended

    def _until_end(self) -> tuple[str, bool]:
        """The held text up to the mark that ends it, and whether the mark is there; the rest stays held."""
        low = self._held.translate(_LOWER)
        places = [(place, end) for end in self._ends if (place := low.find(end)) >= 0]
        if places:
            place, end = min(places)
            before = self._held[:place]
            self._held = self._held[place if end in _KEPT_ENDS else place + len(end) :]
            self._step = self._begin
            return before, True
        keep = max((size for end in self._ends for size in range(1, len(end)) if low.endswith(end[:size])), default=0)
        cut = len(self._held) - keep
        before, self._held = self._held[:cut], self._held[cut:]
        return before, False

    def _say(self, text: str) -> None:
        if not self._answer:
            text = text.lstrip()
        if text:
            self._answer.append(text)
            if self._on_text:
                self._on_text(text)
