"""A sentence that an edit says twice in a row is said once, in whole texts and in streams (stutter.py)."""

import random

import pytest

from metaaligner_lite import GgufAligner, open_engine
from metaaligner_lite.generation import Counts, Generation
from metaaligner_lite.objectives import resolve
from metaaligner_lite.policies import Answer
from metaaligner_lite.stutter import StutterFilter, unstuttered

TWICE = "You could talk to them about it."
FENCE = "```\n"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"Well. {TWICE} {TWICE} Good luck.", f"Well. {TWICE} Good luck."),
        (f"{TWICE} {TWICE}", TWICE),
        (f"{TWICE} you COULD talk  to them about it. Bye.", f"{TWICE} Bye."),
        (f"Well. {TWICE}\n\n{TWICE} They may listen.", f"Well. {TWICE}\n\nThey may listen."),
        (f"{TWICE}\n\n{TWICE}\n\nBye.", f"{TWICE}\n\nBye."),
        (f"6. {TWICE}\n7. {TWICE}", f"6. {TWICE}"),
        (f"- {TWICE}\n- {TWICE} Or not.\n", f"- {TWICE}\n- Or not.\n"),
        (f"{TWICE} {TWICE} {TWICE}", TWICE),
        # What stays as it is.
        ("", ""),
        ("No no. No no. No no.", "No no. No no. No no."),
        ("Take 2 of the blue pills. Take 3 of the blue pills.", "Take 2 of the blue pills. Take 3 of the blue pills."),
        (f"{TWICE} Yes. {TWICE}", f"{TWICE} Yes. {TWICE}"),
        (f"{FENCE}{TWICE}\n{TWICE}\n{FENCE}{TWICE}", f"{FENCE}{TWICE}\n{TWICE}\n{FENCE}{TWICE}"),
    ],
)
def test_sentences_said_twice_in_a_row(text, kept):
    assert unstuttered(text) == kept


@pytest.mark.parametrize(
    "text",
    [
        f"{TWICE} You could talk to them about it all.",
        f"{TWICE} You could talk, to them about it.",
        "If x > 5 then we go left.\nIf x < 5 then we go left.",
        "Press the C key on the keyboard.\nPress the C++ key on the keyboard.",
        "Send all of the units for $10.\nSend all of the units for €10.",
        "लड़का रोज़ अब घर जाता है\nलड़की रोज़ अब घर जाती है",
        "*We go to the old house. We go to the old house.* Bye.",
        "~~~\nx is a and b or c\nx is a and b or c\n~~~",
        "Run:\n    add eax ebx and so on\n    add eax ebx and so on",
        "| a | b | c | d | e |\n| a | b | c | d | e |",
        "0 0 0 0 0 0 0\n0 0 0 0 0 0 0",
        "Run this now: pip install foo bar\n```run this now: pip install foo bar\nx\n```\nAfter.",
    ],
)
def test_what_is_not_the_same_stays(text):
    assert unstuttered(text) == text


def test_what_the_answer_says_twice_may_be_said_twice():
    text = f"Well. {TWICE} {TWICE} Bye."
    assert unstuttered(text, f"{TWICE}\n{TWICE}") == text
    assert unstuttered(text, f"{TWICE} Not now. {TWICE}") == f"Well. {TWICE} Bye."


def test_a_stream_tells_the_same_and_takes_nothing_back():
    rng = random.Random(1)
    parts = [TWICE, "Yes.", "We have lots to do here!", "1. ", "- ", "\n", "\n\n", "```", "“He said so to them.” ", "7"]
    parts += ["~~~", '.")*]"""', "    "]

    def some():
        return "".join(rng.choice(parts) + rng.choice(["", " "]) for _ in range(rng.randint(1, 14)))

    for turn in range(3000):
        text, answer = some(), some() if turn % 2 else ""
        told, i = [], 0
        stream = StutterFilter(told.append, answer)
        while i < len(text):
            step = rng.randint(1, 6)
            stream.feed(text[i : i + step])
            i += step
        stream.close()
        assert "".join(told) == unstuttered(text, answer)
        assert stream.dropped or unstuttered(text, answer) == text
        assert unstuttered(text, text) == text


def test_only_what_may_be_said_again_is_held_back():
    told = []
    stream = StutterFilter(told.append)
    stream.feed(f"{TWICE} You could talk")
    assert "".join(told) == TWICE
    stream.feed(" to me")
    assert "".join(told) == f"{TWICE} You could talk to me"


def test_an_aligner_streams_what_it_gives(tiny_path, monkeypatch):
    written = f"<think>Once? {TWICE} {TWICE}</think>Well. {TWICE} {TWICE} Bye."
    counts = Counts(1, 0, 9, 0, 0, 0.1, 0.1)

    def write(requests, *, on_done, **_):
        for number, request in enumerate(requests):
            for letter in written if request.on_text else "":
                request.on_text(letter)
            on_done(number, Generation(written, (), "end", counts))
        return [Generation(written, (), "end", counts)] * len(requests)

    with open_engine(tiny_path, threads=1) as engine:
        monkeypatch.setattr(engine, "write", write)
        aligner, told, wanted = GgufAligner(engine, layout="conversation"), [], resolve("empathy")
        first, second = aligner.edit(
            "Q", [(Answer("Weak."), wanted), (Answer(f"{TWICE} {TWICE}"), wanted)], told.append
        )
    assert first.text == "".join(told) == f"Well. {TWICE} Bye."
    assert second.text == f"Well. {TWICE} {TWICE} Bye."
