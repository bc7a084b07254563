"""A sentence that an edit says twice in a row is said once, in whole texts and in streams (stutter.py)."""

import random

import pytest

from metaaligner_lite.stutter import StutterFilter, unstuttered

TWICE = "You could talk to them about it."
FENCE = "```\n"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"Well. {TWICE} {TWICE} Good luck.", f"Well. {TWICE} Good luck."),
        (f"{TWICE} {TWICE}", TWICE),
        (f"{TWICE} you COULD talk to them, about it! Bye.", f"{TWICE} Bye."),
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
        (f"{TWICE} You could talk to them about it all.", f"{TWICE} You could talk to them about it all."),
    ],
)
def test_sentences_said_twice_in_a_row(text, kept):
    assert unstuttered(text) == kept


def test_what_the_answer_says_twice_may_be_said_twice():
    text = f"Well. {TWICE} {TWICE} Bye."
    assert unstuttered(text, f"{TWICE}\n{TWICE}") == text
    assert unstuttered(text, f"{TWICE} Not now. {TWICE}") == f"Well. {TWICE} Bye."


def test_a_stream_tells_the_same_and_takes_nothing_back():
    rng = random.Random(1)
    parts = [TWICE, "Yes.", "We have lots to do here!", "1. ", "- ", "\n", "\n\n", "```", "“He said so to them.” ", "7"]
    for _ in range(3000):
        text = "".join(rng.choice(parts) + rng.choice(["", " "]) for _ in range(rng.randint(1, 14)))
        told, i = [], 0
        stream = StutterFilter(told.append)
        while i < len(text):
            step = rng.randint(1, 6)
            stream.feed(text[i : i + step])
            i += step
        stream.close()
        assert "".join(told) == unstuttered(text)
        assert stream.dropped or unstuttered(text) == text
        assert unstuttered(text, text) == text


def test_only_what_may_be_said_again_is_held_back():
    told = []
    stream = StutterFilter(told.append)
    stream.feed(f"{TWICE} You could talk")
    assert "".join(told) == TWICE
    stream.feed(" to me")
    assert "".join(told) == f"{TWICE} You could talk to me"
