"""The terminal: words stay whole, what is new is marked, an edit that changed nothing is a line."""

import io
import re
import sys

import pytest
from rich.console import Console

from metaaligner_lite.align import Correction
from metaaligner_lite.cli.screen import Marked, Screen, Show, Wrapped
from metaaligner_lite.objectives import resolve
from metaaligner_lite.policies import Answer


def wrapped(parts, width):
    out = io.StringIO()
    wrap = Wrapped(Console(file=out, width=width, soft_wrap=True, highlight=False, markup=False, emoji=False))
    for part in parts:
        wrap.write(part)
    wrap.end_line()
    return out.getvalue()


@pytest.mark.parametrize(
    ("parts", "width", "expected"),
    [
        (["H", "owever, it is ", "late."], 11, "However, it\nis late.\n"),
        (["one\n\n", "two"], 20, "one\n\ntwo\n"),
        (["- a b c\n- d"], 5, "- a b\nc\n- d\n"),
        (["a" * 30], 10, "a" * 30 + "\n"),
        (["日本語 テキスト"], 8, "日本語\nテキスト\n"),
        (["    indented"], 20, "    indented\n"),
        (["a \x1b[31mb"], 20, "a [31mb\n"),
        ([], 10, ""),
    ],
)
def test_text_breaks_between_words(parts, width, expected):
    assert wrapped(parts, width) == expected


def test_the_same_text_in_whatever_parts():
    text = "The quick brown fox jumps over the lazy dog.\n\n1. It sleeps.\n2. It wakes up again and looks around."
    whole = wrapped([text], 24)
    assert wrapped(list(text), 24) == whole
    assert " ".join(whole.split()) == " ".join(text.split())


def marked(answer, parts):
    shown = []
    marks = Marked(answer, lambda text, style: shown.append((text, style)))
    for part in parts:
        marks.write(part)
    marks.close()
    return "".join({"bold green": f"<+{text}+>", "dim red": f"<{text}>"}.get(style, text) for text, style in shown)


@pytest.mark.parametrize(
    ("answer", "edit", "expected"),
    [
        ("Check the page.", "Check the page.", "Check the page."),
        ("Check the page.", "I am sorry. Check the page.", "<+I+><+ am+><+ sorry.+> Check the page."),
        ("One. Two three. Four five.", "One. Four five.", "One.< […] >Four five."),
        ("One. Two three.", "One.", "One.< […]>"),
        ("", "All new.", "All new."),
    ],
)
def test_what_is_new_is_marked_as_it_comes(answer, edit, expected):
    assert marked(answer, [edit]) == expected
    assert marked(answer, list(edit)) == expected


class Terminal(io.StringIO):
    def isatty(self):
        return True


def correction(answer, text, failure=""):
    aligned = not failure
    return Correction("Q", tuple(resolve("empathy")), Answer(answer), text, "conversation", (), aligned, failure)


def play(monkeypatch, answer, edit, made, show=None):
    """What a terminal of 60 columns shows of a run, without its colours."""
    shown = Terminal()
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys, "stdout", shown)  # not in a fixture: pytest changes it before the test is called
    monkeypatch.setattr(sys, "stderr", shown)
    screen = Screen(show, False, several=False, streams=True)
    for word in re.findall(r"\s*\S+", answer):
        screen.answer(word)
    for word in re.findall(r"\s*\S+", edit):
        screen.edit(word)
    screen.finish([made])
    monkeypatch.undo()
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.getvalue())


SORRY = "I am sorry. Check the page."


def test_the_answer_streams_then_the_aligned_text(monkeypatch):
    shown = play(monkeypatch, "Check the page.", SORRY, correction("Check the page.", SORRY))
    assert shown == f"policy\nCheck the page.\n\naligned\n{SORRY}\n\n"


def test_an_edit_that_changed_nothing_is_a_line(monkeypatch):
    shown = play(monkeypatch, "Check the page.", "Check the page.", correction("Check the page.", "Check the page."))
    assert shown == "policy\nCheck the page.\n\nunchanged (empathy)\n\n"


def test_a_failed_edit_says_so(monkeypatch):
    made = correction("Check the page.", "Check the page.", "the aligner went round in circles")
    shown = play(monkeypatch, "Check the page.", "Sorry sorry", made)
    assert shown.startswith("policy\nCheck the page.\n\naligned\nSorry sorry")
    assert "\n\nunchanged (empathy)\nnote: the correction failed" in shown
    assert "this is the answer as it was: the aligner went round in circles" in " ".join(shown.split())


def test_only_the_final_text(monkeypatch):
    shown = play(monkeypatch, "Check.", "Sorry. Check.", correction("Check.", "Sorry. Check."), show=Show.final)
    assert shown == "Sorry. Check.\n\n"
